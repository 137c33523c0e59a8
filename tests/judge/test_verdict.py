"""The judge by itself, shown right answers and planted wrong ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare.judge.distances import (
    difference,
    finite_maximum,
    representable,
    same_nonfinite,
    unit_roundoff,
)
from pytest_fwcompare.judge.tally import ORDER
from pytest_fwcompare.judge.verdict import Observed, assess, moved, nudged

UNIT = unit_roundoff("float32")


def right(shape=(4, 5), scale=1.0, noise=1.0, seed=0) -> Observed:
    """A right port: shadows equal up to float64 rounding, noise of about one float32 rounding."""
    rng = np.random.default_rng(seed)
    exact = scale * rng.standard_normal(shape)

    def rounded():
        return exact * (1 + noise * UNIT * rng.uniform(-1, 1, shape))

    other = exact * (1 + 2.0**-52 * rng.uniform(-1, 1, shape))
    jitter = 2 * UNIT * finite_maximum(exact)
    return Observed("output scores", "output", exact, other, rounded(), rounded(), jitter)


def shifted(observed: Observed, amount: float, at=(0, 0)) -> Observed:
    """The same with one element of the port wrong, in both precisions."""
    port64, port = observed.port64.copy(), observed.port.copy()
    port64[at] += amount
    port[at] += amount
    return replace(observed, port64=port64, port=port)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([(4, 5), (1,), (), (0,), (3, 0, 2), (2, 3, 4, 5)]),
    st.sampled_from([1e-30, 1e-6, 1.0, 1e6, 1e30]),
    st.integers(0, 99),
)
def test_right_ports_are_equivalent_at_every_scale(shape, scale, seed):
    judged = assess(right(shape, scale, seed=seed))
    assert judged.verdict == "equivalent"
    assert not judged.hidden


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_one_wrong_element_is_semantic_with_its_place(scale):
    observed = right((30, 40), scale)
    size = 1e-5 * finite_maximum(observed.reference64)
    judged = assess(shifted(observed, size, at=(7, 3)))
    assert judged.verdict == "semantic"
    assert judged.difference.index == (7, 3)
    assert judged.difference.obtained - judged.difference.expected == pytest.approx(size)


def test_one_wrong_element_among_a_million():
    observed = right((1000, 1000))
    assert assess(observed).verdict == "equivalent"
    judged = assess(shifted(observed, 1e-4, at=(123, 456)))
    assert judged.verdict == "semantic"
    assert judged.difference.index == (123, 456)


def test_an_ill_conditioned_network_may_be_as_noisy_as_its_jitter():
    observed = right(noise=1e4)
    assert assess(replace(observed, jitter=1e4 * UNIT)).verdict == "equivalent"


def test_a_difference_below_the_jitter_is_hidden_and_not_forgotten():
    judged = assess(shifted(replace(right(), jitter=1e-3), 1e-5))
    assert judged.verdict == "equivalent"
    assert judged.hidden


def test_noise_of_the_port_alone_is_precision():
    observed = right()
    rng = np.random.default_rng(1)
    coarse = observed.port64 * (1 + 1e-3 * rng.uniform(-1, 1, observed.port64.shape))
    assert assess(replace(observed, port=coarse)).verdict == "precision"


def test_an_unstable_formula_that_loses_digits_in_float64_too_is_precision():
    # One-pass variance: nothing is left in float32, half of the digits in float64.
    observed = right()
    port64 = observed.port64 * (1 + 1e-6)
    port = observed.port64 * 0.5
    unstable = replace(observed, port64=port64, port=port)
    assert assess(unstable).verdict == "precision"
    # Where the reference's formula drowns as well, nobody is accused.
    assert assess(replace(unstable, reference=port)).verdict == "equivalent"
    # The same gap in a port that is as accurate as it should be is another function.
    assert assess(replace(unstable, port=port64)).verdict == "semantic"


def test_noise_of_the_reference_alone_accuses_nobody():
    observed = right()
    coarse = observed.reference64 * (1 + 1e-3)
    assert assess(replace(observed, reference=coarse)).verdict == "equivalent"


def test_a_gradient_that_cancels_to_zero_is_judged_by_what_cancelled():
    rng = np.random.default_rng(0)

    def dust(size):
        return size * rng.standard_normal(6)

    observed = Observed(
        "gradient of key.bias",
        "parameter gradient",
        dust(1e-17),
        dust(1e-17),
        np.zeros(6),
        dust(3e-8),
        jitter=1e-17,
        peak=1.0,
    )
    assert assess(observed).verdict == "equivalent"
    assert assess(replace(observed, port64=dust(1e-3), port=dust(1e-3))).verdict == "semantic"


def test_a_saturated_gradient_is_judged_by_the_largest_of_its_pass():
    # Behind tanh(19) the derivative is one rounding of 1 in one framework and zero in another,
    # and no move of the point by half a unit changes that.
    ours, theirs = np.zeros(4), np.full(4, 1e3 * 2.0**-52)
    observed = Observed(
        "gradient of hidden.weight",
        "parameter gradient",
        ours,
        theirs,
        ours,
        ours,
        jitter=0.0,
        peak=1.0,
    )
    assert assess(observed).verdict == "equivalent"
    assert assess(replace(observed, port64=theirs * 1e3)).verdict == "semantic"
    assert assess(replace(observed, peak=1e-3)).verdict == "semantic"


def test_a_pass_whose_gradients_all_vanish_is_judged_by_what_it_began_with():
    # All units behind tanh(20): 1 / cosh^2 is 1e-17, 1 - tanh^2 is zero; nothing in the pass is
    # large enough to show that both are rounding.
    ours, theirs = np.full(4, 1e-17), np.zeros(4)
    observed = Observed(
        "gradient of hidden.weight",
        "parameter gradient",
        ours,
        theirs,
        ours,
        theirs,
        jitter=1e-22,
        peak=1e-17,
        origin=3.0,
    )
    assert assess(observed).verdict == "equivalent"
    assert assess(replace(observed, origin=0.0)).verdict == "semantic"
    assert assess(replace(observed, reference64=ours * 1e6, peak=1e-11)).verdict == "semantic"


@pytest.mark.parametrize(
    ("expected", "obtained", "verdict"),
    [
        ([1.0, np.nan], [1.0, np.nan], "equivalent"),
        ([1.0, np.nan], [1.0, 2.0], "nonfinite"),
        ([1.0, 2.0], [1.0, np.inf], "nonfinite"),
        ([1.0, np.inf], [1.0, np.inf], "equivalent"),
        ([1.0, np.inf], [1.0, -np.inf], "nonfinite"),
        ([1.0, np.inf], [1.0, np.nan], "nonfinite"),
        ([1.0, np.nan], [1.1, np.nan], "semantic"),
        ([np.nan, np.nan], [np.nan, np.nan], "equivalent"),
        ([0.0, 1.0], [-0.0, 1.0], "equivalent"),
        ([0.0, 0.0], [0.0, 0.0], "equivalent"),
        ([0.0, 0.0], [0.0, 1e-9], "semantic"),
        ([], [], "equivalent"),
    ],
)
def test_special_values(expected, obtained, verdict):
    ours, theirs = np.array(expected), np.array(obtained)
    judged = assess(Observed("output x", "output", ours, theirs, ours, theirs, jitter=0.0))
    assert judged.verdict == verdict


def test_nan_in_working_precision_only_is_nonfinite_and_said_to_be():
    observed = right()
    broken = observed.port.copy()
    broken[1, 2] = np.nan
    judged = assess(replace(observed, port=broken))
    assert judged.verdict == "nonfinite"
    assert not judged.float64_nonfinite
    assert judged.difference.index == (1, 2)


@pytest.mark.parametrize("kind", [int, bool])
def test_integers_and_booleans_are_compared_exactly(kind):
    value = np.array([0, 1, 1], kind)
    other = np.array([0, 1, 0], kind)
    same = Observed("output token", "output", value, value, value, value, jitter=0.0)
    assert assess(same).verdict == "equivalent"
    assert assess(replace(same, port64=other, port=other)).verdict == "semantic"
    # An argmax between values that rounding swaps is no fault.
    tied = replace(same, port64=other, port=other, jitter=1.0)
    assert assess(tied).verdict == "equivalent"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_working_dtype_sets_the_units(dtype):
    unit = unit_roundoff(dtype)
    rng = np.random.default_rng(3)
    exact = representable(rng.standard_normal((8, 8)), dtype)
    ours = exact * (1 + unit * rng.uniform(-1, 1, exact.shape))
    observed = Observed("output x", "output", exact, exact, ours, ours, jitter=unit)
    assert assess(observed, dtype).verdict == "equivalent"
    far = exact * (1 + 100 * unit)
    assert assess(replace(observed, port64=far, port=far), dtype).verdict == "semantic"


@given(st.integers(0, 1000))
def test_moved_stays_within_half_a_unit_and_nudged_goes_further(seed):
    rng = np.random.default_rng(seed)
    value = rng.standard_normal((3, 4))
    assert np.all(np.abs(moved(value, "float32", rng) - value) <= UNIT * np.abs(value))
    hair = nudged(value, 1e-4, rng)
    assert np.all(hair.astype(np.float32) == hair)
    assert 1e-6 < np.abs(hair - value).max() < 1e-2


def test_integers_are_never_moved():
    tokens = np.array([1, 2, 3])
    rng = np.random.default_rng(0)
    assert moved(tokens, "float32", rng) is tokens
    assert nudged(tokens, 1e-4, rng) is tokens


@given(st.integers(0, 1000), st.sampled_from(["float16", "bfloat16", "float32", "float64"]))
def test_representable_is_idempotent_and_within_one_rounding(seed, dtype):
    value = np.random.default_rng(seed).standard_normal(50)
    exact = representable(value, dtype)
    assert np.array_equal(representable(exact, dtype), exact)
    # The absolute term is for the subnormal numbers of float16.
    limit = unit_roundoff(dtype) * np.abs(value) * 1.0001 + 2.0**-25
    assert np.all(np.abs(exact - value) <= limit)


def test_bfloat16_rounds_half_to_even_and_keeps_infinities():
    value = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, np.inf, np.nan])
    assert np.array_equal(
        representable(value, "bfloat16"), [1.0, 1 + 2.0**-6, np.inf, np.nan], equal_nan=True
    )


@pytest.mark.parametrize("kind", ["input gradient", "parameter gradient"])
def test_a_gradient_that_overflows_is_lost_as_infinity_or_as_nan(kind):
    observed = replace(right(), kind=kind)
    for name, value in (("reference", np.inf), ("port", np.nan)):
        for dtype in ("", "64"):
            array = getattr(observed, name + dtype).copy()
            array[1, 2] = value
            observed = replace(observed, **{name + dtype: array})
    assert assess(observed).verdict == "equivalent"
    # An output is read by someone: -inf is a logarithm's answer, NaN is none.
    assert assess(replace(observed, kind="output")).verdict == "nonfinite"
    # Lost on one side only, or elsewhere.
    spread = observed.port.copy()
    spread[3, 4] = np.nan
    assert assess(replace(observed, port=spread)).verdict == "nonfinite"
    assert assess(replace(observed, reference=right().reference)).verdict == "nonfinite"
    # Nor does it hide what differs beside it.
    assert assess(shifted(observed, 1e-3)).verdict == "semantic"


def test_difference_counts_places_that_are_odd():
    found = difference(np.array([1.0, np.nan, 3.0]), np.array([1.0, 2.0, 3.5]))
    assert (found.odd, found.index, found.size) == (1, (1,), 0.5)
    with pytest.raises(ValueError, match="shapes differ"):
        difference(np.zeros(2), np.zeros(3))


def test_same_nonfinite_tells_signs_apart():
    assert same_nonfinite(np.array([np.inf]), np.array([np.inf]))
    assert not same_nonfinite(np.array([np.inf]), np.array([-np.inf]))
    assert same_nonfinite(np.array([1, 2]), np.array([3, 4]))


@settings(max_examples=60, deadline=None)
@given(st.floats(-16, 0), st.floats(-16, 0), st.sampled_from([0.0, 1e-3, 1.0]), st.integers(0, 9))
def test_a_jitter_excuses_and_never_accuses(size, spread, peak, seed):
    """So where all is well without one, it need not be drawn."""
    observed = replace(shifted(right(seed=seed), 10**size), jitter=None, peak=peak)
    judged = assess(observed)
    assert np.isnan(judged.jitter)
    if judged.settled:
        with_jitter = assess(replace(observed, jitter=10**spread))
        assert with_jitter.settled
    else:
        known = assess(replace(observed, jitter=0.0))
        assert ORDER.index(known.verdict) >= ORDER.index(judged.verdict)
        if 10**size > 1e-4:
            assert known.verdict == judged.verdict


def test_what_is_wrong_or_hidden_without_a_jitter_is_not_settled():
    observed = replace(right(), jitter=None)
    assert assess(observed).settled
    assert assess(shifted(observed, 1e-12)).settled is False
    assert assess(replace(observed, port=observed.port64 * (1 + 1e-3))).settled is False
    chosen = np.array([3, 1])
    tied = Observed("output index", "output", chosen, chosen[::-1], chosen, chosen, jitter=None)
    assert assess(tied).settled is False


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_one_nonfinite_value_among_many_is_not_lost_in_the_maximum(broken):
    observed = right((50, 50))
    for side in ("port", "port64", "reference", "reference64"):
        value = getattr(observed, side).copy()
        value[31, 7] = broken
        assert assess(replace(observed, **{side: value})).verdict == "nonfinite"
    both = {}
    for side in ("port", "port64", "reference", "reference64"):
        both[side] = getattr(observed, side).copy()
        both[side][31, 7] = broken
    assert assess(replace(observed, **both)).verdict == "equivalent"
    assert assess(shifted(replace(observed, **both), 1e-4)).verdict == "semantic"
