from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.weights import randomise

from .trees import bert_keras_hub, bert_torch, parameter


def current(parameters, value=0.0):
    return {p.name: np.full(p.shape, value, p.dtype) for p in parameters}


def test_kernels_have_rows_of_about_unit_length() -> None:
    parameters = [
        parameter("linear.weight", (50, 400), "Linear"),
        parameter("conv.weight", (40, 30, 3, 3), "Conv2d"),
        parameter("up.weight", (30, 40, 3, 3), "ConvTranspose2d"),
        parameter("dense.kernel", (400, 50), "Dense"),
        parameter("conv_last.kernel", (3, 3, 30, 40), "Conv2D"),
    ]
    made = randomise(parameters, current(parameters), 0)
    for name, fan in zip(made, (400, 270, 270, 400, 270), strict=True):
        assert made[name].std() == pytest.approx(fan**-0.5, rel=0.05), name


def test_roles_have_their_ranges() -> None:
    norm = [parameter(f"bn.{role}", (400,), "BatchNorm2d")
            for role in ("weight", "bias", "running_mean", "running_var")]  # fmt: skip
    rest = [parameter("embed.weight", (300, 20), "Embedding"),
            parameter("lstm.bias_ih_l0", (400,), "LSTM"),
            parameter("act.weight", (400,), "PReLU")]  # fmt: skip
    made = randomise([*norm, *rest], current([*norm, *rest]), 1)
    assert 0.5 <= made["bn.weight"].min() < 0.6 < 1.4 < made["bn.weight"].max() <= 1.5
    assert 0.3 <= made["bn.running_var"].min() < made["bn.running_var"].max() <= 1.5
    for name in ("bn.bias", "bn.running_mean", "lstm.bias_ih_l0"):
        assert made[name].std() == pytest.approx(0.3, rel=0.15)
    assert made["embed.weight"].std() == pytest.approx(1, rel=0.05)
    assert made["embed.weight"][0].any()
    assert 0 < made["act.weight"].min() < made["act.weight"].max() < 1


def test_constants_of_the_network_stay() -> None:
    table = Parameter("rope.inv_freq", (4,), "float32", False, "rope", "Rotary", "inv_freq")
    mask = Parameter("mask", (3, 3), "float32", False, "", "Net", "mask")
    values = {"rope.inv_freq": np.linspace(0.1, 1, 4, dtype="f4"), "mask": np.tri(3, dtype="f4")}
    made = randomise([table, mask], values, 2)
    for name, value in values.items():
        np.testing.assert_array_equal(made[name], value)


def test_scalars_keep_sign_and_size() -> None:
    parameters = [Parameter(n, (), "float32", True, role=n) for n in ("gain", "level", "zero")]
    values = {"gain": np.float32(-4), "level": np.float32(1e-3), "zero": np.float32(0)}
    made = randomise(parameters, values, 3)
    assert -6 <= made["gain"] <= -2
    assert 0.5e-3 <= made["level"] <= 1.5e-3
    assert made["zero"] != 0


def test_positive_tables_stay_positive() -> None:
    table = [Parameter("freq", (50,), "float32", True, "x", "Filter", "freq")]
    made = randomise(table, {"freq": np.geomspace(1e-3, 1e3, 50).astype("f4")}, 4)["freq"]
    assert (made > 0).all()
    assert made[0] < 2e-3
    assert made[-1] > 400


@pytest.mark.parametrize("tree", [bert_torch, bert_keras_hub])
def test_nothing_stays_at_its_default(tree) -> None:
    parameters = tree()
    made = randomise(parameters, current(parameters), 5)
    assert list(made) == [p.name for p in parameters]
    for p in parameters:
        assert made[p.name].shape == p.shape
        assert made[p.name].all(), p.name
        np.testing.assert_array_equal(made[p.name], made[p.name].astype(np.float32))


def test_a_seed_gives_the_same_values_and_float32_ones_in_float64() -> None:
    parameters = bert_torch()
    first, again = (randomise(parameters, current(parameters), 6) for _ in range(2))
    other = randomise(parameters, current(parameters), 7)
    wide = {p.name: np.zeros(p.shape) for p in parameters}
    double = randomise(parameters, wide, 6)
    for p in parameters:
        np.testing.assert_array_equal(first[p.name], again[p.name])
        np.testing.assert_array_equal(first[p.name].astype(np.float64), double[p.name])
        assert (first[p.name] != other[p.name]).any()
    assert double["pooler.dense.bias"].dtype == np.float64
