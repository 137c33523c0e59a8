"""Alignment by value: what must match, and what must not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare.backends.base import Recorded
from pytest_fwcompare.diagnose import align
from pytest_fwcompare.diagnose.align import (
    Index,
    fingerprint,
    match,
    matched_fraction,
)


def records(*values):
    return [Recorded(number, "", "op", np.asarray(value)) for number, value in enumerate(values)]


@pytest.fixture
def generator():
    return np.random.default_rng(5)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
)
def test_a_tensor_is_found_in_any_axis_order_and_shape(shape, seed, scale):
    generator = np.random.default_rng(seed)
    value = scale * generator.normal(size=shape)
    moved = np.ascontiguousarray(value.transpose(generator.permutation(len(shape))))
    others = [scale * generator.normal(size=shape) for _ in range(3)]
    index = Index([*others, moved.reshape(-1), moved])
    assert {found.index for found in index.find(value)} == {3, 4}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 60), change=st.floats(1e-6, 100))
def test_one_changed_element_is_never_matched(seed, size, change):
    generator = np.random.default_rng(seed)
    value = generator.normal(size=size)
    scale = np.abs(value).max()
    other = value.copy()
    # Beyond the largest, so the sorted values move by exactly this much.
    other[value.argmax()] += change * scale
    assert not Index([other]).find(value, tolerance=3e-8)
    assert Index([other]).nearest(value).distance == pytest.approx(change, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), error=st.floats(0, 2.9e-8))
def test_the_quick_figures_lose_no_match_within_tolerance(seed, error):
    generator = np.random.default_rng(seed)
    value = generator.normal(size=37) * 10.0 ** generator.integers(-5, 5)
    moved = value + error * np.abs(value).max() * generator.choice([-1, 1], size=37)
    assert [found.index for found in Index([moved]).find(value, 3e-8)] == [0]


def test_a_leak_of_a_rounded_constant_still_matches(generator):
    value = generator.normal(size=(4, 6))
    assert Index([value * (1 + 5e-9)]).find(value)
    assert not Index([value * (1 + 5e-9)]).find(value, tolerance=1e-10)


def test_tiled_and_broadcast_copies_match_after_equal_sizes(generator):
    value = generator.normal(size=(1, 3, 5))
    index = Index([np.tile(value, (4, 1, 1)), value, generator.normal(size=(4, 3, 5))])
    assert [found.index for found in index.find(value)] == [1, 0]
    assert [found.index for found in index.find(np.tile(value, (2, 1, 1)))] == [0, 1]


def test_other_multiplicities_do_not_match(generator):
    value = generator.normal(size=4)
    assert not Index([np.concatenate([value, value[:2]])]).find(value)
    assert not Index([np.concatenate([value, np.full(4, value[0])])]).find(value)


def test_negative_scaled_and_shifted_copies_do_not_match(generator):
    value = generator.normal(size=20)
    assert not Index([-value, 2 * value, value + 1e-3, np.abs(value)]).find(value)


def test_fills_of_a_mask_are_one_whatever_their_constant(generator):
    scores = generator.normal(size=(3, 4))
    keep = np.arange(12).reshape(3, 4) % 3 > 0
    filled = [np.where(keep, scores, fill) for fill in (-np.inf, -1e30, -1e9, -1e4)]
    assert len(Index(filled).find(filled[0])) == 4
    wrong = np.where(keep, scores + 1e-3, -1e30)
    assert not Index([wrong]).find(filled[1]), "a fill must not swallow the scale of the rest"
    assert not Index([np.where(keep, scores, np.inf)]).find(filled[0])
    assert not Index([np.where(keep | (scores > 0), scores, -1e9)]).find(filled[0])


def test_nan_and_infinity_match_only_in_equal_numbers(generator):
    value = generator.normal(size=10)
    broken = value.copy()
    broken[3] = np.nan
    assert Index([broken[::-1]]).find(broken)
    assert not Index([value]).find(broken)
    assert Index([value]).nearest(broken) is None


@pytest.mark.parametrize(
    ("value", "telling"),
    [
        (np.zeros((3, 4)), False),
        (np.full(5, 0.37), False),
        (np.arange(12.0), False),
        (np.array([True, False, True]), False),
        (np.array([0.25, 0.0, 0.25]), False),
        (np.array(0.5), False),
        (np.array(3.0), False),
        (np.zeros((0, 3)), False),
        (np.array([np.nan, np.inf]), False),
        (np.array(0.123456789), True),
        (np.array([0.1, 0.2, 0.7]), True),
        (np.maximum(np.random.default_rng(0).normal(size=9), 0), True),
    ],
)
def test_what_tells_nothing_is_known(value, telling):
    assert fingerprint(value).telling is telling


def test_nearest_is_exact_and_prefers_telling_tensors(generator):
    value = generator.normal(size=(4, 5))
    far, near = value + 0.5, value * 1.01
    index = Index([far, np.zeros((4, 5)), near, value[:2]])
    best = index.nearest(value)
    assert best.index == 2
    assert best.distance == pytest.approx(0.01)
    assert Index([value[:2]]).nearest(generator.normal(size=(3, 3))) is None
    assert Index([]).nearest(value) is None


def test_alignment_counts_only_what_tells(generator):
    first, second = generator.normal(size=(2, 3)), generator.normal(size=(3, 3))
    reference = records(first, np.zeros(4), second)
    port = records(np.zeros(4), first.T)
    alignment = match(reference, port)
    assert [len(found) for found in alignment.matches] == [1, 0, 0]
    assert [alignment.found(position) for position in range(3)] == [True, True, False]
    assert alignment.fraction == 0.5
    assert matched_fraction(reference, port) == 0.5
    assert matched_fraction(reference, records(first, second)) == 1.0
    assert matched_fraction(records(np.zeros(3)), port) == 0.0
    assert matched_fraction([], []) == 0.0


@pytest.mark.parametrize(
    "values",
    [
        [1e308, -1e308, 3.0],
        [1e200, 2e200, 5.5e199],
        [1e-320, 3e-320, 2e-310],
        [1e160, -1e160, 0.5],
        [1.7e308] * 3,
        [1.5e300],
    ],
)
def test_huge_and_tiny_values_are_found_without_a_warning(values: list[float]) -> None:
    value = np.array(values)
    index = Index([np.zeros(len(values)), value, -value, value * 0.5])
    assert index.find(value)[0].index == 1
    nearest = index.nearest(value * 0.51)
    assert nearest is not None
    assert nearest.index == 3
    assert not fingerprint(np.array([1e300])).telling


def test_only_changed_values_are_aligned_anew(monkeypatch):
    rng = np.random.default_rng(8)
    records = [Recorded(n, "", "op", rng.normal(size=(4, 3))) for n in range(6)]
    index = Index(record.value.T for record in records[:5])
    whole = match(records, index)
    other = [*records]
    other[1] = Recorded(1, "", "op", rng.normal(size=(4, 3)))
    other[5] = Recorded(5, "", "op", records[0].value)
    sorted_ones = []
    inner = align.contents
    monkeypatch.setattr(align, "contents", lambda v: sorted_ones.append(1) or inner(v))
    again = match(other, index, known=whole, changed={1, 5})
    assert len(sorted_ones) == 2
    assert again == match(other, index)
    assert not again.matches[1]
    assert again.matches[5][0].index == 0
