"""Modules by depth: every one is told as what it is, wherever the difference begins."""

from __future__ import annotations

import numpy as np
import pytest
from test_locate import port_of, two_layers

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.diagnose import Diagnosis, diagnose
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.tree import depth_rows

LAYERS = [Parameter("a.proj.weight", (4, 4), "float32", True, "a.proj", "Linear", "weight")]


def rows_of(reference, port, layers=()):
    sides = Sides(reference, port)
    return depth_rows(sides, diagnose(reference, port, sides=sides), layers)


def statuses(rows):
    return [(row.path, row.kind, row.status) for row in rows]


def test_a_right_port_matches_all_the_way() -> None:
    rows = rows_of(two_layers(), port_of(two_layers()), LAYERS)
    assert statuses(rows) == [
        ("a.proj", "Linear", "matched"),
        ("a.act", "act", "matched"),
        ("", "add", "matched"),
        ("b", "sin", "matched"),
    ]
    assert {row.port_path for row in rows} == {"layer"}
    assert all(row.gap is not None and row.gap < 1e-15 for row in rows)


@pytest.mark.parametrize(
    ("layer", "kind", "shown"),
    [("a/proj", "Dense", "Dense"), ("a/proj/gru_cell", "GRUCell", "GRU")],
)
def test_the_class_of_a_layer_of_keras_is_told(layer, kind, shown) -> None:
    known = [Parameter(f"{layer}/kernel", (4, 4), "float32", True, layer, kind, "kernel")]
    rows = rows_of(two_layers(), port_of(two_layers()), known)
    assert (rows[0].path, rows[0].kind) == ("a.proj", shown)


def test_what_depends_on_the_culprit_is_after_it() -> None:
    wrong = two_layers(first=lambda x: np.tanh(x) + 1e-3)
    rows = rows_of(two_layers(), port_of(wrong))
    assert [row.status for row in rows] == ["matched", "culprit", "after", "after"]
    culprit = rows[1]
    assert culprit.gap == pytest.approx(1e-3, rel=0.1)
    assert culprit.port_path == "layer"
    assert rows[2].port_path is None
    assert rows[2].gap > 1e-5


def test_code_between_modules_is_marked_where_it_lies() -> None:
    rows = rows_of(two_layers(), port_of(two_layers(skip=1.001)))
    assert [row.status for row in rows] == ["matched", "matched", "culprit", "after"]


def test_an_operation_that_the_port_fuses_is_still_matched() -> None:
    rows = rows_of(two_layers(), port_of(two_layers(), fused=(2,)))
    assert [row.status for row in rows] == ["matched"] * 4


def test_two_independent_faults_are_both_culprits() -> None:
    from test_locate import Tape

    def pair(left, right):
        tape = Tape()
        x = tape.input(np.random.default_rng(1).normal(size=(3, 4)))
        one = tape.run("l", left(tape.value(x)), x, path="left")
        two = tape.run("r", right(tape.value(x)), x, path="right")
        tape.run("add", tape.value(one) * tape.value(two), one, two, path="join")
        return tape.records

    rows = rows_of(pair(np.tanh, np.sin), port_of(pair(lambda x: x * 1.1, lambda x: x - 0.1)))
    assert [(r.path, r.status) for r in rows] == [
        ("left", "culprit"), ("right", "culprit"), ("join", "after"),
    ]  # fmt: skip


def test_a_module_that_runs_nothing_itself_is_marked_at_its_first_wrong_part() -> None:
    reference, port = two_layers(), port_of(two_layers(first=lambda x: np.tanh(x) + 1e-3))
    rows = depth_rows(Sides(reference, port), Diagnosis(culprit="a"))
    assert [row.status for row in rows] == ["matched", "culprit", "after", "after"]


def test_without_a_culprit_what_is_missing_is_unmatched_not_accused() -> None:
    reference, port = two_layers(), port_of(two_layers(second=lambda x: np.sin(x) ** 3))
    rows = depth_rows(Sides(reference, port), Diagnosis())
    assert [row.status for row in rows] == ["matched", "matched", "matched", "unmatched"]


def test_gradients_that_part_make_a_culprit_and_those_before_it_follow() -> None:
    from test_locate import Tape

    def passes(factor):
        rng = np.random.default_rng(3)
        tape = Tape()
        x = tape.run("input", rng.normal(size=5), gradient=factor * np.arange(5.0))
        a = tape.run("tanh", np.tanh(tape.value(x)), x, path="a", gradient=factor * np.ones(5))
        b = tape.run("exp", np.exp(tape.value(a)), a, path="b", gradient=rng.normal(size=5))
        tape.run("sin", np.sin(tape.value(b)), b, path="c", gradient=rng.normal(size=5))
        return tape.records

    sides = Sides(passes(1.0), passes(0.5))
    rows = depth_rows(sides, Diagnosis(culprit="b", backward=True))
    assert [(row.path, row.status) for row in rows] == [
        ("a", "after"), ("b", "culprit"), ("c", "matched"),
    ]  # fmt: skip
    assert rows[0].backward_gap == pytest.approx(0.5)
    assert rows[2].backward_gap == 0.0


def test_a_network_without_modules_is_told_by_operations() -> None:
    from test_locate import Tape

    tape = Tape()
    x = tape.input(np.random.default_rng(4).normal(size=(3, 4)))
    y = tape.run("tanh", np.tanh(tape.value(x)), x)
    tape.run("exp", np.exp(tape.value(y)), y)
    assert statuses(rows_of(tape.records, tape.records)) == [
        ("", "tanh", "matched"), ("", "exp", "matched"),
    ]  # fmt: skip
