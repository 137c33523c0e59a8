"""The page as a browser shows it: headless Chromium, `$CHROME` or the first on the path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
import samples

from pytest_fwcompare.report.html import run_to_html

PROGRAM = chromium.executable()
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium on the path; set CHROME, or apt-get install chromium"
)

FILLS = """
    [...document.querySelectorAll("svg path")].filter(mark => mark.querySelector("title"))
        .map(mark => [getComputedStyle(mark).fill, mark.getBoundingClientRect().width])
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    assert PROGRAM is not None
    with chromium.Chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "run.html"
    path.write_text(run_to_html(samples.run()), encoding="utf-8")
    return path.as_uri()


def test_nothing_is_said_on_the_console_and_nothing_is_requested(
    browser: chromium.Chromium, address: str
) -> None:
    with browser.page(address) as page:
        assert page.said() == []
        others = [url for url in page.requested() if url not in (address, "data:,")]
        assert others == []


def test_the_test_above_can_fail(browser: chromium.Chromium, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text("<script>console.log('x')</script><img src='http://example.invalid/a.png'>")
    with browser.page(path.as_uri()) as page:
        assert page.said()
        assert "http://example.invalid/a.png" in page.requested()


def test_what_a_report_must_not_load_is_forbidden_by_its_policy(
    browser: chromium.Chromium, tmp_path: Path
) -> None:
    smuggled = "<script>document.title='owned'</script><img src='http://example.invalid/a.png'>"
    path = tmp_path / "smuggled.html"
    text = run_to_html([]).replace("</main>", f"{smuggled}</main>")
    path.write_text(text, encoding="utf-8")
    with browser.page(path.as_uri()) as page:
        assert page.run("document.title") == "No comparison was made · pytest-fwcompare"
        told = " ".join(str(event) for event in page.said())
        assert "Content Security Policy" in told


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_in_the_colours_of_the_scheme(
    browser: chromium.Chromium, address: str, scheme: str, tmp_path: Path
) -> None:
    with browser.page(address, scheme) as page:
        marks = page.run(FILLS)
        assert len(marks) > 30
        assert all(width > 0 for _, width in marks)
        gap = page.run("getComputedStyle(document.documentElement).getPropertyValue('--gap')")
        wanted = ", ".join(str(int(gap.strip()[i : i + 2], 16)) for i in (1, 3, 5))
        fills = {fill for fill, _ in marks}
        assert f"rgb({wanted})" in fills
        assert all(re.fullmatch(r"rgb\(\d+, \d+, \d+\)", fill) for fill in fills)
        page.picture(tmp_path / f"{scheme}.png")
        assert (tmp_path / f"{scheme}.png").stat().st_size > 50_000


def test_light_and_dark_differ(browser: chromium.Chromium, address: str) -> None:
    found = []
    for scheme in ("light", "dark"):
        with browser.page(address, scheme) as page:
            found.append(page.run("getComputedStyle(document.body).backgroundColor"))
    assert found == ["rgb(251, 251, 250)", "rgb(21, 24, 27)"]


def test_a_hostile_id_is_shown_as_text(browser: chromium.Chromium, address: str) -> None:
    with browser.page(address) as page:
        headings = page.run("[...document.querySelectorAll('h2')].map(h => h.textContent)")
        assert samples.HOSTILE in headings
        assert page.run("document.scripts.length") == 0
        assert page.run("document.title") == "3 of 4 comparisons do not hold · pytest-fwcompare"


@pytest.mark.parametrize("width", [1280, 380])
def test_nothing_sticks_out_of_the_page(
    browser: chromium.Chromium, address: str, width: int
) -> None:
    with browser.page(address, width=width) as page:
        assert page.run("document.documentElement.scrollWidth") <= width


def test_no_name_of_a_chart_is_cut(browser: chromium.Chromium, address: str) -> None:
    code = """
        [...document.querySelectorAll(".chart")].flatMap(chart => {
            const left = chart.getBoundingClientRect().left
            return [...chart.querySelectorAll("text")]
                .filter(text => text.getBoundingClientRect().left < left)
                .map(text => text.textContent)
        })
    """
    with browser.page(address) as page:
        assert page.run(code) == []


def test_the_page_is_read_by_keyboard(browser: chromium.Chromium, address: str) -> None:
    active = "document.activeElement.textContent.trim()"
    with browser.page(address) as page:
        page.press("Tab")
        assert page.run(active) == "Skip to the comparisons"
        assert page.run("document.activeElement.getBoundingClientRect().left") >= 0
        page.press("Enter")
        assert page.run("location.hash") == "#overview"
        closed = "document.querySelectorAll('details:not([open])').length"
        before = page.run(closed)
        page.run("document.querySelector('details:not([open]) summary').focus()")
        page.press("Enter")
        assert page.run(closed) == before - 1
        page.press("Tab")  # into the table that has opened
        assert page.run("document.activeElement.getAttribute('role')") == "region"


def test_what_a_screen_reader_is_told(browser: chromium.Chromium, address: str) -> None:
    with browser.page(address) as page:
        told = page.accessible()
    images = [name for role, name in told if role == "image" or role == "img"]
    assert any(name.startswith("Gap of 4 modules of the reference") for name in images)
    assert all(images)
    headings = [name for role, name in told if role == "heading"]
    assert headings[:2] == ["3 of 4 comparisons do not hold", "Overview"]
    assert ("table", "Comparisons, the worst first") in told
    assert ("rowheader", "tests/test_port.py::test_wrong") in told
    assert ("columnheader", "Verdict") in told
