"""Rounds in turns: a slot a round for every framework, so that drift hurts all alike."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pytest_fwcompare.backends.base import Stopwatch
from pytest_fwcompare.records import Quartiles, Ratio
from pytest_fwcompare.timing.clocks import UNITS_A_READING, Call, Clock, resolution

BUDGET_S = 0.3
"""Seconds of measuring a framework."""

SLOT_S = 0.01
"""Seconds one framework measures before the next one's turn."""

SETTLING_CALLS, SETTLING_S = 8, 0.02
"""Calls before the first reading of a turn: so many, unless they take longer than that.

The turn before left other code and other data in the processor's caches: a first call takes two
to four times as long, and about eight pass until the difference is gone.
"""

LONG_S = 0.1
"""A call that takes longer does not notice what it finds in the caches: milliseconds at most."""

LEAST_ROUNDS, MOST_ROUNDS = 6, 200
"""With fewer than six the extremes themselves are no 95 % interval of a median."""

CONFIDENCE = 0.95

DEVICE_CALLS = 10
"""Calls from which host and device times are taken."""

TIGHT = 0.03
"""Quartiles this close to the median, relative to it, need no more rounds."""


@dataclass
class Durations:
    """Raw durations of one framework in seconds, one a call; statistics are derived.

    Attributes:
        first_call_s: the first forward call, before any warm-up.
        forward: forward calls.
        backward: backward calls; empty where there is no backward pass.
        rounds: medians of one forward and one backward pass, added, a round each.
        host_s: until a forward call that does not wait returns; None where every call waits.
        device_s: that the device is busy with a forward call; None where it has no clock.
    """

    first_call_s: float = 0.0
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    host_s: float | None = None
    device_s: float | None = None

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
    framework has a slot, in an order drawn anew and then back, until all quartiles are tight or
    the budget is spent. A slot starts with calls that are not counted, until the caches are its
    own again; then short calls are repeated, and every call's duration is kept.

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
    groups = {}
    with _collector_off():
        for name, stopwatch in stopwatches.items():
            with stopwatch.settings():
                made[name].first_call_s = _time(stopwatch.forward, clock)
                groups[name] = _warm_up(stopwatch, least, clock)
        order, shuffle = list(stopwatches), random.Random(seed).shuffle
        end = clock() + budget_s * len(order)
        for rounds in range(1, MOST_ROUNDS + 1):
            # There and back: what gets slower from slot to slot favours nobody in two rounds.
            shuffle(order) if rounds % 2 else order.reverse()
            for name in order:
                with stopwatches[name].settings():
                    _slot(stopwatches[name], made[name], groups[name], clock)
            enough = clock() >= end or all(durations.is_tight() for durations in made.values())
            if rounds >= LEAST_ROUNDS and enough:
                break
    for name, stopwatch in stopwatches.items():
        with stopwatch.settings():
            _apart(stopwatch, made[name], clock)
    return made


def ratio(mine: Sequence[float], others: Sequence[float]) -> Ratio:
    """How many times longer one framework takes than another, round by round.

    A round's two figures were taken within a fraction of a second, so a machine that gets slower
    changes both. The interval is that of a median by order statistics, whatever the distribution
    (Hahn and Meeker, Statistical Intervals, 1991, section 5.2): between the k-th smallest and the
    k-th largest, where fewer than k of n fair coins fall on one side with probability 2.5 %.

    Args:
        mine: seconds a round.
        others: seconds of the other framework, of the same rounds.

    Raises:
        ValueError: there are no rounds, or not the same.
    """
    if not mine:
        raise ValueError("ratio: expected at least one round")
    each = sorted(
        one / other if other > 0 else 1.0 for one, other in zip(mine, others, strict=True)
    )
    outside = _outside(len(each))
    return Ratio(statistics.median(each), each[outside], each[-1 - outside], len(each))


def fastest(rounds: Mapping[str, Sequence[float]]) -> str:
    """The framework that none of the others beats, round by round as `ratio` compares them.

    Medians over all rounds may name another one: on a machine that changes its pace, a framework
    can be slower in most rounds and have the smaller median. Where each is beaten by some other
    (which only noise can do) it is the one that beats most, then the one with the least median.

    Args:
        rounds: seconds a round, by framework; the same rounds for all.

    Raises:
        ValueError: there are no frameworks or no rounds.
    """

    def rank(name: str) -> tuple[int, float]:
        mine = rounds[name]
        losses = sum(ratio(mine, others).median > 1.0 for others in rounds.values())
        return losses, statistics.median(mine)

    return min(rounds, key=rank)


def _outside(count: int) -> int:
    """Values on either side of the interval of a median of so many."""
    below, outside = 0.5**count, 0
    while outside < (count - 1) // 2:
        below += math.comb(count, outside + 1) * 0.5**count
        if 2 * below > 1 - CONFIDENCE:
            break
        outside += 1
    return outside


def _apart(stopwatch: Stopwatch, durations: Durations, clock: Clock) -> None:
    """Time of the host and of the device, where one goes on while the other works."""
    if stopwatch.on_device is not None:
        durations.device_s = statistics.median(stopwatch.on_device() for _ in range(DEVICE_CALLS))
    if stopwatch.queue is not None:
        taken = []
        for _ in range(DEVICE_CALLS):
            taken.append(_time(stopwatch.queue, clock))
            stopwatch.forward()  # empties the queue
        durations.host_s = statistics.median(taken)


def _time(call: Call, clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start


def _warm_up(stopwatch: Stopwatch, least: float, clock: Clock) -> int:
    """Run each call until it has settled; the number of calls that one reading must span."""
    calls = (stopwatch.forward, stopwatch.forward_backward, stopwatch.backward)
    fastest = min(_settle(call, clock) for call in calls if call is not None)
    return max(1, round(least / fastest)) if fastest > 0 else 1000


def _settle(call: Call, clock: Clock) -> float:
    """Run a call until the processor's caches are its own; the shortest time it took."""
    fastest, spent = float("inf"), 0.0
    for _ in range(SETTLING_CALLS):
        taken = _time(call, clock)
        fastest, spent = min(fastest, taken), spent + taken
        if spent > SETTLING_S:
            break
    return fastest


def _slot(stopwatch: Stopwatch, durations: Durations, group: int, clock: Clock) -> None:
    """One framework's turn: forward calls, then backward ones, for about `SLOT_S` each."""
    is_long = bool(durations.forward) and durations.forward[-1] > LONG_S

    def readings(call: Call) -> list[float]:
        if not is_long:
            _settle(call, clock)
        return list(_readings(call, group, clock))

    forward = readings(stopwatch.forward)
    durations.forward += forward
    ahead = statistics.median(forward)
    backward: list[float] = []
    if stopwatch.backward is not None:
        backward = readings(stopwatch.backward)
    elif stopwatch.forward_backward is not None:
        # Of one turn, so that the machine was the same; noise must not make time negative.
        backward = [max(both - ahead, 0.0) for both in readings(stopwatch.forward_backward)]
    durations.backward += backward
    durations.rounds.append(ahead + (statistics.median(backward) if backward else 0.0))


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
