"""The same network with the same weights in every framework, and copies that go wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Placement
from pytest_fwcompare.building import build_identical, fill
from pytest_fwcompare.errors import ModelError, UsageError
from pytest_fwcompare.weights.transforms import Transpose

NETWORK = fn.Sequential(
    [fn.Conv2D(4, 3), fn.BatchNorm(), fn.Activation("relu"), fn.Flatten(), fn.Dense(3)],
    input_shape=(5, 5, 2),
    name="small",
)
INSTALLED = [name for name, reason in registry.available().items() if reason is None]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return build_identical(NETWORK, INSTALLED, seed=3)


@pytest.mark.parametrize("framework", INSTALLED)
def test_native_models_give_the_same_in_their_own_layout(
    models: dict[str, Any], framework: str
) -> None:
    images = np.random.default_rng(0).standard_normal((2, 5, 5, 2)).astype(np.float32)
    expected = np.asarray(models["numpy"](images))
    if framework == "torch":
        torch = pytest.importorskip("torch")
        with torch.no_grad():
            obtained = models["torch"](torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    else:
        obtained = models[framework](images)
    assert np.abs(np.asarray(obtained) - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(expected).max() > 0.1


def test_seeds_give_other_weights() -> None:
    one, other = (build_identical(NETWORK, ["numpy"], seed=seed)["numpy"] for seed in (1, 2))
    images = np.ones((1, 5, 5, 2), np.float32)
    assert np.abs(np.asarray(one(images)) - np.asarray(other(images))).max() > 1e-3


def test_given_values_are_used() -> None:
    values = {"dense.kernel": np.zeros((36, 3)), "dense.bias": np.array([1.0, -2.0, 3.0])}
    model = build_identical(NETWORK, ["numpy"], values=values)["numpy"]
    obtained = np.asarray(model(np.ones((1, 5, 5, 2), np.float32)))
    assert np.array_equal(obtained, [[1.0, -2.0, 3.0]])


def test_a_value_for_no_parameter_is_refused() -> None:
    with pytest.raises(UsageError, match=r"small: no parameter 'dense\.weight'; .*dense\.kernel"):
        build_identical(NETWORK, ["numpy"], values={"dense.weight": np.zeros((36, 3))})


class Forgetful:
    """A side that keeps one parameter's old value, or takes it the wrong way round."""

    role = "torch"

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.values = {"weight": np.zeros((3, 2), np.float32), "bias": np.zeros(3, np.float32)}

    def parameters(self) -> list[Any]:
        from pytest_fwcompare.backends.base import Parameter

        return [Parameter(n, v.shape, "float32", True) for n, v in self.values.items()]

    def load(self, values: Mapping[str, np.ndarray], precision: str) -> None:
        for name, value in values.items():
            if self.fault == f"forgets {name}":
                continue
            self.values[name] = value + (1e-7 if self.fault == f"rounds {name}" else 0)

    def read(self) -> dict[str, np.ndarray]:
        return self.values


PLACEMENTS = (
    Placement("weight", ("dense.kernel",), Transpose((1, 0))),
    Placement("bias", ("dense.bias",), Transpose((0,))),
)
CANONICAL = {"dense.kernel": np.arange(1.0, 7.0).reshape(2, 3), "dense.bias": np.ones(3)}


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("fault", ["forgets", "rounds"])
def test_a_copy_that_did_not_arrive_bit_for_bit_is_caught(fault: str, name: str) -> None:
    with pytest.raises(ModelError, match=rf"torch, copy: parameter '{name}' of shape .* written"):
        fill(Forgetful(f"{fault} {name}"), PLACEMENTS, CANONICAL)  # type: ignore[arg-type]


def test_a_copy_that_arrived_passes() -> None:
    side = Forgetful("nothing")
    fill(side, PLACEMENTS, CANONICAL)  # type: ignore[arg-type]
    assert side.values["weight"].tolist() == [[1, 4], [2, 5], [3, 6]]
