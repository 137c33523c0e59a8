"""The judge of Keras and its backends blames nobody without a witness."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pytest_fwcompare.diagnose.attribute import Given, judge
from pytest_fwcompare.records import Comparison

RNG = np.random.default_rng(3)
Y = RNG.normal(size=(3, 4))
DX, DW = RNG.normal(size=(3, 4)), RNG.normal(size=4)
ROUNDING = 2.0**-24


def given(who, shift=0.0, bend=0.0, noise=1e-7, gradients=True, coarse=None):
    """An answer that is off by `shift` in its outputs and by `bend` in its gradients."""
    coarse = who in ("torch", "jax", "numpy") if coarse is None else coarse
    rounded = Y * (1 + (3e-8 if coarse else 1e-16) * RNG.normal(size=Y.shape))
    found = {"input 0": DX + bend, "weight 0": DW + bend} if gradients else {}
    return Given(
        f"keras on {who}",
        {"output 0": rounded + shift},
        found,
        {"output 0": rounded + shift + noise * RNG.normal(size=Y.shape)},
        coarse=coarse,
    )


FORMULA = dataclasses.replace(given("numpy", coarse=False), who="numpy")
RAW = dataclasses.replace(given("tensorflow"), who="raw tensorflow")


def said(own, *others, formula=FORMULA, near=()):
    return judge("n", "Norm", "Norm" if formula else "", own, formula, RAW, others, near)


def test_a_layer_that_follows_its_formula_leaves_the_port() -> None:
    found = said(given("tensorflow"))
    assert (found.fault, found.answer) == ("port", "your port: Keras does what it documents")
    assert [answer.who for answer in found.answers] == [
        "keras on tensorflow", "raw tensorflow", "numpy",
    ]  # fmt: skip
    assert all(answer.agrees for answer in found.answers)


@pytest.mark.parametrize("wrong", [{"shift": 1e-3}, {"bend": 1e-2}])
def test_one_wrong_backend_is_named(wrong) -> None:
    found = said(given("tensorflow", **wrong), given("torch"), given("jax"))
    assert (found.fault, found.answer) == ("backend", "backend: only tensorflow")
    assert found.backends == ("tensorflow",)
    own = found.answers[0]
    assert own.agrees is False
    assert own.reason == ("other outputs" if "shift" in wrong else "other gradients")


def test_it_says_whom_to_tell_and_what_to_use_meanwhile() -> None:
    wrong = given("tensorflow", 1e-3)
    found = said(wrong, given("torch"), given("jax"), given("numpy", gradients=False))
    assert found.notes == (
        "raw tensorflow gives what is documented: the fault is in what Keras makes of it",
    )
    told = "report it to Keras; until it is mended, run Keras on torch or jax"
    assert found.advice == told, "NumPy has no gradients, so nobody is sent there"
    raw = dataclasses.replace(wrong, who="raw tensorflow")
    kinds = "n", "Norm", "Norm"
    found = judge(*kinds, wrong, FORMULA, raw, [given("torch")])
    assert found.notes == ("raw tensorflow gives something else, too, with no Keras in it",)
    told = "report it to tensorflow; until it is mended, run Keras on torch"
    assert found.advice == told
    silent = judge(*kinds, wrong, FORMULA, None, [given("torch")])
    assert silent.advice.startswith("report it to Keras or tensorflow; until")
    own = judge("n", "MyNorm", "Norm", wrong, FORMULA, RAW, [given("torch", 1e-3)])
    assert own.advice == "change MyNorm, or hold it against something else than Norm"
    assert said(wrong, given("torch", 1e-3)).advice == (
        "report it to Keras; until it is mended, write Norm with keras.ops"
    )
    assert said(given("tensorflow")).advice == "", "a right layer is nobody's business"


def test_two_wrong_backends_are_both_named() -> None:
    found = said(given("tensorflow", 1e-3), given("torch", 1e-3), given("jax"))
    assert found.answer == "backend: only tensorflow and torch"


def test_all_backends_wrong_is_keras() -> None:
    found = said(given("tensorflow", 1e-3), given("torch", 1e-3), given("jax", 1e-3))
    assert found.answer == "Keras: wrong on every backend"


def test_without_a_second_backend_nobody_is_blamed() -> None:
    found = said(given("tensorflow", 1e-3))
    assert (found.fault, found.backends) == ("undecided", ())
    assert "it may be Keras or its backend" in found.notes[0]
    failed = Given("keras on torch", reason="it cannot be imported")
    assert said(given("tensorflow", 1e-3), failed).fault == "undecided"


def test_a_wrong_backend_elsewhere_is_a_note_only() -> None:
    found = said(given("tensorflow"), given("torch"), given("jax", 1e-3))
    assert found.fault == "port"
    assert found.notes == ("on jax Keras gives something else",)


def test_an_error_below_what_float32_tells_needs_a_better_witness() -> None:
    own = given("tensorflow", 5e-6)
    found = said(own, given("torch"), given("jax"))
    assert found.fault == "undecided"
    assert [a.agrees for a in found.answers if a.who.endswith(("torch", "jax"))] == [None, None]
    exact = said(own, given("torch", coarse=False))
    assert exact.answer == "backend: only tensorflow"


def test_a_backend_without_gradients_is_no_witness_for_them() -> None:
    own, forward_only = given("tensorflow", bend=1e-2), given("numpy", gradients=False)
    assert said(own, forward_only).fault == "undecided"
    assert said(own, forward_only, given("torch")).answer == "backend: only tensorflow"


def test_noise_beyond_rounding_is_held_against_a_backend() -> None:
    found = said(given("tensorflow", noise=1e-3), given("torch"))
    assert found.answer == "backend: only tensorflow"
    assert found.answers[0].reason == "other outputs in the working dtype"


def test_a_constant_of_float32_is_no_noise_of_float64() -> None:
    """tf.nn.gelu has such, and Keras computes in float32 on its other backends."""
    own = given("tensorflow", noise=6e-9)
    exact = dataclasses.replace(FORMULA, working=FORMULA.outputs)
    rounded = given("torch", noise=5e-8)
    found = judge("n", "Dense", "Dense", own, exact, RAW, [rounded], roundoff=2.0**-53)
    assert found.fault == "port"
    assert all(answer.agrees for answer in found.answers), found
    worse = given("tensorflow", noise=1e-4)
    found = judge("n", "Dense", "Dense", worse, exact, RAW, [rounded], roundoff=2.0**-53)
    assert found.answer == "backend: only tensorflow"


def test_kinks_are_nobodys_fault_and_smooth_points_are() -> None:
    own = given("tensorflow", bend=0.5)
    jumps = [{"input 0": DX + s, "weight 0": DW + s} for s in (0.0, 0.5)]
    assert said(own, given("torch"), near=jumps).fault == "port"
    still = [{"input 0": DX + 1e-9, "weight 0": DW}]
    assert said(own, given("torch"), near=still).answer == "backend: only tensorflow"


def test_without_a_formula_the_backends_outvote_one() -> None:
    agree = said(given("tensorflow"), given("torch"), given("jax"), formula=None)
    assert agree.fault == "undecided"
    assert "no formula is known" in agree.notes[0]
    odd = said(given("tensorflow", 1e-2), given("torch"), given("jax"), formula=None)
    assert odd.answer == "backend: only tensorflow"
    alone = said(given("tensorflow"), formula=None)
    assert alone.fault == "undecided"
    tie = said(given("tensorflow"), given("torch", 1e-2), formula=None)
    assert tie.fault == "undecided"


@pytest.mark.parametrize("broken", ["nan", "shape", "none"])
def test_nan_other_shapes_and_nothing_are_wrong(broken) -> None:
    own = given("tensorflow")
    outputs = {
        "nan": {"output 0": np.where(Y > 0, np.nan, Y)},
        "shape": {"output 0": Y[:2]},
        "none": {"output 1": Y},
    }[broken]
    found = said(dataclasses.replace(own, outputs=outputs), given("torch"))
    assert found.answer == "backend: only tensorflow"
    assert found.answers[0].forward == float("inf")


def test_the_record_survives_json() -> None:
    found = said(given("tensorflow", 1e-3), given("torch"))
    made = Comparison("semantic", "torch", "keras", attribution=found)
    assert Comparison.from_json(made.to_json()) == made
    text = made.summary()
    assert "  keras     backend: only tensorflow\n" in text
    assert "raw tensorflow" in text
