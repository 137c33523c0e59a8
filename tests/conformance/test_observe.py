"""Distances between observations, shown what they must see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_fwcompare.backends.registry import require
from pytest_fwcompare.conformance.cases import case
from pytest_fwcompare.conformance.observe import Bench, Observation, draw_cotangents, gaps, jitter
from pytest_fwcompare.networks import Activation, Sequential, random_parameters
from pytest_fwcompare.weights.transforms import Transpose

ONES = Observation({"y": np.ones((2, 3))}, {"x": np.ones((2, 4))}, {"w": np.full((4, 3), 2.0)})


def changed(kind: str, name: str, value: np.ndarray) -> Observation:
    return replace(ONES, **{kind: {**getattr(ONES, kind), name: value}})


@given(
    st.sampled_from([("outputs", "y"), ("inputs", "x"), ("parameters", "w")]),
    st.integers(0, 5),
    st.floats(1e-11, 10) | st.floats(-10, -1e-11),
)
def test_one_changed_element_is_seen(place: tuple[str, str], index: int, by: float) -> None:
    kind, name = place
    value = getattr(ONES, kind)[name].copy()
    value.flat[index] += by
    assert max(gaps(ONES, changed(kind, name, value)).values()) == pytest.approx(
        abs(by) / ONES.tensors()[next(k for k in ONES.tensors() if k.endswith(name))].max(),
        rel=1e-3,
    )


@pytest.mark.parametrize("value", [np.full((2, 3), np.nan), np.ones((3, 2)), np.ones((2, 3, 1))])
def test_a_wrong_shape_and_nan_are_infinitely_far(value: np.ndarray) -> None:
    assert gaps(ONES, changed("outputs", "y", value))["output y"] == float("inf")


def test_a_missing_and_an_unknown_tensor_are_infinitely_far() -> None:
    found = gaps(ONES, replace(ONES, inputs={"z": np.ones((2, 4))}))
    assert found["gradient of input x"] == found["gradient of input z"] == float("inf")


def test_a_gradient_of_zero_is_measured_by_the_others() -> None:
    reference = changed("parameters", "b", np.zeros(3))
    port = changed("parameters", "b", np.full(3, 1e-15))
    assert gaps(reference, port)["gradient of b"] == pytest.approx(1e-15 / 2e-3)
    wrong = changed("parameters", "b", np.full(3, 1e-3))
    assert gaps(reference, wrong)["gradient of b"] == pytest.approx(0.5)


def test_gradients_of_a_placement_come_back_canonical() -> None:
    """A port that stores its kernel transposed and computes with it as the reference does."""
    each = case("dense")
    network, inputs = each.network(), each.inputs(each.sizes[0])
    with Bench(require("numpy"), network, "float64") as bench:
        bench.fill(random_parameters(network, 0))
        expected = bench.observe(inputs)
        placements = tuple(
            replace(placed, transform=Transpose((1, 0)))
            if placed.parameter == "dense.kernel"
            else placed
            for placed in bench.built.placements
        )
        bench.built = replace(bench.built, placements=placements)
        native = {
            name: value.T if name == "dense.kernel" else value
            for name, value in expected.parameters.items()
        }
        turned = bench._canonical_gradients(native)
        for name, value in expected.parameters.items():
            np.testing.assert_array_equal(turned[name], value)


def test_axes_are_turned_on_the_way_in_and_out() -> None:
    network = Sequential([Activation("tanh")], (3, 3, 3))
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 3, 3, 3))}
    turn = (0, 2, 3, 1)  # not its own inverse
    with Bench(require("numpy"), network, "float64") as bench:
        expected = bench.observe(inputs)
        bench.built = replace(bench.built, input_axes={"x": turn}, output_axes={"output": turn})
        assert max(gaps(expected, bench.observe(inputs)).values()) < 1e-15
        bench.built = replace(bench.built, output_axes={"output": (0, 3, 1, 2)})
        assert min(gaps(expected, bench.observe(inputs)).values()) > 0.1


def test_jitter_grows_with_the_movement_and_leaves_the_weights() -> None:
    each = case("lstm")
    network, inputs = each.network(), each.inputs(each.sizes[0])
    values = random_parameters(network, 0)
    with Bench(require("numpy"), network, "float64") as bench:
        bench.fill(values)
        before = bench.side.read()
        small = jitter(bench, values, inputs, 1e-9)
        large = jitter(bench, values, inputs, 1e-7)
        after = bench.side.read()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert small["output output"] > 0
    for name, spread in small.items():
        assert spread < 1e-8
        assert large[name] == pytest.approx(100 * spread, rel=0.01)


def test_cotangents_depend_on_nothing_but_shapes() -> None:
    first = draw_cotangents({"y": np.zeros((2, 3))})["y"]
    assert np.array_equal(first, draw_cotangents({"y": np.ones((2, 3))})["y"])
    assert np.array_equal(first, first.astype(np.float32))
    assert not (first == 0).any()
