"""What is told of a comparison in every report for people, in the same words and figures."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from pytest_fwcompare.recording import Result, badness
from pytest_fwcompare.records import Attribution, Change, Comparison, Controls, Drift, Timing
from pytest_fwcompare.report.host import Host
from pytest_fwcompare.report.numbers import figure, times
from pytest_fwcompare.report.text import further, place, tensor_sentences, worst_tensor

MOST_NAMES = 8
MOST_CHANGES = 4


class Fact(NamedTuple):
    """One line of what is known: "Cause", "epsilon"."""

    label: str
    text: str


def facts(comparison: Comparison) -> Iterator[Fact]:
    """Place, cause, evidence, what was compared, worst case, sensitivity, notices, versions."""
    if found := place(comparison):
        yield Fact("Where", "; ".join(found))
    if comparison.cause is not None:
        yield Fact("Cause", comparison.cause)
    for sentence in comparison.evidence:
        yield Fact("Evidence", sentence)
    for where, why in further(comparison):
        yield Fact("Also", f"{where}; {why}")
    for hint in comparison.hints:
        yield Fact("Hint", hint)
    if comparison.attribution is not None:
        yield Fact("Keras or the backend", told(comparison.attribution))
    if measured(comparison):
        yield Fact("Compared", compared(comparison))
    row = worst_tensor(comparison)
    if row is not None and not comparison.unlike_itself:
        yield Fact("Worst", "; ".join(tensor_sentences(row, comparison)))
    yield from sensitivity(comparison.controls)
    if comparison.drift is not None:
        yield from drift_facts(comparison.drift)
    for notice in comparison.notices:
        yield Fact("Notice", notice)
    if known := versions(comparison.environment):
        yield Fact("Versions", ", ".join(f"{name} {version}" for name, version in known.items()))


def told(found: Attribution) -> str:
    """The answer, about which layer, and what should be known with it."""
    layer = f": {found.layer} ({found.kind})" if found.kind else ""
    advice = [f"to do: {found.advice}"] if found.advice else []
    return "; ".join([f"{found.answer}{layer}", *found.notes, *advice])


def title(results: Sequence[Result]) -> str:
    """How it went, in a sentence."""
    held = sum(result.comparison.passed for result in results)
    if not results:
        return "No comparison was made"
    if len(results) == 1:
        return "The comparison holds" if held else "The comparison does not hold"
    if held == len(results):
        return f"All {held} comparisons hold"
    return f"{len(results) - held} of {len(results)} comparisons do not hold"


def run_facts(results: Sequence[Result], host: Host | None = None) -> Iterator[Fact]:
    """The same of a whole run: how much was compared, the worst case, what is not covered.

    Args:
        results: of the run.
        host: its machine, where it is known.
    """
    made = [result.comparison for result in results]
    if not made:
        return
    tensors = sum(len(comparison.tensors) for comparison in made)
    examples = sum(comparison.examples.count for comparison in made)
    yield Fact("Compared", f"{len(made)} comparisons, {tensors} tensors, {examples} examples")
    though = [result for result in results if failed_anyway(result)]
    if though:
        yield Fact("Tests", f"{len(though)} failed though their comparisons hold")
    worst = max(results, key=rank)
    figures = (
        f", gap {figure(worst.comparison.gap)}, noise {figure(worst.comparison.noise)}"
        if measured(worst.comparison)
        else ""
    )
    yield Fact("Worst", f"{name_of(worst)}: {worst.comparison.verdict}{figures}")
    tried = [comparison for comparison in made if comparison.controls.tried]
    if tried:
        caught = sum(comparison.controls.caught for comparison in tried)
        total_tried = sum(len(comparison.controls.tried) for comparison in tried)
        yield Fact(
            "Sensitivity",
            f"{caught} of {total_tried} disturbances noticed, in {len(tried)} comparisons",
        )
    blind = [result for result in results if result.comparison.controls.uncovered]
    for result in blind[:MOST_NAMES]:
        yield Fact("Not covered", f"{uncovered(result.comparison.controls)} ({name_of(result)})")
    if len(blind) > MOST_NAMES:
        yield Fact("Not covered", f"and parameters of {len(blind) - MOST_NAMES} more comparisons")
    for line in odd_ones(results):
        yield Fact("Odd one out", line)
    drifts = [comparison.drift for comparison in made if comparison.drift is not None]
    if drifts:
        count = sum(drift.drifted for drift in drifts)
        missing = sum(drift.verdict is None for drift in drifts)
        unknown = f"; {missing} have no entry in it" if missing else ""
        yield Fact("Drift", f"{count} of {len(drifts)} moved against the baseline{unknown}")
    if found := framework_versions(results):
        yield Fact("Versions", ", ".join(found))
    if host:
        yield Fact("Machine", machine(host))


def machine(host: Host) -> str:
    """The machine of a run in a line."""
    named = [f"{key} {host[key]}" for key in ("python", "pytest", "numpy") if key in host]
    plain = [host[key] for key in ("system", "machine") if key in host]
    count = [f"{host['processors']} processors"] if "processors" in host else []
    return ", ".join([*plain, *count, *named])


def name_of(result: Result) -> str:
    """The test, with the number of the comparison where it makes several."""
    return result.test if result.index == 1 else f"{result.test} #{result.index}"


def failed_anyway(result: Result) -> str:
    """Says that a test failed though its comparison holds: drift, or an assertion of its own."""
    return "test failed" if result.comparison.passed and not result.fine else ""


def rank(result: Result) -> tuple[int, bool, float]:
    """Orders results by how bad they are: the verdict, then whether the test failed, the gap."""
    severity, gap = badness(result.comparison)
    return severity, result.outcome == "failed", gap


def framework_versions(results: Iterable[Result]) -> list[str]:
    """Names and versions of every framework that took part; all versions, should they differ."""
    found: dict[str, None] = {}
    for result in results:
        for name, version in versions(result.comparison.environment).items():
            found[f"{name} {version}"] = None
    return sorted(found)


def command(results: Sequence[Result], host: Host | None = None) -> str:
    """The command that makes these results again; "" if nothing says how.

    The one that was typed, if it is known. Otherwise that of a comparison, which ends with its
    test: the files of all tests take its place.
    """
    if host and "command" in host:
        return host["command"]
    for result in results:
        try:
            words = shlex.split(result.comparison.replay.partition("\n")[0])
        except ValueError:  # of a file that was not written by pytest
            continue
        if words[:1] == ["pytest"] and words[-1] == result.test:
            files = dict.fromkeys(other.test.partition("::")[0] for other in results)
            return shlex.join([*words[:-1], *files])
    return ""


def odd_ones(results: Sequence[Result]) -> list[str]:
    """Which framework is odd in the tests that judged several and found them to differ."""
    from pytest_fwcompare.judge.odd import odd_one_out

    groups: dict[tuple[str, int], dict[str, Comparison]] = {}
    for result in results:
        made = result.comparison
        if result.test != result.group:
            groups.setdefault((result.group, result.index), {})[made.port] = made
    lines = []
    for (group, _), ports in groups.items():
        if len(ports) > 1 and len({comparison.reference for comparison in ports.values()}) == 1:
            found = odd_one_out(ports)
            if found.names or found.tie:
                lines.append(f"{group}: {found.text}")
    return lines


def drift_facts(drift: Drift) -> Iterator[Fact]:
    """How the case changed against its baseline, and whose doing it was."""
    if drift.verdict is None:
        yield Fact("Drift", drift.whose or "the baseline has no such case")
        return
    moved = [change for change in drift.changes if change.times > drift.limit]
    if not moved:
        yield Fact("Drift", f"no figure moved by more than {drift.limit:g} times")
    for change in moved[:MOST_CHANGES]:
        yield Fact("Drift", f"{change.figure}: {change.text}{_times_worse(change)}")
    if len(moved) > MOST_CHANGES:
        yield Fact("Drift", f"and {len(moved) - MOST_CHANGES} more figures")
    if drift.whose:
        yield Fact("Whose doing", drift.whose)
    for name, values in drift.versions.items():
        yield Fact("Changed since", f"{name}: {' -> '.join(values)}")


def _times_worse(change: Change) -> str:
    """How much worse a figure got; a graver verdict is not so many times graver."""
    return f" ({times(change.times)} times)" if math.isfinite(change.times) else ""


def grouped(found: Iterable[Fact]) -> list[tuple[str, list[str]]]:
    """Facts under their labels, those that follow each other with the same one together."""
    return [
        (label, [fact.text for fact in several])
        for label, several in groupby(found, key=lambda fact: fact.label)
    ]


def compared(comparison: Comparison) -> str:
    """How much was looked at."""
    return (
        f"{len(comparison.tensors)} tensors ({', '.join(comparison.checks)}), "
        f"{comparison.examples.count} examples, seed {comparison.seed}"
    )


def measured(comparison: Comparison) -> bool:
    """Whether gap and noise were measured; of what could not be compared they are no zeros."""
    return comparison.verdict != "error"


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
        yield Fact("Not covered", uncovered(controls))


def uncovered(controls: Controls) -> str:
    """Names of parameters whose change nothing notices, the first few."""
    more = len(controls.uncovered) - MOST_NAMES
    names = ", ".join(controls.uncovered[:MOST_NAMES])
    return f"{names}{f' and {more} more' if more > 0 else ''}"


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


def ratio_of(timing: Timing, best: float) -> float | None:
    """How many times longer than the fastest: as it was measured round by round, or of totals.

    Args:
        timing: of one framework.
        best: seconds of the fastest framework of the test.
    """
    if timing.ratio is not None:
        return timing.ratio.median
    return total(timing) / best if best > 0 else None


def fastest(results: Iterable[Result]) -> dict[tuple[str, int], float]:
    """Seconds of the fastest framework in each comparison of each test."""
    best: dict[tuple[str, int], float] = {}
    for result in results:
        for timing in result.comparison.timings:
            key = (result.group, result.index)
            best[key] = min(total(timing), best.get(key, float("inf")))
    return best
