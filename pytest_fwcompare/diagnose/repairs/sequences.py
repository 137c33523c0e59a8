"""Repairs of what is done along time: running sums, the step that is taken, shifts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair
from pytest_fwcompare.diagnose.repairs.parts import siblings


@repair("cumulative")
def running_sums(spot: Spot) -> Iterator[Candidate]:
    """A running sum without its own place, from the other end, or along another axis."""
    options = spot.operation.options
    own = bool(options.get("exclusive")), bool(options.get("reverse"))
    words = {True: "without each place's own value", False: "with each place's own value"}
    ends = {True: "from the end", False: "from the start"}
    for exclusive in (own[0], not own[0]):
        for reverse in (own[1], not own[1]):
            if (exclusive, reverse) != own:
                text = f"a running sum {words[exclusive]}, {ends[reverse]}"
                yield from spot.change("reduction", text, exclusive=exclusive, reverse=reverse)
    for axis in range(spot.record.value.ndim):
        if axis != options["axis"] and spot.record.value.shape[axis] > 1:
            text = f"a running sum over axis {axis} (reference {options['axis']})"
            yield from spot.change("reduction", text, axis=axis)


@repair("movement")
def other_step(spot: Spot) -> Iterator[Candidate]:
    """One step along an axis taken, the last or the first: the one at the other end instead."""
    options, x = spot.operation.options, spot.operation.arguments[0]
    if options["move"] != "index" or x.ndim < 3 or len(siblings(spot)) != 1:
        return
    axis, own = options["axis"], options["start"]
    last = x.shape[axis] - 1
    if own not in (0, last):
        return
    yield from _both_ends(spot, x, axis)
    for other in dict.fromkeys((0, last, 1, last - 1)):
        if other != own and 0 <= other <= last:
            text = f"step {other} along axis {axis} (reference {own}, of {last + 1})"
            yield from spot.change("position", text, start=other)
    yield from _last_that_counts(spot, x, axis)


def _both_ends(spot: Spot, x: Array, axis: int) -> Iterator[Candidate]:
    """The last states of two directions instead of what both gave at one end."""
    source = spot.replay.source(spot.place, 0)
    layer = spot.replay.operation(source) if source is not None else None
    while layer is not None and layer.kind == "movement" and source is not None:
        source = spot.replay.source(source, 0)
        layer = spot.replay.operation(source) if source is not None else None
    if layer is None or not layer.options.get("bidirectional"):
        return
    half = x.shape[-1] // 2
    first, last = (np.take(x, place, axis=axis) for place in (0, -1))
    value = np.concatenate([last[..., :half], first[..., half:]], axis=-1)
    text = "the last state of each direction (reference: one step of both)"
    yield Candidate("initial-state", text, {spot.place: value}, places=(spot.place,))


def _last_that_counts(spot: Spot, x: Array, axis: int) -> Iterator[Candidate]:
    """The last step of each sequence that an input counts or masks."""
    if axis != 1:
        return
    for record in spot.graph.records:
        lengths = _lengths(record.value, x.shape) if record.operation == "input" else None
        if lengths is None or (lengths == x.shape[1]).all():
            continue
        value = x[np.arange(len(x)), lengths - 1]
        text = f"the last step that {record.attributes.get('name', 'an input')} lets count"
        yield Candidate("mask", text, {spot.place: value}, places=(spot.place,))


def _lengths(value: Array, shape: tuple[int, ...]) -> Array | None:
    """Numbers of steps (batch,) that an input gives, as they are or as a mask; None if not."""
    if value.shape == shape[:2] and np.isin(value, (0, 1)).all():
        value = value.sum(axis=1)
        lengths = np.maximum(value, 1)
    else:
        lengths = value
    if lengths.shape != shape[:1] or np.any(lengths != np.round(lengths)):
        return None
    inside = (lengths >= 1).all() and (lengths <= shape[1]).all()
    return lengths.astype(np.int64) if inside else None


@repair("movement", "rows")
def each_its_own_step(spot: Spot) -> Iterator[Candidate]:
    """A step of its own of each sequence, by its length: the same step of all instead."""
    x, value = spot.operation.arguments[0], spot.record.value
    by_value = spot.operation.options.get("move") in ("gather", None)
    if not by_value or x.ndim != 3:
        return
    found = np.squeeze(value, 1) if value.ndim == 3 and value.shape[1] == 1 else value
    for axis in (1, 0):
        rest = x.shape[:axis] + x.shape[axis + 1 :]
        if found.shape != rest:
            continue
        steps = [np.take(x, place, axis=axis) for place in range(x.shape[axis])]
        own = [any(np.array_equal(row, s[n]) for s in steps) for n, row in enumerate(found)]
        if not all(own):
            continue
        for place, words in ((-1, "last"), (0, "first")):
            text = f"the {words} step of all sequences (reference: a step of each its own)"
            made = steps[place].reshape(value.shape)
            yield Candidate("mask", text, {spot.place: made}, places=(spot.place,))


@repair("movement")
def shifted(spot: Spot) -> Iterator[Candidate]:
    """All steps but some at one end: those at the other end left out instead."""
    options, x = spot.operation.options, spot.operation.arguments[0]
    if options["move"] != "slice" or abs(options["step"]) != 1 or options["step"] < 0:
        return
    axis, count, own = options["axis"], options["count"], options["start"]
    left = x.shape[axis] - count
    if not 0 < left <= 2 or own not in (0, left) or axis == x.ndim - 1 > 1:
        return
    other = left - own
    text = f"steps {other} to {other + count - 1} (reference {own} to {own + count - 1})"
    yield from spot.change("position", text, start=other)


@repair("linear", "recurrent", "embedding", late=True)
def one_step_off(spot: Spot) -> Iterator[Candidate]:
    """What each step reads taken from the step before or after it."""
    number = 0
    x = spot.operation.arguments[number]
    if spot.operation.kind == "embedding":
        if x.ndim != 2 or x.shape[1] < 3:
            return
        axes: tuple[int, ...] = (1,)
    elif x.ndim == 3:
        time = 1 if spot.operation.options.get("batch_first", True) else 0
        axes = (time,)
    else:
        return
    for axis in axes:
        for shift, words in ((1, "before"), (-1, "after")):
            moved = np.roll(x, shift, axis)
            edge = [slice(None)] * x.ndim
            edge[axis] = slice(0, 1) if shift == 1 else slice(-1, None)
            moved[tuple(edge)] = 0
            value = attempt(spot.operation, spot.replaced(number, moved))
            if value is not None:
                text = f"each step reads the one {words} it, zeros at the end"
                yield Candidate("position", text, {spot.place: value}, places=(spot.place,))
