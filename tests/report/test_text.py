"""What a person reads: everything needed to act, in few lines, the verdict first."""

from __future__ import annotations

import dataclasses

import pytest
import samples

from pytest_fwcompare.records import VERDICTS, Comparison, TensorRow
from pytest_fwcompare.report.numbers import figure, number, seconds, size, times
from pytest_fwcompare.report.text import SENTENCES, headline, summary

SEMANTIC = """\
semantic: the tensorflow port does not compute the same function as the torch reference (cpu, \
float32, eager)
  where     encoder.1.norm2 of the torch reference
            block_1/layer_norm of the tensorflow port
  cause     epsilon
            with epsilon=0.001 (reference 1e-05) the difference falls 2.3e-03 to 4.0e-13
  worst     output logits[0, 3] of example 7: expected 0.52135, obtained 0.52311
            gap 2.3e-03 of the largest value, in float64; rounding the inputs and weights to
            float32 explains 5.6e-08 (41,000 times that)
            noise of float32: reference 1.2e-07, port 1.3e-07
            14,000 ULP apart in float32
  tensors   2 of 3 differ                       verdict       gap   jitter     ULP
            output logits                       semantic  2.3e-03  5.6e-08  14,000
            gradient of encoder.1.norm2.weight  semantic  1.1e-03  6.0e-08   9,000
  input     the smallest that shows it, from example 7 of 20: batch=1, time=2; images:
            normal, scale 0.01
            images = [[0.0, 0.01]]
            mask = [[true, false]]
  notice    TF32 is on
  replay    pytest --fwcompare 'tests/test_port.py::test_port[cpu-float32-eager]'"""

EQUIVALENT = """\
equivalent: the keras port computes the same function as the torch reference (cpu, float32, eager)
  judged    2 tensors (forward, backward) over 20 generated examples
            largest gap 2.1e-15 in float64 (output logits), where rounding to float32
            explains 5.0e-08; noise of the port 3.4e-07
  controls  1 of 2 deliberate disturbances were noticed
            not covered, nothing notices a change of: dead.bias
  time      torch: forward 1.00 ms, backward 2.00 ms, first call 250 ms (2 threads)
            keras: forward 2.50 ms, backward 5.00 ms, first call 250 ms, peak 3.0 MiB (2
            threads)"""


def test_a_failure() -> None:
    assert samples.semantic().summary() == SEMANTIC


def test_a_pass() -> None:
    assert summary(samples.equivalent()) == EQUIVALENT


def test_every_verdict_has_its_sentence() -> None:
    assert set(SENTENCES) == set(VERDICTS)
    for verdict in VERDICTS:
        assert headline(samples.semantic(verdict=verdict)).startswith(f"{verdict}: ")


def test_a_failed_run_says_what_happened() -> None:
    text = summary(
        Comparison("error", "torch", "jax", message="port, forward: TypeError: no such shape")
    )
    assert text.splitlines() == [
        "error: the jax port could not be compared with the torch reference (cpu, float32, eager)",
        "  port, forward: TypeError: no such shape",
    ]


def test_precision_is_told_by_noise_not_by_gap() -> None:
    row = TensorRow("output y", "output", "precision", 1e-15, 1e-7, 3e-4, 2e-7, index=(1,))
    text = summary(Comparison("precision", "torch", "keras", tensors=(row,)))
    assert "noise 3.0e-04 against 1.0e-07 of the reference and jitter 2.0e-07 (1,500 times" in text
    assert "in float64 both agree to 1.0e-15" in " ".join(text.split())


def test_nonfinite_shows_the_values() -> None:
    row = TensorRow(
        "output y",
        "output",
        "nonfinite",
        float("nan"),
        0,
        0,
        0,
        expected=1.5,
        obtained=float("inf"),
    )
    text = summary(Comparison("nonfinite", "torch", "keras", tensors=(row,)))
    assert "output y: expected 1.5, obtained inf" in text
    assert "gap" not in text


def test_an_output_is_shown_before_a_gradient_that_differs_more() -> None:
    rows = (
        TensorRow("gradient of x", "input gradient", "semantic", 0.9, 0, 0, 1e-8),
        TensorRow("output y", "output", "semantic", 0.1, 0, 0, 1e-8),
        TensorRow("output fine", "output", "equivalent", 1e-15, 0, 0, 1e-8),
    )
    text = summary(Comparison("semantic", "torch", "keras", tensors=rows))
    assert "worst     output y: " in text


def test_code_between_layers_is_named_as_such() -> None:
    between = samples.semantic(culprit="", between=("encoder.0", ""), port_culprit=None)
    assert "where     code between encoder.0 and (the ends) of the torch" in summary(between)
    alone = samples.semantic(culprit="", port_culprit=None)
    assert "where     code of the torch reference outside its layers" in summary(alone)


def test_a_culprit_that_is_not_known_is_not_claimed() -> None:
    unknown = samples.semantic(culprit=None, port_culprit=None, cause=None, evidence=())
    text = summary(unknown)
    assert "where" not in text
    assert "cause" not in text


def test_large_inputs_are_not_printed() -> None:
    worst = samples.semantic().examples.worst
    assert worst is not None
    for values in (None, {"images": [[0.123456] * 200], "mask": None}):
        changed = dataclasses.replace(worst, values=values)
        made = samples.semantic(
            examples=dataclasses.replace(samples.semantic().examples, worst=changed)
        )
        text = summary(made)
        assert "mask: shape (1, 2)" in text
        assert len(text) < 2500
        assert ("images = [[0.123456, " in text and " ..." in text) == (values is not None)


def test_many_tensors_are_cut_and_counted() -> None:
    rows = tuple(
        TensorRow(f"gradient of {i}", "parameter gradient", "semantic", i / 100, 0, 0, 1e-8)
        for i in range(1, 40)
    )
    text = summary(Comparison("semantic", "torch", "keras", tensors=rows))
    assert "39 of 39 differ" in text
    assert "and 33 more" in text
    assert "gradient of 39 " in text
    assert "gradient of 2 " not in text
    assert len(text.splitlines()) < 31


def test_a_stopwatch_that_did_not_wait_is_said() -> None:
    made = samples.equivalent(timings=(samples.timing("jax", 1.0, synchronised=False),))
    assert "not synchronised: the figures mislead" in " ".join(summary(made).split())


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (figure(0.0), "0"),
        (figure(2.345e-7), "2.3e-07"),
        (figure(float("nan")), "nan"),
        (number(0.1), "0.1"),
        (number(float("-inf")), "-inf"),
        (times(1.234), "1.2"),
        (times(41234.0), "41,000"),
        (times(6e10), "6.0e+10"),
        (times(float("inf")), "inf"),
        (seconds(1.2), "1.20 s"),
        (seconds(4.21e-3), "4.21 ms"),
        (seconds(3.12e-4), "312 us"),
        (seconds(5e-9), "5 ns"),
        (seconds(250.0), "250 s"),
        (size(12), "12 B"),
        (size(3 * 2**20), "3.0 MiB"),
        (size(5 * 2**40), "5120.0 GiB"),
    ],
)
def test_figures(made: str, expected: str) -> None:
    assert made == expected
