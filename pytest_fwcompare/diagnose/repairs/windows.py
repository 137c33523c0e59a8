"""Repairs of windows, patches and blocks: axes split, moved and merged around places."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair
from pytest_fwcompare.diagnose.repairs.order import order_cause

MANY = 6
"""Axes of which not all orders are tried, but only exchanges of two: windows have six."""

APART = 80
"""Operations between the places where windows are cut and where they are put together."""


@repair("movement")
def exchanged_axes(spot: Spot) -> Iterator[Candidate]:
    """Two of many axes exchanged: rows of windows for their columns, channels before cells."""
    options, x = spot.operation.options, np.asarray(spot.operation.arguments[0], np.float64)
    if options["move"] != "transpose" or x.ndim < MANY - 1:
        return
    own = tuple(options["axes"])
    cause, shape = order_cause(spot), spot.record.value.shape
    text = "reshaped instead of transposed"
    yield Candidate(cause, text, {spot.place: x.reshape(shape)}, places=(spot.place,))
    for one, other in itertools.combinations(range(x.ndim), 2):
        axes = list(own)
        axes[one], axes[other] = axes[other], axes[one]
        value = x.transpose(axes)
        if value.shape != shape and not _goes_into_reshapes(spot):
            continue
        text = f"axes in the order {tuple(axes)} (reference {own})"
        yield Candidate(cause, text, {spot.place: value.reshape(shape)}, places=(spot.place,))


def _goes_into_reshapes(spot: Spot) -> bool:
    """Whether all that follows merges axes again, so that their sizes are not seen."""
    after = [spot.replay.operation(place) for place in spot.graph.consumers[spot.place]]
    return bool(after) and all(o is not None and o.options.get("move") == "reshape" for o in after)


@repair("movement")
def never_moved(spot: Spot) -> Iterator[Candidate]:
    """Windows cut and put together by reshapes alone: both transpositions left out."""
    if spot.operation.options["move"] != "transpose" or spot.record.value.ndim < MANY - 1:
        return
    for other in _partners(spot):
        first, last = sorted((spot.place, other))
        one, two = spot.replay.operation(first), spot.replay.operation(last)
        assert one is not None
        assert two is not None
        cut = np.asarray(one.arguments[0], np.float64).reshape(_shape(spot, first))
        given = spot.after({first: cut}, spot.graph.inputs[last][0])
        if given is None or given.size != spot.graph.records[last].value.size:
            continue
        text = "reshaped instead of transposed, there and back"
        values = {first: cut, last: given.reshape(_shape(spot, last))}
        yield Candidate(order_cause(spot), text, values, places=(first,))


def _shape(spot: Spot, place: int) -> tuple[int, ...]:
    return spot.graph.records[place].value.shape


def _partners(spot: Spot) -> list[int]:
    """Transpositions of the same module that undo this one's, or are undone by it."""
    own, graph = tuple(spot.operation.options["axes"]), spot.graph
    linked = graph.downstream([spot.place]) | graph.upstream([spot.place])
    found = []
    for place in sorted(linked - {spot.place}):
        if abs(place - spot.place) > APART or graph.records[place].path != spot.record.path:
            continue
        operation = spot.replay.operation(place)
        if operation is None or operation.options.get("move") != "transpose":
            continue
        axes = tuple(operation.options["axes"])
        if len(axes) == len(own) and tuple(np.argsort(axes)) == own:
            found.append(place)
    return found[:2]
