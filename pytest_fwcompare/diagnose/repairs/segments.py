"""Repairs of sums, means and softmaxes over segments: messages of a graph, ragged batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations.attention import softmax
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair


@repair("scattered sum")
def scattered(spot: Spot) -> Iterator[Candidate]:
    """A mean or an extreme of the rows of each segment instead of their sum."""
    start, indices, values = spot.operation.arguments
    if np.any(start):
        return
    where = indices.astype(np.int64)
    counts = np.bincount(where, minlength=len(start)).astype(float)
    shape = (-1,) + (1,) * (start.ndim - 1)
    mean = spot.record.value / np.maximum(counts, 1.0).reshape(shape)
    choices = {"mean": mean, "max": _extreme(start, where, values, np.maximum)}
    choices["min"] = _extreme(start, where, values, np.minimum)
    for name, value in choices.items():
        text = f"the {name} of each segment instead of the sum"
        yield Candidate("reduction", text, {spot.place: value}, places=(spot.place,))


def _extreme(start: Array, where: Array, values: Array, function: np.ufunc) -> Array:
    """Extremes of the rows of each segment; zeros where there are none."""
    worst = np.inf if function is np.minimum else -np.inf
    made = np.full(start.shape, worst)
    function.at(made, where, values)
    return np.where(np.isfinite(made), made, 0.0)


@repair("arithmetic")
def segment_softmax(spot: Spot) -> Iterator[Candidate]:
    """A softmax over the rows of each segment, taken along an axis instead."""
    operation = spot.operation
    if operation.options["function"] != "divide" or len(operation.arguments) != 2:
        return
    raised, total = (spot.replay.source(spot.place, number) for number in (0, 1))
    if operation.options.get("swapped"):
        raised, total = total, raised
    if raised is None or total is None or spot.name(raised) != "exp":
        return
    scores = _scores(spot, raised)
    if scores is None or not _is_of_segments(spot, raised, total):
        return
    for axis in range(scores.ndim):
        if scores.shape[axis] < 2:
            continue
        with np.errstate(all="ignore"):
            value = softmax(scores, axis)
        text = f"softmax over axis {axis} (reference: over the rows of each segment)"
        yield Candidate("softmax-axis", text, {spot.place: value}, places=(spot.place,))


def _scores(spot: Spot, raised: int) -> Array | None:
    """What is raised, before the greatest of its segment was subtracted from it."""
    source = spot.replay.source(raised)
    if source is None:
        return None
    operation = spot.replay.operation(source)
    if operation is not None and operation.options.get("function") == "subtract":
        return np.asarray(operation.arguments[0], np.float64)
    return np.asarray(spot.graph.records[source].value)


def _is_of_segments(spot: Spot, raised: int, total: int) -> bool:
    """Whether the divisor is a sum over segments of what is divided."""
    for _ in range(4):
        inputs = spot.graph.inputs[total]
        if spot.replay.kind(total) == "scattered sum":
            return raised in inputs
        sums = [p for p in inputs if spot.replay.kind(p) in ("scattered sum", "movement", "rows")]
        if not sums:
            return False
        total = sums[0]
    return False
