"""Rounds in turns: a slot a round for every framework, so that drift hurts all alike."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pytest_fwcompare.backends.base import Stopwatch
from pytest_fwcompare.records import Quartiles
from pytest_fwcompare.timing.clocks import UNITS_A_READING, Call, Clock, resolution

BUDGET_S = 0.3
"""Seconds of measuring a framework."""

SLOT_S = 0.01
"""Seconds one framework measures before the next one's turn."""

LEAST_ROUNDS, MOST_ROUNDS = 5, 200
TIGHT = 0.03
"""Quartiles this close to the median, relative to it, need no more rounds."""


@dataclass
class Durations:
    """Raw durations of one framework in seconds, one a call; statistics are derived.

    Attributes:
        first_call_s: the first forward call, before any warm-up.
        forward: forward calls.
        backward: backward calls; empty where there is no backward pass.
    """

    first_call_s: float = 0.0
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)

    def is_tight(self) -> bool:
        """True if the quartiles of all series are close to their medians."""
        return all(
            tightness(series) <= TIGHT for series in (self.forward, self.backward) if series
        )


def quartiles(durations: Sequence[float]) -> Quartiles:
    """Median and quartiles (inclusive method: the extremes belong to the sample).

    Raises:
        ValueError: there are no durations.
    """
    if not durations:
        raise ValueError("quartiles: expected at least one duration")
    if len(durations) == 1:
        return Quartiles(durations[0], durations[0], durations[0], 1)
    low, median, high = statistics.quantiles(durations, n=4, method="inclusive")
    return Quartiles(median, low, high, len(durations))


def tightness(durations: Sequence[float]) -> float:
    """Distance of the farther quartile from the median, relative to the median.

    Scaled down by the root of the number of rounds, as the median's own uncertainty is; infinite
    until there are enough of them.
    """
    if len(durations) < LEAST_ROUNDS:
        return float("inf")
    found = quartiles(durations)
    spread = max(found.high - found.median, found.median - found.low)
    return spread / found.median / len(durations) ** 0.5 if found.median > 0 else 0.0


def measure(
    stopwatches: Mapping[str, Stopwatch],
    *,
    budget_s: float = BUDGET_S,
    clock: Clock = time.perf_counter,
    seed: int = 0,
) -> dict[str, Durations]:
    """Time several frameworks fairly.

    First calls are timed apart and calls are warmed up. Then rounds follow, in each of which every
    framework has a slot, in an order drawn anew, until all quartiles are tight or the budget is
    spent. Within a slot short calls are repeated; every call's duration is kept.

    Args:
        stopwatches: by framework; each call returns when its work is done.
        budget_s: seconds of measuring a framework; slow ones get `LEAST_ROUNDS` calls anyhow.
        clock: seconds.
        seed: of the orders.

    Returns:
        Raw durations by framework.
    """
    made = {name: Durations() for name in stopwatches}
    least = UNITS_A_READING * resolution(clock)
    for name, stopwatch in stopwatches.items():
        made[name].first_call_s = _time(stopwatch.forward, clock)
    groups = {name: _warm_up(stopwatch, least, clock) for name, stopwatch in stopwatches.items()}
    order, shuffle = list(stopwatches), random.Random(seed).shuffle
    end = clock() + budget_s * len(order)
    with _collector_off():
        for rounds in range(1, MOST_ROUNDS + 1):
            shuffle(order)
            for name in order:
                _slot(stopwatches[name], made[name], groups[name], clock)
            enough = clock() >= end or all(durations.is_tight() for durations in made.values())
            if rounds >= LEAST_ROUNDS and enough:
                break
    return made


def _time(call: Call, clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start


def _warm_up(stopwatch: Stopwatch, least: float, clock: Clock) -> int:
    """Run each call until it has settled; the number of calls that one reading must span."""
    fastest = float("inf")
    for call in (stopwatch.forward, stopwatch.forward_backward, stopwatch.backward):
        if call is None:
            continue
        spent = 0.0
        for _ in range(10):
            taken = _time(call, clock)
            fastest, spent = min(fastest, taken), spent + taken
            if spent > 2 * SLOT_S:
                break
    return max(1, round(least / fastest)) if fastest > 0 else 1000


def _slot(stopwatch: Stopwatch, durations: Durations, group: int, clock: Clock) -> None:
    """One framework's turn: forward calls, then backward ones, for about `SLOT_S` each."""
    forward = list(_readings(stopwatch.forward, group, clock))
    durations.forward += forward
    if stopwatch.backward is not None:
        durations.backward += _readings(stopwatch.backward, group, clock)
    elif stopwatch.forward_backward is not None:
        # Of one turn, so that the machine was the same; noise must not make time negative.
        ahead = statistics.median(forward)
        durations.backward += [
            max(both - ahead, 0.0) for both in _readings(stopwatch.forward_backward, group, clock)
        ]


def _readings(call: Call, group: int, clock: Clock) -> Iterator[float]:
    """Seconds a call; a reading spans `group` calls where one is too short for the clock."""
    spent = 0.0
    while spent < SLOT_S:
        start = clock()
        for _ in range(group):
            call()
        taken = clock() - start
        spent += taken
        yield taken / group


@contextmanager
def _collector_off() -> Iterator[None]:
    """No garbage collection while measuring: it would fall on whoever comes next."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
