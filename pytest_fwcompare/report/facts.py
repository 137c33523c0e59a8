"""What is told of a comparison in every report for people, in the same words and figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import Comparison, Controls, Timing
from pytest_fwcompare.report.numbers import figure
from pytest_fwcompare.report.text import place, tensor_sentences, worst_tensor

MOST_NAMES = 8


class Fact(NamedTuple):
    """One line of what is known: "Cause", "epsilon"."""

    label: str
    text: str


def facts(comparison: Comparison) -> Iterator[Fact]:
    """Place, cause, evidence, what was compared, the worst case, sensitivity, notices, versions."""
    if where := place(comparison):
        yield Fact("Where", "; ".join(where))
    if comparison.cause is not None:
        yield Fact("Cause", comparison.cause)
    for sentence in comparison.evidence:
        yield Fact("Evidence", sentence)
    yield Fact("Compared", compared(comparison))
    row = worst_tensor(comparison)
    if row is not None:
        yield Fact("Worst", "; ".join(tensor_sentences(row, comparison)))
    yield from sensitivity(comparison.controls)
    for notice in comparison.notices:
        yield Fact("Notice", notice)
    if found := versions(comparison.environment):
        yield Fact("Versions", ", ".join(f"{name} {version}" for name, version in found.items()))


def compared(comparison: Comparison) -> str:
    """How much was looked at."""
    return (
        f"{len(comparison.tensors)} tensors ({', '.join(comparison.checks)}), "
        f"{comparison.examples.count} examples, seed {comparison.seed}"
    )


def sensitivity(controls: Controls) -> Iterator[Fact]:
    """Whether the pass could have failed, and which parameters it says nothing about."""
    if controls.tried:
        noticed = [control.size for control in controls.tried if control.noticed]
        smallest = f", the smallest of relative size {figure(min(noticed))}" if noticed else ""
        yield Fact(
            "Sensitivity",
            f"{controls.caught} of {len(controls.tried)} disturbances noticed{smallest}",
        )
    if controls.uncovered:
        names = ", ".join(controls.uncovered[:MOST_NAMES])
        more = len(controls.uncovered) - MOST_NAMES
        yield Fact("Not covered", f"{names}{f' and {more} more' if more > 0 else ''}")


def versions(environment: Mapping[str, object]) -> dict[str, str]:
    """Version by framework."""
    found = {}
    for name, known in environment.items():
        if isinstance(known, Mapping) and "version" in known:
            found[name] = str(known["version"])
    return found


def total(timing: Timing) -> float:
    """Seconds of one forward and backward pass."""
    return timing.forward.median + (timing.backward.median if timing.backward else 0.0)


def fastest(results: Iterable[Result]) -> dict[tuple[str, int], float]:
    """Seconds of the fastest framework in each comparison of each test, all frameworks together."""
    best: dict[tuple[str, int], float] = {}
    for result in results:
        for timing in result.comparison.timings:
            key = (result.group, result.index)
            best[key] = min(total(timing), best.get(key, float("inf")))
    return best
