"""Differences at places without a derivative are told from wrong gradients."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.backends.base import Recorded
from pytest_fwcompare.diagnose import diagnose
from pytest_fwcompare.diagnose.kinks import one_sided
from pytest_fwcompare.diagnose.operations import understand

X = np.array([[-1.0, 0.0, 2.0, 0.0], [0.5, 0.0, -0.25, 3.0]])
BACK = np.array([[1.0, 2.0, -3.0, 4.0], [0.5, -1.0, 2.0, 1.0]])


def passes(derivative_at_zero: float, elsewhere: float = 1.0) -> list[Recorded]:
    """x, then relu(x), with the gradient that a convention gives."""
    slope = np.where(X > 0, elsewhere, np.where(X == 0, derivative_at_zero, 0.0))
    value = np.maximum(X, 0)
    return [
        Recorded(0, "", "input", X, gradient=BACK * slope),
        Recorded(1, "rectify", "relu", value, (0,), arguments=(X,), gradient=BACK),
    ]


def test_one_sided_derivatives_part_at_kinks_alone():
    operation = understand(passes(0.0)[1])
    assert operation is not None
    below, above = one_sided(operation, 0, BACK)
    assert above - below == pytest.approx(np.where(X == 0, BACK, 0.0), abs=1e-6)


@pytest.mark.parametrize("derivative", [0.5, 1.0])
def test_another_choice_at_zero_is_explained_with_its_operation(derivative):
    found = diagnose(passes(0.0), passes(derivative), verdict="subgradient")
    assert found.culprit == "rectify"
    assert found.cause == "gradient-path"
    assert "differ only where relu of rectify has no derivative (3 of 3" in found.evidence[0]


@pytest.mark.parametrize(
    ("derivative", "elsewhere"),
    [
        (0.0, 0.5),  # a scaled gradient
        (0.0, 0.0),  # a stopped one
        (2.0, 1.0),  # more than any one-sided derivative allows
    ],
)
def test_what_is_no_subgradient_is_not_explained_as_one(derivative, elsewhere):
    found = diagnose(passes(0.0), passes(derivative, elsewhere), verdict="subgradient")
    assert not any("has no derivative" in text for text in found.evidence)
