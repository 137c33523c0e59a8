"""Arrays that are made when asked for, or wait in a file."""

import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_fwcompare.running.arrays import Lazy, Shelf, is_large, pieces

FAULTS = """
import resource
import numpy as np
from pytest_fwcompare.running.arrays import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    several = [np.ones(2**18) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {keep}:
    keep_freed()
print(*(faults() for _ in range(4)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator")
def test_freed_memory_is_used_again():
    """Sixteen megabytes, which glibc would give back and take anew, page by page."""
    for keep in (False, True):
        script = FAULTS.format(keep=keep)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        _, *again = map(int, done.stdout.split())
        assert (max(again) < 100) == keep


def test_lazy_arrays_are_made_when_they_are_asked_for():
    calls = []

    def make(name):
        calls.append(name)
        return np.full(2, len(name), float)

    kept, fresh = Lazy(["a", "bb"], make, keep=True), Lazy(["a"], make, keep=False)
    assert list(kept) == ["a", "bb"]
    assert len(kept) == 2
    assert "bb" in kept
    assert not calls
    assert kept["bb"] is kept["bb"]
    assert calls == ["bb"]
    assert fresh["a"] is not fresh["a"]
    assert calls == ["bb", "a", "a"]
    with pytest.raises(KeyError, match="c"):
        kept["c"]


@given(st.lists(hnp.arrays(st.sampled_from(["f4", "f8"]), hnp.array_shapes(min_dims=0))))
def test_a_shelf_gives_back_what_was_put_there(values):
    shelf = Shelf(smallest=2)
    for place, value in enumerate(values):
        shelf[str(place)] = value.T
    for place, value in enumerate(values):
        found = shelf[str(place)]
        assert found.dtype == value.dtype
        assert found.shape == value.T.shape
        assert np.array_equal(found, value.T, equal_nan=True)
    finite = [np.abs(v[np.isfinite(v)]).max(initial=0.0) for v in values]
    assert shelf.largest == max(finite, default=0.0)


def test_a_shelf_is_put_in_order():
    shelf = Shelf()
    shelf["b"], shelf["a"] = np.zeros(1), np.ones(1)
    shelf.arrange(["a", "b"])
    assert list(shelf) == ["a", "b"]
    assert len(shelf) == 2
    del shelf["a"]
    assert "a" not in shelf


@given(hnp.arrays("f4", hnp.array_shapes(max_side=9)), st.integers(1, 50))
def test_pieces_are_the_whole_in_order(value, size):
    found = list(pieces(value.T, size))
    assert all(piece.flags.c_contiguous for piece in found)
    assert all(piece.size <= max(size, value.T.shape[-1]) for piece in found)
    joined = np.concatenate([piece.ravel() for piece in found])
    assert np.array_equal(joined, value.T.ravel(), equal_nan=True)


def test_large_is_said_of_the_sum():
    assert is_large([(5_000, 5_000)])
    assert not is_large([(1_000, 1_000), ()])
