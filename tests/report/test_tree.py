"""The tree in the summary: short however deep the network, and it never hides the culprit."""

from __future__ import annotations

import samples

from pytest_fwcompare.records import DepthRow
from pytest_fwcompare.report.text import summary
from pytest_fwcompare.report.tree import MOST_LINES, tree_lines


def lines_of(*rows: tuple[str, str] | DepthRow) -> list[str]:
    made = [r if isinstance(r, DepthRow) else DepthRow(r[0], "Linear", r[1]) for r in rows]  # type: ignore[arg-type]
    return tree_lines(samples.semantic(depth=tuple(made)))


def test_runs_of_modules_that_fare_alike_are_one_line() -> None:
    rows = [
        DepthRow("stem", "Linear", "matched", "stem", 1e-16),
        *(
            DepthRow(f"blocks.{n}.{part}", "Linear", "matched", "p", 3e-16)
            for n in range(3)
            for part in ("norm", "up")
        ),
        DepthRow("blocks.3.norm", "LayerNorm", "culprit", "n3", 2.6e-3, 1e-3),
        DepthRow("blocks.3.up", "Linear", "after", None, 1e-3),
        DepthRow("blocks.3", "add", "after", None, 1e-3),
        DepthRow("blocks.4.norm", "LayerNorm", "after", None, 1e-3),
        DepthRow("head", "Linear", "after", None, 1e-3),
    ]
    assert lines_of(*rows) == [
        "stem                   matches to 1.0e-16",
        "blocks",
        "  0 ... 2              6 match to 3.0e-16",
        "  3",
        "    norm               <- the difference begins here, gap 2.6e-03",
        "    up ... (code) add  2 after it",
        "  4                    after it",
        "head                   after it",
    ]


def test_a_pass_and_a_failure_without_a_place_have_no_tree() -> None:
    assert lines_of() == []
    assert lines_of(("a", "matched"), ("b", "unmatched")) == []
    assert "modules" not in summary(samples.equivalent())


def test_gradients_that_part_are_said_to() -> None:
    rows = (
        DepthRow("a", "Linear", "after", None, 1e-16, 0.5),
        DepthRow("b", "Tanh", "culprit", "b", 1e-16, 0.25),
        DepthRow("c", "Linear", "matched", "c", 1e-16, 1e-15),
    )
    assert lines_of(*rows) == [
        "a  after it",
        "b  <- the difference begins here, gap of the gradient 2.5e-01",
        "c  matches to 1.0e-16",
    ]


def test_deep_networks_and_many_culprits_stay_short() -> None:
    deep = ".".join(f"level{n}" for n in range(12))
    around = [
        row
        for n in range(12)
        for row in (
            (".".join(f"level{m}" for m in range(n)) + f".before{n}".lstrip("."), "matched"),
        )
    ]
    found = lines_of(*around, (deep + ".layer", "culprit"))
    assert len(found) <= MOST_LINES
    assert any("layer" in line and "begins here" in line for line in found)
    many = lines_of(*((f"block{n}.norm", "culprit") for n in range(40)))
    assert len(many) == MOST_LINES
    assert many[-1] == f"and {40 - MOST_LINES + 1} more"


def test_paths_of_keras_are_split_at_slashes() -> None:
    assert lines_of(("a/b", "matched"), ("a/c", "culprit")) == [
        "a",
        "  b  matches",
        "  c  <- the difference begins here",
    ]


def test_the_summary_shows_the_tree_between_cause_and_worst() -> None:
    text = summary(samples.semantic(depth=(DepthRow("a", "Linear", "culprit", "b", 0.5),)))
    lines = text.splitlines()
    place = next(n for n, line in enumerate(lines) if line.startswith("  modules"))
    assert lines[place] == "  modules   a  <- the difference begins here, gap 5.0e-01"
    assert place < next(n for n, line in enumerate(lines) if line.startswith("  worst"))
