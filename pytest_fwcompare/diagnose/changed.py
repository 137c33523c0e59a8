"""What a repaired operation computes, as a function of its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import Operation
from pytest_fwcompare.diagnose.operations.base import Arguments
from pytest_fwcompare.diagnose.prove import Candidate

RESOLVED = 1e-12
"""Relative difference below which two elements are one and the same."""


def changed_operation(place: int, operation: Operation, candidate: Candidate) -> Operation | None:
    """The operation that a repair puts in the place of another one.

    Where the repair does not say, it is told where the new value takes elements of an argument, or
    of the old value, in any order.

    Args:
        place: where the repair was made.
        operation: the one before it.
        candidate: the repair.

    Returns:
        None where the new value is more than that, or other places changed with it.
    """
    if candidate.operation is not None or set(candidate.values) != {place}:
        return candidate.operation
    value = np.asarray(candidate.values[place], np.float64)
    for slot, argument in enumerate(operation.arguments):
        taken = selection(np.asarray(argument, np.float64), value)
        if taken is not None:
            return _taking(operation, taken, slot)
    taken = selection(operation.compute(), value)
    return None if taken is None else _taking(operation, taken)


def _taking(operation: Operation, taken: Array, slot: int | None = None) -> Operation:
    """The operation that takes elements of an argument, or of the value without a slot."""

    def compute(arguments: Arguments, options: Mapping[str, Any]) -> Array:
        whole = operation.compute(arguments) if slot is None else np.asarray(arguments[slot])
        return np.asarray(whole.reshape(-1)[taken])

    return replace(operation, compute_with=compute, result=None)


def selection(whole: Array, some: Array) -> Array | None:
    """Which elements of a tensor make up another one.

    Args:
        whole: (*sizes) with no two elements alike.
        some: any shape.

    Returns:
        Positions in the flat `whole`, in the shape of `some`; None where there are none, or where
        it is not told which.
    """
    flat = whole.reshape(-1)
    if not flat.size or not some.size or not np.isfinite(flat).all():
        return None
    if whole.shape == some.shape and np.array_equal(whole, some):
        return np.arange(flat.size).reshape(whole.shape)
    order = np.argsort(flat)
    ordered = flat[order]
    limit = RESOLVED * float(np.abs(flat).max())
    if (np.diff(ordered) <= 4 * limit).any():
        return None
    after = np.clip(np.searchsorted(ordered, some), 1, flat.size - 1) if flat.size > 1 else 0
    lower = np.abs(ordered[after - 1] - some) <= np.abs(ordered[after] - some)
    nearest = np.where(lower, after - 1, after)
    if not (np.abs(ordered[nearest] - some) <= limit).all():
        return None
    return np.asarray(order[nearest])
