"""All reports of one run give the same figures: JSON, HTML, Markdown, JUnit, TensorBoard."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import samples
from events import Run

from pytest_fwcompare.report.numbers import figure, seconds
from pytest_fwcompare.report.tensorboard import folder_name, tag

TESTS = """
import sys

sys.path.insert(0, {tests!r})
import pytest
import samples

RUN = {{
    "right": samples.equivalent(gap=1.2345678e-15, noise=7.6543211e-8),
    "wrong": samples.everything(),
    "noisy": samples.semantic(verdict="precision", gap=3.21e-9),
    "nan": samples.semantic(verdict="nonfinite", gap=float("nan"), noise=float("inf")),
}}

@pytest.fixture
def compared(monkeypatch):
    import pytest_fwcompare
    monkeypatch.setitem(
        vars(pytest_fwcompare), "compare", lambda reference, port, **keywords: RUN[port]
    )

@pytest.mark.parametrize("name", list(RUN))
def test_port(compared, fwcompare_port, name):
    fwcompare_port("reference", name, inputs={{}}, timings=True)
"""


class Rows(HTMLParser):
    """Rows of the first table of a page: text and exact figure of each cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[dict[str, str]]] = []
        self._cell: dict[str, str] | None = None
        self.feed(text[text.index("<tbody>") : text.index("</tbody>")])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = {"text": ""}
            self.rows[-1].append(self._cell)
        elif tag == "data" and self._cell is not None:
            self._cell["exact"] = str(dict(attrs)["value"])

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell["text"] += data.strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder with all reports of one run."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("run")
    tests = str(request.config.rootpath / "tests")
    (folder / "test_all.py").write_text(TESTS.format(tests=tests))
    reports = [f"--fwcompare-report=run{suffix}" for suffix in (".json", ".html", ".md")]
    more = ["--fwcompare-tensorboard=events", "--junit-xml=run.xml", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "--fwcompare", "-q", *reports, *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert "3 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def expected(project: Path) -> dict[str, dict[str, Any]]:
    """By test, what the JSON report says."""
    data = json.loads((project / "run.json").read_text("utf-8"))
    return {entry["test"]: entry["comparison"] for entry in data["comparisons"]}


def timing(comparison: dict[str, Any]) -> dict[str, Any]:
    found = [t for t in comparison["timings"] if t["framework"] == comparison["port"]]
    return found[0] if found else {}


def test_json_holds_what_was_measured(expected: dict[str, dict[str, Any]]) -> None:
    named = {test[test.index("[") :].split("-")[-1][:-1]: made for test, made in expected.items()}
    assert named["right"]["gap"] == 1.2345678e-15
    assert named["wrong"]["gap"] == samples.everything().gap
    assert (named["nan"]["gap"], named["nan"]["noise"]) == ("nan", "inf")
    assert {name: made["verdict"] for name, made in named.items()} == {
        "right": "equivalent",
        "wrong": "semantic",
        "noisy": "precision",
        "nan": "nonfinite",
    }


def test_html_agrees(project: Path, expected: dict[str, dict[str, Any]]) -> None:
    rows = Rows((project / "run.html").read_text("utf-8")).rows
    assert {row[0]["text"] for row in rows} == set(expected)
    for row in rows:
        made = expected[row[0]["text"]]
        assert [cell["text"] for cell in row[1:4]] == [
            made["reference"],
            made["port"],
            made["verdict"],
        ]
        for cell, name in ((row[4], "gap"), (row[5], "noise")):
            assert repr(float(cell["exact"])) == repr(float(made[name]))
            assert cell["text"] == figure(float(made[name]))
        if timing(made):
            assert float(row[7]["exact"]) == timing(made)["forward"]["median"]
            assert float(row[8]["exact"]) == timing(made)["backward"]["median"]
            if timing(made)["ratio"]:
                assert float(row[9]["exact"]) == timing(made)["ratio"]["median"]
        tried = made["controls"]["tried"]
        caught = sum(control["noticed"] for control in tried)
        assert row[6]["text"] == (f"{caught} of {len(tried)}" if tried else "")


def test_markdown_agrees(project: Path, expected: dict[str, dict[str, Any]]) -> None:
    text = (project / "run.md").read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "| test\\_" in line]
    assert len(rows) == len(expected)
    for row in rows:
        made = expected[re.sub(r"\\(.)", r"\1", row[0])]
        assert row[1:5] == [
            made["port"],
            made["verdict"],
            figure(float(made["gap"])),
            figure(float(made["noise"])),
        ]
        if timing(made):
            assert row[5] == seconds(timing(made)["forward"]["median"])


def test_junit_agrees(project: Path, expected: dict[str, dict[str, Any]]) -> None:
    cases = list(ElementTree.parse(project / "run.xml").iter("testcase"))
    assert len(cases) == len(expected)
    for case in cases:
        made = expected[f"test_all.py::{case.get('name')}"]
        found = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
        assert found["fwcompare.verdict"] == made["verdict"]
        for name in ("gap", "noise"):
            assert repr(float(str(found[f"fwcompare.{name}"]))) == repr(float(made[name]))
        if timing(made):
            forward = found[f"fwcompare.{made['port']}.forward_s"]
            assert float(str(forward)) == timing(made)["forward"]["median"]
            ratio = (timing(made)["ratio"] or {}).get("median")
            found_ratio = found.get(f"fwcompare.{made['port']}.ratio")
            assert (found_ratio and float(found_ratio)) == ratio


def test_tensorboard_agrees(project: Path, expected: dict[str, dict[str, Any]]) -> None:
    for test, made in expected.items():
        run = Run(project / "events" / folder_name(test) / f"port {made['port']}")
        for name in ("gap", "noise"):
            found, wanted = run.scalar(f"largest/{name}"), float(made[name])
            assert found == pytest.approx(wanted, rel=1e-6, nan_ok=True)
        for row in made["tensors"]:
            assert run.scalar(tag("gap", row["name"])) == pytest.approx(row["gap"], rel=1e-6)
        if timing(made):
            median = timing(made)["forward"]["median"]
            assert run.scalar("time/forward_ms") == pytest.approx(1e3 * median, rel=1e-6)


def test_the_commands_agree_with_the_run(project: Path, tmp_path: Path) -> None:
    from pytest_fwcompare.cli import main

    for suffix in (".html", ".md", ".json"):
        again = tmp_path / f"again{suffix}"
        assert main(["report", str(project / "run.json"), "-o", str(again)]) == 0
        assert again.read_text("utf-8") == (project / f"run{suffix}").read_text("utf-8")
