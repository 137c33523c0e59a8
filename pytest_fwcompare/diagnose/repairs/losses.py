"""Repairs of losses: smoothing, weights of the ones, limits of probabilities."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, decades, repair


@repair("loss")
def numbers(spot: Spot) -> Iterator[Candidate]:
    """Another label smoothing, another weight of the ones."""
    options = spot.operation.options
    cause = "activation-parameter"
    if options["function"] == "picked":
        own = options["smoothing"]
        if own:
            yield from spot.change(cause, f"no label smoothing (reference {own:g})", smoothing=0.0)
        grid = [-0.5, 1e-6, *decades(-3, -1, 1), 0.3, 0.9]
        yield from spot.solved(cause, "label smoothing", "smoothing", own, grid)
    if options["function"].startswith("binary"):
        own = options["positive"]
        if isinstance(own, float):
            text = "weight of the ones"
            yield from spot.solved(cause, text, "positive", own, decades(-3, 3, 2))


@repair("loss")
def limits(spot: Spot) -> Iterator[Candidate]:
    """Probabilities kept off zero and one: by a clip, or by a number under the logarithm."""
    name = spot.operation.options["function"]
    if not name.startswith("binary"):
        return
    grid = decades(-15, -1, 1)
    yield from spot.solved("clipping", "probabilities limited, by", "clip", 0, [*grid, 0.4])
    yield from spot.solved("clipping", "under the logarithm, epsilon", "inside", 0, grid)
