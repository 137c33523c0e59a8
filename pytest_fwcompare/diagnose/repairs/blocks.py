"""Repairs of residual blocks: the norm before the sublayer, or after the sum."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair
from pytest_fwcompare.diagnose.repairs.patterns import is_addition

SUBLAYER = 40
"""Operations that a sublayer may consist of."""


@repair("norm")
def norm_first(spot: Spot) -> Iterator[Candidate]:
    """norm(x + f(x)) instead of x + f(norm(x))."""
    source = spot.replay.source(spot.place, 0)
    if source is None:
        return
    x = np.asarray(spot.graph.records[source].value, np.float64)
    for place in sorted(spot.graph.downstream([spot.place]))[:SUBLAYER]:
        if not is_addition(spot.replay.operation(place)):
            continue
        if source not in [spot.replay.source(place, number) for number in (0, 1)]:
            continue
        total = spot.after({spot.place: x}, place)
        made = None if total is None else _normed(spot, total)
        if made is not None:
            text = "the sum normalised instead of what goes into its summand"
            yield Candidate("residual", text, {place: made}, places=(place,))
        return


@repair("norm")
def norm_last(spot: Spot) -> Iterator[Candidate]:
    """The sum x + f(norm(x)) instead of norm(x + f(x))."""
    total = spot.replay.source(spot.place, 0)
    if total is None or not is_addition(spot.replay.operation(total)):
        return
    for number in (0, 1):
        source = spot.replay.source(total, number)
        other = spot.replay.source(total, 1 - number)
        if source is None or other is None or source not in spot.graph.upstream([other]):
            continue
        x = np.asarray(spot.graph.records[source].value, np.float64)
        normed = _normed(spot, x)
        summand = None if normed is None else spot.after({source: normed}, other)
        if summand is not None and summand.shape == x.shape:
            text = "what goes into the summand normalised instead of the sum"
            yield Candidate("residual", text, {spot.place: x + summand}, places=(spot.place,))


@repair("arithmetic")
def beside(spot: Spot) -> Iterator[Candidate]:
    """Sublayers beside each other: the norm takes the stream before the sum, not the sum."""
    operation = spot.operation
    if not is_addition(operation) or len({a.shape for a in operation.arguments}) > 1:
        return
    sources = [spot.replay.source(spot.place, number) for number in (0, 1)]
    norms = [p for p in spot.graph.consumers[spot.place] if spot.replay.kind(p) == "norm"]
    for norm in norms:
        known = spot.replay.operation(norm)
        for source in sources:
            if known is None or source is None or len(spot.graph.consumers[spot.place]) < 2:
                continue
            value = np.asarray(spot.graph.records[source].value, np.float64)
            made = attempt(known, (known.taken(0, value), *known.arguments[1:]))
            if made is not None:
                text = "the stream before the last sum normalised: sublayers beside each other"
                yield Candidate("residual", text, {norm: made}, places=(norm,))


def _normed(spot: Spot, value: Array) -> Array | None:
    """The norm of the spot of another tensor."""
    return attempt(spot.operation, (spot.operation.taken(0, value),))
