"""Arrays by name for networks of any size: made when they are asked for, or kept on disk.

A network with a hundred million parameters has weights and gradients of gigabytes in float64. What
can be made again is not kept, and what must wait for its counterpart waits in a file.
"""

from __future__ import annotations

import ctypes
import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.judge.distances import finite_maximum

LARGE = 20_000_000
"""Parameters from which on a side's weights and gradients are not all held at once."""

SMALL = 8_192
"""Values of an array from which on it is worth a place in a file."""


def is_large(shapes: Iterable[tuple[int, ...]]) -> bool:
    """Whether so many parameters are too many to be held in float64 several times."""
    return sum(math.prod(shape) for shape in shapes) > LARGE


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library would keep it.

    glibc keeps what is smaller than 32 MB for later, and weights of many sizes leave holes in it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


KEPT = 31 * 2**20
"""Bytes below the 32 MB up to which glibc learns; then it keeps twice as much of what is freed."""


def keep_freed() -> None:
    """Let the C library keep memory of this size that is freed, for the next pass to use.

    As long as nothing large was freed, glibc gives the end of its heap back to the system whenever
    a pass is over, and the next one is handed it page by page, which took a tenth of the time of a
    small network. It raises its limits by the size of the first large array that is let go
    (mallopt(3), M_MMAP_THRESHOLD), so one is made, never touched, and let go.
    """
    np.empty(KEPT, np.uint8)


class Lazy(Mapping[str, Array]):
    """Arrays that are made when they are asked for.

    Args:
        names: in order.
        make: gives the array of a name, the same at every call.
        keep: hold what was made.
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Array], *, keep: bool) -> None:
        self._names = dict.fromkeys(names)
        self._make, self._keep = make, keep
        self._made: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name in self._made:
            return self._made[name]
        if name not in self._names:
            raise KeyError(name)
        value = self._make(name)
        if self._keep:
            self._made[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


class _Place(NamedTuple):
    offset: int
    shape: tuple[int, ...]
    dtype: Any


class Shelf(MutableMapping[str, Array]):
    """Arrays kept in a temporary file, which is gone with the shelf; small ones in memory.

    Args:
        smallest: values of an array from which on it goes into the file.

    Attributes:
        largest: largest finite magnitude that was put here.
    """

    def __init__(self, smallest: int | None = None) -> None:
        self.largest = 0.0
        self._smallest = SMALL if smallest is None else smallest
        self._file = tempfile.TemporaryFile(prefix="fwcompare-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._found: dict[str, Array | _Place] = {}
        self._end = 0

    def __setitem__(self, name: str, value: Array) -> None:
        self.largest = max(self.largest, finite_maximum(value))
        if value.size < self._smallest:
            self._found[name] = np.array(value)
            return
        self._file.seek(self._end)
        for piece in pieces(value):
            piece.tofile(self._file)
        self._found[name] = _Place(self._end, value.shape, value.dtype)
        self._end += value.nbytes

    def __getitem__(self, name: str) -> Array:
        found = self._found[name]
        if not isinstance(found, _Place):
            return found
        self._file.seek(found.offset)
        value = np.fromfile(self._file, found.dtype, math.prod(found.shape))
        return value.reshape(found.shape)

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def arrange(self, names: Iterable[str]) -> None:
        """Put what is there in an order."""
        self._found = {name: self._found[name] for name in names}

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def pieces(value: Array, size: int = 1_000_000) -> Iterator[Array]:
    """A large array in contiguous parts of about `size` values, in order.

    Args:
        value: (rows, ...) in any memory order.
        size: of a part.
    """
    if value.ndim == 0 or value.size <= size:
        yield np.ascontiguousarray(value)
        return
    rows = max(1, size // max(1, value[0].size))
    for start in range(0, len(value), rows):
        part = value[start : start + rows]
        if rows == 1 and part[0].size > size:
            yield from pieces(part[0], size)
        else:
            yield np.ascontiguousarray(part)
