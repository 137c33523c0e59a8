"""`python -m pytest_fwcompare report|show|schema`: saved runs, with no framework installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import samples

from pytest_fwcompare.cli import main
from pytest_fwcompare.report.json import run_to_json

FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "jaxlib", "flax", "autograd", "hypothesis")

BLOCKED = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FRAMEWORKS!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
from pytest_fwcompare.cli import main
for line in sys.stdin.read().splitlines():
    status = main(line.split())
    assert status in (0, 1), (line, status)
loaded = [name for name in {FRAMEWORKS!r} if name in sys.modules]
assert not loaded, loaded
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run.json"
    path.write_text(run_to_json(samples.run()), encoding="utf-8")
    return path


def test_every_subcommand_runs_where_no_framework_can_be_imported(saved: Path) -> None:
    lines = [
        f"report {saved.name} -o out.html -o out.md -o out.json",
        f"show {saved.name}",
        f"diff {saved.name} {saved.name}",
        "schema",
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCKED],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        cwd=saved.parent,
    )
    assert done.returncode == 0, done.stderr
    assert (saved.parent / "out.html").read_text("utf-8").startswith("<!doctype html>")
    assert (saved.parent / "out.json").read_text("utf-8") == saved.read_text("utf-8")
    assert "3 of 4 comparisons do not hold" in done.stdout


def test_the_blocker_of_the_test_above_blocks(tmp_path: Path) -> None:
    code = BLOCKED.replace("from pytest_fwcompare.cli import main", "import torch")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, input="")
    assert "torch is blocked" in done.stderr


def test_report_says_what_it_wrote(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = saved.parent / "deep" / "card.md"
    assert main(["report", str(saved), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}\n"
    assert out.read_text("utf-8").startswith("# Equivalence card\n")


def test_show_prints_the_table_and_what_does_not_hold(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(saved)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("3 of 4 comparisons do not hold\ntest ")
    assert "\ntests/test_port.py::test_wrong\nsemantic: the tensorflow port does not" in text
    assert "\ntests/test_port.py::test_right\nequivalent" not in text


def test_show_tells_a_chosen_test_in_full(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(saved), "test_right"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("The comparison holds\n")
    assert "\ntests/test_port.py::test_right\nequivalent: the keras port computes" in text
    assert "test_wrong" not in text


MISTAKES = {
    "no such file": (["show", "{folder}/none.json"], "No such file or directory"),
    "no report": (["show", "{folder}/other.json"], "other.json: report: expected an object"),
    "another kind of value": (
        ["show", "{folder}/kind.json"],
        "comparison.message: expected a text, got 3",
    ),
    "cut off": (["show", "{folder}/cut.json"], "cut.json: report: not JSON"),
    "binary": (["show", "{folder}/binary.json"], "binary.json: not a text file"),
    "no such test": (
        ["show", "{saved}", "nowhere"],
        "no test's id contains 'nowhere'; there are 4",
    ),
    "unknown suffix": (
        ["report", "{saved}", "-o", "a.pdf"],
        "-o a.pdf: unsupported suffix '.pdf'; reports are written as .json, .html, .md",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(
    arguments: list[str], message: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (saved.parent / "other.json").write_text("[]")
    wrong = saved.read_text("utf-8").replace('"message": ""', '"message": 3')
    (saved.parent / "kind.json").write_text(wrong, encoding="utf-8")
    (saved.parent / "cut.json").write_text(saved.read_text("utf-8")[:1000], encoding="utf-8")
    (saved.parent / "binary.json").write_bytes(b"\xff\xfe\x00")
    filled = [part.format(folder=saved.parent, saved=saved) for part in arguments]
    assert main(filled) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pytest_fwcompare {arguments[0]}: ")
    assert message in error


def test_a_missing_package_is_named_with_what_to_install(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["report", str(saved), "-o", "page.html"]) == 2
    assert capsys.readouterr().err == (
        "pytest_fwcompare report: -o page.html: needs jinja2 and vl-convert-python, which are not "
        "installed: pip install 'pytest-fwcompare[report]'\n"
    )


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Report of pytest-fwcompare, format 1"


def test_what_report_writes_as_json_is_read_back(saved: Path) -> None:
    copy = saved.parent / "copy.json"
    assert main(["report", str(saved), "-o", str(copy)]) == 0
    assert copy.read_text("utf-8") == saved.read_text("utf-8")
