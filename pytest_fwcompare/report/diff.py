"""What changed from one saved run to another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pytest_fwcompare.judge.distances import unit_roundoff
from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import Comparison
from pytest_fwcompare.report.facts import measured, name_of, versions
from pytest_fwcompare.report.numbers import figure, seconds, times

FEW = 16.0
"""Roundings that a figure may consist of by chance."""

DOUBLE = 2.0**-53


class Moved(NamedTuple):
    """One thing that differs between two runs of a comparison.

    Attributes:
        what: "verdict", "gap", "noise", "cause", "place", "sensitivity", "not covered",
            "forward of keras".
        text: before and after, in words.
        counts: whether it makes the runs differ; times do not, since machines are never alike.
    """

    what: str
    text: str
    counts: bool = True


class Difference(NamedTuple):
    """How two runs differ.

    Attributes:
        common: comparisons that both have.
        changed: what moved, by name of the comparison; those that did not move are left out.
        gone, new: comparisons that only the old and only the new run has.
        versions: what changed of the frameworks, by name, before and after.
    """

    common: int
    changed: Mapping[str, tuple[Moved, ...]]
    gone: tuple[str, ...]
    new: tuple[str, ...]
    versions: Mapping[str, tuple[str, str]]

    @property
    def differs(self) -> bool:
        """Whether anything but times changed."""
        moved = any(item.counts for items in self.changed.values() for item in items)
        return moved or bool(self.gone or self.new)


def difference(old: Sequence[Result], new: Sequence[Result], factor: float) -> Difference:
    """Compare two runs.

    Args:
        old: results of the earlier run.
        new: of the later one.
        factor: growth or fall of a figure from which it has moved.
    """
    before = {name_of(result): result.comparison for result in old}
    after = {name_of(result): result.comparison for result in new}
    common = [name for name in before if name in after]
    changed = {name: tuple(moves(before[name], after[name], factor)) for name in common}
    return Difference(
        len(common),
        {name: items for name, items in changed.items() if items},
        tuple(name for name in before if name not in after),
        tuple(name for name in after if name not in before),
        _versions(before.values(), after.values()),
    )


def moves(old: Comparison, new: Comparison, factor: float) -> Iterator[Moved]:
    """What differs between two runs of one comparison."""
    if old.verdict != new.verdict:
        yield Moved("verdict", f"{old.verdict} -> {new.verdict}")
    if measured(old) and measured(new):
        yield from _figure("gap", old.gap, new.gap, FEW * DOUBLE, factor)
        least = 4 * unit_roundoff(new.dtype)
        yield from _figure("noise", old.noise, new.noise, least, factor)
    for what, ours, theirs in (
        ("cause", old.cause, new.cause),
        ("place", old.culprit, new.culprit),
    ):
        if ours != theirs and not (old.passed and new.passed):
            yield Moved(what, f"{ours or 'none'} -> {theirs or 'none'}")
    yield from _sensitivity(old, new)
    yield from _times(old, new, factor)


def _figure(what: str, old: float, new: float, least: float, factor: float) -> Iterator[Moved]:
    """A figure that moved by more than the factor, where rounding does not explain it.

    Args:
        what: its name.
        old: the figure before.
        new: the figure after.
        least: what rounding may make of it.
        factor: from which it has moved.
    """
    if math.isfinite(old) and math.isfinite(new):
        ratio = max(new, least) / max(old, least)
        if max(ratio, 1 / ratio) > factor:
            told = times(max(ratio, 1 / ratio))
            word = "more" if ratio > 1 else "less"
            yield Moved(what, f"{figure(old)} -> {figure(new)} ({told} times {word})")
    elif str(old) != str(new):
        yield Moved(what, f"{figure(old)} -> {figure(new)}")


def _sensitivity(old: Comparison, new: Comparison) -> Iterator[Moved]:
    ours, theirs = old.controls, new.controls
    if ours.tried and theirs.tried:
        before, after = (f"{c.caught} of {len(c.tried)}" for c in (ours, theirs))
        if before != after:
            yield Moved("sensitivity", f"{before} disturbances noticed -> {after}")
        for word, names in (
            ("no longer covered", set(theirs.uncovered) - set(ours.uncovered)),
            ("covered now", set(ours.uncovered) - set(theirs.uncovered)),
        ):
            if names:
                yield Moved(word, ", ".join(sorted(names)))


def _times(old: Comparison, new: Comparison, factor: float) -> Iterator[Moved]:
    before = {timing.framework: timing for timing in old.timings}
    for timing in new.timings:
        if timing.framework not in before:
            continue
        ours = before[timing.framework]
        for what, first, second in (
            ("forward", ours.forward, timing.forward),
            ("backward", ours.backward, timing.backward),
        ):
            if first is None or second is None or not first.median or not second.median:
                continue
            ratio = second.median / first.median
            if max(ratio, 1 / ratio) > factor:
                text = f"{seconds(first.median)} -> {seconds(second.median)}"
                yield Moved(f"{what} of {timing.framework}", text, counts=False)


def _versions(old: Iterable[Comparison], new: Iterable[Comparison]) -> dict[str, tuple[str, str]]:
    before, after = (_all_versions(made) for made in (old, new))
    return {
        name: (before[name], after[name])
        for name in before
        if name in after and before[name] != after[name]
    }


def _all_versions(made: Iterable[Comparison]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for comparison in made:
        for name, version in versions(comparison.environment).items():
            found.setdefault(name, {})[version] = None
    return {name: " and ".join(several) for name, several in found.items()}


def told(found: Difference, factor: float) -> Iterator[str]:
    """The difference in lines of text."""
    yield f"{found.common} comparisons in both runs, {len(found.changed)} changed"
    for name, (before, after) in found.versions.items():
        yield f"{name}: {before} -> {after}"
    for name, items in found.changed.items():
        yield ""
        yield name
        width = max(len(item.what) for item in items)
        for item in items:
            yield f"  {item.what.ljust(width)}  {item.text}"
    for word, names in (("only in the old run", found.gone), ("only in the new run", found.new)):
        if names:
            yield ""
            yield f"{word}:"
            yield from (f"  {name}" for name in names)
    if not found.differs:
        yield ""
        yield (
            f"no verdict changed, and no figure moved by more than {factor:g} times what it was "
            f"or what rounding explains"
        )
