"""Overflow of float16: excused where both sides leave its range, a fault where one does."""

from __future__ import annotations

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.backends.base import Recorded
from pytest_fwcompare.comparing.overflow import Beyond, first_beyond
from pytest_fwcompare.formats import FORMATS

torch = pytest.importorskip("torch")

INPUTS = {"x": fwc.TensorSpec(("batch", 4))}
HALF = FORMATS["float16"]


class Squares(torch.nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.linear, self.factor = torch.nn.Linear(4, 3), factor

    def forward(self, x):
        # The squares overflow, what is returned need not.
        y = self.linear(x)
        return self.factor * y / torch.sqrt(1 + y * y)


class Scaled(Squares):
    """The same function, which stays within the range."""

    def forward(self, x):
        y = self.linear(x)
        size = y.abs().clamp(min=1)
        return self.factor * (y / size) / torch.sqrt(size**-2 + (y / size) ** 2)


class Softmax(torch.nn.Module):
    def __init__(self, naive):
        super().__init__()
        self.linear, self.naive = torch.nn.Linear(4, 3), naive

    def forward(self, x):
        y = self.linear(x)
        if not self.naive:
            return torch.softmax(y, -1)
        powers = torch.exp(y)
        return powers / powers.sum(-1, keepdim=True)


def compare(reference, port, dtype="float16", **keywords):
    return fwc.compare(reference, port, inputs=INPUTS, dtype=dtype, explain=False, **keywords)


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_values_beyond_the_range_on_both_sides_are_no_fault(dtype):
    found = compare(Squares(), Squares(), dtype)
    assert found.verdict == "equivalent", found.summary()
    # Whoever overflows alike shows nothing; a port in another order of operations does.
    found = compare(lambda: Squares(), lambda: Scaled(), dtype, checks=("forward",))
    assert found.verdict == "equivalent", found.summary()


def test_a_port_that_overflows_where_the_reference_does_too_is_told():
    class Wide(Squares):
        def forward(self, x):
            y = self.linear(x).float()
            return (y * y / 64).to(x.dtype)

    class Narrow(Squares):
        def forward(self, x):
            y = self.linear(x)
            return y * y / 64

    found = compare(Wide(), Narrow())
    assert found.verdict == "equivalent", found.summary()
    said = [text for text in found.notices if text.startswith("overflow of float16 at ")]
    assert said
    assert all("no fault of the port" in text and "beyond 65504" in text for text in said)


def test_another_function_is_seen_behind_an_overflow():
    assert compare(Squares(), Squares(1.1)).verdict == "semantic"


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_a_port_that_alone_overflows_is_at_fault_and_told_where(dtype):
    found = compare(Softmax(False), Softmax(True), dtype)
    assert found.verdict == "nonfinite"
    assert (
        "overflow of float16 at exp of the port, whose float64 value is beyond 65504, while no "
        "value of the reference is"
    ) in found.notices
    assert compare(Softmax(True), Softmax(False), dtype).verdict in ("equivalent", "nonfinite")


def test_bfloat16_has_range_enough():
    assert compare(Squares(), Squares(), "bfloat16").verdict == "equivalent"
    assert compare(Softmax(False), Softmax(True), "float32").verdict == "nonfinite"


def record(index, value, gradient=None, path="block"):
    return Recorded(index, path, "mul", np.asarray(value), gradient=gradient)


def test_the_first_value_beyond_the_range_is_named():
    rows = [record(0, [1.0]), record(1, [2.0, 7e4]), record(2, [9e9])]
    assert first_beyond(rows, HALF) == Beyond("mul in 'block'", 7e4)
    assert first_beyond(rows[:1], HALF) is None


def test_gradients_run_backward():
    rows = [
        record(0, [1.0], np.array([1e9])),
        record(1, [1.0], np.array([-1e6]), path=""),
        record(2, [1.0], np.array([1.0])),
    ]
    assert first_beyond(rows, HALF) == Beyond("the gradient of mul", 1e6)


def test_what_fills_a_mask_and_what_is_infinite_is_no_overflow():
    assert first_beyond([record(0, [-1e9, -1e9, 2.0, np.inf, np.nan])], HALF) is None
    assert first_beyond([record(0, np.array([100000]))], HALF) is None
