"""What an item keeps of the comparisons made in it, and what travels on its reports.

Figures for machines go to `item.user_properties`, hence into JUnit files; whole comparisons travel
as JSON text in an attribute of the report, which pytest-xdist hands over like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_fwcompare.records import Comparison, Timing

SEVERITY = ("equivalent", "subgradient", "precision", "nonfinite", "semantic", "error")
"""From harmless to worst: which of several verdicts stands for a test."""

PREFIX = "fwcompare."


def badness(comparison: Comparison) -> tuple[int, float]:
    """Sorts comparisons; the worst has the greatest."""
    gap = comparison.gap
    return SEVERITY.index(comparison.verdict), float("inf") if gap != gap else gap


@dataclass(frozen=True)
class Result:
    """One comparison of one test, as the controller of the run sees it.

    Attributes:
        test: node id.
        group: the node id without its framework; results of one group are ranked by speed.
        index: 1 for the first comparison of the test.
        calls: how often it was made, more than once under `@given`; the worst is kept.
        outcome: of the test: "passed", "failed" or "skipped"; "" where that is not known.
    """

    test: str
    group: str
    index: int
    calls: int
    comparison: Comparison
    outcome: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong: neither the verdict nor, for whatever reason, the test."""
        return self.comparison.passed and self.outcome != "failed"

    def to_plain(self) -> dict[str, str | int]:
        """Builtin types only, as pytest-xdist demands."""
        return {
            "test": self.test,
            "group": self.group,
            "index": self.index,
            "calls": self.calls,
            "comparison": self.comparison.to_json(),
            "outcome": self.outcome,
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Result:
        """What `to_plain` made."""
        return cls(**{**data, "comparison": Comparison.from_json(data["comparison"])})


class ItemRecords:
    """The comparisons made in one item.

    Under `@given` a test body runs many times; its comparisons of the same two sides are one
    record then, of which the worst is kept, since hundreds would drown the metadata.
    """

    __slots__ = ("_calls", "_comparisons", "_delivered")

    def __init__(self) -> None:
        self._comparisons: list[Comparison] = []
        self._calls: list[int] = []
        self._delivered = 0

    def add(self, comparison: Comparison, *, repeated: bool) -> None:
        """Keep a comparison; `repeated` says that the test body is one that runs many times."""
        index = self.place(comparison, repeated=repeated)
        if index == len(self._comparisons):
            self._comparisons.append(comparison)
            self._calls.append(1)
        else:
            self._calls[index] += 1
            self._comparisons[index] = _worse(self._comparisons[index], comparison)

    def place(self, comparison: Comparison, *, repeated: bool) -> int:
        """Where a comparison belongs among those kept: with one of the same sides, or behind."""
        for index, other in enumerate(self._comparisons if repeated else ()):
            if same_sides(other, comparison):
                return index
        return len(self._comparisons)

    @property
    def comparisons(self) -> Sequence[Comparison]:
        """In the order in which they were made."""
        return self._comparisons

    def properties(self) -> list[tuple[str, object]]:
        """For `item.user_properties`."""
        return properties(self._comparisons)

    def take(self, test: str, group: str, outcome: str = "") -> list[dict[str, str | int]]:
        """Those that no report carries yet, as plain data.

        Args:
            test: node id.
            group: the node id without its framework.
            outcome: of the phase of the test that made them.
        """
        made = [
            Result(test, group, index + 1, self._calls[index], self._comparisons[index], outcome)
            for index in range(self._delivered, len(self._comparisons))
        ]
        self._delivered = len(self._comparisons)
        return [result.to_plain() for result in made]


def same_sides(one: Comparison, other: Comparison) -> bool:
    """True if both compare the same frameworks on the same axes."""
    keys = ("reference", "port", "dtype", "device", "mode")
    return all(getattr(one, key) == getattr(other, key) for key in keys)


def _worse(one: Comparison, other: Comparison) -> Comparison:
    """The worse of two, with the timings of whichever was timed."""
    import dataclasses

    worse = max(one, other, key=badness)
    timings = worse.timings or one.timings or other.timings
    return worse if worse.timings else dataclasses.replace(worse, timings=timings)


def properties(comparisons: Sequence[Comparison]) -> list[tuple[str, object]]:
    """Keys and plain values for a test's metadata.

    The figures without a number are those of the worst comparison; where a test makes several,
    each one's own follow under its number ("fwcompare.2.gap").
    """
    if not comparisons:
        return []
    rows = list(_figures("", max(comparisons, key=badness)))
    rows += _speed("", _first_timings(comparisons))
    rows += _versions(comparisons)
    if len(comparisons) > 1:
        rows.append(("comparisons", len(comparisons)))
        for number, comparison in enumerate(comparisons, start=1):
            rows += _figures(f"{number}.", comparison)
            rows += _speed(f"{number}.", comparison.timings)
    return [(PREFIX + key, value) for key, value in rows]


def _figures(place: str, comparison: Comparison) -> Iterable[tuple[str, object]]:
    yield f"{place}verdict", str(comparison.verdict)
    yield f"{place}gap", float(comparison.gap)
    yield f"{place}noise", float(comparison.noise)
    if comparison.culprit is not None:
        yield f"{place}culprit", comparison.culprit
    if comparison.cause is not None:
        yield f"{place}cause", comparison.cause
    if comparison.further:
        others = [f"{other.culprit or '(code)'}: {other.cause}" for other in comparison.further]
        yield f"{place}further", "; ".join(others)
    if comparison.attribution is not None:
        yield f"{place}attribution", comparison.attribution.answer


def _first_timings(comparisons: Iterable[Comparison]) -> list[Timing]:
    first: dict[str, Timing] = {}
    for comparison in comparisons:
        for timing in comparison.timings:
            first.setdefault(timing.framework, timing)
    return list(first.values())


def _speed(place: str, timings: Iterable[Timing]) -> Iterable[tuple[str, object]]:
    for timing in timings:
        key = f"{place}{timing.framework}."
        yield f"{key}forward_s", float(timing.forward.median)
        if timing.backward is not None:
            yield f"{key}backward_s", float(timing.backward.median)
        yield f"{key}first_call_s", float(timing.first_call_s)
        if timing.peak_bytes is not None:
            yield f"{key}peak_bytes", int(timing.peak_bytes)
            yield f"{key}peak_of", timing.peak_of or "rise"
        if timing.ratio is not None:
            yield f"{key}ratio", float(timing.ratio.median)
            yield f"{key}ratio_low", float(timing.ratio.low)
            yield f"{key}ratio_high", float(timing.ratio.high)
        for name, value in (("host_s", timing.host_s), ("device_s", timing.device_s)):
            if value is not None:
                yield f"{key}{name}", float(value)
        yield f"{key}threads", int(timing.threads)
        if timing.shared_machine:
            yield f"{key}shared_machine", True


def _versions(comparisons: Iterable[Comparison]) -> Iterable[tuple[str, object]]:
    seen: dict[str, str] = {}
    for comparison in comparisons:
        for name in (comparison.reference, comparison.port):
            facts = comparison.environment.get(name)
            if isinstance(facts, Mapping) and facts.get("version"):
                seen.setdefault(name, str(facts["version"]))
    return [(f"{name}.version", version) for name, version in seen.items()]
