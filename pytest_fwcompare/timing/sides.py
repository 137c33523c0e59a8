"""Times opened sides against each other: same values, same number of threads, in turns."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_fwcompare.backends.base import Argument, Array, Backend, Side, Stopwatch
from pytest_fwcompare.devices import device_of
from pytest_fwcompare.errors import FwcompareError
from pytest_fwcompare.progress import TIMING, tell
from pytest_fwcompare.records import Timing
from pytest_fwcompare.timing.clocks import Call, available_threads, unsynchronised
from pytest_fwcompare.timing.memory import peak_rise
from pytest_fwcompare.timing.rounds import Durations, fastest, measure, quartiles, ratio

if TYPE_CHECKING:
    from pytest_fwcompare.inputs.examples import Example, Plan
    from pytest_fwcompare.networks import Network
    from pytest_fwcompare.running.pair import Pair
    from pytest_fwcompare.sides import Opened

NO_CALLS = Stopwatch(lambda: None, None)
"""Of a side that is timed elsewhere."""

BATCH = 16
"""Size that a free batch axis is timed at."""


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


def time_pair(pair: Pair) -> tuple[Timing, ...]:
    """Timings of the reference and of the port of a comparison."""
    example = timed_example(pair.plan)
    same = pair.reference.side.framework == pair.port.side.framework
    ready = []
    for role, opened in (("reference", pair.reference), ("port", pair.port)):
        name = opened.side.framework
        ready.append(
            make_ready(
                f"{name} reference" if same and role == "reference" else name,
                opened,
                pair.arguments(role, pair.plan.arrays(example)),
                pair.plan.arrays(example),
                backward=pair.backward,
            )
        )
    return time_ready(ready)


def time_network(
    network: Network,
    frameworks: Sequence[str],
    inputs: Mapping[str, Any],
    *,
    dtype: str,
    device: str,
    mode: str,
    backward: bool = True,
    memory: bool = False,
) -> tuple[Timing, ...]:
    """Timings of a described network in several frameworks, all in turns.

    A framework that cannot run it is left out: the test that judges it says why.

    Args:
        network: the description.
        frameworks: import names.
        inputs: of a comparison.
        dtype: working dtype.
        device: "cpu", "cuda[:N]", or the reference's and the port's.
        mode: "eager", "graph" or "compiled".
        backward: time the backward pass too.
        memory: measure the peak of each framework in a process of its own, which costs seconds.
    """
    from pytest_fwcompare.inputs.examples import plan
    from pytest_fwcompare.running.points import arguments
    from pytest_fwcompare.sides import InFramework, open_side

    planned = plan(inputs, ("given",), 0)
    example = timed_example(planned)
    values = planned.arrays(example)
    ready = []
    with ExitStack() as stack:
        for name in frameworks:
            try:
                opened = open_side(
                    InFramework(network, name),
                    "reference" if name == "numpy" else "port",
                    dtype=dtype,
                    device=device,
                    mode=mode,
                )
                stack.callback(opened.side.close)
                given = arguments(planned, opened, "reference", values)
                made = make_ready(name, opened, given, values, backward=backward)
            except FwcompareError:
                continue
            ready.append(made)
            if memory:
                axes = {"dtype": dtype, "device": device_of(device, "port"), "mode": mode}
                ready[-1] = with_footprint(made, network, given, axes, backward)
        return time_ready(ready)


def with_footprint(
    timed: Timed,
    given: Any,
    arguments: Sequence[Argument],
    axes: Mapping[str, Any],
    backward: bool,
) -> Timed:
    """The side with its peak measured in a process of its own, where that can be had."""
    from pytest_fwcompare.timing.footprint import footprint

    if timed.name == "numpy":
        axes = {**axes, "device": "cpu", "mode": "eager"}
    if timed.done is not None:
        return timed
    tell(f"measuring the memory of {timed.name}")
    found = footprint(given, timed.name, arguments, backward=backward, **axes)
    if found is None:
        return timed
    if found.device_peak is not None:
        return replace(timed, peak=(found.device_peak, "device"))
    return replace(timed, peak=(found.peak, "process"))


def timed_example(planned: Plan) -> Example:
    """The example to time: dense normal values, a batch of `BATCH` where the batch is free."""
    from pytest_fwcompare.comparing.link import telling_example

    example = telling_example(planned)
    sizes = tuple((n, BATCH if n in ("batch", "N") else size) for n, size in example.sizes)
    return replace(example, sizes=sizes)


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
