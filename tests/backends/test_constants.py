import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.backends.constants import restore

KNOWN = [
    1e-5,
    1e-12,
    1e-3,
    0.1,
    0.044715,
    -1e9,
    -1e4,
    0.2,
    math.pi,
    math.e,
    math.sqrt(2),
    -math.sqrt(2),
    1 / math.sqrt(2),
    math.sqrt(2 / math.pi),
    math.log(2),
    1 / 6,
    1 / 3,
    1 / math.sqrt(8),
    1 / math.sqrt(48),
    1.6732632423543772,
    1.0507009873554805,
    1.6732632423543772 * 1.0507009873554805,
    2.0**-13,
    16777215.0,
    -np.inf,
    0.0,
    float(np.finfo(np.float32).min),
]


@pytest.mark.parametrize("number", KNOWN)
def test_known_numbers_come_back_to_the_last_bit(number):
    restored, exact = restore(np.float32(number))
    assert exact
    assert restored.shape == ()
    assert restored.dtype == np.float64
    assert float(restored) == number


def test_a_table_computed_in_float32_is_left_and_said():
    table = np.sin(np.arange(1, 200, dtype=np.float32)) * np.float32(0.37)
    restored, exact = restore(table)
    assert not exact
    assert np.array_equal(restored, table.astype(np.float64))


def test_a_single_odd_number_keeps_its_whole_array_as_it_is():
    odd = np.float32(0.123456789)
    restored, exact = restore(np.array([1e-5, odd], np.float32))
    assert not exact
    assert restored[0] == np.float64(np.float32(1e-5))


def test_arrays_keep_their_shape_and_wider_or_whole_ones_are_only_converted():
    mask, exact = restore(np.where(np.eye(3) > 0, 0, -1e9).astype(np.float32))
    assert exact
    assert mask.shape == (3, 3)
    assert mask[0, 1] == -1e9
    assert restore(np.float64(np.float32(1e-5)))[0] == np.float64(np.float32(1e-5))
    assert restore(np.arange(3))[0].dtype == np.float64
    assert restore(np.zeros((0, 2), np.float32))[0].shape == (0, 2)


def test_a_nan_is_kept():
    restored, exact = restore(np.array([np.nan, 0.1], np.float32))
    assert exact
    assert np.isnan(restored[0])
    assert restored[1] == 0.1


@given(st.floats(width=32, allow_nan=False))
def test_what_is_restored_always_rounds_to_what_was_given(number):
    with np.errstate(over="ignore"):
        restored, _ = restore(np.float32(number))
        assert np.float32(restored) == np.float32(number)


@given(st.integers(-(10**6) + 1, 10**6 - 1), st.integers(-30, 20))
def test_every_decimal_of_six_digits_is_restored(digits, power):
    number = float(f"{digits}e{power}")
    restored, exact = restore(np.float32(number))
    bits = np.frexp(np.float32(number))[0] * 2.0**12
    assert exact
    # A number of few mantissa bits, or a whole one, stands for itself.
    itself = float(np.float32(number)) == float(restored)
    assert float(restored) == number or (
        itself and (bits == np.rint(bits) or number.is_integer() or abs(number) < 1e-30)
    )


def test_random_numbers_are_rarely_taken_for_known_ones():
    draws = np.random.default_rng(0).normal(size=2000).astype(np.float32)
    assert np.mean([restore(draw)[1] for draw in draws]) < 0.45
    assert not restore(draws)[1]
