"""Vega-Lite descriptions of the charts, from plain rows.

Every chart is drawn once, when the report is written, and stands in the page as SVG: nothing has
to run, load or be allowed for it to be seen. Colours are CSS variables of the page, so that a
chart follows its light or dark scheme.

Figures of a comparison span twenty decades and may be 0 or no number. A logarithmic axis ends at a
line called "0", where zeros stand; what is not finite cannot be drawn and is in the table that
every chart has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pytest_fwcompare.report.html.plain import plain

Spec = dict[str, Any]
Row = Mapping[str, Any]

WIDTH = 600
"""Columns of the plotting area, in CSS pixels, of a chart that has no neighbour."""

STEP = 19
"""Height of a row of a chart whose rows have names."""

NAME_LIMIT = 280
STEM: Spec = {"type": "rule", "strokeWidth": 2, "opacity": 0.45, "aria": False}
"""A line that only leads to what it carries, so that it is not described."""

MOST_TICKS = 7

CONFIG: Spec = {
    "background": None,
    # Room for a reader's font that is wider than the one that the chart was measured with.
    "padding": {"left": 36, "right": 44, "top": 4, "bottom": 4},
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--text-soft)",
        "titleColor": "var(--text-soft)",
        "gridColor": "var(--line)",
        "domain": False,
        "ticks": False,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelPadding": 6,
        "labelLimit": NAME_LIMIT,
    },
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": "var(--text)",
        "labelFontSize": 12,
        "labelLimit": 0,
        "symbolOpacity": 1,
        "offset": 8,
        "columnPadding": 18,
    },
    "title": {"color": "var(--text-soft)", "fontSize": 12, "fontWeight": "normal"},
    "header": {"labelColor": "var(--text-soft)", "titleColor": "var(--text-soft)"},
}

BAR = "M-0.35,-1.3h0.7v2.6h-0.7z"
"""An upright bar, as a shape of Vega's: the mark of a limit."""

SERIES = {
    "gap": ("var(--gap)", "circle"),
    "noise of the reference": ("var(--reference)", "triangle-up"),
    "noise of the port": ("var(--port)", "square"),
    "explained by rounding": ("var(--text-soft)", BAR),
}
"""Colour and shape of each figure: no meaning hangs on a colour alone."""

STATUSES = {
    "matched": ("var(--port)", "circle"),
    "culprit": ("var(--gap)", "diamond"),
    "after": ("var(--after)", "triangle-up"),
    "unmatched": ("var(--text-soft)", "cross"),
}


def drawable(value: float | None) -> bool:
    """Whether a figure can stand on a logarithmic axis, its zero line included."""
    return value is not None and math.isfinite(value) and value >= 0


def decades(values: Iterable[float]) -> tuple[int, int, bool]:
    """The powers of ten that enclose figures, and whether a zero is among them.

    Args:
        values: finite figures, none negative.
    """
    kept = list(values)
    positive = [value for value in kept if value > 0]
    if not positive:
        return -1, 0, True
    low = math.floor(math.log10(min(positive)))
    high = math.ceil(math.log10(max(positive)))
    return low, max(high, low + 1), len(positive) < len(kept)


def log_axis(values: Iterable[float], most: int = MOST_TICKS) -> tuple[Spec, float]:
    """Scale and axis of a logarithmic channel, and the figure at which zeros are drawn.

    Args:
        values: what is drawn on it; finite, none negative.
        most: how many ticks there is room for.
    """
    low, high, zeros = decades(values)
    step = max(1, math.ceil((high - low) / most))
    ticks = list(range(low, high + 1, step))
    if ticks[-1] != high:
        ticks.append(ticks[-1] + step)
    first = low - step if zeros else low
    floor = 10.0**first
    shown = [10.0**power for power in ([first] if zeros else []) + ticks]
    label = "format(datum.value, '.0e')"
    if zeros:
        label = f"datum.index === 0 ? '0' : {label}"
    return {
        "scale": {"type": "log", "domain": [floor, shown[-1]], "clamp": True},
        "axis": {"values": shown, "labelExpr": label, "labelOverlap": False},
    }, floor


def above(channel: Spec) -> Spec:
    """The same with its axis at the top, where it is seen though a tall chart is scrolled."""
    return {**channel, "axis": {**channel["axis"], "orient": "top"}}


def palette(names: Iterable[str], known: Mapping[str, tuple[str, str]]) -> Spec:
    """Colour and shape channels over the same names, in their fixed order."""
    domain = [name for name in known if name in set(names)]
    return {
        "color": {
            "field": "series",
            "type": "nominal",
            "scale": {"domain": domain, "range": [known[name][0] for name in domain]},
        },
        "shape": {
            "field": "series",
            "type": "nominal",
            "scale": {"domain": domain, "range": [known[name][1] for name in domain]},
        },
    }


def named_rows(names: Sequence[str]) -> Spec:
    """The vertical axis of a chart whose rows have names, from top to bottom."""
    return {
        "field": "place",
        "type": "ordinal",
        "sort": None,
        "title": None,
        "scale": {"domain": list(range(len(names)))},
        # Names may repeat, so rows are known by their place and only labelled by name.
        "axis": {"labelExpr": f"{_as_array(names)}[datum.value]", "grid": True},
    }


def _as_array(names: Sequence[str]) -> str:
    """Names as a literal of Vega's expression language."""
    import json

    return json.dumps(plain(list(names)))


def dots(rows: Sequence[Row], names: Sequence[str], known: Mapping[str, tuple[str, str]]) -> Spec:
    """Figures as marks on a logarithmic axis, a named row each.

    Args:
        rows: each with `place` (of the name), `value`, `series`, `says`.
        names: of the rows, from top to bottom.
        known: colour and shape by series.
    """
    kept = [row for row in rows if drawable(row["value"])]
    channel, floor = log_axis([row["value"] for row in kept])
    values = [{**row, "value": max(row["value"], floor)} for row in kept]
    return {
        "data": {"values": values},
        "width": WIDTH,
        "height": {"step": STEP},
        "mark": {"type": "point", "filled": True, "size": 62, "opacity": 0.9, "strokeWidth": 2},
        "encoding": {
            "x": {"field": "value", "type": "quantitative", "title": None, **above(channel)},
            "y": named_rows(names),
            "description": {"field": "says"},
            **palette([row["series"] for row in kept], known),
        },
    }


def lollipops(rows: Sequence[Row], names: Sequence[str], panels: Sequence[str]) -> Spec:
    """Figures along depth: a panel a direction side by side, a named row each, stems from zero.

    Args:
        rows: each with `place`, `panel`, `value`, `series` (a status), `says`.
        names: of the rows, from top to bottom.
        panels: titles of the panels.
    """
    kept = [row for row in rows if drawable(row["value"])]
    channel, floor = log_axis([row["value"] for row in kept], MOST_TICKS // len(panels) + 1)
    colours = palette([row["series"] for row in kept], STATUSES)
    drawn = []
    for number, panel in enumerate(panels):
        values = [
            {**row, "value": max(row["value"], floor), "floor": floor}
            for row in kept
            if row["panel"] == panel
        ]
        y = named_rows(names)
        if number:
            y["axis"] = {"labels": False, "grid": True}
        shared: Spec = {
            "y": y,
            "x": {"field": "value", "type": "quantitative", "title": None, **above(channel)},
        }
        stem: Spec = {
            "mark": STEM,
            "encoding": {**shared, "x2": {"field": "floor"}, "color": colours["color"]},
        }
        head: Spec = {
            "mark": {"type": "point", "filled": True, "size": 70},
            "encoding": {**shared, **colours, "description": {"field": "says"}},
        }
        drawn.append(
            {
                "title": panel,
                "width": WIDTH // 2 if len(panels) > 1 else WIDTH,
                "height": {"step": STEP},
                "data": {"values": values},
                "layer": [stem, head],
            }
        )
    return {"hconcat": drawn, "spacing": 24}


def profile(rows: Sequence[Row], panels: Sequence[str]) -> Spec:
    """The whole depth at a glance: a panel a direction, a mark a module, culprits named.

    Args:
        rows: as for `lollipops`, each with `name` too.
        panels: titles of the panels.
    """
    kept = [row for row in rows if drawable(row["value"])]
    channel, floor = log_axis([row["value"] for row in kept], MOST_TICKS // 2)
    colours = palette([row["series"] for row in kept], STATUSES)
    last = max(row["place"] for row in kept) + 1
    x: Spec = {
        "field": "number",
        "type": "quantitative",
        "title": "module, in the order of the data",
        "scale": {"domain": [0, last + 1], "nice": False},
        "axis": {"grid": False, "tickCount": 8},
    }
    y: Spec = {"field": "value", "type": "quantitative", "title": None, **channel}
    drawn = []
    for panel in panels:
        values = [
            {**row, "number": row["place"] + 1, "value": max(row["value"], floor)}
            for row in kept
            if row["panel"] == panel
        ]
        mark: Spec = {
            "data": {"values": values},
            "mark": {"type": "point", "filled": True, "size": 45, "opacity": 0.9},
            "encoding": {"x": x, "y": y, **colours, "description": {"field": "says"}},
        }
        culprits = [row for row in values if row["series"] == "culprit"]
        names = [_beside(culprits, x, y, align, last) for align in ("left", "right")]
        drawn.append(
            {"title": panel, "width": WIDTH + 200, "height": 110, "layer": [mark, *names]}
        )
    return {"vconcat": drawn, "spacing": 14}


def _beside(culprits: Sequence[Row], x: Spec, y: Spec, align: str, last: int) -> Spec:
    """Names above their marks, written towards the middle: one layer a side."""
    left = [row for row in culprits if (row["number"] < last / 2) == (align == "left")]
    return {
        "data": {"values": left},
        "mark": {
            "type": "text",
            "align": align,
            "dy": -13,
            "fontSize": 12,
            "color": "var(--text)",
            "aria": False,
        },
        "encoding": {"x": x, "y": y, "text": {"field": "name"}},
    }


def columns_over_examples(rows: Sequence[Row], limit: float) -> Spec:
    """A figure of each example on a logarithmic axis, with the limit it is held against.

    Args:
        rows: each with `number`, `value`, `above` (whether beyond the limit), `says`.
        limit: drawn as a line.
    """
    kept = [row for row in rows if drawable(row["value"])]
    channel, floor = log_axis([limit, *(row["value"] for row in kept)])
    values = [
        {
            **row,
            "value": max(row["value"], floor),
            "floor": floor,
            "series": "above" if row["above"] else "below",
        }
        for row in kept
    ]
    colour: Spec = {
        "field": "series",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": ["above", "below"], "range": ["var(--gap)", "var(--port)"]},
    }
    x: Spec = {
        "field": "number",
        "type": "ordinal",
        "title": "example",
        "axis": {"labelAngle": 0, "labelOverlap": True, "grid": False},
    }
    y: Spec = {"field": "value", "type": "quantitative", "title": None, **channel}
    return {
        "width": WIDTH + 200,
        "height": 150,
        "layer": [
            {
                "data": {"values": values},
                "mark": STEM,
                "encoding": {"x": x, "y": y, "y2": {"field": "floor"}, "color": colour},
            },
            {
                "data": {"values": values},
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {"x": x, "y": y, "color": colour, "description": {"field": "says"}},
            },
            {
                "data": {"values": [{"limit": limit}]},
                "mark": {"type": "rule", "strokeDash": [5, 4], "color": "var(--text)"},
                "encoding": {"y": {"field": "limit", "type": "quantitative"}},
            },
        ],
    }


def spans(rows: Sequence[Row], names: Sequence[str], panels: Mapping[str, str]) -> Spec:
    """Medians as bars from zero with their quartiles as whiskers; a panel a quantity.

    Args:
        rows: each with `place`, `panel`, `value`, `low`, `high`, `says`.
        names: of the rows.
        panels: title by panel, with its unit.
    """
    drawn = []
    for number, (panel, title) in enumerate(panels.items()):
        values = [row for row in rows if row["panel"] == panel]
        y = named_rows(names)
        if number:
            y["axis"] = {"labels": False, "grid": False}
        else:
            y["axis"] = {**y["axis"], "grid": False}
        x: Spec = {
            "type": "quantitative",
            "title": None,
            "axis": {"tickCount": 4},
            "scale": {"zero": True},
        }
        layers: list[Spec] = [
            {
                "mark": {"type": "bar", "height": {"band": 0.55}, "color": "var(--port)"},
                "encoding": {
                    "y": y,
                    "x": {**x, "field": "value"},
                    "description": {"field": "says"},
                },
            }
        ]
        if any(row["high"] > row["low"] for row in values):
            layers.append(
                {
                    "mark": {**STEM, "opacity": 1, "color": "var(--text)"},
                    "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
                }
            )
        drawn.append(
            {
                "title": title,
                "width": WIDTH // len(panels),
                "height": {"step": 26},
                "data": {"values": values},
                "layer": layers,
            }
        )
    return {"hconcat": drawn, "spacing": 28}
