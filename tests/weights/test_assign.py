from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare.weights.assign import FORBIDDEN, hungarian


def total(cost, rows, columns, pairs) -> float:
    paired = sum(cost[a, b] for a, b in pairs)
    lone_rows = set(range(len(rows))) - {a for a, _ in pairs}
    lone_columns = set(range(len(columns))) - {b for _, b in pairs}
    return paired + sum(rows[a] for a in lone_rows) + sum(columns[b] for b in lone_columns)


def cheapest(cost, rows, columns) -> float:
    """By trying everything."""
    best = np.inf
    places = range(len(columns))
    for count in range(min(cost.shape) + 1):
        for some in itertools.combinations(range(len(rows)), count):
            for others in itertools.permutations(places, count):
                best = min(best, total(cost, rows, columns, list(zip(some, others, strict=True))))
    return best


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_the_assignment_is_the_cheapest(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = np.where(rng.random((rows, columns)) < 0.2, FORBIDDEN, rng.random((rows, columns)) * 3)
    skips = rng.random(rows), rng.random(columns)
    pairs = hungarian(cost, *skips)
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert all(cost[a, b] < FORBIDDEN for a, b in pairs)
    assert np.isclose(total(cost, *skips, pairs), cheapest(cost, *skips))


def test_nothing_to_assign() -> None:
    assert hungarian(np.zeros((0, 3)), np.zeros(0), np.zeros(3)) == []
