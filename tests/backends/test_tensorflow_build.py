"""Described networks in raw TensorFlow: every layer, training, saving, wrong answers."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_fwcompare import networks as nn
from pytest_fwcompare.backends.registry import require
from pytest_fwcompare.conformance.cases import CASES, Case, case
from pytest_fwcompare.conformance.observe import Bench, gaps, opened
from pytest_fwcompare.weights.transforms import Blocks

pytest.importorskip("torch")  # has to be imported before TensorFlow
tf = pytest.importorskip("tensorflow")

FREE = [each for each in CASES if len(each.sizes) > 1]


def worst(each: Case, *, graph: bool = False) -> float:
    """Largest gap to the NumPy reference in float64, at all sizes."""
    network = each.network()
    found = [0.0]
    with ExitStack() as stack:
        reference = opened(stack, require("numpy"), network, "float64")
        port = opened(stack, require("tensorflow"), network, "float64")
        for sizes in each.sizes:
            inputs = each.inputs(sizes)
            known = reference.observe(inputs)
            if graph:
                outputs = packed(port.built.model.serve(*feed(port, inputs)))
                found += [
                    float(np.abs(outputs[name] - value).max())
                    for name, value in known.outputs.items()
                ]
            else:
                found += gaps(known, port.observe(inputs)).values()
    return max(found)


def feed(bench: Bench, inputs: dict[str, Any]) -> list[Any]:
    """Inputs as the serving function of the module takes them."""
    return [tf.constant(value, bench.built.model.dtypes[name]) for name, value in inputs.items()]


def packed(outputs: Any) -> dict[str, Any]:
    """Outputs of a native model by name."""
    if isinstance(outputs, dict):
        return {name: value.numpy() for name, value in outputs.items()}
    if isinstance(outputs, (tuple, list)):
        return {str(place): value.numpy() for place, value in enumerate(outputs)}
    return {"output": outputs.numpy()}


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_layer_computes_what_the_reference_computes(each: Case) -> None:
    assert worst(each) < 1e-12


@pytest.mark.parametrize(
    "name",
    [
        "conv2d-same-stride-dilation",
        "conv-transpose2d-same-dilation",
        "average-pool1d-same-count",
        "upsample2d-bilinear",
        "gru-reverse",
        "bidirectional-sequence",
        "attention-cross-masked-causal",
        "pad-replicate",
        "reshape-free",
        "group-norm",
    ],
)
def test_one_graph_serves_every_free_size(name: str) -> None:
    assert worst(case(name), graph=True) < 1e-12


def test_nothing_is_noted_since_every_constant_is_double() -> None:
    network = nn.Sequential(
        [nn.Activation("gelu"), nn.Activation("leaky_relu"), nn.Upsample(2, "bilinear")],
        ("time", 3),
    )
    assert require("tensorflow").build(network, dtype="float64").notices == ()


def test_swapped_gates_are_caught() -> None:
    network = case("gru").network()
    with ExitStack() as stack:
        reference = opened(stack, require("numpy"), network, "float64")
        port = stack.enter_context(Bench(require("tensorflow"), network, "float64"))
        placements = tuple(
            replace(placed, transform=Blocks((1, 0, 2)))
            if placed.parameter == "gru.kernel"
            else placed
            for placed in port.built.placements
        )
        port.built = replace(port.built, placements=placements)
        port.fill(nn.random_parameters(network, 0))
        inputs = case("gru").inputs({"batch": 2, "time": 4})
        found = gaps(reference.observe(inputs), port.observe(inputs))
        assert found["output output"] > 1e-3


def test_names_and_layouts_are_native() -> None:
    network = nn.Sequential(
        [
            nn.ConvTranspose1D(5, 3, name="up"),
            nn.Bidirectional(nn.LSTM(2, return_sequences=True), name="both"),
            nn.Dense(2, name="variables"),
        ],
        ("time", 4),
    )
    built = require("tensorflow").build(network)
    assert built.model.up.kernel.shape == (3, 5, 4)
    assert type(built.model.both.backward).__name__ == "LSTM"
    assert [placed.parameter for placed in built.placements if "kernel" in placed.parameter] == [
        "up.kernel",
        "both.forward.kernel",
        "both.forward.recurrent_kernel",
        "both.backward.kernel",
        "both.backward.recurrent_kernel",
        "variables_.kernel",
    ]
    assert len(built.model.trainable_variables) == 10


def test_a_module_is_saved_loaded_and_trained(tmp_path: Path) -> None:
    x = nn.Input("x", ("time", 4))
    hidden = nn.GRU(3)(nn.Conv1D(5, 3, padding="causal")(x))
    network = nn.Graph([x], {"state": hidden, "scores": nn.Softmax()(nn.Dense(2)(hidden))})
    model = require("tensorflow").build(network).model
    values = tf.constant(np.random.default_rng(0).standard_normal((2, 6, 4)), tf.float32)
    expected = packed(model(values))
    tf.saved_model.save(model, str(tmp_path / "saved"))
    again = tf.saved_model.load(str(tmp_path / "saved"))
    loaded = packed(again.serve(values))
    assert expected.keys() == loaded.keys() == {"state", "scores"}
    for name, value in expected.items():
        # A graph may order its sums otherwise than eager calls do.
        np.testing.assert_allclose(loaded[name], value, rtol=1e-5, atol=1e-6)

    def loss() -> Any:
        return -tf.reduce_mean(tf.math.log(model(values)["scores"][:, 0]))

    start = float(loss())
    for _ in range(5):
        with tf.GradientTape() as tape:
            value = loss()
        variables = model.trainable_variables
        for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
            variable.assign_sub(0.5 * gradient)
    assert float(loss()) < start / 1.5


def test_batch_norm_moves_its_buffers_in_training_only() -> None:
    network = nn.Sequential([nn.BatchNorm(momentum=0.25, name="norm")], ("height", 3))
    model = require("tensorflow").build(network, dtype="float64").model
    values = np.random.default_rng(0).standard_normal((4, 5, 3)) * 2 + 1
    model(values)
    assert np.array_equal(model.norm.mean, np.zeros(3))
    y = model(values, training=True)
    mean, variance = values.mean((0, 1)), values.var((0, 1))
    np.testing.assert_allclose(model.norm.mean, 0.25 * mean, rtol=1e-12)
    np.testing.assert_allclose(model.norm.variance, 0.75 + 0.25 * variance, rtol=1e-12)
    np.testing.assert_allclose(y, (values - mean) / np.sqrt(variance + 1e-5), rtol=1e-12)


def test_dropout_drops_in_training_only() -> None:
    network = nn.Sequential([nn.Dropout(0.5)], (1000,))
    model = require("tensorflow").build(network).model
    ones = np.ones((1, 1000), np.float32)
    assert np.array_equal(model(ones), ones)
    assert set(np.unique(model(ones, training=True))) == {0.0, 2.0}


def test_a_long_sequence_is_a_loop_in_a_graph() -> None:
    network = nn.Sequential([nn.SimpleRNN(2)], (150, 3))
    model = require("tensorflow").build(network, dtype="float64").model
    operations = model.serve.get_concrete_function().graph.get_operations()
    assert len(operations) < 200
    values = np.random.default_rng(0).standard_normal((1, 150, 3))
    np.testing.assert_allclose(model.serve(values), model(values), atol=1e-12)


def test_building_disturbs_no_random_state() -> None:
    tf.random.set_seed(3)
    first = tf.random.uniform((3,)).numpy()
    tf.random.set_seed(3)
    require("tensorflow").build(case("conv2d").network())
    assert np.array_equal(tf.random.uniform((3,)).numpy(), first)


def test_a_layer_unknown_to_the_backend_is_named() -> None:
    class Cube(nn.Layer):
        pass

    network = nn.Sequential([Cube(name="cube")], (3,))
    with pytest.raises(NotImplementedError, match=r"^Cube 'cube': the tensorflow backend has no"):
        require("tensorflow").build(network)
