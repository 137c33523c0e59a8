"""Small tensors measured together: the figures that each gets alone."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_fwcompare.judge import distances
from pytest_fwcompare.judge.distances import difference, distance, finite_maximum, same_nonfinite
from pytest_fwcompare.judge.measures import (
    ROW,
    SMALL,
    _measure_blocks,
    _measure_with_care,
    in_rows,
    is_plain,
    is_small,
    largest_of,
    measure,
    measure_together,
    place_of,
)
from pytest_fwcompare.judge.verdict import Observed, assess, assess_all

NUMBERS = st.sampled_from([0.0, 1.0, -2.0, 3.5, 1e-9, 1e300, np.inf, -np.inf, np.nan])


@st.composite
def observed(draw):
    shape = draw(hnp.array_shapes(min_dims=0, max_side=3, min_side=0))
    kinds = draw(st.sampled_from([("f8", "f4"), ("f8", "f4"), ("i8", "i8"), ("?", "?")]))

    def values(kind):
        if kind in ("i8", "?"):
            return draw(hnp.arrays(kind, shape))
        with np.errstate(over="ignore"):
            return draw(hnp.arrays("f8", shape, elements=NUMBERS)).astype(kind)

    wide, narrow = kinds
    jitter = draw(st.sampled_from([None, 0.0, 1e-3]))
    runs = values(wide), values(wide), values(narrow), values(narrow)
    return Observed("x", "output", *runs, jitter, draw(st.sampled_from([0.0, 2.0])))


def shown(found):
    """Figures to be held against others, NaN like NaN and a zero of either sign like zero."""
    return [repr(item).replace("-0.0", "0.0") for item in found]


@settings(max_examples=200)
@given(st.lists(observed(), max_size=6))
def test_all_are_judged_as_each_alone(items):
    assert shown(assess_all(items)) == shown([assess(item) for item in items])
    small = [item for item in items if is_small(item)]
    if small:
        assert shown(measure_together(small)) == shown([measure(item) for item in small])


def large(rng, shape):
    wide = rng.normal(size=shape)
    other = wide + 1e-12 * rng.normal(size=shape)
    narrow = (1 + 1e-7 * rng.normal(size=(2, *shape))) * wide
    return [wide, other, *narrow.astype("f4")]


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(0, 99))
def test_large_tensors_are_measured_in_blocks_as_with_care(data, seed):
    shape = data.draw(st.sampled_from([(2, ROW), (3, ROW + 5), (ROW,), (ROW + 1,), (1, 7)]))
    runs = large(np.random.default_rng(seed), shape)
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, int(np.prod(shape)) - 1))
        run = data.draw(st.integers(0, 3))
        runs[run].reshape(-1)[place] = data.draw(NUMBERS.filter(lambda n: n < 1e30 or n > 1e301))
    item = Observed("x", "output", *runs, None)
    assert is_plain(item)
    assert shown(measure(item)) == shown(_measure_with_care(item))
    finite = all(np.isfinite(run).all() for run in runs)
    assert (_measure_blocks(item) is not None) == finite


def test_a_wrong_value_is_found_in_whatever_block_it_is():
    for place in ((0, 0), (0, ROW - 1), (1, 0), (2, 5)):
        runs = large(np.random.default_rng(0), (3, ROW))
        runs[1][place] += 1.0
        found = measure(Observed("x", "output", *runs, None))
        assert found.gap.index == place
        assert np.isclose(found.gap.size, 1.0)


def test_other_memory_orders_are_measured_too():
    runs = large(np.random.default_rng(0), (40, 500))
    plain = Observed("x", "output", *runs, None)
    turned = Observed("x", "output", *(np.asfortranarray(run) for run in runs), None)
    assert not is_plain(turned)
    assert shown(measure(turned)) == shown(measure(plain))


def test_many_small_tensors_are_laid_in_several_rows():
    rng = np.random.default_rng(0)
    items = []
    for size in (SMALL, 1, SMALL - 1, SMALL, 3, SMALL, SMALL, SMALL, 7):
        wide = rng.normal(size=(2, size))[0]
        other = wide + 1e-12 * rng.normal(size=size)
        runs = wide, other, wide.astype("f4"), other.astype("f4")
        items.append(Observed("x", "output", *runs, None))
    rows = [len(row) for row in in_rows(items, lambda item: item.port.size)]
    assert len(rows) > 1
    assert sum(rows) == len(items)
    assert shown(measure_together(items)) == shown([measure(item) for item in items])
    largest = max(np.abs(item.reference64).max() for item in items)
    assert largest_of([item.reference64 for item in items]) == largest


def test_rows_hold_so_many_values_and_no_more():
    assert list(in_rows([], len)) == []
    assert list(in_rows([ROW, ROW + 1, 1, 2, ROW - 3, 1], int)) == [
        [ROW],
        [ROW + 1],
        [1, 2, ROW - 3],
        [1],
    ]


def test_one_wrong_value_among_a_million_is_found_where_it_is():
    expected = np.random.default_rng(0).normal(size=(1000, 1000))
    obtained = expected.copy()
    obtained[731, 17] += 1e-3
    found = difference(expected, obtained)
    assert found.index == (731, 17)
    assert np.isclose(found.size, 1e-3)
    assert (found.expected, found.obtained) == (expected[731, 17], obtained[731, 17])
    assert distance(expected, obtained) == found.size
    obtained[2, 3] = np.nan
    obtained[900, 5] = np.inf
    found = difference(expected, obtained)
    assert (found.odd, found.index, found.finite) == (2, (2, 3), False)
    assert not np.isfinite(distance(expected, obtained))
    assert not same_nonfinite(expected, obtained)
    expected[2, 3], expected[900, 5] = np.nan, np.inf
    assert same_nonfinite(expected, obtained)
    assert difference(expected, obtained).odd == 0


@given(hnp.arrays("f8", hnp.array_shapes(), elements=NUMBERS), st.data())
def test_an_array_in_parts_is_measured_as_in_one(value, data):
    other = data.draw(hnp.arrays("f8", value.shape, elements=NUMBERS))
    figures = [difference, distance, same_nonfinite, lambda one, _: finite_maximum(one)]
    whole = [figure(value, other) for figure in figures]
    before, distances.PART = distances.PART, 2
    try:
        cut = [figure(value, other) for figure in figures]
    finally:
        distances.PART = before
    assert whole[2:] == cut[2:]
    assert np.array_equal(whole[1], cut[1], equal_nan=True)
    assert (whole[0].size, whole[0].odd) == (cut[0].size, cut[0].odd)
    if not whole[0].odd:
        assert repr(whole[0].index) == repr(cut[0].index)


def test_the_largest_of_many():
    assert largest_of([]) == 0.0
    assert largest_of([np.array([1.0, np.inf]), np.zeros((0, 3)), np.array(-2.0)]) == 2.0
    assert largest_of([np.full(70_000, 3.0), np.ones(2)]) == 3.0


@given(hnp.array_shapes(), st.data())
def test_places_are_those_of_numpy(shape, data):
    position = data.draw(st.integers(0, int(np.prod(shape)) - 1))
    assert place_of(position, shape) == tuple(map(int, np.unravel_index(position, shape)))


def test_a_distance_of_negative_zeros_is_a_positive_zero():
    """Else a record has an ULP of -0.0."""
    minus, plus = np.array([-0.0, -0.0]), np.array([0.0, 0.0])
    for zero in (finite_maximum(minus), distance(minus, plus), distance(plus, minus)):
        assert math.copysign(1.0, zero) == 1.0
    for size in (2, 5000):  # measured with others, and alone
        runs = (np.full(size, value, np.float32) for value in (-0.0, 0.0, -0.0, 0.0))
        found = assess_all([Observed("x", "output", *runs, jitter=0.0)], "float32")[0]
        assert math.copysign(1.0, found.ulp) == 1.0
