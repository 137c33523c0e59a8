"""The page: what stands where, how machines read it, and that it holds no markup of others."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import samples

from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import Answer, Attribution
from pytest_fwcompare.report.html import page, run_to_html

VOID = {"meta", "link", "br", "img", "input", "hr"}
PAGE = run_to_html(samples.run())


class Outline(HTMLParser):
    """Elements, and whether they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


OUTLINE = Outline(PAGE)


def test_everything_closes() -> None:
    assert OUTLINE.open == []


def test_there_is_no_script_and_nothing_to_load() -> None:
    assert OUTLINE.all("script") == []
    for tag, attributes in OUTLINE.elements:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, value)
    style = "".join(OUTLINE.text["style"])
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [m for m in OUTLINE.all("meta") if m.get("http-equiv")]
    assert str(policy["content"]).startswith("default-src 'none'")


def test_a_hostile_id_is_text() -> None:
    assert "<script" not in PAGE
    assert any(samples.HOSTILE in text for text in OUTLINE.text["h2"])


def test_headings_descend_without_gaps() -> None:
    levels = [int(tag[1]) for tag, _ in OUTLINE.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_have_captions_and_headings_with_a_scope() -> None:
    assert len(OUTLINE.all("caption")) == len(OUTLINE.all("table"))
    scopes = {cell.get("scope") for cell in OUTLINE.all("th")}
    assert scopes == {"col", "row"}


def test_what_scrolls_can_be_reached_by_keyboard_and_has_a_name() -> None:
    regions = [at for _, at in OUTLINE.elements if at.get("role") == "region"]
    assert regions
    for region in regions:
        assert region.get("tabindex") == "0"
        assert region.get("aria-label")
    assert all(at.get("tabindex") == "0" for at in OUTLINE.all("pre"))


def test_every_chart_is_described_and_has_its_data_beside_it() -> None:
    charts = OUTLINE.all("svg")
    assert len(charts) == len(OUTLINE.all("figure")) > 0
    assert all(chart.get("role") == "img" and chart.get("aria-label") for chart in charts)
    for figure in re.findall(r"<figure>.*?</figure>", PAGE, re.DOTALL):
        assert figure.count("<svg") == 1
        assert figure.count("<details") == 1
        assert figure.count("<table") == 1


def test_ids_are_unique_and_links_lead_somewhere() -> None:
    ids = [str(at["id"]) for _, at in OUTLINE.elements if at.get("id")]
    assert len(set(ids)) == len(ids)
    for _, attributes in OUTLINE.elements:
        for name in ("href", "aria-labelledby"):
            value = attributes.get(name)
            if value and value != "data:,":
                assert value.removeprefix("#") in ids


def test_the_worst_comes_first() -> None:
    order = [text for text in OUTLINE.text["h2"] if text.strip()]
    assert order == [
        "Overview",
        "tests/test_port.py::test_broken",
        "tests/test_port.py::test_wrong",
        samples.HOSTILE,
        "tests/test_port.py::test_right",
    ]


def test_the_page_shows_every_part_of_a_comparison() -> None:
    for part in (
        "3 of 4 comparisons do not hold",
        "Gap along depth, in float64",
        "Gap and noise of each tensor",
        "Gap over what rounding explains, in each example",
        "Time and memory",
        "Drift against the baseline",
        "equivalent -&gt; semantic",
        "the port moved: the reference gives the same values",
        "Disturbances of the port",
        "dead.bias",
        "Transpose(axes=(1, 0))",
        "flags.tf32",
        "TF32 is on",
        "1.0 MiB",
        "in a process of its own",
        '<span class="note">900 us to 1.10 ms</span>',
        '<data value="2.45" title="2.45">2.45</data>',
        "2.25 to 2.75 (95 %)",
        "1.50 ms",
        "the test failed: &lt;i&gt;ValueError&lt;/i&gt;",
        "Smallest input that shows it",
    ):
        assert part in PAGE, part


def test_what_was_not_compared_has_no_figures() -> None:
    overview = PAGE[PAGE.index('id="overview"') : PAGE.index('id="case-1"')]
    row = overview[overview.index("test_broken") :].partition("</tr>")[0]
    assert "<data" not in row


def test_colours_are_defined_for_light_and_dark() -> None:
    style = "".join(OUTLINE.text["style"])
    light, dark = style.partition("@media (prefers-color-scheme: dark)")[::2]
    used = set(re.findall(r"var\((--[\w-]+)\)", PAGE))
    assert used <= set(re.findall(r"(--[\w-]+):", light))
    dark = dark[: dark.index("\n}\n")]
    assert used <= set(re.findall(r"(--[\w-]+):", dark))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme: str) -> None:
    """WCAG 2.1, success criterion 1.4.3: a contrast of 4.5 to 1; 1.4.11: 3 to 1 for marks."""
    style = "".join(OUTLINE.text["style"])
    light, dark = style.partition("@media (prefers-color-scheme: dark)")[::2]
    source = light if scheme == "light" else dark
    colours = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", source))
    for text, behind, least in (
        ("text", "panel", 4.5),
        ("text-soft", "panel", 4.5),
        ("text-soft", "page", 4.5),
        ("link", "panel", 4.5),
        ("bad", "bad-back", 4.5),
        ("warn", "warn-back", 4.5),
        ("good", "good-back", 4.5),
        ("gap", "panel", 3),
        ("after", "panel", 3),
        ("reference", "panel", 3),
        ("port", "panel", 3),
    ):
        found = contrast(colours[f"--{text}"], colours[f"--{behind}"])
        assert found >= least, (text, behind, found)


def contrast(one: str, other: str) -> float:
    """Contrast of two colours by WCAG 2.1's definition of relative luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_an_empty_run() -> None:
    text = run_to_html([])
    assert "<h1>No comparison was made</h1>" in text
    assert Outline(text).open == []


def test_beyond_the_worst_hundred_tables_take_the_place_of_charts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(page, "MOST_CHARTED", 1)
    run = [Result(name, name, 1, 1, samples.everything()) for name in ("a", "b")]
    text = run_to_html(run)
    second = text[text.index('id="case-2"') :]
    assert text.count("<svg") == 4
    assert "<svg" not in second
    assert "The charts of the worst comparisons only are drawn" in second
    for caption in ("Compared tensors", "Modules in the order of the data", "Timings"):
        assert caption in second


def test_the_same_results_give_the_same_page() -> None:
    assert run_to_html(samples.run()) == PAGE


def test_what_every_backend_of_keras_gave_is_a_table() -> None:
    answers = (
        Answer("keras on tensorflow", False, 0.25, None, 1e-7, "other outputs"),
        Answer("keras on torch", None, reason="it cannot be imported"),
    )
    found = Attribution("n", "Norm", "Norm", "backend", ("tensorflow",), answers)
    text = run_to_html([Result("a", "a", 1, 1, samples.semantic(attribution=found))])
    table = text[text.index("<summary>Keras or the backend") :]
    for cell in ("keras on tensorflow", "differs", "2.5e-01", "no answer", "cannot be imported"):
        assert cell in table
    assert "backend: only tensorflow: n (Norm)" in text
