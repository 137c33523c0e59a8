"""What crosses comes back as it was; what is no message is refused; nothing is unpickled."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import execnet
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends.base import Argument, Gradients, Parameter, Placement, Recorded
from pytest_fwcompare.weights import transforms
from pytest_fwcompare.workers import sharing
from pytest_fwcompare.workers.wire import DTYPES, TAG, WireError, decode, encode


def inside(array: np.ndarray) -> None:
    """Everything goes inside the message."""


def nothing(at: int, size: int) -> np.ndarray:
    return np.empty(0, np.uint8)


def crossed(value):
    """Through execnet's own serialiser, which carries builtin types only."""
    return decode(execnet.loads(execnet.dumps(encode(value, inside))), nothing)


def same(one, other) -> bool:
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or one != one)


arrays = hnp.arrays(
    st.sampled_from(sorted(DTYPES)).map(np.dtype), hnp.array_shapes(min_dims=0, min_side=0)
)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
nested = st.recursive(
    plain | arrays,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.just(TAG), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150)
@given(nested)
def test_plain_values_and_arrays_come_back_bit_for_bit(value):
    assert same(value, crossed(value))


@pytest.mark.parametrize(
    "value",
    [
        Parameter("a/b", (2, 3), "float32", True, "a", "Dense", "b", {"groups": 2}, ("c",)),
        Argument("x", np.arange(6.0).reshape(2, 3), keyword=True),
        Gradients({"x": np.ones(2)}, {"w": None}),
        Placement("w", ("k", "b"), transforms.Transpose((1, 0)).then(transforms.Flip((0,)))),
        Placement("w", ("k",), transforms.Zeros((2, 3))),
        Recorded(0, "a", "relu", np.ones(3), (1,), ("w",), {"slice": slice(1, None, 2), "e": ...}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_values_of_a_side_come_back(value):
    assert same(value, crossed(value))


def test_facts_that_are_no_plain_values_become_their_text():
    made = crossed({"dtype": np.dtype("float32"), "kind": int, "number": np.float64(2.5)})
    assert made == {"dtype": "float32", "kind": "<class 'int'>", "number": 2.5}


def test_a_network_comes_back_as_one():
    network = fn.Sequential([fn.Dense(4), fn.LayerNorm()], input_shape=(3,))
    assert list(crossed(network).parameters()) == list(network.parameters())


def test_arrays_of_objects_never_leave():
    with pytest.raises(WireError, match="dtype object cannot be sent to another process"):
        encode(np.array([print], dtype=object), inside)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ({TAG: "array", "dtype": "|O", "shape": (1,), "data": b"12345678"}, "dtype '|O'"),
        ({TAG: "array", "dtype": "V8", "shape": (1,), "data": b"12345678"}, "dtype 'V8'"),
        ({TAG: "array", "dtype": "<f8", "shape": (2,), "data": b"12345678"}, "expected 16 bytes"),
        ({TAG: "array", "dtype": "<f8", "shape": (-1,), "data": b""}, "shape of an array"),
        ({TAG: "array", "dtype": "<f8", "shape": "12", "data": b""}, "shape of an array"),
        ({TAG: "array", "dtype": "<f8", "shape": (10**6,), "at": 0}, "expected 8000000 bytes"),
        ({TAG: "os.system", "fields": {"command": "true"}}, "marked 'os.system'"),
    ],
)
def test_what_is_no_message_is_refused(message, complaint):
    with pytest.raises(WireError, match=complaint.replace("|", r"\|")):
        decode(message, nothing)


def test_a_pickle_stays_bytes():
    pickled = pickle.dumps(np.arange(3))
    assert crossed({"model": pickled}) == {"model": pickled}


needs_memory_files = pytest.mark.skipif(
    not sharing.available(), reason="no memory files on this system"
)


@needs_memory_files
def test_large_arrays_go_through_a_memory_file_and_small_ones_do_not():
    large, small = np.arange(100_000.0), np.arange(3.0)
    sender, receiver = sharing.Sender(True), sharing.Receiver()
    message = encode({"large": large, "small": small, "again": large[::2]}, sender.store)
    assert "at" in message["large"]
    assert "data" in message["small"]
    receiver.open(sender.finish())
    found = decode(message, receiver.fetch)
    receiver.done()
    assert same(found["large"], large)
    assert same(found["again"], large[::2])
    found["large"][0] = 7.0  # writable as any array, and its own
    assert large[0] == 0.0
    sender.close()


@needs_memory_files
def test_a_memory_file_is_used_again_only_when_its_last_array_is_gone():
    sender, receiver = sharing.Sender(True), sharing.Receiver()

    def sent(value: float) -> tuple[int, np.ndarray]:
        sender.released(receiver.released())
        message = encode(np.full(100_000, value), sender.store)
        handle = sender.finish()
        receiver.open(handle)
        found = decode(message, receiver.fetch)
        receiver.done()
        return handle[2], found

    first, one = sent(1.0)
    part = one[5:7]
    del one
    second, two = sent(2.0)
    assert second != first
    assert part.tolist() == [1.0, 1.0]  # a view of it is enough to keep it
    del part
    third, three = sent(3.0)
    assert third == first
    assert two[0] == 2.0
    assert three[0] == 3.0
    sender.close()


@needs_memory_files
def test_memory_files_that_nobody_needs_are_given_up(monkeypatch):
    monkeypatch.setattr(sharing, "MOST_FREE", 1 << 21)
    sender = sharing.Sender(True)
    for size in (1 << 17, 1 << 20):  # 1 MiB and 8 MiB
        sender.store(np.zeros(size))
        sender.finish()
    sender.released([1, 2])
    assert sender.gone() == [2]
    assert sender.gone() == []
    sender.close()


@needs_memory_files
def test_a_memory_file_has_no_name_that_a_crash_could_leave_behind():
    sender = sharing.Sender(True)
    sender.store(np.zeros(100_000))
    _, descriptor, _, _ = sender.finish()
    assert "memfd:fwcompare (deleted)" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
    sender.close()


@needs_memory_files
def test_processes_of_one_host_find_each_others_word_and_others_do_not():
    probe = sharing.Probe()
    assert sharing.reads(probe.handle, probe.word)
    assert not sharing.reads(probe.handle, b"another")
    assert not sharing.reads(None, probe.word)
    probe.close()
    assert not sharing.reads((2**22 + 1, 3, 0, 16), probe.word)
