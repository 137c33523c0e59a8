"""Times opened sides against each other: same values, same number of threads, in turns."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from pytest_fwcompare.backends.base import Argument, Array, Backend, Side, Stopwatch
from pytest_fwcompare.progress import TIMING, tell
from pytest_fwcompare.records import Timing
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.timing.clocks import Call, available_threads, unsynchronised
from pytest_fwcompare.timing.memory import peak_rise
from pytest_fwcompare.timing.rounds import Durations, fastest, measure, quartiles, ratio

NO_CALLS = Stopwatch(lambda: None, None)
"""Of a side that is timed elsewhere."""


@dataclass(frozen=True)
class Timed:
    """A side made ready to be timed.

    Attributes:
        name: how its timing is called; the framework.
        shapes: sizes of the inputs, in the reference's axis order.
        first_call_s: seconds of the first forward call.
        peak: most bytes taken, and what they were measured in; see `Timing`.
        synchronised: False if its stopwatch returned before its work was done.
        done: the timing of a side that was timed in its own worker already.
    """

    name: str
    side: Side
    backend: Backend
    stopwatch: Stopwatch
    shapes: Mapping[str, tuple[int, ...]]
    first_call_s: float
    peak: tuple[int | None, str]
    synchronised: bool
    done: Timing | None = None


def make_ready(
    name: str,
    opened: Opened,
    given: Sequence[Argument],
    values: Mapping[str, Array],
    *,
    backward: bool,
) -> Timed:
    """Prepare the bare calls of one side, and see that they wait for their work.

    Raises:
        ModelError: the side cannot run these values.
    """
    side = opened.side
    backward = backward and opened.backend.can_differentiate
    shapes = {key: value.shape for key, value in values.items()}
    there = side.time_apart(name, given, shapes, backward)
    if there is not None:
        return Timed(name, side, opened.backend, NO_CALLS, shapes, 0.0, (None, ""), True, there)
    # Before anything else of this side has run: the first call is the first.
    stopwatch = side.stopwatch(given, None)
    with stopwatch.settings():
        start = time.perf_counter()
        stopwatch.forward()
        first = time.perf_counter() - start
    if backward:
        stopwatch = side.stopwatch(given, cotangents_of(side, given))
    with stopwatch.settings():
        peak = _peak(opened, stopwatch.forward_backward or stopwatch.forward)

    def drain() -> None:
        side.forward(given, precision="working", gradients=False)

    with stopwatch.settings():
        waits = unsynchronised(stopwatch.forward, drain) is None
    return Timed(name, side, opened.backend, stopwatch, shapes, first, peak, waits)


def cotangents_of(side: Side, given: Sequence[Argument]) -> dict[str, Array]:
    """Standard normal cotangents for the float outputs of a side."""
    with side.eagerly() or nullcontext():  # a mode may compile anew for a pass of its own
        passed = side.forward(given, precision="working", gradients=False)
    rng = np.random.default_rng(0)
    return {
        output: rng.standard_normal(value.shape).astype(value.dtype)
        for output, value in passed.outputs.items()
        if value.dtype.kind == "f"
    }


def _peak(opened: Opened, call: Call) -> tuple[int | None, str]:
    """Of the device by the framework's statistics, else how far this process rises."""
    on_device = opened.backend.device_peak(_device(opened.side), call)
    if on_device is not None:
        return on_device, "device"
    return peak_rise(call), "rise"


def _device(side: Side) -> str:
    """The device of a side as the axis calls it."""
    text = str(getattr(side, "device", "cpu")).lower()
    if "cpu" in text:
        return "cpu"
    number = re.search(r"(\d+)\D*$", text)
    return f"cuda:{number[1]}" if number else "cuda:0"


def time_ready(ready: Sequence[Timed]) -> tuple[Timing, ...]:
    """Measure sides in turns, each with the same number of threads."""
    here = {timed.name: made for timed, made in _time_here([t for t in ready if t.done is None])}
    return tuple(timed.done or here[timed.name] for timed in ready)


def _time_here(ready: Sequence[Timed]) -> Iterator[tuple[Timed, Timing]]:
    """Those of this process, in turns."""
    if not ready:
        return
    tell(TIMING)
    with equal_threads([timed.backend for timed in ready]) as threads:
        durations = measure({timed.name: timed.stopwatch for timed in ready})
        counts = {timed.name: timed.backend.thread_count() or threads for timed in ready}
    rounds = {name: made.rounds for name, made in durations.items()}
    best = rounds[fastest(rounds)]
    for timed in ready:
        made = timing(timed, durations[timed.name], counts[timed.name])
        yield timed, replace(made, ratio=ratio(rounds[timed.name], best))


def timing(timed: Timed, durations: Durations, threads: int) -> Timing:
    """The record of one side's durations."""
    return Timing(
        framework=timed.name,
        first_call_s=timed.first_call_s,
        forward=quartiles(durations.forward),
        backward=quartiles(durations.backward) if durations.backward else None,
        threads=threads,
        shapes=timed.shapes,
        mode=getattr(timed.side, "mode", "eager"),
        device=_device(timed.side),
        peak_bytes=timed.peak[0],
        peak_of=timed.peak[1] if timed.peak[0] is not None else "",
        synchronised=timed.synchronised,
        host_s=durations.host_s,
        device_s=durations.device_s,
    )


@contextmanager
def equal_threads(backends: Sequence[Backend]) -> Iterator[int]:
    """Give every framework the same number of threads; those that let one, get theirs back."""
    count = available_threads()
    before = [(backend, backend.environment().get("threads")) for backend in backends]
    for backend in backends:
        backend.set_threads(count)
    try:
        yield count
    finally:
        for backend, threads in before:
            if isinstance(threads, int) and threads > 0:
                backend.set_threads(threads)
