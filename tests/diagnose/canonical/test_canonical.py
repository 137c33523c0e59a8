"""Patterns of primitives are folded where the values prove it, and only there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from tape import Tape

from pytest_fwcompare.diagnose.canonical import canonical
from pytest_fwcompare.diagnose.operations import Folded, understand
from pytest_fwcompare.diagnose.operations.elementwise import erf, sigmoid

RNG = np.random.default_rng(2)
X = RNG.normal(size=(3, 5, 8))
GAIN, SHIFT = RNG.normal(size=8), RNG.normal(size=8)
PARAMETERS = {"gain": GAIN, "shift": SHIFT}


def folded(tape: Tape, parameters=None) -> list[Folded]:
    return [r for r in canonical(tape.records, parameters or PARAMETERS) if isinstance(r, Folded)]


def kinds(tape: Tape) -> list[str]:
    return [record.known.kind for record in folded(tape)]


def layer_norm(tape: Tape, x: int, eps: float, wrong: float = 0.0) -> int:
    value = tape.value(x)
    mean = tape.run("mean", value.mean(-1, keepdims=True), x)
    centred = tape.run("sub", value - tape.value(mean), x, mean)
    square = tape.run("square", tape.value(centred) ** 2, centred)
    variance = tape.run("mean", tape.value(square).mean(-1, keepdims=True), square)
    kept = tape.run("add", tape.value(variance) + eps, variance, constants=(np.array(eps),))
    root = tape.run("rsqrt", 1 / np.sqrt(tape.value(kept)), kept)
    unit = tape.run("mul", tape.value(centred) * tape.value(root) + wrong * value, centred, root)
    scaled = tape.run("mul", tape.value(unit) * GAIN, unit, constants=(GAIN,), parameters=["gain"])
    return tape.run(
        "add", tape.value(scaled) + SHIFT, scaled, constants=(SHIFT,), parameters=["shift"]
    )


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 1e-12])
def test_nine_primitives_are_a_layer_norm(eps: float) -> None:
    tape = Tape()
    layer_norm(tape, tape.input(X), eps)
    (found,) = folded(tape)
    assert (found.operation, found.inputs) == ("layer_norm", (0,))
    assert found.known.options["eps"] == eps
    assert found.known.options["axes"] == (2,)
    assert understand(found) is not None


def test_something_beside_the_norm_is_no_norm() -> None:
    tape = Tape()
    layer_norm(tape, tape.input(X), 1e-5, wrong=1e-6)
    assert "norm" not in kinds(tape)


def test_what_others_use_is_kept() -> None:
    tape = Tape()
    x = tape.input(X)
    layer_norm(tape, x, 1e-5)
    tape.run("neg", -tape.value(1), 1)  # the mean goes elsewhere, too
    left = [record.operation for record in canonical(tape.records, PARAMETERS)]
    assert left == ["input", "mean", "layer_norm", "neg"]


def gelu(tape: Tape, x: int) -> int:
    value = tape.value(x)
    inner = tape.run("mul", value / np.sqrt(2), x, constants=(np.array(0.5**0.5),))
    wave = tape.run("erf", erf(tape.value(inner)), inner)
    more = tape.run("add", tape.value(wave) + 1, wave, constants=(np.array(1.0),))
    half = tape.run("mul", 0.5 * value, x, constants=(np.array(0.5),))
    return tape.run("mul", tape.value(half) * tape.value(more), half, more)


def silu(tape: Tape, x: int) -> int:
    gate = tape.run("logistic", sigmoid(tape.value(x)), x)
    return tape.run("mul", tape.value(x) * tape.value(gate), x, gate)


def leaky(tape: Tape, x: int) -> int:
    value = tape.value(x)
    low = tape.run("mul", 0.2 * value, x, constants=(np.array(0.2),))
    return tape.run(
        "select_n", np.where(value >= 0, value, 0.2 * value), low, x, constants=(value >= 0,)
    )


ACTIVATIONS = {
    "gelu": (gelu, {"approximate": "none"}),
    "silu": (silu, {}),
    "leaky_relu": (leaky, {"negative_slope": 0.2}),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_written_out(name: str) -> None:
    write, options = ACTIVATIONS[name]
    tape = Tape()
    write(tape, tape.input(X))
    (found,) = folded(tape)
    assert found.known.options == {"function": name, **options}


def test_a_product_of_two_tensors_is_no_activation() -> None:
    tape = Tape()
    x, other = tape.input(X), tape.input(RNG.normal(size=X.shape))
    gate = tape.run("logistic", sigmoid(tape.value(other)), other)
    tape.run("mul", tape.value(x) * tape.value(gate), x, gate)
    assert not folded(tape)


def softmax(tape: Tape, x: int, axis: int) -> int:
    value = tape.value(x)
    top = tape.run("reduce_max", value.max(axis, keepdims=True), x)
    power = tape.run(
        "exp", np.exp(value - tape.value(top)), tape.run("sub", value - tape.value(top), x, top)
    )
    total = tape.run("reduce_sum", tape.value(power).sum(axis, keepdims=True), power)
    return tape.run("div", tape.value(power) / tape.value(total), power, total)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_along_any_axis(axis: int) -> None:
    tape = Tape()
    softmax(tape, tape.input(X), axis)
    (found,) = folded(tape)
    assert (found.operation, found.known.options["axis"]) == ("softmax", axis)


def test_a_mask_on_the_way_into_a_softmax_stays() -> None:
    tape = Tape()
    x, mask = tape.input(X), tape.input(np.zeros(X.shape))
    masked = tape.run("add", X + 0.0, x, mask)
    softmax(tape, masked, 2)
    left = [record.operation for record in canonical(tape.records, {})]
    assert left == ["input", "input", "add", "softmax"]


def test_a_sum_divided_by_its_count_is_a_mean() -> None:
    tape = Tape()
    x = tape.input(X)
    total = tape.run("reduce_sum", X.sum(1), x)
    tape.run("div", X.sum(1) / 5, total, constants=(np.array(5.0),))
    (found,) = folded(tape)
    assert found.known.options == {"function": "mean", "axes": (1,), "keepdims": False}


def test_a_sum_divided_by_another_number_is_none() -> None:
    tape = Tape()
    x = tape.input(X)
    total = tape.run("reduce_sum", X.sum(1), x)
    tape.run("div", X.sum(1) / 6, total, constants=(np.array(6.0),))
    assert not folded(tape)


def test_numbers_are_told_from_parameters() -> None:
    tape = Tape()
    x = tape.input(X)
    tape.run("mul", 0.1 * X, x, constants=(np.array(0.1),))
    tape.run("mul", GAIN[0] * X, x, constants=(GAIN[:1].reshape(()),), parameters=["scale"])
    plain = canonical(tape.records, {"scale": GAIN[:1].reshape(())})
    assert plain[1].attributes == {"number": 0.1}
    assert len(plain[1].arguments) == 1
    assert len(plain[2].arguments) == 2


def test_paths_of_keras_are_written_with_dots() -> None:
    tape = Tape()
    tape.run("neg", -X, tape.input(X), path="block/norm")
    assert canonical(tape.records, {})[1].path == "block.norm"


def gru(x, kernel, recurrent, bias, state):
    for now in x:
        into, onto = now @ kernel + bias[0], state @ recurrent + bias[1]
        z, r = (sigmoid(into[:, i : i + 4] + onto[:, i : i + 4]) for i in (0, 4))
        new = np.tanh(into[:, 8:] + r * onto[:, 8:])
        state = z * state + (1 - z) * new
        yield state


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_loop_is_the_layer_that_it_computes(spoiled: bool) -> None:
    x = RNG.normal(size=(6, 3, 5))
    held = {
        "cell.kernel": RNG.normal(size=(5, 12)),
        "cell.recurrent": RNG.normal(size=(4, 12)),
        "cell.bias": RNG.normal(size=(2, 12)),
    }
    value = np.stack(list(gru(x, *held.values(), np.zeros((3, 4)))))
    value = value + 1e-6 * np.sin(value) * spoiled
    tape = Tape()
    tape.run("scan", value, tape.input(x), constants=held.values(), parameters=held)
    found = folded(tape, held)
    assert [record.operation for record in found] == ([] if spoiled else ["gru"])
    if not spoiled:
        assert understand(found[0]) is not None
