"""Distances between arrays that may hold NaN, infinities, integers or nothing at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pytest_fwcompare.formats import format_of

Array = np.ndarray

PART = 2**18
"""Values that are looked at at once."""


def unit_roundoff(dtype: str) -> float:
    """Half a unit in the last place of 1: the relative error of one correct rounding.

    Args:
        dtype: working dtype, see `formats`.
    """
    return format_of(dtype).roundoff


@dataclass(frozen=True)
class Difference:
    """Largest distance of two arrays of equal shape.

    Attributes:
        size: max|expected - obtained| over the places where both are finite; 0 where there are
            none.
        index: place of that maximum; () for a scalar or an empty array.
        expected, obtained: the values there.
        odd: places where exactly one of the two is finite, or both are not but differ.
        finite: every value of both is finite, and so is every distance.
    """

    size: float
    index: tuple[int, ...]
    expected: float
    obtained: float
    odd: int = 0
    finite: bool = False


def finite_maximum(value: Array) -> float:
    """Largest finite magnitude, 0 for an empty or all non-finite array."""
    if value.size == 0:
        return 0.0
    return max(_finite_maximum(part) for _, (part,) in parts(value))


def _finite_maximum(value: Array) -> float:
    """`finite_maximum` of an array that is not empty."""
    largest = max(float(value.max()), -float(value.min()))
    if math.isfinite(largest):
        return abs(largest)  # of negative zeros alone it is one too
    magnitude = np.abs(value.astype(np.float64, copy=False))
    finite = magnitude[np.isfinite(magnitude)]
    return float(finite.max()) if finite.size else 0.0


def parts(*arrays: Array) -> Iterator[tuple[int, tuple[Array, ...]]]:
    """Large arrays in parts along their first axis, each with where it starts.

    What is computed of a part stays small, and near to the processor.

    Args:
        arrays: all of one shape, (rows, ...).
    """
    first = arrays[0]
    if first.size <= PART or first.ndim == 0:
        yield 0, arrays
        return
    rows = max(1, PART // max(1, first[0].size))
    for start in range(0, len(first), rows):
        yield start, tuple(array[start : start + rows] for array in arrays)


def difference(expected: Array, obtained: Array) -> Difference:
    """The largest difference and where it is.

    Args:
        expected: (*shape) of any real dtype.
        obtained: (*shape).
    """
    if expected.shape != obtained.shape:
        raise ValueError(f"shapes differ: {expected.shape} and {obtained.shape}")
    if expected.size == 0:
        return Difference(0.0, (), 0.0, 0.0, finite=True)
    found = [
        _moved(_difference(left, right), start)
        for start, (left, right) in parts(expected, obtained)
    ]
    if len(found) == 1:
        return found[0]
    odd = sum(item.odd for item in found)
    shown = max(found, key=lambda item: item.size)
    if odd:
        shown = next(item for item in found if item.odd)
    largest = max(item.size for item in found)
    return replace(shown, size=largest, odd=odd, finite=all(item.finite for item in found))


def _moved(found: Difference, start: int) -> Difference:
    """What was found in a part, by its place in the whole."""
    if not start:
        return found
    return replace(found, index=(found.index[0] + start, *found.index[1:]))


def _difference(expected: Array, obtained: Array) -> Difference:
    """`difference` of arrays that are not empty."""
    left = expected.astype(np.float64, copy=False)
    right = obtained.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(left - right)
    # The first NaN is the maximum to NumPy, so the maximum is finite only if all values are.
    place = int(distance.argmax())
    finite = math.isfinite(distance.flat[place])
    odd = 0
    if not finite:
        both = np.isfinite(left) & np.isfinite(right)
        with np.errstate(invalid="ignore"):
            alike = (left == right) | (np.isnan(left) & np.isnan(right))
        wrong = ~both & ~alike
        odd = int(wrong.sum())
        if odd:
            at = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            index = tuple(int(i) for i in at)
            size = float(np.where(both, distance, 0.0).max())
            return Difference(size, index, float(left[at]), float(right[at]), odd)
        distance = np.where(both, distance, 0.0)
        place = int(distance.argmax())
    at = np.unravel_index(place, distance.shape)
    return Difference(
        float(distance[at]),
        tuple(int(i) for i in at),
        float(left[at]),
        float(right[at]),
        finite=finite,
    )


def distance(expected: Array, obtained: Array) -> float:
    """The largest difference alone; NaN or infinity unless every value is finite.

    Args:
        expected: (*shape) of any real dtype.
        obtained: (*shape).
    """
    if expected.size == 0:
        return 0.0
    largest = []
    for _, (left, right) in parts(expected, obtained):
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.subtract(left, right, dtype=np.float64, casting="unsafe")
        largest.append(float(np.maximum(apart.max(), -apart.min())))
    return abs(float(np.max(largest)))  # -0.0 less 0.0 is -0.0


def same_nonfinite(expected: Array, obtained: Array) -> bool:
    """True if NaN and infinities stand in the same places (infinities of the same sign)."""
    if expected.dtype.kind not in "fc" and obtained.dtype.kind not in "fc":
        return True
    return all(_same_nonfinite(*pair) for _, pair in parts(expected, obtained))


def same_lost(expected: Array, obtained: Array) -> bool:
    """True if what is not finite stands in the same places, whichever it is.

    A gradient that overflows is lost as infinity or as NaN (infinity times a slope of zero), as
    each framework happens to order the products of its chain rule: neither is a value.
    """
    if expected.dtype.kind not in "fc" and obtained.dtype.kind not in "fc":
        return True
    pairs = (pair for _, pair in parts(expected, obtained))
    return all(np.array_equal(np.isfinite(left), np.isfinite(right)) for left, right in pairs)


def _same_nonfinite(expected: Array, obtained: Array) -> bool:
    """`same_nonfinite` of float arrays."""
    left = expected.astype(np.float64, copy=False)
    right = obtained.astype(np.float64, copy=False)
    left_odd, right_odd = ~np.isfinite(left), ~np.isfinite(right)
    if not left_odd.any() and not right_odd.any():
        return True
    if not np.array_equal(left_odd, right_odd):
        return False
    return bool(np.array_equal(left[left_odd], right[right_odd], equal_nan=True))


def representable(value: Array, dtype: str) -> Array:
    """The float64 values rounded to the nearest that the working dtype has.

    Finite values beyond its range become its largest: an input is no overflow.

    Args:
        value: (*shape) of a float dtype.
        dtype: working dtype.
    """
    if value.dtype.kind != "f":
        return value
    made = format_of(dtype)
    dtype = made.stored
    if dtype in ("float16", "bfloat16"):
        value = np.where(np.isfinite(value), np.clip(value, -made.largest, made.largest), value)
    if dtype == "float64":
        return value.astype(np.float64, copy=False)
    if dtype == "bfloat16":
        bits = value.astype(np.float32).view(np.uint32).astype(np.uint64)
        # Round half to even on the upper sixteen bits.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        exact = rounded.astype(np.uint32).view(np.float32)
        return np.where(np.isfinite(value), exact, value).astype(np.float64)
    with np.errstate(over="ignore"):
        return value.astype(dtype, copy=False).astype(np.float64)
