"""The charts of one comparison, each with what it shows in words and its data as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from pytest_fwcompare.judge.verdict import SEMANTIC_FACTOR
from pytest_fwcompare.records import Comparison, TensorRow, Timing
from pytest_fwcompare.report.html import charts, tables
from pytest_fwcompare.report.html.svg import draw
from pytest_fwcompare.report.html.tables import Table
from pytest_fwcompare.report.numbers import figure, seconds, size, times

T = TypeVar("T")

MOST_ROWS = 400
"""Rows of a chart; of a network with more, those with the largest figures are drawn."""

TALL = 22
"""Rows from which on a chart does not fit on a screen."""

MILLISECONDS = 1e3
MEBIBYTES = 2.0**-20


class Figure(NamedTuple):
    """A chart in the page.

    Attributes:
        title: above it.
        says: what it shows, for those who do not see it.
        svg: markup, safe to stand in the page.
        table: its data.
        note: what is not drawn; "" if everything is.
        tall: whether it scrolls in a window of its own.
        more: a second chart with every row by its name, where `svg` shows the whole at a glance.
    """

    title: str
    says: str
    svg: str
    table: Table
    note: str = ""
    tall: bool = False
    more: str = ""


def figures(comparison: Comparison, best: float) -> Iterator[Figure]:
    """Depth, tensors, examples, timings: those that the comparison has data for.

    Args:
        comparison: what is shown.
        best: seconds of the fastest framework of the test.
    """
    makers = (depth_figure, tensor_figure, example_figure)
    yield from (made for maker in makers if (made := maker(comparison)) is not None)
    if comparison.timings:
        yield timing_figure(comparison, best)


def depth_figure(comparison: Comparison) -> Figure | None:
    """The gap along depth, forward and backward: where the port departs from the reference."""
    known = [
        (place, row)
        for place, row in enumerate(comparison.depth)
        if row.gap is not None or row.backward_gap is not None
    ]
    if not known:
        return None
    kept, note = largest(
        known, lambda item: max(item[1].gap or 0.0, item[1].backward_gap or 0.0), "modules"
    )
    names = [row.path or "(the root's own code)" for _, row in kept]
    rows: list[dict[str, Any]] = [
        {
            "place": place,
            "name": names[place],
            "panel": panel,
            "value": value,
            "series": row.status,
            "says": f"{names[place]} ({row.kind}), {row.status}: {panel} gap {figure(value)}"
            + (f"; in the port {row.port_path}" if row.port_path else ""),
        }
        for place, (_, row) in enumerate(kept)
        for panel, value in (("forward", row.gap), ("backward", row.backward_gap))
        if value is not None
    ]
    panels = [p for p in ("forward", "backward") if any(row["panel"] == p for row in rows)]
    culprits = [row.path for row in comparison.depth if row.status == "culprit"]
    after = sum(row.status == "after" for row in comparison.depth)
    says = f"Gap of {len(known)} modules of the reference in the order of the data. " + (
        f"The difference begins at {', '.join(culprits)}; {after} modules come after it."
        if culprits
        else "No module was found at which the difference begins."
    )
    named = draw(charts.lollipops(rows, names, panels), says)
    made = Figure(
        "Gap along depth, in float64",
        says,
        named,
        tables.depth(comparison),
        note + undrawn(row["value"] for row in rows),
    )
    glance = any(charts.drawable(row["value"]) for row in rows)
    if len(names) <= TALL or not glance:
        return made
    return made._replace(svg=draw(charts.profile(rows, panels), says), more=named)


def tensor_figure(comparison: Comparison) -> Figure | None:
    """Gap and noise of every tensor against what rounding explains."""
    if not comparison.tensors:
        return None
    kept, note = largest(list(enumerate(comparison.tensors)), lambda item: item[1].gap, "tensors")
    names = [row.name for _, row in kept]
    rows: list[dict[str, Any]] = [
        {
            "place": place,
            "value": value,
            "series": series,
            "says": f"{row.name}: {series} {figure(value)}",
        }
        for place, (_, row) in enumerate(kept)
        for series, value in tensor_series(row)
    ]
    differ = [row for row in comparison.tensors if row.verdict != "equivalent"]
    says = (
        f"Gap and noise of {len(comparison.tensors)} tensors. {len(differ)} differ. "
        f"Largest gap {figure(comparison.gap)}, largest noise of the port "
        f"{figure(comparison.noise)}."
    )
    svg = draw(charts.dots(rows, names, charts.SERIES), says)
    return Figure(
        "Gap and noise of each tensor, as shares of its largest value",
        says,
        svg,
        tables.tensors(comparison),
        note + undrawn(row["value"] for row in rows),
        tall=len(names) > TALL,
    )


def tensor_series(row: TensorRow) -> Iterator[tuple[str, float]]:
    """The four figures of a tensor, those behind first."""
    yield "explained by rounding", row.jitter
    yield "noise of the reference", row.reference_noise
    yield "noise of the port", row.port_noise
    yield "gap", row.gap


def example_figure(comparison: Comparison) -> Figure | None:
    """Gap over what rounding explains, an example each."""
    ratios = comparison.examples.ratios
    if not ratios:
        return None
    rows = [
        {
            "number": number,
            "value": ratio,
            "above": ratio > SEMANTIC_FACTOR,
            "says": f"example {number}: {times(ratio)} times what rounding explains",
        }
        for number, ratio in enumerate(ratios)
    ]
    above = sum(bool(row["above"]) for row in rows)
    says = (
        f"Gap over what rounding explains in {len(ratios)} examples; {above} lie above "
        f"{SEMANTIC_FACTOR:g} times, the largest is {times(max(ratios))}."
    )
    svg = draw(charts.columns_over_examples(rows, SEMANTIC_FACTOR), says)
    return Figure(
        f"Gap over what rounding explains, in each example (dashed: {SEMANTIC_FACTOR:g} times, "
        f"above it another function)",
        says,
        svg,
        tables.examples(comparison),
        undrawn(ratios),
    )


def timing_figure(comparison: Comparison, best: float) -> Figure:
    """Medians and quartiles of forward and backward, and peak memory where it was measured."""
    names = [timing.framework for timing in comparison.timings]
    rows = [bar for place, timing in enumerate(comparison.timings) for bar in bars(place, timing)]
    titles = {
        "forward": "forward, ms",
        "backward": "backward, ms",
        "memory": "peak memory, MiB",
    }
    panels = {key: text for key, text in titles.items() if any(r["panel"] == key for r in rows)}
    quickest = min(comparison.timings, key=lambda timing: timing.forward.median)
    says = (
        f"Forward and backward times of {', '.join(names)}. The fastest forward pass is "
        f"{quickest.framework}'s with {seconds(quickest.forward.median)}."
    )
    svg = draw(charts.spans(rows, names, panels), says)
    return Figure(
        "Time and memory: medians, lines from quartile to quartile",
        says,
        svg,
        tables.timings(comparison, best),
    )


def bars(place: int, timing: Timing) -> Iterator[dict[str, object]]:
    """One bar a quantity."""
    for panel, spread in (("forward", timing.forward), ("backward", timing.backward)):
        if spread is not None:
            yield {
                "place": place,
                "panel": panel,
                "value": spread.median * MILLISECONDS,
                "low": spread.low * MILLISECONDS,
                "high": spread.high * MILLISECONDS,
                "says": f"{timing.framework}, {panel}: {seconds(spread.median)}",
            }
    if timing.peak_bytes is not None:
        amount = timing.peak_bytes * MEBIBYTES
        said = f"{timing.framework}, peak memory: {size(timing.peak_bytes)}"
        yield {
            "place": place,
            "panel": "memory",
            "value": amount,
            "low": amount,
            "high": amount,
            "says": said,
        }


def largest(items: list[T], key: Callable[[T], float], what: str) -> tuple[list[T], str]:
    """The items to draw in their order, and what is said of the others."""
    if len(items) <= MOST_ROWS:
        return items, ""
    order = sorted(range(len(items)), key=lambda place: key(items[place]), reverse=True)
    kept = [items[place] for place in sorted(order[:MOST_ROWS])]
    return kept, (
        f"The {MOST_ROWS} {what} with the largest gaps of {len(items)} are drawn; the table has "
        f"all. "
    )


def undrawn(values: Iterable[float]) -> str:
    """What is said of figures that have no place on an axis."""
    count = sum(not charts.drawable(value) for value in values)
    if not count:
        return ""
    return f"{count} {'figure is' if count == 1 else 'figures are'} not finite: see the table."
