"""Working dtypes: their units, their ranges, and the moves that follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.backends.constants import restore
from pytest_fwcompare.backends.numpy import NumpyNetwork
from pytest_fwcompare.backends.registry import backend
from pytest_fwcompare.formats import DTYPES, FORMATS, format_of
from pytest_fwcompare.judge.distances import representable, unit_roundoff
from pytest_fwcompare.judge.verdict import hair, moved
from pytest_fwcompare.networks import zoo


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_numpy_knows_is_what_numpy_says(dtype):
    facts, made = np.finfo(dtype), FORMATS[dtype]
    assert made.roundoff == facts.eps / 2
    assert made.largest == facts.max
    assert made.least == facts.smallest_normal
    assert made.graininess == facts.smallest_subnormal / 2


@pytest.mark.parametrize(
    ("dtype", "stored", "roundoff", "narrow", "mixed"),
    [
        ("bfloat16", "bfloat16", 2.0**-8, True, False),
        ("mixed_float16", "float32", 2.0**-11, True, True),
        ("mixed_bfloat16", "float32", 2.0**-8, True, True),
        ("tf32", "float32", 2.0**-11, False, False),
    ],
)
def test_other_formats(dtype, stored, roundoff, narrow, mixed):
    made = FORMATS[dtype]
    assert (made.stored, made.narrow, made.mixed) == (stored, narrow, mixed)
    assert unit_roundoff(dtype) == roundoff


def test_a_dtype_that_only_a_backend_knows_counts_as_float32():
    assert format_of("float8_mine") is FORMATS["float32"]


@given(
    st.sampled_from(sorted(DTYPES)),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
def test_what_is_representable_stays_so_and_is_near(dtype, number):
    once = representable(np.asarray([number]), dtype)
    np.testing.assert_array_equal(representable(once, dtype), once)
    made = FORMATS[FORMATS[dtype].stored]
    kept = min(max(number, -made.largest), made.largest)
    assert abs(once[0] - kept) <= made.roundoff * abs(kept) + made.graininess


def test_inputs_beyond_the_range_of_float16_become_its_largest():
    given_values = np.array([1e6, -1e6, np.inf, np.nan])
    np.testing.assert_array_equal(
        representable(given_values, "float16"), [65504.0, -65504.0, np.inf, np.nan]
    )


def test_a_move_near_zero_is_as_coarse_as_the_smallest_numbers():
    tiny = np.full(1000, 1e-6)
    step = np.abs(moved(tiny, "float16", np.random.default_rng(0)) - tiny).max()
    # The numbers of float16 are 2^-24 apart there.
    assert 0.9 * 2.0**-25 < step <= 2.0**-25
    assert not moved(np.zeros(10), "float16", np.random.default_rng(0)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hair_is_more_than_a_rounding(dtype):
    made = FORMATS[dtype]
    value = np.ones(1) * 1.5
    assert representable(value * (1 + hair(dtype)), dtype) != value
    assert hair(dtype) == max(1e-4, 8 * made.roundoff)


@pytest.mark.parametrize(
    ("meant", "dtype"),
    [
        *((number, "bfloat16") for number in (1e-5, 0.1, 2 / np.pi**0.5, 0.044715, 2**0.5, 3.0)),
        *((number, "float16") for number in (0.1, 0.044715, 1 / 2**0.5, 1.702, 0.375, -100.0)),
    ],
)
def test_constants_of_sixteen_bits_are_brought_back(meant, dtype):
    found, exact = restore(representable(np.asarray(meant), dtype), dtype)
    assert exact
    assert found == pytest.approx(meant, rel=1e-15)


def test_tables_of_sixteen_bits_stay_as_they_are():
    table = representable(np.array([0.1, 0.2, 0.7]), "bfloat16")
    found, exact = restore(table, "bfloat16")
    assert not exact
    np.testing.assert_array_equal(found, table)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_numpy_reference_works_in_every_dtype(dtype):
    assert dtype in backend("numpy").dtypes
    built = backend("numpy").build(zoo.lenet(size=16), dtype=dtype)
    assert isinstance(built.model, NumpyNetwork)
    kept = "float64" if dtype == "float64" else "float32"
    assert {str(value.dtype) for value in built.model.weights.values()} == {kept}
