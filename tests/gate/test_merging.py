"""Baselines of several jobs become one, or the cases they do not agree on are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_fwcompare.cli import main
from pytest_fwcompare.gate.baseline import Baseline, dumps, loads
from pytest_fwcompare.gate.merging import MergeConflict, merge_all
from pytest_fwcompare.records import Comparison

from .conftest import baseline_of

Make = Callable[..., Comparison]


def test_shards_are_put_together(comparison: Make) -> None:
    other = {"torch": {"version": "2.14"}, "keras": {"version": "3.15.1"}}
    shards = {
        "a": baseline_of({"a.py::t": comparison()}),
        "b": baseline_of({"b.py::t": comparison(environment=other)}),
        "c": baseline_of({"a.py::t": comparison(), "c.py::t": comparison(noise=float("nan"))}),
    }
    merged = loads(dumps(merge_all(shards)), "c.json")
    assert list(merged.cases) == ["a.py::t", "b.py::t", "c.py::t"]
    assert merged.environment("b.py::t")["torch"]["version"] == "2.14"
    assert merged.environment("c.py::t")["torch"]["version"] == "2.13.0+cpu"
    again = {"one": merged, "two": merged}
    assert dumps(merge_all(again)) == dumps(merged), "a NaN is no conflict with itself"


def test_a_conflict_is_named(comparison: Make) -> None:
    shards = {
        "a.json": baseline_of({"a.py::t": comparison(gap=1e-9), "b.py::t": comparison()}),
        "b.json": baseline_of({"a.py::t": comparison(gap=2e-9)}),
    }
    with pytest.raises(MergeConflict) as caught:
        merge_all(shards)
    assert str(caught.value) == (
        "different figures for 1 case; nothing was written:\n  a.py::t: a.json, b.json\n"
        "give the common ancestor with --base OLD.json, or say which file outweighs the others "
        "with --prefer FILE.json"
    )
    assert merge_all(shards, prefer="b.json").cases["a.py::t"].gap == 2e-9


def test_what_only_one_changed_is_taken_from_it(comparison: Make) -> None:
    old = {f"{name}.py::t": comparison(gap=1e-9) for name in "abc"}
    mine = baseline_of(old | {"a.py::t": comparison(gap=2e-9)})
    theirs = baseline_of({case: old[case] for case in ("a.py::t", "b.py::t")})
    merged = merge_all({"mine": mine, "theirs": theirs}, baseline_of(old))
    assert {case: entry.gap for case, entry in merged.cases.items()} == {
        "a.py::t": 2e-9,
        "b.py::t": 1e-9,
    }, "theirs removed c"
    both = baseline_of({"a.py::t": comparison(gap=3e-9)})
    with pytest.raises(MergeConflict):
        merge_all({"mine": mine, "theirs": both}, baseline_of(old))


def write(path: Path, baseline: Baseline) -> str:
    path.write_text(dumps(baseline))
    return str(path)


def test_the_command(tmp_path: Path, comparison: Make, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a.json", baseline_of({"a.py::t": comparison()}))
    b = write(tmp_path / "b.json", baseline_of({"b.py::t": comparison()}))
    out = tmp_path / "out.json"
    assert main(["merge", a, b, "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 2 cases of 2 baselines\n"
    assert list(loads(out.read_text(), "out").cases) == ["a.py::t", "b.py::t"]

    c = write(tmp_path / "c.json", baseline_of({"a.py::t": comparison(gap=1.0)}))
    before = out.read_bytes()
    assert main(["merge", a, c, "-o", str(out)]) == 1
    assert f"  a.py::t: {a}, {c}\n" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["merge", a, c, "-o", str(out), "--prefer", c]) == 0

    assert main(["merge", a, str(tmp_path / "none.json"), "-o", str(out)]) == 2
    assert "none.json: there is no such file" in capsys.readouterr().err
    assert main(["merge", a, b, "-o", str(out), "--prefer", c]) == 2
    assert "expected one of the files to merge" in capsys.readouterr().err
    out.write_text("precious")
    assert main(["merge", a, b, "-o", str(out)]) == 2
    assert out.read_text() == "precious"
