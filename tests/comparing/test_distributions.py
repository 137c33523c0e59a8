"""Histograms of both sides, taken while both are open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import pytest_fwcompare as fwc
from pytest_fwcompare import TensorSpec
from pytest_fwcompare.comparing.distributions import distribution
from pytest_fwcompare.records import Comparison, Distribution

INPUTS = {"x": TensorSpec(("batch", 3))}


class Net(torch.nn.Module):
    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.inner, self.outer = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        self.slope = slope

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.slope * torch.tanh(self.inner(x)))


def compared(port: Any, **keywords: Any) -> Comparison:
    return fwc.compare(Net(), port, inputs=INPUTS, examples=2, distributions=True, **keywords)


def by_key(made: Comparison) -> dict[tuple[str, str, str], Distribution]:
    return {(found.role, found.kind, found.name): found for found in made.distributions}


def test_both_sides_stand_under_the_reference_s_names() -> None:
    import keras

    port = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    )
    found = by_key(compared(port))
    names = {"inner.weight", "inner.bias", "outer.weight", "outer.bias"}
    kinds = ("parameter", "gradient")
    assert set(found) == {
        (role, kind, name) for role in ("reference", "port") for kind in kinds for name in names
    }
    held = Net().inner.weight.detach().numpy()
    for role in ("reference", "port"):
        kernel = found[role, "parameter", "inner.weight"]
        assert sum(kernel.counts) == 12
        assert kernel.total == pytest.approx(held.sum(), rel=1e-5)
        assert kernel.squares == pytest.approx((held**2).sum(), rel=1e-5)


def test_another_function_has_other_gradients_and_the_same_parameters() -> None:
    found = by_key(compared(Net(slope=2.0)))
    sums = {key: value.squares for key, value in found.items()}
    assert sums["port", "parameter", "inner.weight"] == pytest.approx(
        sums["reference", "parameter", "inner.weight"]
    )
    assert sums["port", "gradient", "inner.weight"] == pytest.approx(
        4 * sums["reference", "gradient", "inner.weight"], rel=1e-4
    )


def test_given_weights_are_shown_as_they_were_given() -> None:
    port = Net()
    with torch.no_grad():
        port.inner.weight *= 2
    found = by_key(compared(port, weights="given"))
    sums = {
        role: found[role, "parameter", "inner.weight"].squares for role in ("reference", "port")
    }
    assert sums["port"] == pytest.approx(4 * sums["reference"], rel=1e-5)


def test_nothing_is_kept_unless_asked_for() -> None:
    assert fwc.compare(Net(), Net(), inputs=INPUTS, examples=1).distributions == ()


def test_what_is_not_finite_is_counted_apart() -> None:
    found = distribution("w", "parameter", "port", np.array([1.0, np.nan, np.inf, 3.0]))
    assert (sum(found.counts), found.nonfinite, found.total) == (2, 2, 4.0)
    empty = distribution("w", "parameter", "port", np.array([np.nan]))
    assert (empty.counts, empty.edges, empty.nonfinite) == ((), (), 1)


def test_it_survives_json() -> None:
    made = compared(Net())
    assert Comparison.from_json(made.to_json()) == made
