"""Ports that agree in float64 and lose digits, or overflow, on the way."""

from __future__ import annotations

import numpy as np
import pytest
from tape import Tape

from pytest_fwcompare.diagnose import diagnose
from pytest_fwcompare.diagnose.precision import bfloat16, float16, tensorfloat32

RNG = np.random.default_rng(6)
X = RNG.normal(size=(6, 8))
W, V = RNG.normal(size=(8, 8)), RNG.normal(size=(5, 8))


def network(narrow=lambda x: x, wide=lambda x: x):
    """Two linear layers; `narrow` acts between them, `wide` within the second."""
    tape = Tape()
    x = tape.input(X)
    a = tape.run("linear", X @ W.T, x, path="enc.fc", constants=(W,))
    b = tape.run("tanh", np.tanh(tape.value(a)), a, path="enc.act")
    inner = wide(narrow(tape.value(b))) @ wide(V).T
    c = tape.run("linear", inner, b, path="dec", constants=(V,))
    tape.run("sigmoid", 1 / (1 + np.exp(-tape.value(c))), c, path="out")
    return tape.records


def spoiled(**knobs):
    working = network(**knobs)[-1].value.astype(np.float32)
    return diagnose(
        network(), network(), verdict="precision", port_working_outputs={"output": working}
    )


@pytest.mark.parametrize(("rounding", "name"), [(bfloat16, "bfloat16"), (float16, "float16")])
def test_a_narrow_detour_between_modules_is_placed(rounding, name):
    found = spoiled(narrow=rounding)
    assert (found.culprit, found.cause) == ("", "low-precision"), found
    assert found.between == ("enc.act", "dec")
    assert f"values rounded to {name} after tanh of enc.act" in found.evidence[0]


def test_tf32_products_are_placed():
    found = spoiled(wide=tensorfloat32)
    assert (found.culprit, found.cause) == ("dec", "low-precision")
    assert "computed in TF32" in found.evidence[0]


def test_noise_without_a_pattern_is_not_explained():
    value = network()[-1].value
    working = value * (1 + 1e-3 * RNG.normal(size=value.shape))
    found = diagnose(
        network(), network(), verdict="precision", port_working_outputs={"output": working}
    )
    assert found.cause is None


def test_plain_float32_is_not_called_narrow():
    assert spoiled().cause is None


def variance(tape, one_pass, level):
    x = tape.input(X + level)
    value = tape.value(x)
    if not one_pass:
        return tape.run("var", value.var(axis=1), x, path="stats", dim=1)
    squares = tape.run("mul", value * value, x)
    mean = tape.run("mean", value.mean(axis=1), x)
    both = tape.run("mean", (value * value).mean(axis=1), squares)
    square = tape.run("mul", tape.value(mean) ** 2, mean)
    return tape.run("sub", value.var(axis=1), both, square)


@pytest.mark.parametrize(("one_pass", "cause"), [(True, "unstable-formula"), (False, None)])
def test_a_variance_in_one_pass_is_told(one_pass, cause):
    reference, port = Tape(), Tape()
    for tape, short in ((reference, False), (port, one_pass)):
        spread = variance(tape, short, 30.0)
        tape.run("sqrt", np.sqrt(tape.value(spread)), spread, path="root")
    found = diagnose(reference.records, port.records, verdict="precision")
    assert found.cause == cause
    if cause:
        assert found.culprit == "stats"
        assert "E[x^2] - E[x]^2" in found.evidence[0]


@pytest.mark.parametrize(("shifted", "cause"), [(False, "unstable-formula"), (True, None)])
def test_a_softmax_without_its_maximum_is_told(shifted, cause):
    scores = 40 * X
    top = scores.max(axis=1, keepdims=True)
    weights = np.exp(scores - top) / np.exp(scores - top).sum(axis=1, keepdims=True)
    reference, port = Tape(), Tape()
    x = reference.input(scores)
    reference.run("softmax", weights, x, path="soft", dim=1)
    y = port.input(scores)
    power = port.run("exp", np.exp(scores - top) if shifted else np.exp(scores), y)
    port.run("div", weights, power)
    found = diagnose(reference.records, port.records, verdict="nonfinite")
    assert found.cause == cause
    if cause:
        assert "without subtracting the maximum" in found.evidence[0]


def test_roundings_keep_what_fits():
    assert bfloat16(np.array([1.0, 1.0078125, 1.00390625, np.inf])).tolist() == [
        1.0,
        1.0078125,
        1.0,
        np.inf,
    ]
    assert tensorfloat32(np.array([1 + 2.0**-10, 1 + 2.0**-12])).tolist() == [1 + 2.0**-10, 1.0]
    assert float16(np.array([70000.0, 0.1])).tolist() == [np.inf, float(np.float16(0.1))]
