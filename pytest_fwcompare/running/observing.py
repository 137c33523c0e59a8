"""Both sides at one point: two shadows, two runs in working precision, and what they say.

The jitter, which costs another run of the reference, is drawn at the first point and wherever it
could change a verdict: it only ever excuses.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from pytest_fwcompare.backends.base import Precision
from pytest_fwcompare.judge.distances import difference
from pytest_fwcompare.judge.verdict import Assessment, Observed, assess_all
from pytest_fwcompare.running.observation import origin_of, parallel, rows
from pytest_fwcompare.running.points import Point, Run


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

    def known_jitter(self, point: Point, draws: int, training: bool) -> dict[str, float] | None:
        """The jitter where somebody drew it before; None where it is to be drawn."""


class Observer:
    """Runs a pair at points and judges what it sees.

    Args:
        pair: both sides.
        draws: number of moved runs that the jitter is taken from.
    """

    def __init__(self, pair: Runner, draws: int) -> None:
        self.pair, self.draws = pair, draws
        self._jittered: set[bool] = set()

    def observe(self, point: Point, training: bool) -> list[Observed]:
        """What was observed at a point."""
        observed: list[Observed] = []
        self._look(point, training, observed)
        return observed

    def judged(self, point: Point, training: bool) -> tuple[Assessment, ...]:
        """What the judge says of what is observed at a point, of one tensor after the other."""
        return self._look(point, training, None)

    def _look(
        self, point: Point, training: bool, kept: list[Observed] | None
    ) -> tuple[Assessment, ...]:
        """Run both sides and judge; what was observed is kept in `kept`, if that is a list."""
        pair = self.pair
        reference64 = pair.run("reference", point, "double", training=training)
        pair.expect(reference64)
        port64 = pair.run("port", point, "double", training=training)
        reference = pair.run("reference", point, "working", training=training)
        port = pair.run("port", point, "working", training=training)
        origin = origin_of(point)

        def judge(jitters: dict[str, float] | None) -> tuple[Assessment, ...]:
            observed: Iterable[Observed] = rows(
                reference64, port64, reference, port, jitters, origin
            )
            if kept is not None:
                kept[:] = observed
                observed = kept
            return assess_all(observed, pair.dtype)

        if training in self._jittered:
            found = judge(None)
            if all(item.settled for item in found):
                return found
        self._jittered.add(training)
        found = judge(self.jitter(point, reference64, self.draws, training))
        if self.draws < 3 and any(item.gap > item.jitter > 0 for item in found):
            # Another few draws where one might have been lucky.
            found = judge(self.jitter(point, reference64, 3, training))
        return found

    def jitter(self, point: Point, still: Run, draws: int, training: bool) -> dict[str, float]:
        """How far every tensor of the reference's shadow moves with inputs and weights.

        Args:
            point: where.
            still: the shadow's run there.
            draws: number of moved runs.
            training: run in training mode.
        """
        known = self.pair.known_jitter(point, draws, training)
        if known is not None:
            return known
        largest: dict[str, float] = {}
        for draw in range(draws):
            shaken = self.pair.shaken(point, draw)
            run = self.pair.run("reference", shaken, "double", training=training)
            for name, value, other in parallel(still, run):
                largest[name] = max(largest.get(name, 0.0), difference(value, other).size)
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
