"""What every report for people says, in one place."""

from __future__ import annotations

import dataclasses

import pytest
import samples

from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import Attribution, Controls, Drift
from pytest_fwcompare.report.facts import command, facts, fastest, run_facts, sensitivity, title

RUN = samples.run()
RIGHT = RUN[0]


def said(label: str, result: Result) -> list[str]:
    return [fact.text for fact in facts(result.comparison) if fact.label == label]


def test_the_facts_of_a_failure_come_in_reading_order() -> None:
    labels = [fact.label for fact in facts(RUN[1].comparison)]
    assert list(dict.fromkeys(labels)) == [
        "Where",
        "Cause",
        "Evidence",
        "Also",
        "Hint",
        "Keras or the backend",
        "Compared",
        "Worst",
        "Sensitivity",
        "Not covered",
        "Drift",
        "Whose doing",
        "Changed since",
        "Notice",
        "Versions",
    ]


def test_every_further_difference_is_told_with_its_reason() -> None:
    assert said("Also", RUN[1]) == [
        "code between block_2 and fc of the torch reference; add_1 of the tensorflow port; "
        "residual: with the residual of the other branch it falls from 1 to 3e-16",
        "fc of the torch reference; no cause could be proved",
    ]


def test_drift_says_what_moved_and_whose_doing_it_was() -> None:
    assert said("Drift", RUN[1]) == [
        "verdict: equivalent -> semantic",
        "gap: 2.1e-15 -> 0.0023 (1.1e+12 times)",
    ]
    assert said("Changed since", RUN[1]) == ["tensorflow version: 2.20.0 -> 2.21.0"]


@pytest.mark.parametrize(
    ("drift", "text"),
    [
        (Drift("t"), "the baseline has no such case"),
        (Drift("t", verdict="equivalent"), "no figure moved by more than 2 times"),
    ],
)
def test_drift_that_is_none(drift: Drift, text: str) -> None:
    made = dataclasses.replace(RIGHT.comparison, drift=drift)
    assert [fact.text for fact in facts(made) if fact.label == "Drift"] == [text]


def test_what_was_not_compared_has_no_figures() -> None:
    labels = [fact.label for fact in facts(RUN[3].comparison)]
    assert labels == []
    assert run_fact("Worst", RUN) == ["tests/test_port.py::test_broken: error"]


def run_fact(label: str, results: list[Result]) -> list[str]:
    return [fact.text for fact in run_facts(results) if fact.label == label]


def test_a_run_is_summed_up() -> None:
    assert run_fact("Compared", RUN) == ["4 comparisons, 8 tensors, 44 examples"]
    assert run_fact("Sensitivity", RUN) == ["2 of 3 disturbances noticed, in 2 comparisons"]
    assert run_fact("Not covered", RUN) == [
        "dead.bias (tests/test_port.py::test_right)",
        "dead.bias (tests/test_port.py::test_wrong)",
    ]
    assert run_fact("Drift", RUN) == ["1 of 1 moved against the baseline"]
    assert run_fact("Versions", RUN) == ["keras 3.15.1, tensorflow 2.21.0, torch 2.13.0+cpu"]
    assert list(run_facts([])) == []


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ([], "No comparison was made"),
        (RUN[:1], "The comparison holds"),
        (RUN[1:2], "The comparison does not hold"),
        ([RIGHT, RIGHT], "All 2 comparisons hold"),
        (RUN, "3 of 4 comparisons do not hold"),
    ],
)
def test_the_title(chosen: list[Result], text: str) -> None:
    assert title(chosen) == text


def test_only_the_first_uncovered_names_are_listed() -> None:
    (fact,) = sensitivity(Controls(uncovered=tuple(f"w{number}" for number in range(11))))
    assert fact.text == "w0, w1, w2, w3, w4, w5, w6, w7 and 3 more"


def test_the_command_of_a_run_has_the_files_of_all_its_tests() -> None:
    made = [
        Result(
            test,
            test,
            1,
            1,
            samples.equivalent(
                replay=f"pytest --fwcompare --fwcompare-devices=cpu '{test}'\nmore"
            ),
        )
        for test in ("tests/a.py::test_x[1 2]", "tests/a.py::test_y", "tests/b c.py::test_z")
    ]
    assert command(made) == "pytest --fwcompare --fwcompare-devices=cpu tests/a.py 'tests/b c.py'"
    assert command(RUN[3:]) == ""
    hostile = Result("t.py::x", "g", 1, 1, samples.equivalent(replay="pytest 'unclosed"))
    assert command([hostile]) == ""


def test_the_fastest_of_a_group_is_over_all_its_results() -> None:
    quick = dataclasses.replace(RIGHT.comparison, timings=(samples.timing("jax", 0.5),))
    results = [RIGHT, dataclasses.replace(RIGHT, comparison=quick)]
    assert fastest(results) == {(RIGHT.group, 1): pytest.approx(1.5e-3)}


def test_the_answer_about_keras_is_told_with_its_layer_and_notes() -> None:
    found = Attribution("n", "LayerNormalization", "", "backend", ("jax",), notes=("by vote",))
    made = samples.semantic(attribution=found)
    (fact,) = [fact for fact in facts(made) if fact.label == "Keras or the backend"]
    assert fact.text == (
        "backend: only jax: n (LayerNormalization); by vote; to do: report it to Keras or jax"
    )
    unasked = Attribution("", "", "", "unasked", notes=("it is code of your own",))
    made = samples.semantic(attribution=unasked)
    (fact,) = [fact for fact in facts(made) if fact.label == "Keras or the backend"]
    assert fact.text == "Keras or the backend: not asked; it is code of your own"
    assert "  keras     Keras or the backend: not asked\n            it is code" in made.summary()
    assert not [f for f in facts(samples.semantic()) if f.label == "Keras or the backend"]
