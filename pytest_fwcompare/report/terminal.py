"""The header and the table at the end of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

from pytest_fwcompare.options import Settings
from pytest_fwcompare.options.axes import default_frameworks
from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import Timing
from pytest_fwcompare.report.facts import fastest, measured, odd_ones, ratio_of
from pytest_fwcompare.report.numbers import figure, seconds

HEADINGS = ("test", "framework", "verdict", "gap", "noise", "forward", "backward", "ratio")
NARROWEST = 32
"""Fewest columns that a test's name is cut to."""


def header(settings: Settings) -> str:
    """One line: frameworks with versions, and the axes that run. Imports no framework."""
    names = settings.axes["frameworks"].values or default_frameworks()
    frameworks = ", ".join(describe(name) for name in dict.fromkeys(("numpy", *names)))
    axes = "; ".join(
        f"{word} {', '.join(settings.axes[axis].values)}"
        for axis, word in (("devices", "on"), ("dtypes", "in"), ("modes", "mode"))
    )
    return f"fwcompare: {frameworks}; {axes}"


def describe(name: str) -> str:
    """A framework's name and version, read from its installed files."""
    from pytest_fwcompare.backends.registry import backend

    try:
        found = backend(name)
    except Exception as error:  # a backend registered by others; the tests that use it fail
        return f"{name} (backend broken: {type(error).__name__})"
    if found.unavailable():
        return f"{name} (not installed)"
    for distribution in (name, found.distribution, *found.imports):
        try:
            return f"{name} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return name


def table(results: Iterable[Result], width: int) -> list[str]:
    """A row for every framework of every comparison, aligned in columns.

    The ratio is the time of one forward and backward pass over that of the fastest framework in
    the same test; a `~` marks times taken while other workers used the machine.
    """
    results = list(results)
    rows = [HEADINGS, *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    spare = width - 1 - sum(widths[1:]) - 2 * len(widths)
    limit = min(widths[0], max(spare, NARROWEST))
    rows = [(shortened(row[0], limit), *row[1:]) for row in rows]
    widths[0] = max(len(row[0]) for row in rows)
    lines = [_line(row, widths) for row in rows]
    timings = [timing for result in results for timing in result.comparison.timings]
    if any(timing.shared_machine for timing in timings):
        lines.append("~ timed while other workers used the machine")
    if not all(timing.synchronised for timing in timings):
        lines.append("? calls returned before their work was done; the times mislead")
    return [*lines, *odd_ones(results)]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0])]
    cells += [cell.ljust(size) for cell, size in zip(row[1:3], widths[1:3], strict=True)]
    cells += [cell.rjust(size) for cell, size in zip(row[3:], widths[3:], strict=True)]
    return "  ".join(cells).rstrip()


def shortened(test: str, width: int) -> str:
    """A node id in at most `width` columns: folders go first, the file, the end of the name.

    Its parameters stay, as they tell the items of one test apart.
    """
    if len(test) <= width:
        return test
    path, _, name = test.partition("::")
    file = f"{path.rpartition('/')[2]}::{name}" if name else path
    if len(file) <= width:
        return file
    name = name or path
    if len(name) <= width:
        return name
    tail = min(len(name) - name.find("["), 2 * width // 3) if "[" in name else 0
    return name[: width - 1 - tail] + "\u2026" + name[len(name) - tail :]


def _rows(results: Sequence[Result]) -> Iterable[tuple[str, ...]]:
    quickest = fastest(results)
    shown: set[tuple[str, int, str]] = set()
    for result in results:
        comparison = result.comparison
        best = quickest.get((result.group, result.index), float("nan"))
        timings = {timing.framework: timing for timing in comparison.timings}
        reference = (result.group, result.index, comparison.reference)
        if comparison.reference in timings and reference not in shown:
            shown.add(reference)
            if comparison.reference != comparison.port:
                timing = timings[comparison.reference]
                name = (*_name(result), comparison.reference)
                yield (*name, "(reference)", "", "", *_times(timing, best))
        yield (
            *_name(result),
            comparison.port,
            comparison.verdict,
            figure(comparison.gap) if measured(comparison) else "",
            figure(comparison.noise) if measured(comparison) else "",
            *_times(timings.get(comparison.port), best),
        )


def _name(result: Result) -> tuple[str]:
    """Without the framework, which has a column of its own."""
    return (result.group if result.index == 1 else f"{result.group} #{result.index}",)


def _times(timing: Timing | None, best: float) -> tuple[str, str, str]:
    if timing is None:
        return "", "", ""
    mark = ("?" if not timing.synchronised else "") + ("~" if timing.shared_machine else "")
    backward = f"{mark}{seconds(timing.backward.median)}" if timing.backward else ""
    times = ratio_of(timing, best)
    ratio = "" if times is None else f"{mark}{times:.2f}"
    return f"{mark}{seconds(timing.forward.median)}", backward, ratio
