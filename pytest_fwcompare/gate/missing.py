"""What to say of a case that the baseline does not have: why that may be, and what to type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_fwcompare.gate.baseline import Baseline
from pytest_fwcompare.gate.collected import Collected, without_axes
from pytest_fwcompare.gate.whose import STILL, distance
from pytest_fwcompare.records import Comparison, Digest, Drift

if TYPE_CHECKING:
    from pytest_fwcompare.options.gate import GateSettings


def said_of_missing(
    drift: Drift,
    comparison: Comparison,
    baseline: Baseline | None,
    collected: Collected,
    settings: GateSettings,
) -> str:
    """A sentence with the command that records the case.

    Args:
        drift: of the case, which is not there.
        comparison: of this run.
        baseline: None if there is no file.
        collected: the tests that this run knows of.
        settings: of the gate.
    """
    if baseline is None:
        return f"there is no {settings.shown}; record it:\n{settings.creating()}"
    test, _, number = drift.case.partition(" #")
    command = settings.creating(test)
    here = without_axes(drift.case, drift.axes)
    others = sorted(
        entry.axes
        for case, entry in baseline.cases.items()
        if without_axes(case, entry.axes) == here and entry.axes != drift.axes
    )
    if others:
        return (
            f"{settings.shown} has this test on {', '.join(dict.fromkeys(others))}, not on "
            f"{drift.axes}: it was recorded on another device, dtype or mode. Record this one "
            f"too:\n{command}"
        )
    renamed = [
        case
        for case, entry in baseline.cases.items()
        if entry.axes == drift.axes
        and without_axes(case, entry.axes) not in collected.tests
        and same_reference(entry.digest, comparison.digest)
    ]
    if len(renamed) == 1:
        return (
            f"{settings.shown} has no such case, but {renamed[0]}, whose test is gone, had the "
            f"same reference: was it renamed? Then:\n{command} --fwcompare-prune-baseline"
        )
    which = f"comparison {number} of this test" if number else "this test"
    return f"{settings.shown} has no entry for {which}; record it:\n{command}"


def same_reference(one: Digest | None, other: Digest | None) -> bool:
    """Whether two digests are of the same reference on the same inputs."""
    if one is None or other is None:
        return False
    ours = {name for name in one.passes if name.startswith("reference float64")}
    return (
        distance(one.inputs, other.inputs) <= STILL
        and distance(one.weights, other.weights) <= STILL
        and ours <= set(other.passes)
        and all(distance(one.passes[name], other.passes[name]) <= STILL for name in ours)
    )
