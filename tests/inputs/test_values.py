from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare import TensorSpec, UsageError
from pytest_fwcompare.inputs.values import (
    EXPLORED_PATTERNS,
    SCALES,
    SPECIAL_VALUES,
    Draw,
    concrete,
    explored,
    patterns,
    values,
)

FLOAT_PATTERNS = [*EXPLORED_PATTERNS, "positive", "probability"]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(FLOAT_PATTERNS),
    st.sampled_from(SCALES),
    st.integers(0, 2**16),
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
)
def test_values_are_float32_exact_repeatable_and_finite(pattern, scale, seed, shape):
    spec = TensorSpec(tuple(shape))
    made = values(spec, tuple(shape), Draw(pattern, scale, seed))
    assert made.shape == tuple(shape)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    assert np.array_equal(made, values(spec, tuple(shape), Draw(pattern, scale, seed)))


def test_patterns_are_what_they_say():
    spec, shape = TensorSpec((40, 50)), (40, 50)

    def of(pattern, scale=1.0):
        return values(spec, shape, Draw(pattern, scale, 3)).astype(float)

    assert of("normal", 100.0).std() == pytest.approx(100, rel=0.1)
    assert (of("positive") >= 0).all()
    assert np.array_equal(2 * of("grid"), np.round(2 * of("grid")))
    assert (of("grid") == 0).any()
    assert 0.1 < (of("sparse") != 0).mean() < 0.3
    assert of("offset").mean() / of("offset").std() > 50
    assert (of("one-hot", 10.0) != 0).sum() == 1
    assert np.ptp(of("constant")) == 0
    assert not of("zeros").any()
    assert of("probability").sum(axis=-1) == pytest.approx(1, rel=1e-6)


def test_limits_are_kept():
    made = values(TensorSpec((1000,), low=-1, high=2), (1000,), Draw("uniform", 1.0, 0))
    assert -1 <= made.min() < 0 < 1 < made.max() <= 2
    assert values(TensorSpec((99,), low=0), (99,), Draw("uniform", 5.0, 0)).min() >= 0
    with pytest.raises(UsageError, match="nothing lies between low=3 and high=1"):
        values(TensorSpec((4,), low=3, high=1), (4,), Draw("uniform"))


def test_tokens_and_masks():
    tokens = values(TensorSpec((9, 9), "int32", low=2, high=5), (9, 9), Draw("tokens"))
    assert tokens.dtype == np.int32
    assert set(np.unique(tokens)) == {2, 3, 4}
    for pattern in ("mask", "ragged"):
        mask = values(TensorSpec((50, 6), "bool", kind=pattern), (50, 6), Draw(pattern))
        assert mask.dtype == bool
        assert mask.any(axis=-1).all()
        assert not mask.all()
    ragged = values(TensorSpec((50, 6), "bool", kind="ragged"), (50, 6), Draw("ragged"))
    assert (np.diff(ragged.astype(int), axis=-1) <= 0).all()
    with pytest.raises(UsageError, match="so high= is needed"):
        values(TensorSpec((4,), "int64"), (4,), Draw("tokens"))
    with pytest.raises(UsageError, match=r"no token lies in \[low=5, high=5\)"):
        values(TensorSpec((4,), "int64", low=5, high=5), (4,), Draw("tokens"))


@pytest.mark.parametrize("name", SPECIAL_VALUES)
def test_special_values_are_there_where_asked_for(name):
    made = values(TensorSpec((5,)), (5,), Draw("normal", 1.0, 0, (name,)))
    wanted = np.float32(SPECIAL_VALUES[name])
    assert any(np.array_equal(v, wanted, equal_nan=True) for v in made)


def test_patterns_of_a_spec():
    assert patterns(TensorSpec((1,)))[0] == "normal"
    assert patterns(TensorSpec((1,), kind="normal")) == ("normal",)
    assert patterns(TensorSpec((1,), "int32", high=3)) == ("tokens",)
    assert patterns(TensorSpec((1,), "bool")) == ("mask",)
    assert patterns(TensorSpec((1,), low=0)) == ("uniform",)
    # What a spec names is asked for; the rest is explored, and judged with more care.
    assert explored(TensorSpec((1,)), "zeros")
    assert not explored(TensorSpec((1,), kind="grid"), "grid")
    assert not explored(TensorSpec((1,)), "normal")


def test_concrete_fills_free_sizes_by_name():
    assert concrete(TensorSpec(("b", 3, "t", "b")), {"b": 2, "t": 7}) == (2, 3, 7, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (2, -1)}, "a size is an integer of at least 0 or the name of a free size"),
        ({"shape": (2, 1.5)}, "got 1.5 in shape"),
        ({"shape": (True,)}, "got True in shape"),
        ({"shape": (2, "")}, "got '' in shape"),
        ({"shape": (2,), "kind": "odd"}, "unknown kind 'odd'; the kinds are normal, tokens"),
        ({"shape": (2, 3), "axes": "N"}, "axes='N' needs one letter of its own for each of the 2"),
        ({"shape": (2, 3), "axes": "NN"}, "axes='NN' needs one letter of its own"),
        ({"shape": (2, 3), "port_axes": "NC"}, "port_axes='NC' needs axes= beside it"),
        ({"shape": (2, 3), "axes": "NC", "port_axes": "NT"}, "must have the same letters"),
    ],
)
def test_wrong_specs_are_refused(arguments, message):
    with pytest.raises(UsageError) as caught:
        TensorSpec(**arguments)
    assert message in str(caught.value)


def test_permutation_to_the_port():
    spec = TensorSpec((2, 3, 4, 5), axes="NCHW", port_axes="NHWC")
    assert spec.to_port == (0, 2, 3, 1)
    assert TensorSpec((2, 3), axes="NC", port_axes="NC").to_port is None
    assert TensorSpec((2, 3)).to_port is None
