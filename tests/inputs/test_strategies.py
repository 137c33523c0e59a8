from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from pytest_fwcompare import TensorSpec, UsageError, strategies


@settings(max_examples=30, deadline=None)
@given(strategies.floats("batch", 3, "batch"))
def test_free_sizes_are_drawn_and_shared(value):
    assert value.shape[0] == value.shape[2]
    assert value.shape[1] == 3
    assert value.dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(strategies.masks(2, "time", empty_rows=True), strategies.masks(2, "time"))
def test_masks(loose, strict):
    assert loose.dtype == strict.dtype == bool
    assert strict.any(axis=-1).all()


def test_masks_have_empty_rows_only_where_asked_for():
    settings_ = settings(database=None, max_examples=200)
    found = find(
        strategies.masks(2, 3, empty_rows=True),
        lambda mask: not mask.any(axis=-1).all(),
        settings=settings_,
    )
    assert found.shape == (2, 3)


def test_failures_shrink_to_what_a_person_reads():
    found = find(
        strategies.floats("batch", "time"),
        lambda value: bool(np.abs(value).max() >= 1),
        settings=settings(database=None, max_examples=500),
    )
    assert found.shape == (1, 1)
    assert found.size == np.count_nonzero(found) == 1


def test_a_large_array_costs_less_than_a_millisecond_or_so_more_than_numpy():
    spec = TensorSpec((64, 3, 32, 32), kind="normal")
    rng = np.random.default_rng(0)
    drawn: list[float] = []

    @settings(
        max_examples=20,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def draw(data):
        started = time.perf_counter()
        data.draw(strategies.arrays(spec))
        drawn.append(time.perf_counter() - started)

    draw()
    started = time.perf_counter()
    for _ in range(20):
        rng.standard_normal(spec.shape).astype(np.float32)
    bare = (time.perf_counter() - started) / 20
    # A ratio taken in one run; drawing element by element is a hundred times slower.
    assert np.median(drawn) < 20 * bare


def test_unknown_special_values_are_refused():
    with pytest.raises(UsageError, match="special: unknown value 'huge'; there are nan, inf"):
        find(
            strategies.floats(2, special=("huge",)),
            lambda _: True,
            settings=settings(database=None),
        )
