"""Two saved runs held against each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import samples

from pytest_fwcompare.cli import main
from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import Comparison, Control, Controls
from pytest_fwcompare.report.diff import difference, moves, told
from pytest_fwcompare.report.json import run_to_json

OLD = samples.equivalent()


def changed(**keywords: Any) -> Comparison:
    return dataclasses.replace(OLD, **keywords)


def run(*named: tuple[str, Comparison]) -> list[Result]:
    return [Result(test, test, 1, 1, comparison) for test, comparison in named]


def found(new: Comparison, old: Comparison = OLD) -> dict[str, str]:
    return {item.what: item.text for item in moves(old, new, 2.0)}


def test_equal_runs_differ_in_nothing() -> None:
    assert found(OLD) == {}
    assert found(samples.everything(), samples.everything()) == {}


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (changed(verdict="precision"), {"verdict": "equivalent -> precision"}),
        (changed(gap=2.1e-6), {"gap": "2.1e-15 -> 2.1e-06 (1.0e+09 times more)"}),
        (changed(noise=3.4e-6), {"noise": "3.4e-07 -> 3.4e-06 (10 times more)"}),
        (changed(noise=float("nan")), {"noise": "3.4e-07 -> nan"}),
        (
            changed(controls=Controls((Control("fc.weight", 1e-3, True, 4e3),), ("fc.bias",))),
            {
                "sensitivity": "1 of 2 disturbances noticed -> 1 of 1",
                "no longer covered": "fc.bias",
                "covered now": "dead.bias",
            },
        ),
        (
            changed(timings=(samples.timing("torch", 1.0), samples.timing("keras", 9.0))),
            {
                "forward of keras": "2.50 ms -> 9.00 ms",
                "backward of keras": "5.00 ms -> 18.0 ms",
            },
        ),
    ],
    ids=["verdict", "gap", "noise", "no number", "controls", "times"],
)
def test_what_moved_is_told(new: Comparison, expected: dict[str, str]) -> None:
    assert found(new) == expected


@pytest.mark.parametrize("gap", [0.0, 1.9e-15, 3.5e-15])
def test_a_gap_of_a_few_roundings_moves_nothing(gap: float) -> None:
    assert found(changed(gap=gap)) == {}


def test_a_smaller_figure_moved_too() -> None:
    assert found(OLD, changed(noise=3.4e-6)) == {"noise": "3.4e-06 -> 3.4e-07 (10 times less)"}


def test_another_place_or_cause_of_a_failure() -> None:
    new = samples.semantic(culprit="encoder.2", cause=None)
    assert found(new, samples.semantic()) == {
        "place": "encoder.1.norm2 -> encoder.2",
        "cause": "epsilon -> none",
    }


def test_what_could_not_be_compared_has_no_figures() -> None:
    new = Comparison("error", "torch", "keras")
    assert found(new) == {"verdict": "equivalent -> error"}


def test_times_alone_make_no_difference() -> None:
    slower = changed(timings=(samples.timing("torch", 9.0),))
    made = difference(run(("a", OLD)), run(("a", slower)), 2.0)
    assert made.changed
    assert not made.differs


def test_tests_that_came_and_went_and_versions() -> None:
    newer = changed(environment={"torch": {"version": "2.14.0"}, "keras": {"version": "3.15.1"}})
    made = difference(run(("a", OLD), ("b", OLD)), run(("a", newer), ("c", newer)), 2.0)
    assert (made.common, made.gone, made.new) == (1, ("b",), ("c",))
    assert made.versions == {"torch": ("2.13.0+cpu", "2.14.0")}
    assert made.differs
    assert list(told(made, 2.0)) == [
        "1 comparisons in both runs, 0 changed",
        "torch: 2.13.0+cpu -> 2.14.0",
        "",
        "only in the old run:",
        "  b",
        "",
        "only in the new run:",
        "  c",
    ]


@pytest.mark.parametrize(
    ("new", "status", "text"),
    [
        (OLD, 0, "1 comparisons in both runs, 0 changed\n\nno verdict changed, and no figure"),
        (changed(gap=1e-3), 1, "t\n  gap  2.1e-15 -> 1.0e-03 (4.8e+11 times more)"),
    ],
)
def test_the_command(
    new: Comparison,
    status: int,
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [tmp_path / "old.json", tmp_path / "new.json"]
    for path, made in zip(paths, (OLD, new), strict=True):
        path.write_text(run_to_json(run(("t", made))), encoding="utf-8")
    assert main(["diff", *map(str, paths)]) == status
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("factor", ["0.5", "nan"])
def test_a_factor_below_one_is_refused(factor: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "a", "b", "--factor", factor]) == 2
    assert "--factor: expected at least 1, got" in capsys.readouterr().err
