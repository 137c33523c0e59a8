"""Arithmetic on free sizes says the same as arithmetic on numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.errors import NetworkError
from pytest_fwcompare.networks import sizes

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just(sizes.plus), st.integers(-9, 9)),
        st.tuples(st.just(sizes.times), st.integers(1, 4)),
        st.tuples(st.just(sizes.floor_divide), st.integers(1, 4)),
        st.tuples(st.just(lambda size, k: sizes.product(size, k, 2)), st.integers(1, 3)),
        st.tuples(st.just(lambda size, k: sizes.total(k, size, size)), st.integers(0, 5)),
        st.tuples(st.just(lambda size, k: sizes.total(size, "n")), st.just(0)),
    ),
    max_size=6,
)


@given(STEPS, st.integers(0, 50))
def test_an_expression_resolves_to_the_number(steps, number: int) -> None:
    free: int | str = "n"
    known = number
    for function, amount in steps:
        free = function(free, amount)
        known = function(known, amount)
        if isinstance(known, str):  # a sum with the free size itself
            (known,) = sizes.resolve((known,), {"n": number})
    assert sizes.resolve((free,), {"n": number}) == (known,)


def test_equal_derivations_give_equal_texts() -> None:
    assert sizes.plus(sizes.plus("n", 2), -2) == "n"
    assert sizes.plus(sizes.plus("n", -3), 1) == "n - 2"
    assert sizes.times("n", 1) == sizes.floor_divide("n", 1) == "n"
    assert sizes.floor_divide(sizes.plus("n", -1), 2) == "(n - 1)//2"
    assert sizes.product(2, "n", 3, "m") == "6*n*m"
    assert sizes.product() == 1
    assert sizes.total("n", 2, "m", 3) == "n + m + 5"


def test_a_name_without_a_number() -> None:
    with pytest.raises(NetworkError, match="no number is given for the free size 'time'"):
        sizes.resolve(("batch", "time + 1"), {"batch": 2})
