"""Times the sides of a comparison, or a described network in several frameworks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.devices import device_of
from pytest_fwcompare.errors import FwcompareError
from pytest_fwcompare.progress import tell
from pytest_fwcompare.records import Timing
from pytest_fwcompare.timing.turns import Timed, make_ready, time_ready

if TYPE_CHECKING:
    from pytest_fwcompare.inputs.examples import Example, Plan
    from pytest_fwcompare.networks import Network
    from pytest_fwcompare.running.pair import Pair

BATCH = 16
"""Size that a free batch axis is timed at."""


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
    from pytest_fwcompare.opening.given import open_side
    from pytest_fwcompare.running.points import arguments
    from pytest_fwcompare.sides import InFramework

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
    from pytest_fwcompare.inputs.search import telling_example

    example = telling_example(planned)
    sizes = tuple((n, BATCH if n in ("batch", "N") else size) for n, size in example.sizes)
    return replace(example, sizes=sizes)
