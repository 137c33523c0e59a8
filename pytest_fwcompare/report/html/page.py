"""What stands on the page, put together from the results; the template lays it out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from pytest_fwcompare import __version__
from pytest_fwcompare.recording import SEVERITY, Result
from pytest_fwcompare.records import Comparison, Drift
from pytest_fwcompare.report.facts import (
    command,
    facts,
    failed_anyway,
    fastest,
    grouped,
    machine,
    measured,
    name_of,
    rank,
    run_facts,
    title,
)
from pytest_fwcompare.report.host import Host
from pytest_fwcompare.report.html import tables
from pytest_fwcompare.report.html.figures import Figure, figures
from pytest_fwcompare.report.html.tables import Cell, Table
from pytest_fwcompare.report.numbers import times
from pytest_fwcompare.report.text import example_values, headline

if TYPE_CHECKING:
    from jinja2 import Template

MOST_CHARTED = 100
"""Comparisons whose charts are drawn; a thousand would make a page that no browser likes."""

MEANINGS = {
    "equivalent": "the same function",
    "subgradient": "differs only where there is no derivative",
    "precision": "the same function, less accurate",
    "nonfinite": "NaN or infinity on one side only",
    "semantic": "another function",
    "error": "could not be compared",
}


class Case(NamedTuple):
    """One comparison on the page.

    Attributes:
        anchor: of its section.
        title: the test, with the number of the comparison where the test makes several.
        note: that the test failed for another reason; else "".
        example: the smallest input that shows the verdict, as lines; empty after a pass.
        charted: whether its charts were drawn.
    """

    anchor: str
    title: str
    result: Result
    comparison: Comparison
    headline: str
    note: str
    facts: list[tuple[str, list[str]]]
    example: tuple[str, ...]
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...]
    charted: bool


def run_to_html(results: Sequence[Result], host: Host | None = None) -> str:
    """The page: an overview and a section for each comparison, the worst first.

    All text is escaped by the template; the SVG of the charts is the only markup put in.
    """
    ordered = sorted(results, key=rank, reverse=True)
    best = fastest(results)
    cases = [case(place, result, best) for place, result in enumerate(ordered, start=1)]
    counts: Counter[str] = Counter(result.comparison.verdict for result in results)
    return template().render(
        version=__version__,
        title=title(results),
        counts=[(word, counts[word], MEANINGS[word]) for word in reversed(SEVERITY)],
        facts=grouped(run_facts(results, host)) if len(results) > 1 else alone(host),
        command=command(results, host) if len(results) > 1 else "",
        overview=overview(cases, best),
        cases=cases,
        style=files(__package__).joinpath("style.css").read_text(encoding="utf-8"),
    )


def alone(host: Host | None) -> list[tuple[str, list[str]]]:
    """What heads the page of a single comparison, which tells the rest itself."""
    return [("Machine", [machine(host)])] if host else []


@cache
def template() -> Template:
    """The page's template; everything that it is given is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("pytest_fwcompare.report.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return made.get_template("page.html.j2")


def case(place: int, result: Result, best: dict[tuple[str, int], float]) -> Case:
    """One comparison; `place` counts from the worst."""
    made = result.comparison
    fast = best.get((result.group, result.index), float("nan"))
    charted = place <= MOST_CHARTED
    drawn = tuple(figures(made, fast)) if charted else ()
    worst = made.examples.worst
    shown = worst is not None and made.verdict != "equivalent"
    lists: list[Table] = []
    if not charted:
        lists += [
            tables.depth(made),
            tables.tensors(made),
            tables.examples(made),
            tables.timings(made, fast),
        ]
    lists += [
        tables.attribution(made),
        tables.drift(made),
        tables.controls(made),
        tables.uncovered(made),
        tables.weights(made),
        tables.environment(made.environment),
    ]
    return Case(
        anchor=f"case-{place}",
        title=name_of(result),
        result=result,
        comparison=made,
        headline=headline(made),
        note=failed_anyway(result),
        facts=grouped(facts(made)),
        example=(worst.description, *example_values(worst)) if worst and shown else (),
        figures=drawn,
        tables=tables.without_empty(lists),
        charted=charted,
    )


def overview(cases: Sequence[Case], best: dict[tuple[str, int], float]) -> Table:
    """A row for each comparison; its first cell is a link to the section of the same place."""
    headings: tuple[str, ...] = (
        "Test",
        "Reference",
        "Port",
        "Verdict",
        "Gap",
        "Noise",
        "Sensitivity",
        "Forward",
        "Backward",
        "Ratio",
    )
    rows = [_row(found, best) for found in cases]
    if any(found.comparison.drift is not None for found in cases):
        headings = (*headings, "Drift")
        rows = [
            (*row, _drift(found.comparison.drift)) for row, found in zip(rows, cases, strict=True)
        ]
    return Table("Comparisons, the worst first", headings, tuple(rows))


def _drift(drift: Drift | None) -> Cell:
    """The largest change against the baseline."""
    if drift is None or drift.verdict is None:
        return Cell("" if drift is None else "not in the baseline")
    if not drift.changes:
        return Cell("none")
    worst = max(drift.changes, key=lambda change: change.times)
    if not math.isfinite(worst.times):
        return Cell(worst.figure)
    return tables.measured(worst.times, f"{times(worst.times)} times")


def _row(found: Case, best: dict[tuple[str, int], float]) -> tuple[Cell, ...]:
    made = found.comparison
    timing = next((t for t in made.timings if t.framework == made.port), None)
    empty = tables.measured(None)
    speed: tuple[Cell, ...] = (empty, empty, empty)
    if timing is not None:
        shown = tables.speed(timing, best[found.result.group, found.result.index])
        speed = tuple(cell._replace(note="") for cell in shown)
    controls = made.controls
    return (
        Cell(found.title),
        Cell(made.reference),
        Cell(made.port),
        Cell(made.verdict, kind="verdict", note=found.note),
        tables.measured(made.gap if measured(made) else None),
        tables.measured(made.noise if measured(made) else None),
        Cell(f"{controls.caught} of {len(controls.tried)}" if controls.tried else ""),
        *speed,
    )
