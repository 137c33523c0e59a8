"""What four runs of one example say of every tensor: the rows that are judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.judge.distances import finite_maximum
from pytest_fwcompare.judge.measures import largest_of
from pytest_fwcompare.judge.verdict import Observed
from pytest_fwcompare.running.arrays import Shelf
from pytest_fwcompare.running.points import Point, Run


def rows(
    reference64: Run,
    port64: Run,
    reference: Run,
    port: Run,
    jitters: dict[str, float] | None,
    origin: float,
) -> Iterator[Observed]:
    """What is judged: every tensor that both sides gave.

    Args:
        reference64: the reference's shadow.
        port64: the port's shadow.
        reference: the reference in working precision.
        port: the port in working precision.
        jitters: by "kind:name"; None where none was drawn.
        origin: what the gradients began with, see `origin_of`.
    """
    peak = max(largest_of(reference64.inputs.values()), peak_of(reference64.parameters))
    groups: tuple[tuple[str, Any, float], ...] = (
        ("output", lambda run: run.outputs, 0.0),
        ("input gradient", lambda run: run.inputs, peak),
        ("parameter gradient", lambda run: run.parameters, peak),
        ("buffer", lambda run: run.buffers, 0.0),
    )
    for kind, of, ceiling in groups:
        ours64, theirs64, ours, theirs = (of(r) for r in (reference64, port64, reference, port))
        for name in theirs64:
            source = name.partition(" (in the port's")[0]
            if source not in ours64:
                continue
            yield Observed(
                f"output {name}" if kind == "output" else name,
                kind,  # type: ignore[arg-type]
                ours64[source],
                theirs64[name],
                ours[source],
                theirs[name],
                None if jitters is None else jitters.get(f"{kind}:{source}", 0.0),
                ceiling,
                origin if kind.endswith("gradient") else 0.0,
            )


def parallel(one: Run, two: Run) -> Iterator[tuple[str, Array, Array]]:
    """Tensors of two runs of one side, by "kind:name"."""
    for kind, ours, theirs in (
        ("output", one.outputs, two.outputs),
        ("input gradient", one.inputs, two.inputs),
        ("parameter gradient", one.parameters, two.parameters),
        ("buffer", one.buffers, two.buffers),
    ):
        for name, value in ours.items():
            yield f"{kind}:{name}", value, theirs[name]


def origin_of(point: Point) -> float:
    """What a backward pass begins with, and what multiplies it in the gradient of a kernel."""
    cotangents = max((finite_maximum(value) for value in point.cotangents.values()), default=0.0)
    floats = (value for value in point.inputs.values() if value.dtype.kind == "f")
    return cotangents * max([1.0, *(finite_maximum(value) for value in floats)])


def peak_of(gradients: Mapping[str, Array]) -> float:
    """Largest finite magnitude among all gradients of parameters of one run."""
    if isinstance(gradients, Shelf):
        return gradients.largest
    return largest_of(gradients.values())
