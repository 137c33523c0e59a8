"""Fingerprints: equal for equal values, different for others, calm under rounding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pytest_fwcompare.gate.digest import fingerprint
from pytest_fwcompare.gate.whose import STILL, distance
from pytest_fwcompare.records import Fingerprint

VALUES = arrays(
    np.float64, st.integers(1, 30), elements=st.floats(-1e3, 1e3, allow_subnormal=False)
)


@given(VALUES)
def test_equal_values_have_equal_fingerprints_however_they_are_cut(values: np.ndarray) -> None:
    whole, parts = fingerprint([values]), fingerprint([values[:3], values[3:]])
    assert distance(whole, parts) <= STILL
    assert distance(whole, fingerprint([values.copy()])) == 0


@given(VALUES, st.integers(0, 29), st.floats(1e-6, 1e3))
def test_a_moved_value_shows(values: np.ndarray, place: int, amount: float) -> None:
    moved = values.copy()
    moved[place % values.size] += amount
    size = float(np.linalg.norm(moved))
    relative = amount / max(size, float(np.linalg.norm(values)))
    found = distance(fingerprint([values]), fingerprint([moved]))
    # cos(1 + k * step) of one of both waves is not small, for the first places.
    assert found > 0.05 * relative or relative < 1e-8


def test_swapped_values_show() -> None:
    values = np.arange(8.0)
    assert distance(fingerprint([values]), fingerprint([values[::-1]])) > 1e-2


def test_rounding_does_not_show() -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    other = values * (1 + 1e-15)
    assert distance(fingerprint([values]), fingerprint([other])) <= STILL


def test_nothing_and_nan() -> None:
    assert fingerprint([]) == Fingerprint(0.0, (0.0, 0.0))
    assert fingerprint([np.array([np.nan, np.inf, 0.0])]) == Fingerprint(0.0, (0.0, 0.0))
    assert fingerprint([np.array([True, False])]).norm == 1.0
    nothing, something = fingerprint([np.zeros(3)]), fingerprint([np.ones(3)])
    assert distance(nothing, nothing) == 0
    assert distance(nothing, something) >= 1
