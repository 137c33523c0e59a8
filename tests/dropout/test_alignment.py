"""Tensors are found again by their values, in any order of axes; others are not."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.dropout.alignment import fit, turned


def tensor(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    order=st.randoms(use_true_random=False),
)
def test_any_order_of_axes_is_found_and_masks_follow_it(shape, order):
    axes = list(range(len(shape)))
    order.shuffle(axes)
    source = tensor(shape)
    target = source.transpose(axes) * (1 + 1e-9)
    found = fit(source, target)
    assert found.exact
    mask = tensor(shape, 1)
    np.testing.assert_array_equal(
        turned(mask, source, target, found.axes), mask.transpose(found.axes)
    )
    np.testing.assert_allclose(source.transpose(found.axes), target, rtol=1e-8)


def test_square_tensors_are_told_from_their_transposes():
    source = tensor((5, 5, 5))
    for axes in permutations(range(3)):
        assert fit(source, source.transpose(axes)).axes == axes


def test_a_mask_of_whole_channels_follows():
    source = tensor((2, 3, 4, 5))
    mask = tensor((2, 3, 1, 1), 1)
    target = source.transpose(0, 2, 3, 1)
    found = fit(source, target)
    assert turned(mask, source, target, found.axes).shape == (2, 1, 1, 3)


def test_batch_and_heads_may_be_one_axis():
    source = tensor((2, 3, 4, 5))
    target = source.transpose(0, 1, 3, 2).reshape(6, 5, 4)
    found = fit(source, target)
    assert found.exact
    np.testing.assert_array_equal(turned(source, source, target, found.axes), target)
    # A channel of one side is no channel of the other.
    assert turned(tensor((2, 3, 1, 1)), source, target, found.axes) is None


def test_what_goes_through_an_activation_is_alike_and_nothing_more():
    source = tensor((6, 7))
    found = fit(source, np.maximum(source.T, 0))
    assert (found.axes, found.exact) == ((1, 0), False)
    assert 0.5 < found.score < 1


@pytest.mark.parametrize(
    "target", [tensor((6, 7), 1), tensor((6, 8)), np.zeros((6, 7)), np.full((6, 7), np.nan)]
)
def test_another_tensor_is_refused(target):
    assert fit(tensor((6, 7)), target) is None


def test_one_cell_off_is_not_the_same():
    source = tensor((30, 30))
    target = source.copy()
    target[17, 3] += 1e-3
    assert not fit(source, target).exact


def test_empty_and_infinite_tensors_are_refused():
    assert fit(np.zeros((0, 3)), np.zeros((0, 3))) is None
    assert fit(np.array([np.inf, 1.0]), np.array([np.inf, 1.0])) is None
