"""How far four runs of a tensor are apart: what the judge's rule is applied to.

A network has many small tensors, and NumPy takes longer to be called than to look at one of them:
small ones are laid end to end and measured at once. Large ones are measured in blocks that stay
near the processor, in memory that is kept: taken anew from the system, it costs more than a look.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from pytest_fwcompare.judge.distances import (
    Array,
    Difference,
    difference,
    distance,
    finite_maximum,
    same_nonfinite,
)

SMALL = 4_096
"""Values of a tensor up to which it is measured together with others."""

ROW = 16_384
"""Values that are laid end to end at most, and those of a block."""

T = TypeVar("T")


class Runs(Protocol):
    """Four runs of one tensor, see `judge.verdict.Observed`."""

    @property
    def reference64(self) -> Array: ...
    @property
    def port64(self) -> Array: ...
    @property
    def reference(self) -> Array: ...
    @property
    def port(self) -> Array: ...


class Measured(NamedTuple):
    """Distances of four runs of one tensor, absolute.

    Attributes:
        gap: of the shadows.
        reference_noise, port_noise: of each side from its shadow.
        working: of the sides from each other in the working dtype.
        scale: largest magnitude of the reference's shadow, of the port's if that is zero, or 1.
        nonfinite64, nonfinite: NaN or infinities stand in other places in the port, in the
            shadows and in the working dtype.
    """

    gap: Difference
    reference_noise: float
    port_noise: float
    working: float
    scale: float
    nonfinite64: bool = False
    nonfinite: bool = False


def is_exact(runs: Runs) -> bool:
    """Integers and booleans, which differ or do not."""
    return runs.reference64.dtype.kind in "iub" or runs.port64.dtype.kind in "iub"


def measure(runs: Runs) -> Measured:
    """Measure one tensor of any size; its values may be anything."""
    found = _measure_blocks(runs) if is_plain(runs) else None
    return found or _measure_with_care(runs)


def is_plain(runs: Runs) -> bool:
    """Whether all four runs lie in memory row by row, value by value."""
    four = runs.reference64, runs.port64, runs.reference, runs.port
    shape = runs.reference64.shape
    return runs.reference64.size > 0 and all(
        array.flags.c_contiguous and array.shape == shape for array in four
    )


class _Scratch(threading.local):
    """Memory for three blocks, for each thread its own."""

    def __init__(self) -> None:
        self.blocks = np.empty((3, ROW))


_scratch = _Scratch()


def _measure_blocks(runs: Runs) -> Measured | None:
    """`_measure_with_care`, faster; None unless every value is finite.

    Args:
        runs: for which `is_plain` is true.
    """
    four = runs.reference64, runs.port64, runs.reference, runs.port
    flat = [array.reshape(-1) for array in four]
    size, place, largest = -1.0, 0, [0.0] * 8
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(flat[0]), ROW):
            exact, exact_port, *narrow = (array[start : start + ROW] for array in flat)
            one, two, apart = _scratch.blocks[:, : len(exact)]
            one[:], two[:] = narrow
            np.abs(np.subtract(exact, exact_port, out=apart), out=apart)
            at = int(apart.argmax())
            if not apart[at] <= size:  # NaN is larger than anything, as to argmax
                size, place = float(apart[at]), start + at
            found = [exact.max(), -exact.min()]
            for left, right in ((exact, one), (exact_port, two), (one, two)):
                np.subtract(left, right, out=apart)
                found += [apart.max(), -apart.min()]
            largest = np.maximum(largest, found).tolist()  # which keeps NaN
    if not math.isfinite(size + sum(largest)):
        return None
    index = place_of(place, runs.reference64.shape)
    gap = Difference(size, index, float(flat[0][place]), float(flat[1][place]), finite=True)
    # The largest of negative zeros is one too.
    scale, ours, theirs, working = (abs(max(largest[at : at + 2])) for at in (0, 2, 4, 6))
    return Measured(gap, ours, theirs, working, scale or scale_of(runs))


def _measure_with_care(runs: Runs) -> Measured:
    """`measure` of values that may be NaN or infinite, and of arrays of any memory order."""
    gap = difference(runs.reference64, runs.port64)
    ours = distance(runs.reference64, runs.reference)
    theirs = distance(runs.port64, runs.port)
    working = distance(runs.reference, runs.port)
    nonfinite64 = nonfinite = False
    if not (gap.finite and math.isfinite(ours + theirs)):
        nonfinite64 = not same_nonfinite(runs.reference64, runs.port64)
        nonfinite = not same_nonfinite(runs.reference, runs.port)
        ours = difference(runs.reference64, runs.reference).size
        theirs = difference(runs.port64, runs.port).size
    if not math.isfinite(working):
        working = difference(runs.reference, runs.port).size
    return Measured(gap, ours, theirs, working, scale_of(runs), nonfinite64, nonfinite)


def scale_of(runs: Runs) -> float:
    """What differences of a tensor are relative to."""
    return finite_maximum(runs.reference64) or finite_maximum(runs.port64) or 1.0


def is_small(runs: Runs) -> bool:
    """Whether a tensor can be measured together with others."""
    shape = runs.reference64.shape
    return (
        0 < runs.reference64.size <= SMALL
        and not is_exact(runs)
        and shape == runs.port64.shape == runs.reference.shape == runs.port.shape
    )


def measure_together(tensors: Sequence[Runs]) -> list[Measured]:
    """Measure tensors that are small; the same figures as `measure` gives for each.

    Args:
        tensors: for which `is_small` is true.
    """
    rows = in_rows(tensors, lambda runs: runs.reference64.size)
    return [measured for row in rows for measured in _measure_row(row)]


def in_rows(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Items in order, in lists of at most `ROW` values, or of one item.

    Args:
        items: what is to be laid end to end.
        size: number of values of one.
    """
    row: list[T] = []
    total = 0
    for item in items:
        values = size(item)
        if row and total + values > ROW:
            yield row
            row, total = [], 0
        row.append(item)
        total += values
    if row:
        yield row


def _measure_row(tensors: Sequence[Runs]) -> list[Measured]:
    """`measure_together` of tensors that together fill one row."""
    exact, exact_port, ours, theirs = (
        end_to_end(getattr(runs, name) for runs in tensors)
        for name in ("reference64", "port64", "reference", "port")
    )
    sizes = np.array([runs.reference64.size for runs in tensors])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    apart = np.empty_like(exact)

    def largest(values: Array) -> Array:
        # Two looks at the values take less time than to write down their magnitudes.
        highest, lowest = (
            extreme.reduceat(values, starts) for extreme in (np.maximum, np.minimum)
        )
        return np.abs(np.maximum(highest, -lowest))  # of negative zeros it is one too

    with np.errstate(invalid="ignore", over="ignore"):
        np.abs(np.subtract(exact, exact_port, out=apart), out=apart)
        gaps = np.maximum.reduceat(apart, starts)
        # The first place of each tensor at which its largest gap is, if that is a number.
        places = np.flatnonzero(apart == np.repeat(gaps, sizes))
        pairs = (exact, ours), (exact_port, theirs), (ours, theirs)
        rest = [largest(np.subtract(one, other, out=apart)) for one, other in pairs]
        scales = largest(exact)
        finite = np.isfinite(gaps + rest[0] + rest[1] + rest[2])
    first = starts
    if len(places):
        first = places[np.minimum(np.searchsorted(places, starts), len(places) - 1)]
    columns = (starts, first, gaps, *rest, scales, exact[first], exact_port[first], finite)
    return [
        _single(runs, *figures)
        for runs, figures in zip(
            tensors, zip(*(column.tolist() for column in columns), strict=True), strict=True
        )
    ]


def _single(
    runs: Runs,
    start: int,
    first: int,
    gap: float,
    ours: float,
    theirs: float,
    working: float,
    scale: float,
    expected: float,
    obtained: float,
    finite: bool,
) -> Measured:
    if not finite:
        return measure(runs)
    index = place_of(first - start, runs.reference64.shape)
    found = Difference(gap, index, expected, obtained, finite=True)
    return Measured(found, ours, theirs, working, scale or scale_of(runs))


def place_of(position: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Index of a position in an array laid out row by row."""
    index = []
    for size in reversed(shape):
        position, rest = divmod(position, size)
        index.append(rest)
    return tuple(reversed(index))


def end_to_end(arrays: Iterable[Array]) -> Array:
    """All values of several arrays in one row of float64."""
    flat = [array.reshape(-1) for array in arrays]
    return np.concatenate(flat, dtype=np.float64, casting="unsafe")


def largest_of(arrays: Iterable[Array]) -> float:
    """Largest finite magnitude among all values of several arrays."""
    small, largest = [], 0.0
    for array in arrays:
        if array.size <= SMALL:
            small.append(array)
        else:
            largest = max(largest, finite_maximum(array))
    rows = in_rows(small, lambda array: array.size)
    return max(largest, *(finite_maximum(end_to_end(row)) for row in rows), 0.0)
