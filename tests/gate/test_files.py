"""The file on disk: processes that update it at once, and files that must not be touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_fwcompare.gate import files
from pytest_fwcompare.gate.baseline import Baseline, BaselineError
from pytest_fwcompare.gate.files import read, read_there, update
from pytest_fwcompare.records import Comparison

from .conftest import baseline_of

ADD = """
import dataclasses, sys
from pathlib import Path
from pytest_fwcompare.gate.files import read, update
name, path = sys.argv[1], Path(sys.argv[2])
(pattern,) = read(path.with_name("pattern.json")).cases.values()
for number in range(15):
    def add(before):
        cases = {**before.cases, f"{name}.py::test_{number}": pattern}
        return dataclasses.replace(
            before, cases=cases, environments=read(path.with_name("pattern.json")).environments
        )
    update(path, add)
"""


def test_a_missing_file_is_none_and_is_made(
    tmp_path: Path, comparison: Callable[..., Comparison]
) -> None:
    path = tmp_path / "deep" / "drift.json"
    assert read(path) is None
    with pytest.raises(BaselineError, match="there is no such file"):
        read_there(path)
    made = baseline_of({"a.py::t": comparison()})
    update(path, lambda before: made)
    assert read(path) == made
    assert [entry.name for entry in path.parent.iterdir() if entry.name.endswith("json")] == [
        "drift.json"
    ]


def test_an_update_that_changes_nothing_writes_nothing(
    tmp_path: Path, comparison: Callable[..., Comparison]
) -> None:
    path = tmp_path / "drift.json"
    update(path, lambda before: baseline_of({"a.py::t": comparison()}))
    before = path.stat().st_mtime_ns, path.stat().st_ino
    update(path, lambda before: before)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"format": 99}', b""])
def test_what_cannot_be_read_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "drift.json"
    path.write_bytes(content)
    with pytest.raises(BaselineError, match=r"drift\.json"):
        update(path, lambda before: Baseline())
    assert path.read_bytes() == content


def test_a_failing_write_leaves_the_old_file(
    tmp_path: Path, comparison: Callable[..., Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "drift.json"
    update(path, lambda before: baseline_of({"a.py::t": comparison()}))
    before = path.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        update(path, lambda before: Baseline())
    assert path.read_bytes() == before
    left = {entry.name for entry in tmp_path.iterdir()} - {"drift.json", ".drift.json.lock"}
    assert left == set()


def test_a_link_stays_a_link(tmp_path: Path, comparison: Callable[..., Comparison]) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "drift.json"
    link.symlink_to(tmp_path / "far" / "real.json")
    update(link, lambda before: baseline_of({"a.py::t": comparison()}))
    assert link.is_symlink()
    assert read(tmp_path / "far" / "real.json") is not None


def test_processes_that_update_at_once_lose_nothing(
    tmp_path: Path, comparison: Callable[..., Comparison]
) -> None:
    path = tmp_path / "drift.json"
    update(tmp_path / "pattern.json", lambda before: baseline_of({"a.py::t": comparison()}))
    workers = [
        subprocess.Popen([sys.executable, "-c", ADD, name, str(path)]) for name in ("a", "b", "c")
    ]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    found = read_there(path)
    assert sorted(found.cases) == sorted(
        f"{name}.py::test_{number}" for name in "abc" for number in range(15)
    )


def test_a_lock_that_is_never_given_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr(files, "PATIENCE", 0.05)
    with (
        FileLock(tmp_path / ".drift.json.lock"),
        pytest.raises(BaselineError, match="another process has been updating it"),
    ):
        update(tmp_path / "drift.json", lambda before: before)
    assert not (tmp_path / "drift.json").exists()
