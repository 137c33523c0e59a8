"""Repairs of what scales a tensor by hand: a norm's modulation, the half of a mean of two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair


@repair("arithmetic")
def modulated(spot: Spot) -> Iterator[Candidate]:
    """A norm scaled by s instead of 1 + s, or the other way round, as in FiLM."""
    options, arguments = spot.operation.options, spot.operation.arguments
    adds_one = options["function"] == "add" and options.get("number") == 1.0
    if adds_one and any(_scales_norm(spot, p) for p in spot.graph.consumers[spot.place]):
        plain = np.asarray(arguments[0], np.float64)
        text = "the scale instead of 1 + scale"
        yield Candidate("norm-affine", text, {spot.place: plain}, True, (spot.place,))
    if _scales_norm(spot, spot.place):
        for number in (0, 1):
            if spot.replay.kind(spot.replay.source(spot.place, number) or 0) != "norm":
                continue
            scale = np.asarray(arguments[1 - number], np.float64)
            yield from spot.arguments(
                "norm-affine",
                "1 + scale instead of the scale",
                *spot.replaced(1 - number, 1.0 + scale),
            )


def _scales_norm(spot: Spot, place: int) -> bool:
    """Whether an operation multiplies the result of a norm by another tensor."""
    operation = spot.replay.operation(place)
    if operation is None or operation.options.get("function") != "multiply":
        return False
    if operation.kind != "arithmetic" or len(operation.arguments) != 2:
        return False
    sources = [spot.replay.source(place, number) for number in (0, 1)]
    return any(source is not None and spot.replay.kind(source) == "norm" for source in sources)


@repair("arithmetic")
def halved(spot: Spot) -> Iterator[Candidate]:
    """A mean of two tensors instead of their sum: of two directions, two views, two towers."""
    options, arguments = spot.operation.options, spot.operation.arguments
    if options["function"] != "add" or len(arguments) != 2:
        return
    first, second = (spot.replay.source(spot.place, number) for number in (0, 1))
    if first is None or second is None or not {first, second} <= spot.sides.fed:
        return
    if arguments[0].shape != arguments[1].shape:
        return
    # A summand that the other is computed from is a residual: no mean of two alike.
    if first in spot.graph.upstream([second]) or second in spot.graph.upstream([first]):
        return
    text = "the mean instead of the sum of two tensors"
    half = np.asarray(0.5 * spot.record.value)
    yield Candidate("reduction", text, {spot.place: half}, places=(spot.place,))
