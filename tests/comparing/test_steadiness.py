"""A framework that differs from itself between two equal runs is named before anybody else."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.comparing.steadiness import Unsteady, between_calls
from pytest_fwcompare.running.points import Run

torch = pytest.importorskip("torch")

INPUTS = {"x": fwc.TensorSpec(("batch", 4))}


class Unsettled(torch.nn.Module):
    """As a GPU that forms a sum in another order each time: what it adds never repeats itself.

    Args:
        narrow: size of the difference, relative to the largest value, in the working dtype.
        wide: the same in float64.
    """

    def __init__(self, narrow, wide):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 3)
        self.sizes = {torch.float64: wide}
        self.narrow, self.calls = narrow, [0]

    def forward(self, x):
        self.calls[0] += 1
        size = self.sizes.get(x.dtype, self.narrow) * (self.calls[0] % 7)
        y = self.linear(x)
        return y + size * y.detach().abs().max()


def compared(narrow, wide, **keywords):
    reference = Unsettled(0.0, 0.0)
    return fwc.compare(reference, Unsettled(narrow, wide), inputs=INPUTS, examples=4, **keywords)


@pytest.mark.parametrize("wide", [0.0, 1e-13])
def test_an_order_of_sums_is_told_with_its_size(wide):
    """Its shadow repeats itself, or differs by the roundings of float64 as the sums there do."""
    found = compared(1e-4, wide)
    assert found.verdict == "precision"
    assert found.unlike_itself == "port"
    assert "the port is non-deterministic: two equal calls of torch differ by" in found.message
    assert "of the largest value of output" in found.message
    assert (
        "ask torch for deterministic operations (torch.use_deterministic_algorithms(True)) and "
        "compare again" in found.message
    )
    assert ("its float64 shadow is the same to" in found.message) is bool(wide)


def test_a_difference_of_a_few_roundings_is_a_notice():
    found = compared(2e-8, 0.0)
    assert found.verdict == "equivalent", found.summary()
    assert any("the port is non-deterministic: two equal" in text for text in found.notices)


def test_random_numbers_are_no_order_of_sums():
    found = compared(1e-2, 1e-2)
    assert (found.verdict, found.cause) == ("semantic", "dropout")


@pytest.mark.parametrize(
    ("working", "double", "random"),
    [
        ((1.0, 1.1), (1.0, 1.1), True),
        ((1.0, np.inf), (1.0, 1.2), True),
        ((1.0, np.inf), (1.0, np.inf), True),
        ((1.0, 1.1), (1.0, 1.0), False),
        ((1.0, 1.1), (1.0, 1.0 + 1e-15), False),
        ((1.0, np.inf), (1.0, 1.0 + 1e-15), False),
    ],
)
def test_what_tells_random_numbers(working, double, random):
    values = {"working": iter(working), "double": iter(double)}

    def run(role, point, precision):
        return Run({"y": np.array([next(values[precision])])})

    side = SimpleNamespace(side=SimpleNamespace(framework="torch"))
    pair = SimpleNamespace(run=run, opened=lambda role: side, dtype="float32")
    found = between_calls(pair, "port", None, lambda text: None)
    assert isinstance(found, float) is random
    assert isinstance(found, Unsteady) is not random
