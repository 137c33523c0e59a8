"""Times opened sides against each other: same values, same number of threads, in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_fwcompare.backends.base import Argument, Array, Backend, Side, Stopwatch
from pytest_fwcompare.errors import FwcompareError
from pytest_fwcompare.progress import TIMING, tell
from pytest_fwcompare.records import Timing
from pytest_fwcompare.timing.clocks import available_threads, unsynchronised
from pytest_fwcompare.timing.memory import peak_rise
from pytest_fwcompare.timing.rounds import Durations, measure, quartiles

if TYPE_CHECKING:
    from pytest_fwcompare.inputs.examples import Example, Plan
    from pytest_fwcompare.networks import Network
    from pytest_fwcompare.pair import Pair
    from pytest_fwcompare.sides import Opened

BATCH = 16
"""Size that a free batch axis is timed at."""


@dataclass(frozen=True)
class Timed:
    """A side made ready to be timed.

    Attributes:
        name: how its timing is called; the framework.
        shapes: sizes of the inputs, in the reference's axis order.
        peak_bytes: rise of the resident memory during its first passes.
        synchronised: False if its stopwatch returned before its work was done.
    """

    name: str
    side: Side
    backend: Backend
    stopwatch: Stopwatch
    shapes: Mapping[str, tuple[int, ...]]
    peak_bytes: int | None
    synchronised: bool


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
) -> tuple[Timing, ...]:
    """Timings of a described network in several frameworks, all in turns.

    A framework that cannot run it is left out: the test that judges it says why.
    """
    from pytest_fwcompare.inputs.examples import plan
    from pytest_fwcompare.points import arguments
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
                ready.append(make_ready(name, opened, given, values, backward=backward))
            except FwcompareError:
                continue
        return time_ready(ready)


def timed_example(planned: Plan) -> Example:
    """The example to time: dense normal values, a batch of `BATCH` where the batch is free."""
    from pytest_fwcompare.link import telling_example

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
    passed = side.forward(given, precision="working", gradients=False)
    cotangents = None
    if backward:
        rng = np.random.default_rng(0)
        cotangents = {
            output: rng.standard_normal(value.shape).astype(value.dtype)
            for output, value in passed.outputs.items()
            if value.dtype.kind == "f"
        }
    stopwatch = side.stopwatch(given, cotangents)
    rise = peak_rise(stopwatch.forward_backward or stopwatch.forward)

    def drain() -> None:
        side.forward(given, precision="working", gradients=False)

    waits = unsynchronised(stopwatch.forward, drain) is None
    shapes = {key: value.shape for key, value in values.items()}
    return Timed(name, side, opened.backend, stopwatch, shapes, rise, waits)


def time_ready(ready: Sequence[Timed]) -> tuple[Timing, ...]:
    """Measure sides in turns, each with the same number of threads."""
    if not ready:
        return ()
    tell(TIMING)
    with equal_threads([timed.backend for timed in ready]) as threads:
        durations = measure({timed.name: timed.stopwatch for timed in ready})
    return tuple(timing(timed, durations[timed.name], threads) for timed in ready)


def timing(timed: Timed, durations: Durations, threads: int) -> Timing:
    """The record of one side's durations."""
    return Timing(
        framework=timed.name,
        first_call_s=durations.first_call_s,
        forward=quartiles(durations.forward),
        backward=quartiles(durations.backward) if durations.backward else None,
        threads=threads,
        shapes=timed.shapes,
        mode=getattr(timed.side, "mode", "eager"),
        device=str(getattr(timed.side, "device", "cpu")),
        peak_bytes=timed.peak_bytes,
        synchronised=timed.synchronised,
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
