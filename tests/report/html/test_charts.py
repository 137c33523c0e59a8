"""Charts: what is drawn is what was measured, and all of it can be drawn."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare.records import DepthRow, Examples
from pytest_fwcompare.report.html import charts
from pytest_fwcompare.report.html.figures import (
    MOST_ROWS,
    depth_figure,
    example_figure,
    figures,
    tensor_figure,
    undrawn,
)
from pytest_fwcompare.report.html.svg import SVG, draw

EVERYTHING = samples.everything()


def titles(svg: str) -> list[str]:
    """What the marks of a chart say when pointed at."""
    root = ElementTree.fromstring(svg)
    return [str(element.text) for element in root.iter(f"{SVG}title")]


def positions(svg: str) -> dict[str, tuple[float, float]]:
    """Where the marks stand, by what they say."""
    found = {}
    for mark in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        title = mark.find(f"{SVG}title")
        if title is not None:
            x, y = mark.get("transform", "")[len("translate(") : -1].split(",")
            found[str(title.text)] = float(x), float(y)
    return found


@given(st.lists(st.floats(min_value=0, max_value=1e300), min_size=1, max_size=20))
def test_an_axis_holds_every_figure_and_few_ticks(values: list[float]) -> None:
    channel, floor = charts.log_axis(values)
    low, high = channel["scale"]["domain"]
    assert low == floor
    assert all(value <= high * (1 + 1e-12) for value in values)
    assert all(value >= low * (1 - 1e-12) for value in values if value)
    assert 2 <= len(channel["axis"]["values"]) <= charts.MOST_TICKS + 3
    if 0 in values:
        assert floor < min((value for value in values if value), default=1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, True),
        (1e-300, True),
        (math.nan, False),
        (math.inf, False),
        (None, False),
        (-1, False),
    ],
)
def test_what_can_be_drawn(value: float | None, expected: bool) -> None:
    assert charts.drawable(value) is expected


def test_depth_is_drawn_forward_and_backward() -> None:
    made = depth_figure(EVERYTHING)
    assert made is not None
    said = titles(made.svg)
    assert "embed (Linear), matched: forward gap 0; in the port embed" in said
    assert "encoder.1.norm2 (LayerNorm), culprit: backward gap 1.1e-03" in said
    assert len(said) == 7  # four modules forward, three backward; the last was not compared
    assert made.says == (
        "Gap of 4 modules of the reference in the order of the data. The difference begins at "
        "encoder.1.norm2; 1 modules come after it."
    )
    assert len(made.table.rows) == 5


def test_a_larger_gap_stands_further_right_and_zero_leftmost() -> None:
    made = depth_figure(EVERYTHING)
    assert made is not None
    places = {
        text.split()[0]: place
        for text, place in positions(made.svg).items()
        if "forward" in text and "add" not in text
    }
    assert places["embed"][0] < places["encoder.0"][0] < places["encoder.1.norm2"][0]
    assert places["embed"][1] < places["encoder.0"][1] < places["encoder.1.norm2"][1]


def test_logarithms_are_told_apart_by_equal_steps() -> None:
    rows = [
        {"place": place, "value": 10.0**-power, "series": "gap", "says": str(power)}
        for place, power in enumerate((2, 5, 8))
    ]
    svg = draw(charts.dots(rows, ["a", "b", "c"], charts.SERIES), "")
    xs = [positions(svg)[str(power)][0] for power in (2, 5, 8)]
    assert xs[0] - xs[1] == pytest.approx(xs[1] - xs[2])


def test_every_tensor_has_its_four_figures() -> None:
    made = tensor_figure(EVERYTHING)
    assert made is not None
    said = titles(made.svg)
    assert len(said) == 4 * len(EVERYTHING.tensors)
    assert "output logits: gap 2.3e-03" in said
    assert "output logits: explained by rounding 5.6e-08" in said


def test_examples_with_their_limit_and_what_cannot_be_drawn() -> None:
    made = example_figure(EVERYTHING)
    assert made is not None
    assert titles(made.svg) == [
        "example 0: 0 times what rounding explains",
        "example 1: 3e-09 times what rounding explains",
        "example 2: 41,000 times what rounding explains",
    ]
    assert made.note == "1 figure is not finite: see the table."
    assert made.title.endswith("(dashed: 4 times, above it another function)")
    assert len(made.table.rows) == 4


@pytest.mark.parametrize(
    ("values", "text"),
    [([1.0, 0.0], ""), ([math.nan, math.inf], "2 figures are not finite: see the table.")],
)
def test_what_is_not_drawn_is_said(values: list[float], text: str) -> None:
    assert undrawn(values) == text


def test_nothing_is_drawn_of_nothing() -> None:
    empty = samples.equivalent(tensors=(), timings=(), examples=Examples(0), depth=())
    assert list(figures(empty, 1.0)) == []
    uncompared = samples.semantic(depth=(DepthRow("a", "Linear", "unmatched"),))
    assert depth_figure(uncompared) is None


def test_figures_that_are_all_zero_or_no_number_are_still_a_chart() -> None:
    for gap in (0.0, math.nan, math.inf):
        made = tensor_figure(samples.equivalent(tensors=(row(gap),)))
        assert made is not None
        ElementTree.fromstring(made.svg)


def row(gap: float) -> Any:
    import dataclasses

    return dataclasses.replace(
        samples.equivalent().tensors[0], gap=gap, reference_noise=gap, port_noise=gap, jitter=gap
    )


def test_of_a_deep_network_the_largest_gaps_are_drawn_in_their_order() -> None:
    rows = tuple(
        DepthRow(f"layer.{place}", "Linear", "matched", None, (place + 1) * 1e-9, None)
        for place in range(MOST_ROWS + 5)
    )
    made = depth_figure(samples.semantic(depth=rows))
    assert made is not None
    assert made.note.startswith(f"The {MOST_ROWS} modules with the largest gaps of 405 are drawn")
    for svg in (made.svg, made.more):
        said = titles(svg)
        assert said[0].startswith("layer.5 ")
        assert len(said) == MOST_ROWS
    assert len(made.table.rows) == 405


def test_a_deep_network_is_seen_at_a_glance_with_its_culprits_named() -> None:
    rows = tuple(
        DepthRow(
            f"layer.{place}",
            "Linear",
            "matched" if place < 40 else "culprit" if place == 40 else "after",
            None,
            0.0 if place < 40 else 1e-3,
            None if place == 3 else 1e-5,
        )
        for place in range(60)
    )
    made = depth_figure(samples.semantic(depth=rows))
    assert made is not None
    assert len(titles(made.svg)) == len(titles(made.more)) == 119
    texts = [element.text for element in ElementTree.fromstring(made.svg).iter(f"{SVG}text")]
    assert texts.count("layer.40") == 2  # forward and backward
    assert "layer.39" not in texts
    assert int(ElementTree.fromstring(made.svg).get("height", "0")) < 500
    places = positions(made.svg)
    found = [place for text, place in places.items() if "forward gap" in text]
    assert [x for x, _ in found] == sorted(x for x, _ in found)
    assert found[40][1] < found[39][1]  # higher up is larger


def test_names_are_text_in_a_chart() -> None:
    name = "</svg><script>alert(1)</script>\"'\\"
    made = depth_figure(samples.semantic(depth=(DepthRow(name, name, "culprit", name, 1.0, 1.0),)))
    assert made is not None
    assert "<script" not in made.svg
    root = ElementTree.fromstring(made.svg)
    assert any(name in (element.text or "") for element in root.iter(f"{SVG}text"))
    assert all(element.tag.startswith(SVG) for element in root.iter())


def test_a_chart_describes_itself_once_and_loads_nothing() -> None:
    for made in figures(EVERYTHING, 1e-3):
        root = ElementTree.fromstring(made.svg)
        assert (root.get("role"), root.get("aria-label")) == ("img", made.says)
        for element in list(root.iter())[1:]:
            assert not {"role", "aria-label", "href", "class"} & set(element.attrib)
            assert "url(" not in " ".join(element.attrib.values())


@given(st.text(st.characters(exclude_categories=()), max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_text_can_be_a_name(name: str) -> None:
    made = depth_figure(samples.semantic(depth=(DepthRow(name, name, "culprit", None, 1.0, 0.5),)))
    assert made is not None
    root = ElementTree.fromstring(made.svg.encode("utf-8"))
    assert all(element.tag.startswith(SVG) for element in root.iter())


def test_what_xml_cannot_hold_is_shown_as_an_escape() -> None:
    row = DepthRow("a\x00b\x1b\ud800c\uffff", "Linear", "culprit", None, 1.0, None)
    made = depth_figure(samples.semantic(depth=(row,)))
    assert made is not None
    texts = [element.text for element in ElementTree.fromstring(made.svg).iter(f"{SVG}text")]
    assert "a\\x00b\\x1b\\ud800c\\uffff" in texts
