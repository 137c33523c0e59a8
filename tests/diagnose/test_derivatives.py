"""Gradients laid out in the reference's order, and repaired operations as functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.diagnose.changed import selection
from pytest_fwcompare.diagnose.derivatives import laid_out

RNG = np.random.default_rng(0)
VALUE = RNG.normal(size=(2, 3, 4))
GRADIENT = RNG.normal(size=(2, 3, 4))


@given(st.permutations(range(3)), st.booleans())
def test_axes_in_another_order_are_turned_back(axes, flat):
    other, gradient = VALUE.transpose(axes), GRADIENT.transpose(axes)
    if flat:
        other, gradient = other.reshape(other.shape[0], -1), gradient.reshape(other.shape[0], -1)
    assert np.array_equal(laid_out(VALUE, other, gradient), GRADIENT)


@given(st.randoms(use_true_random=False))
def test_any_order_of_elements_is_found_by_the_values(random):
    order = list(range(VALUE.size))
    random.shuffle(order)
    found = laid_out(VALUE, VALUE.reshape(-1)[order], GRADIENT.reshape(-1)[order])
    assert np.array_equal(found, GRADIENT)


def test_rounding_does_not_disturb_the_order():
    noise = 1 + 1e-13 * RNG.normal(size=VALUE.shape)
    found = laid_out(VALUE, (VALUE * noise)[:, ::-1], GRADIENT[:, ::-1])
    assert np.array_equal(found, GRADIENT)


def test_elements_that_are_alike_are_not_told():
    value = np.maximum(VALUE, 0.0)
    order = RNG.permutation(VALUE.size)
    found = laid_out(value, value.reshape(-1)[order], GRADIENT.reshape(-1)[order])
    zero = value == 0.0
    assert np.isnan(found[zero]).all()
    assert np.array_equal(found[~zero], GRADIENT[~zero])


def test_alike_elements_in_their_own_places_are_told():
    value = np.maximum(VALUE, 0.0)
    found = laid_out(value, value.transpose(2, 0, 1), GRADIENT.transpose(2, 0, 1))
    assert np.array_equal(found, GRADIENT)


@given(st.lists(st.integers(0, VALUE.size - 1), min_size=1, max_size=40))
def test_a_selection_is_found_by_the_values(chosen):
    taken = selection(VALUE, VALUE.reshape(-1)[chosen])
    assert taken is not None
    assert taken.tolist() == chosen


@pytest.mark.parametrize(
    ("whole", "some"),
    [
        (VALUE, VALUE[:1] + 1e-6),
        (VALUE, np.zeros(3)),
        (np.ones((2, 2)), np.ones(2)),
        (np.full(3, np.nan), np.ones(2)),
        (VALUE, np.zeros(0)),
    ],
)
def test_what_is_no_selection_is_none(whole, some):
    assert selection(whole, some) is None
