from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.comparing.histograms import BINS, histogram


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=50))
def test_every_value_is_counted_once_and_lies_within(values: list[float]) -> None:
    edges, counts = histogram(np.array(values))
    assert sum(counts) == len(values)
    if values:
        assert len(edges) == len(counts) + 1
        assert edges[0] <= min(values)
        assert edges[-1] >= max(values)
        assert list(edges) == sorted(edges)


def test_equal_bins() -> None:
    edges, counts = histogram(np.linspace(0, 1, 3001))
    assert len(counts) == BINS
    assert np.allclose(np.diff(edges), 1 / BINS)
    assert max(counts) - min(counts) <= 2


@pytest.mark.parametrize("values", [[1.0, np.nextafter(1, 2)], [-1.7e308, 1.7e308]])
def test_what_cannot_be_divided_is_one_bin(values: list[float]) -> None:
    edges, counts = histogram(np.array(values))
    assert (edges, counts) == (tuple(values), (2,))
