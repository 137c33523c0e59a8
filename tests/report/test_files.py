"""JSON and Markdown: what is written can be read back, and says the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import samples

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.recording import Result
from pytest_fwcompare.report import files
from pytest_fwcompare.report.json import run_from_json, run_to_json
from pytest_fwcompare.report.markdown import card, escape, run_to_markdown

RIGHT = Result("t.py::test_right", "t.py::test_right", 1, 1, samples.equivalent())
WRONG = Result("t.py::test_wrong", "t.py::test_wrong", 1, 3, samples.semantic())


def test_json_is_read_back_whole_and_sorted() -> None:
    assert run_from_json(run_to_json([WRONG, RIGHT])) == [RIGHT, WRONG]


def test_json_is_strict_with_numbers_that_are_none() -> None:
    nan = Result("t", "t", 1, 1, samples.semantic(gap=float("nan"), noise=float("inf")))
    text = run_to_json([nan])
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    (read,) = run_from_json(text)
    assert read.comparison.gap != read.comparison.gap
    assert read.comparison.noise == float("inf")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "report: not JSON: "),
        ("[]", "report: expected an object with a 'format' number"),
        ('{"format": 99}', "report: format 99 was written by a newer pytest-fwcompare"),
        ('{"format": 1, "comparisons": [{}]}', r"report: comparisons\[0\]: KeyError"),
        ('{"format": 1, "comparisons": [3]}', r"report: comparisons\[0\]: TypeError"),
    ],
)
def test_files_that_are_no_report(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_from_json(text)


def test_every_cut_of_a_file_is_refused_or_whole() -> None:
    text = run_to_json([RIGHT])
    for end in range(0, len(text.rstrip()), 97):
        with pytest.raises(UsageError):
            run_from_json(text[:end])


def test_the_card_of_one_comparison_is_all_there_is() -> None:
    text = run_to_markdown([WRONG])
    assert "| test |" not in text
    for part in (
        "**semantic: the tensorflow port does not compute the same function",
        r"- Where: encoder.1.norm2 of the torch reference; block\_1/layer\_norm of the tensorflow",
        "- Cause: epsilon",
        r"expected 0.52135, obtained 0.52311",
        "```\npytest --fwcompare 'tests/test_port.py::test_port[cpu-float32-eager]'\n```",
    ):
        assert part in text


def test_of_several_only_those_that_fail_have_a_card() -> None:
    text = run_to_markdown([RIGHT, WRONG])
    rows = [line for line in text.splitlines() if line.startswith("| t.py")]
    assert [row.split(" | ")[2] for row in rows] == ["semantic", "equivalent"]
    assert text.count("### ") == 1


def test_a_run_without_comparisons_says_so() -> None:
    assert "No comparison was made" in run_to_markdown([])


def test_the_card_of_a_pass_shows_coverage_and_versions() -> None:
    text = card(samples.equivalent())
    assert (
        "- Sensitivity: 1 of 2 disturbances noticed, the smallest of relative size 1.0e-03" in text
    )
    assert "- Not covered: dead.bias" in text
    assert "- Versions: torch 2.13.0+cpu, keras 3.15.1" in text


def test_hostile_names_stay_text() -> None:
    hostile = Result("t.py::test[<script>|`*_]", "g", 1, 1, samples.equivalent())
    text = run_to_markdown([hostile, RIGHT])
    assert "<script>" not in text
    assert r"&lt;script&gt;\|\`\*\_\]" in text
    assert escape("a\nb") == "a b"


def test_an_interrupted_writer_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    path.write_text("old")

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, [RIGHT])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_suffix_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unsupported suffix '\.pdf'; .*\.json, \.html, \.md"):
        files.render(".pdf", [])


@pytest.mark.parametrize("suffix", [".json", ".html", ".md"])
def test_text_that_is_no_text_is_written_as_escapes(tmp_path: Path, suffix: str) -> None:
    odd = Result("t.py::\ud800\x1b\x00", "g", 1, 1, samples.semantic(message="\udcff\x00"))
    path = tmp_path / f"run{suffix}"
    files.write(path, [odd, RIGHT])
    assert "\\ud800" in path.read_text("utf-8")
    if suffix == ".json":
        assert run_from_json(path.read_text("utf-8"))[1] == odd
