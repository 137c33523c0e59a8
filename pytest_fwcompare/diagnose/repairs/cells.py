"""What belongs to a recurrent cell that is written out, step by step."""

from __future__ import annotations

from collections import Counter

from pytest_fwcompare.diagnose.repairs.base import Spot

PRODUCTS = ("linear", "matmul")
"""Kinds of operations that a cell uses its weights in."""


def in_gated_cell(spot: Spot) -> bool:
    """Whether an activation is part of a cell with gates, unrolled in steps.

    The weights that lead to it are used more than once along the data flow, and what it gives is
    multiplied with another tensor that was computed from the inputs.
    """
    graph = spot.graph
    if not any(_multiplies(spot, place) for place in graph.consumers[spot.place]):
        return False
    before, after = graph.upstream([spot.place]), graph.downstream([spot.place])
    used = Counter(name for place in before | after for name in _weights(spot, place))
    leading = {name for place in before for name in _weights(spot, place)}
    return any(used[name] > 1 for name in leading)


def _weights(spot: Spot, place: int) -> tuple[str, ...]:
    names = spot.graph.records[place].parameters
    return names if names and spot.replay.kind(place) in PRODUCTS else ()


def _multiplies(spot: Spot, place: int) -> bool:
    """Whether an operation multiplies two tensors that inputs go into."""
    operation = spot.replay.operation(place)
    if operation is None or operation.options.get("function") != "multiply":
        return False
    sources = spot.graph.inputs[place]
    return len(sources) == 2 and set(sources) <= spot.sides.fed
