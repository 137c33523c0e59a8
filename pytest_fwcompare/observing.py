"""Both sides at one point: two shadows, two runs in working precision, and what they say.

The jitter, which costs another run of the reference, is drawn at the first point and wherever it
could change a verdict: it only ever excuses.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pytest_fwcompare.backends.base import Precision
from pytest_fwcompare.judge.distances import finite_maximum
from pytest_fwcompare.judge.verdict import Assessment, Observed, assess
from pytest_fwcompare.observation import origin_of, parallel, rows, undecided
from pytest_fwcompare.points import Point, Run


class Runner(Protocol):
    """Two sides that can be run; see `Pair`."""

    dtype: str

    def run(
        self,
        role: str,
        point: Point,
        precision: Precision,
        *,
        training: bool = False,
        backward: bool | None = None,
    ) -> Run:
        """One pass of one side."""

    def shaken(self, point: Point, draw: int) -> Point:
        """The point moved by at most half a unit in the last place."""

    def expect(self, reference: Run) -> None:
        """Hold the port's next outputs against the shapes of this run of the reference."""


class Observer:
    """Runs a pair at points and judges what it sees.

    Args:
        pair: both sides.
        draws: number of moved runs that the jitter is taken from.
    """

    def __init__(self, pair: Runner, draws: int) -> None:
        self.pair, self.draws = pair, draws
        self._jittered: set[bool] = set()

    def observe(
        self, point: Point, training: bool
    ) -> tuple[list[Observed], tuple[Assessment, ...]]:
        """What was observed at a point, and what the judge says of it."""
        pair = self.pair
        reference64 = pair.run("reference", point, "double", training=training)
        pair.expect(reference64)
        port64 = pair.run("port", point, "double", training=training)
        reference = pair.run("reference", point, "working", training=training)
        port = pair.run("port", point, "working", training=training)
        runs, origin = (reference64, port64, reference, port), origin_of(point)
        if training in self._jittered:
            observed = list(rows(*runs, None, origin))
            found = tuple(assess(item, pair.dtype) for item in observed)
            if all(item.settled for item in found):
                return observed, found
        self._jittered.add(training)
        jitters = self.jitter(point, reference64, self.draws, training)
        observed = list(rows(*runs, jitters, origin))
        if self.draws < 3 and any(undecided(item) for item in observed):
            # Another few draws where one might have been lucky.
            jitters = self.jitter(point, reference64, 3, training)
            observed = list(rows(*runs, jitters, origin))
        return observed, tuple(assess(item, pair.dtype) for item in observed)

    def jitter(self, point: Point, still: Run, draws: int, training: bool) -> dict[str, float]:
        """How far every tensor of the reference's shadow moves with inputs and weights.

        Args:
            point: where.
            still: the shadow's run there.
            draws: number of moved runs.
            training: run in training mode.
        """
        largest: dict[str, float] = {}
        for draw in range(draws):
            shaken = self.pair.shaken(point, draw)
            run = self.pair.run("reference", shaken, "double", training=training)
            for name, value, other in parallel(still, run):
                with np.errstate(invalid="ignore"):
                    spread = finite_maximum(np.asarray(value, float) - np.asarray(other, float))
                largest[name] = max(largest.get(name, 0.0), spread)
        return largest


def training_is_random(pair: Runner, point: Point) -> bool:
    """Whether a side in training mode differs from itself (dropout)."""
    for role in ("reference", "port"):
        first, second = (
            pair.run(role, point, "double", training=True, backward=False).outputs
            for _ in range(2)
        )
        for name, value in first.items():
            if not np.array_equal(value, second[name], equal_nan=value.dtype.kind == "f"):
                return True
    return False
