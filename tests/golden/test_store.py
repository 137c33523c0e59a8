"""Files that are broken, hostile or of another time give an error, and nothing else happens."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_fwcompare import GoldenReference, TensorSpec, compare
from pytest_fwcompare import networks as fn
from pytest_fwcompare.golden import store
from pytest_fwcompare.golden.record import record
from pytest_fwcompare.golden.session import asked
from pytest_fwcompare.golden.store import INDEX, GoldenError, Reader, Writer

INPUTS = {"x": TensorSpec(("batch", 3))}


def net() -> fn.Network:
    return fn.Sequential([fn.Dense(2)], input_shape=(3,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Traces of a small network."""
    record(net(), tmp_path / "traces", "case", asked({"inputs": INPUTS, "examples": 2}))
    return tmp_path / "traces"


def index_of(folder: Path) -> Any:
    return json.loads((folder / INDEX).read_text())


def data_of(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def rewritten(folder: Path, content: bytes) -> None:
    """The file of arrays with other content, which the index vouches for."""
    data_of(folder).unlink()
    digest = hashlib.sha256(content).hexdigest()
    name = f"0-{digest[:16]}.safetensors"
    (folder / name).write_bytes(content)
    index = index_of(folder)
    index["files"] = [{"name": name, "sha256": digest, "bytes": len(content)}]
    (folder / INDEX).write_text(json.dumps(index))


def refused(folder: Path) -> str:
    """The error that a comparison ends with."""
    with pytest.raises(GoldenError) as caught:
        compare(GoldenReference(folder), net(), inputs=INPUTS, examples=2)
    return str(caught.value)


def test_arrays_come_back_and_equal_ones_are_kept_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    values = [
        np.arange(6.0).reshape(2, 3),
        np.float32([[1], [2]]),
        np.array(3),
        np.zeros((0, 4)),
        np.array([True, False]),
        np.arange(6.0).reshape(2, 3).T,
    ]
    names = [writer.add(value) for value in values]
    assert writer.add(values[0].copy()) == names[0]
    assert writer.add(values[0].astype(np.float32)) != names[0]
    writer._flush()
    (path,) = tmp_path.iterdir()
    reader = object.__new__(Reader)
    reader.folder = tmp_path
    file = {"name": path.name, "bytes": path.stat().st_size}
    file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    reader._files = [reader._open(file)]
    for name, value in zip(names, values, strict=True):
        found = reader.get(name)
        np.testing.assert_array_equal(found, value)
        assert (found.dtype, found.shape) == (value.dtype, value.shape)


def test_many_arrays_go_to_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PART", 200)
    record(net(), tmp_path, "case", asked({"inputs": INPUTS, "examples": 2}))
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert compare(GoldenReference(tmp_path), net(), inputs=INPUTS, examples=2).passed


def test_recording_anew_replaces_what_was_there(folder: Path) -> None:
    before, stranger = data_of(folder), folder / "notes.txt"
    stranger.write_text("mine")
    record(net(), folder, "case", asked({"inputs": INPUTS, "examples": 3}))
    assert data_of(folder) != before
    assert stranger.exists()
    assert compare(GoldenReference(folder), net(), inputs=INPUTS).examples.count == 3


def test_a_recording_that_fails_leaves_the_old_traces(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="no space left"):
            record(net(), folder, "case", asked({"inputs": INPUTS, "examples": 3}))
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    assert compare(GoldenReference(folder), net(), inputs=INPUTS).examples.count == 2


def test_equal_references_give_equal_files(folder: Path, tmp_path: Path) -> None:
    record(net(), tmp_path / "again", "case", asked({"inputs": INPUTS, "examples": 2}))
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_another_byte_anywhere_is_noticed(folder: Path) -> None:
    path = data_of(folder)
    content = path.read_bytes()
    for place in (0, 8, 40, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert "its content is not what was recorded (another SHA-256)" in refused(folder)
    path.write_bytes(content)
    assert compare(GoldenReference(folder), net(), inputs=INPUTS, examples=2).passed


def test_a_file_cut_anywhere_is_noticed(folder: Path) -> None:
    path, index = data_of(folder), folder / INDEX
    content, text = path.read_bytes(), index.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(GoldenError, match="another SHA-256"):
            Reader(folder)
    path.write_bytes(content + b"more")
    with pytest.raises(GoldenError, match="bytes, expected at most"):
        Reader(folder)
    path.write_bytes(content)
    for length in range(len(text) - 1):
        if length % 31 == 0 or length > len(text) - 40:
            index.write_bytes(text[:length])
            with pytest.raises(GoldenError, match="not JSON"):
                Reader(folder)
    path.unlink()
    index.write_bytes(text)
    assert "cannot be read: No such file or directory" in refused(folder)
    index.unlink()
    assert "cannot be read: No such file or directory" in refused(folder)


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


HOSTILE = {
    "a pickle": pickle.dumps(np.zeros(3)),
    "an npz": b"PK\x03\x04" + bytes(100),
    "nothing": b"",
    "a header of another size": struct.pack("<Q", 1 << 60) + b"{}",
    "a tensor of a terabyte": safetensors(
        b'{"0":{"dtype":"F32","shape":[274877906944],"data_offsets":[0,1099511627776]}}', bytes(8)
    ),
    "a shape that is not its size": safetensors(
        b'{"0":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}', bytes(8)
    ),
    "an overflowing shape": safetensors(
        b'{"0":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'
    ),
    "tensors on top of each other": safetensors(
        b'{"0":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"1":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}', bytes(12)
    ),
    "objects": safetensors(b'{"0":{"dtype":"O","shape":[1],"data_offsets":[0,8]}}', bytes(8)),
    "no header": safetensors(b"not json"),
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_that_the_index_vouches_for(folder: Path, content: bytes) -> None:
    rewritten(folder, content)
    refused(folder)


def test_a_file_without_the_arrays_of_the_index(folder: Path) -> None:
    rewritten(folder, safetensors(b'{"x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'))
    assert "no array '0/" in refused(folder)


def changed(folder: Path, *path: Any, to: Any) -> str:
    index = target = index_of(folder)
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = to
    (folder / INDEX).write_text(json.dumps(index))
    return refused(folder)


@pytest.mark.parametrize(
    "name", ["../0-0123456789abcdef.safetensors", "/etc/passwd", "0-.safetensors", "a/b", ""]
)
def test_a_name_that_leads_elsewhere(folder: Path, name: str) -> None:
    said = changed(folder, "files", 0, "name", to=name)
    assert "files[0].name: expected the plain name of a file beside the index, got" in said


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), 2, "was written by a newer version"),
        (("format",), "1", "expected golden traces, with a 'format' number"),
        (("passes",), [], "passes: expected object, got []"),
        (("parameters", 0, "shape"), [2, -1], "shape[1]: expected at least 0, got -1"),
        (("parameters", 0, "shape"), [7, 7], "should have the shape (7, 7), it has (3, 2)"),
        (("given", "dense.bias"), "9/0", "no array '9/0'"),
        (("given", "dense.bias"), "0/x", "expected the place of an array"),
        (("given", "dense.bias"), None, "the given weights: 'dense.bias' has no values"),
        (("given",), {}, "parameter 'dense.kernel' should have the shape (3, 2), it has None"),
        (("examples", 0, "arrays", "x"), None, "an input has no values"),
        (("examples", 0, "weights"), "mine", "expected one of randomised, given, got 'mine'"),
        (("surprise",), 1, "unknown key 'surprise'"),
    ],
)
def test_a_changed_index(folder: Path, path: tuple[Any, ...], value: Any, message: str) -> None:
    assert message in changed(folder, *path, to=value)


def test_an_index_that_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = folder / INDEX
    for text in ("[]", "3", "[" * 100_000, '{"format": NaN}', "\x00"):
        index.write_text(text)
        refused(folder)
    monkeypatch.setattr(store, "LARGEST_INDEX", 10)
    index.write_text("{}" * 10)
    assert "20 bytes, expected at most 10" in refused(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_and_a_folder_are_no_files(folder: Path) -> None:
    path = data_of(folder)
    path.unlink()
    os.mkfifo(path)
    assert "expected a file" in refused(folder)
    path.unlink()
    path.mkdir()
    assert "cannot be read: Is a directory" in refused(folder)
