"""Clocks: how fine they are, and whether a call has done its work when it returns."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from pytest_fwcompare.devices import processors

Clock = Callable[[], float]
"""Seconds from an arbitrary start, never going back."""

Call = Callable[[], None]

UNITS_A_READING = 200
"""A duration must be this many times the clock's resolution, so that reading costs under 1 %."""


def resolution(clock: Clock = time.perf_counter, tries: int = 50) -> float:
    """The smallest step of a clock that can be seen, in seconds."""
    steps = []
    for _ in range(tries):
        start = end = clock()
        while end == start:
            end = clock()
        steps.append(end - start)
    return min(steps)


def available_threads() -> int:
    """Threads a framework may use here: what the user set, else the processors of this process."""
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        value = os.environ.get(name, "")
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return processors()


def unsynchronised(
    call: Call,
    drain: Call,
    *,
    calls: int = 4,
    tries: int = 3,
    clock: Clock = time.perf_counter,
) -> float | None:
    """Seconds of work a call that were left to do when it returned, or None if it waits.

    A call that only queues its work returns early, and whoever waits for the queue next pays.
    So: wait once with nothing queued, then wait behind `calls` calls. If that takes much longer
    than the calls themselves and an ordinary wait, the calls had not done what they were timed
    for. It must show in every try; one hiccup of the machine proves nothing.

    Args:
        call: what is timed.
        drain: the same work handed over as values, which cannot come before it is done and which
            waits behind whatever is queued.
        calls: how many to queue.
        tries: how often it must show.
        clock: seconds.
    """
    call()
    drain()
    hidden = []
    for _ in range(tries):
        alone = min(_timed(drain, clock) for _ in range(2))
        start = clock()
        for _ in range(calls):
            call()
        claimed = clock() - start
        waited = _timed(drain, clock)
        left = waited - alone
        if left < claimed or left < alone:
            return None
        hidden.append(left / calls)
    return statistics.median(hidden)


def _timed(call: Call, clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start
