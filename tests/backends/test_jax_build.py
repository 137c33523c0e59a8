"""Described networks in JAX: every layer against the NumPy reference, native use, training."""

import pickle

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("autograd")

from jax import numpy as jnp  # noqa: E402

from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.backends.jax import JaxBackend  # noqa: E402
from pytest_fwcompare.backends.numpy import NumpyBackend  # noqa: E402
from pytest_fwcompare.conformance.cases import CASES, covered  # noqa: E402
from pytest_fwcompare.errors import ModelError  # noqa: E402
from pytest_fwcompare.networks import Sequential  # noqa: E402
from pytest_fwcompare.networks import layers as nn  # noqa: E402
from pytest_fwcompare.networks.random import random_parameters  # noqa: E402

JAX, NUMPY = JaxBackend(), NumpyBackend()

WORDS = ("dilation", "causal", "torch", "before", "beyond", "corners", "axis", "celu", "hard")
"""Options whose cases are run besides the first of each layer."""


def chosen():
    seen = set()
    for case in CASES:
        kinds = {type(layer) for layer in case.network().layers.values()}
        kinds.add(case.name.split("-")[0])
        if not kinds <= seen or any(word in case.name for word in WORDS):
            seen |= kinds
            yield case


def opened(backend, network, values, precision, dtype):
    built = backend.build(network, dtype=dtype)
    side = backend.adopt(built.model, dtype=dtype, device="cpu", mode="eager", own=False)
    native = {
        placed.parameter: placed.transform.apply(*(values[name] for name in placed.sources))
        for placed in built.placements
    }
    for each in ("working", precision):
        side.load(native, each)
    return side


def observed(side, case, cotangents=None, precision="double", training=False):
    arguments = [Argument(name, value) for name, value in case.items()]
    passed = side.forward(arguments, precision=precision, training=training)
    rng = np.random.default_rng(5)
    drawn = {name: rng.standard_normal(v.shape) for name, v in passed.outputs.items()}
    found = passed.backward(drawn if cotangents is None else cotangents)
    return passed, found


def test_the_cases_have_every_layer():
    kinds = {type(layer) for case in chosen() for layer in case.network().layers.values()}
    assert kinds >= covered()


@pytest.mark.parametrize("case", list(chosen()), ids=lambda case: case.name)
def test_layers_equal_the_reference(case):
    network = case.network()
    values = random_parameters(network, 0)
    port = opened(JAX, network, values, "double", "float32")
    reference = opened(NUMPY, network, values, "double", "float64")
    inputs = case.inputs(case.sizes[0])
    expected, expected_gradients = observed(reference, inputs)
    found, gradients = observed(port, inputs)
    for name, value in expected.outputs.items():
        assert found.outputs[name].dtype == np.float64
        scale = np.abs(value).max() or 1.0
        assert np.abs(found.outputs[name] - value).max() <= 1e-12 * scale
    # A gradient that is zero in exact arithmetic (a key's bias) is measured by its neighbours.
    largest = (
        max(np.abs(g).max() for g in expected_gradients.parameters.values() if g is not None)
        if expected_gradients.parameters
        else 0.0
    )
    for ours, theirs in (
        (gradients.inputs, expected_gradients.inputs),
        (gradients.parameters, expected_gradients.parameters),
    ):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            value = np.zeros(ours[name].shape) if value is None else value
            scale = max(np.abs(value).max(), largest) or 1.0
            assert np.abs(ours[name] - value).max() <= 1e-12 * scale, name
    assert port.leaks == []
    assert port.rounded_constants == []


def network(*layers, shape=(6,)):
    return Sequential(layers or (nn.Dense(5), nn.BatchNorm(), nn.Dense(2, name="last")), shape)


def test_a_native_network_can_be_called_trained_and_pickled():
    model = JAX.build(network()).model
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    assert list(model.params) == ["dense", "batch_norm", "last"]
    assert model.params["last"]["kernel"].shape == (5, 2)
    assert list(model.buffers) == ["batch_norm"]

    def loss(params):
        return jnp.sum(model.apply(params, x) ** 2)

    gradient = jax.jit(jax.grad(loss))(model.params)
    model.params = jax.tree.map(lambda p, g: p - 0.01 * g, model.params, gradient)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again(x), model(x))
    np.testing.assert_array_equal(again(x=x), model(x))
    assert JAX.owns(again)


def test_parameters_are_in_the_order_of_the_description():
    side = JAX.adopt(
        JAX.build(network()).model, dtype="float32", device="cpu", mode="eager", own=True
    )
    facts = {p.name: (p.trainable, p.layer, p.kind) for p in side.parameters()}
    assert list(facts) == [
        "dense.kernel",
        "dense.bias",
        "batch_norm.scale",
        "batch_norm.shift",
        "batch_norm.mean",
        "batch_norm.variance",
        "last.kernel",
        "last.bias",
    ]
    assert facts["batch_norm.mean"] == (False, "batch_norm", "BatchNorm")
    assert side.parameters()[2].options["epsilon"] == 1e-5


def test_a_training_step_equals_the_reference():
    described = network()
    values = random_parameters(described, 0)
    port = opened(JAX, described, values, "double", "float32")
    reference = opened(NUMPY, described, values, "double", "float64")
    inputs = {"x": np.random.default_rng(0).standard_normal((4, 6))}
    expected, expected_gradients = observed(reference, inputs, training=True)
    found, gradients = observed(port, inputs, training=True)
    np.testing.assert_allclose(found.outputs["output"], expected.outputs["output"], rtol=1e-12)
    for name, value in expected.buffers().items():
        np.testing.assert_allclose(found.buffers()[name], value, rtol=1e-12)
    for name, value in expected_gradients.parameters.items():
        np.testing.assert_allclose(gradients.parameters[name], value, rtol=1e-10, atol=1e-12)
    # Put back afterwards.
    np.testing.assert_array_equal(port.read()["batch_norm.mean"], values["batch_norm.mean"])


def test_dropout_draws_anew_in_training_only():
    model = JAX.build(network(nn.Dropout(0.5))).model
    side = JAX.adopt(model, dtype="float32", device="cpu", mode="eager", own=True)
    x = {"x": np.ones((20, 6), np.float32)}
    first, second = (observed(side, x, training=True)[0].outputs["output"] for _ in range(2))
    assert (first != second).any()
    assert set(np.unique(first)) == {0.0, 2.0}
    np.testing.assert_array_equal(observed(side, x)[0].outputs["output"], x["x"])
    with pytest.raises(ValueError, match=r"Dropout 'dropout': training needs a random key"):
        model.apply(model.params, x["x"], training=True)


def test_ties_follow_the_description():
    x = {"x": np.array([[0.0, 6.0, -3.0, 3.0, 0.0, 1.0]])}
    one = {"output": np.ones((1, 6))}
    expected = {
        "relu": [0, 1, 0, 1, 0, 1],
        "relu6": [0, 0, 0, 1, 0, 1],
        "leaky_relu": [0.01, 1, 0.01, 1, 0.01, 1],
        "hard_sigmoid": [1 / 6, 0, 0, 0, 1 / 6, 1 / 6],
        "hard_silu": [0.5, 1, 0, 1, 0.5, 5 / 6],
    }
    for function, gradient in expected.items():
        model = JAX.build(network(nn.Activation(function))).model
        side = JAX.adopt(model, dtype="float32", device="cpu", mode="eager", own=True)
        _, found = observed(side, x, one)
        np.testing.assert_allclose(found.inputs["x"][0], gradient, rtol=1e-14, err_msg=function)


def test_a_wrong_shape_is_named():
    side = JAX.adopt(
        JAX.build(network()).model, dtype="float32", device="cpu", mode="eager", own=True
    )
    with pytest.raises(ModelError, match="forward: TypeError: dot_general requires"):
        observed(side, {"x": np.ones((4, 7), np.float32)}, precision="working")


def test_attention_among_huge_scores_is_finite_when_compiled():
    # Compiled, scores of 1e10 may be computed twice and rounded differently, so that some exceed
    # their own maximum by thousands.
    layers = [nn.MultiHeadAttention(2, 8, causal=True)]
    network = Sequential(layers, input_shape=("time", 8))
    built = JAX.build(network, dtype="float32")
    rng = np.random.default_rng(0)
    compiled = jax.jit(lambda x: built.model(x))
    for _ in range(20):
        values = 1e5 * (1 + 0.02 * rng.standard_normal((2, 3, 8)))
        assert np.isfinite(np.asarray(compiled(jnp.asarray(values, "float32")))).all()
