"""Which entries belong to tests that are gone, and which only did not run this time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_fwcompare.gate.baseline import Baseline
from pytest_fwcompare.gate.collected import Collected, gone, partly, without_axes
from pytest_fwcompare.records import Comparison

from .conftest import baseline_of


@pytest.mark.parametrize(
    ("test", "axes", "base"),
    [
        ("a.py::t[cpu-float32-eager]", "cpu-float32-eager", "a.py::t[*]"),
        ("a.py::t[3-cpu-float32-eager] #2", "cpu-float32-eager", "a.py::t[3-*]"),
        ("cpu-float32-eager/a.py::t[cpu-float32-eager]", "cpu-float32-eager",
         "cpu-float32-eager/a.py::t[*]"),
        ("a.py::t", "", "a.py::t"),
        ("a.py::t[x]", "cpu-float32-eager", "a.py::t[x]"),
    ],
)  # fmt: skip
def test_ids_without_axes(test: str, axes: str, base: str) -> None:
    assert without_axes(test, axes) == base


@pytest.fixture
def held(comparison: Callable[..., Comparison]) -> Baseline:
    """Entries of two files."""
    axes = "cpu-float32-eager"
    return baseline_of({f"{name}.py::t[{axes}]": comparison() for name in "ab"}, axes)


def test_gone(held: Baseline, tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    (tmp_path / "b.py").touch()
    everything = Collected({"a.py::t[*]", "b.py::t[*]"}, {"a.py", "b.py"})
    assert gone(held.cases, everything, tmp_path) == []
    renamed = everything._replace(tests={"a.py::u[*]", "b.py::t[*]"})
    assert gone(held.cases, renamed, tmp_path) == ["a.py::t[cpu-float32-eager]"]
    one_file = Collected({"b.py::t[*]"}, {"b.py"})
    assert gone(held.cases, one_file, tmp_path) == [], "a.py was not collected"
    (tmp_path / "a.py").unlink()
    assert gone(held.cases, one_file, tmp_path) == ["a.py::t[cpu-float32-eager]"]


def test_files_asked_for_in_part(tmp_path: Path) -> None:
    arguments = ["tests", "a.py", "deep/b.py::TestB::test_b", str(tmp_path / "c.py::t")]
    assert partly(arguments, tmp_path, tmp_path) == {"deep/b.py", "c.py"}
    assert partly(["b.py::t"], tmp_path / "deep", tmp_path) == {"deep/b.py"}


def test_what_was_collected_travels() -> None:
    made = Collected({"a"}, {"b"})
    assert Collected.from_plain(made.to_plain()) == made
