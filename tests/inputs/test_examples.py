from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare import TensorSpec, UsageError, strategies
from pytest_fwcompare.inputs.examples import Example, is_strategy, plan
from pytest_fwcompare.inputs.search import search, shrink
from pytest_fwcompare.inputs.values import SCALES

BOTH = ("randomised", "given")


def images(**keywords):
    return plan({"images": TensorSpec(("batch", "h", 3), **keywords)}, BOTH, seed=0)


def test_planned_examples_meet_every_scale_with_both_weights_at_few_shapes():
    made = images(kind="normal")
    planned = list(made.planned(20))
    scales = {(e.weights, draw.scale) for e in planned for _, draw in e.draws}
    assert {s for w, s in scales if w == "given"} == set(SCALES)
    assert {s for w, s in scales if w == "randomised"} == set(SCALES)
    shapes = {made.arrays(e)["images"].shape for e in planned}
    assert len(shapes) <= 4
    heights = {shape[1] for shape in shapes}
    assert 1 in heights
    assert {h % 2 for h in heights} == {0, 1}


def test_free_sizes_of_equal_name_are_equal():
    made = plan(
        {"x": TensorSpec(("b", "t")), "mask": TensorSpec(("b", "t"), "bool")}, BOTH, seed=3
    )
    for example in made.planned(8):
        arrays = made.arrays(example)
        assert arrays["x"].shape == arrays["mask"].shape


def test_equal_seeds_give_equal_examples_and_others_do_not():
    def first(seed):
        made = plan({"x": TensorSpec((4,), kind="normal")}, BOTH, seed)
        return [made.arrays(e)["x"] for e in made.planned(5)]

    assert all(np.array_equal(a, b) for a, b in zip(first(1), first(1), strict=True))
    assert not np.array_equal(first(1)[0], first(2)[0])


def test_given_arrays_are_judged_with_each_weight_state_once():
    array = np.arange(6.0).reshape(2, 3)
    made = plan({"x": array}, BOTH, seed=0)
    planned = list(made.planned(20))
    assert [e.weights for e in planned] == ["randomised", "given"]
    assert np.array_equal(made.arrays(planned[0])["x"], array)


def test_search_is_driven_by_what_evaluate_returns_and_is_repeatable():
    made = plan({"x": TensorSpec((4,), kind="normal")}, BOTH, seed=0)

    def visited():
        seen: list[Example] = []

        def evaluate(example):
            seen.append(example)
            return float(np.abs(made.arrays(example)["x"]).max())

        search(made, 30, evaluate, seed=5)
        return seen

    one, two = visited(), visited()
    assert one == two
    assert 10 <= len(one) <= 40
    assert max(draw.scale for e in one for _, draw in e.draws) == 1000.0


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 3))
def test_search_runs_inside_another_hypothesis_test(seed):
    made = plan({"x": TensorSpec((2,))}, BOTH, seed=seed)
    seen = []
    search(made, 5, lambda example: (seen.append(example), 1.0)[1], seed)
    assert seen


@settings(max_examples=2, deadline=None)
@given(st.integers(0, 3))
def test_an_error_while_evaluating_passes_through_a_nested_search(seed):
    def fail(_):
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        search(images(), 5, fail, seed)


def test_strategies_of_the_user_are_drawn_from():
    made = plan({"x": strategies.tokens(3, high=4)}, BOTH, seed=0)
    assert not list(made.planned(5))
    seen = []
    search(made, 5, lambda e: (seen.append(made.arrays(e)["x"]), 1.0)[1], seed=0)
    assert all(x.shape == (3,) and x.max() < 4 for x in seen)


def test_a_strategy_that_draws_no_array_is_refused():
    made = plan({"x": st.just([1, 2])}, BOTH, seed=0)
    with pytest.raises(UsageError, match=r"inputs\['x'\]: the strategy must draw NumPy arrays"):
        search(made, 5, lambda _: 0.0, seed=0)


def test_shrinking_ends_at_small_sizes_and_plain_numbers():
    made = plan({"x": TensorSpec(("b", "t"))}, BOTH, seed=0)
    worst = list(made.planned(12))[9]
    small = shrink(made, worst, lambda e: True, budget=60)
    assert {size for _, size in small.sizes} == {1}
    assert dict(small.draws)["x"].scale == 1.0
    kept = shrink(made, worst, lambda e: False)
    assert kept == worst


def test_what_a_strategy_of_the_user_drew_is_shrunk_by_hypothesis():
    made = plan({"x": strategies.floats("batch", "time")}, BOTH, seed=0)
    seen = []
    search(made, 10, lambda e: (seen.append(e), 1.0)[1], seed=0)
    worst = max(seen, key=lambda e: made.arrays(e)["x"].size)

    def fails(example):
        return bool(np.abs(made.arrays(example)["x"]).max() >= 1)

    small = shrink(made, worst, fails, budget=60)
    assert made.arrays(small)["x"].shape == (1, 1)
    assert fails(small)
    assert shrink(made, worst, lambda e: False) == worst


def test_shrinking_keeps_what_the_failure_needs():
    made = plan({"x": TensorSpec(("b", "t"), kind="normal")}, BOTH, seed=0)
    example = next(e for e in made.planned(20) if dict(e.draws)["x"].scale == 1000.0)

    def fails(candidate):
        return bool(np.abs(made.arrays(candidate)["x"]).max() > 100)

    assert fails(shrink(made, example, fails))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "inputs: expected a dict of at least one input"),
        ([TensorSpec((1,))], "inputs: expected a dict of at least one input"),
        ({"x": "text"}, "inputs['x']: expected a TensorSpec, a Hypothesis strategy or an array"),
        ({"x": None}, "got builtins.NoneType"),
        ({"x": np.array(["a"])}, "inputs['x']: expected numbers or booleans, got dtype <U1"),
    ],
)
def test_wrong_inputs_are_refused(inputs, message):
    with pytest.raises(UsageError) as caught:
        plan(inputs, BOTH, 0)
    assert message in str(caught.value)


def test_strategies_are_known_without_importing_hypothesis():
    assert is_strategy(st.integers())
    assert is_strategy(strategies.floats(2, 3))
    assert not is_strategy(np.zeros(2))
