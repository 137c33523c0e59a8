"""Whether two gradients are apart, told without sorting where that is possible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.diagnose import parting
from pytest_fwcompare.diagnose.parting import TOLERANCE, distance, parted

SHAPES = st.sampled_from([(1,), (7,), (3, 4), (2, 3, 2)])


@given(
    seed=st.integers(0, 1000),
    shape=SHAPES,
    change=st.sampled_from([0.0, 1e-9, 1e-7, 1e-5, 0.1, 3.0]),
    places=st.integers(0, 4),
    shuffled=st.booleans(),
    scale=st.sampled_from([1e-30, 1.0, 1e20]),
)
def test_parted_says_what_the_distance_says(seed, shape, change, places, shuffled, scale):
    rng = np.random.default_rng(seed)
    expected = rng.normal(size=shape)
    obtained = expected.copy()
    obtained.reshape(-1)[:places] += change
    if shuffled:
        obtained = rng.permutation(obtained.reshape(-1)).reshape(shape)
    far = distance(scale * expected, scale * obtained)
    assert parted(scale * expected, scale * obtained) == (far > TOLERANCE)


@pytest.mark.parametrize(
    ("expected", "obtained", "apart"),
    [
        (np.zeros(3), np.zeros(3), False),
        (np.zeros(3), np.ones(3), True),
        (np.ones(3), np.ones(4), True),
        (np.ones(3), np.array([1.0, np.nan, 1.0]), True),
        (np.ones(0), np.ones(0), False),
        (np.arange(4.0), np.arange(4.0).reshape(2, 2), False),
    ],
)
def test_edges(expected, obtained, apart):
    assert parted(expected, obtained) is apart


def test_weights_that_agree_or_differ_plainly_are_not_sorted(monkeypatch):
    monkeypatch.setattr(parting, "distance", lambda *_: pytest.fail("sorted"))
    value = np.random.default_rng(0).normal(size=(30, 40))
    assert not parted(value, value * (1 + 1e-9))
    assert parted(value, 1.01 * value)
