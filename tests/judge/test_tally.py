from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.judge.tally import Finding, Tally, plain_verdict
from pytest_fwcompare.judge.verdict import Observed, assess


def finding(verdict, number=0, gap=0.0):
    value = np.array([1.0, 2.0])
    judged = assess(Observed("output x", "output", value, value + gap, value, value + gap, 1e-7))
    return Finding(f"example {number}", number, verdict, (judged,))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["equivalent"], "equivalent"),
        (["equivalent", "subgradient"], "subgradient"),
        (["precision", "subgradient"], "precision"),
        (["nonfinite", "precision"], "nonfinite"),
        (["semantic", "nonfinite"], "semantic"),
        (["semantic", "nonfinite", "nonfinite"], "nonfinite"),
        (["equivalent", "semantic", "precision"], "semantic"),
        ([], "equivalent"),
    ],
)
def test_verdict_over_all_examples(verdicts, expected):
    tally = Tally()
    for number, verdict in enumerate(verdicts):
        tally.add(finding(verdict, number))
    assert tally.verdict == expected


def test_the_worst_example_is_the_one_that_shows_the_verdict_most():
    tally = Tally()
    tally.add(finding("semantic", 0, gap=1e-3))
    tally.add(finding("semantic", 1, gap=1e-1))
    tally.add(finding("equivalent", 2))
    worst = tally.worst()
    assert worst is not None
    assert worst.number == 1
    (row,) = tally.rows()
    assert row.example == 1
    assert row.gap == pytest.approx(0.05)


def test_plain_verdict_takes_the_gravest():
    good, bad = finding("equivalent").assessments, finding("x", gap=1.0).assessments
    assert plain_verdict(good + bad) == "semantic"
    assert plain_verdict(()) == "equivalent"


@pytest.mark.parametrize(("noisy", "expected"), [(1, "equivalent"), (4, "precision")])
def test_accuracy_lost_in_gradients_alone_must_show_on_half_of_the_examples(noisy, expected):
    value = np.array([1.0, 2.0])
    coarse = Observed(
        "gradient of w", "input gradient", value, value, value, value * (1 + 1e-3), 1e-7, 2.0
    )
    judged = assess(coarse)
    assert judged.verdict == "precision"
    tally = Tally()
    for number in range(8):
        verdict = "precision" if number < noisy else "equivalent"
        tally.add(Finding("x", number, verdict, (judged,)))
    assert tally.verdict == expected


def test_accuracy_lost_in_one_output_is_enough():
    value = np.array([1.0, 2.0])
    judged = assess(Observed("output x", "output", value, value, value, value * (1 + 1e-3), 1e-7))
    tally = Tally()
    tally.add(Finding("x", 0, "precision", (judged,)))
    for number in range(1, 9):
        tally.add(finding("equivalent", number))
    assert tally.verdict == "precision"


def test_a_row_gives_the_largest_jitter_that_was_drawn():
    value = np.array([1.0, 2.0])
    tally = Tally()
    for number, (jitter, gap) in enumerate([(2e-7, 0.0), (4e-7, 0.0), (None, 1e-15)]):
        near = value + gap
        judged = assess(Observed("output x", "output", value, near, value, near, jitter))
        tally.add(Finding("x", number, "equivalent", (judged,)))
    (row,) = tally.rows()
    assert row.example == 2
    assert row.jitter == pytest.approx(2e-7)
