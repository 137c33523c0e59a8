"""Keras on torch, JAX and NumPy as sides of their own, each in a worker."""

from __future__ import annotations

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends.registry import backend
from pytest_fwcompare.errors import FrameworkUnavailable, ModelError
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers.remote import RemoteModel
from workers import keras_models

DIFFERENTIATED = ("keras@torch", "keras@jax")
ALL = (*DIFFERENTIATED, "keras@numpy")
ONE = {"x": fwc.TensorSpec(("batch", 6))}
TWO = {"x": fwc.TensorSpec(("batch", 6)), "y": fwc.TensorSpec(("batch", 6))}


def remote(factory, name) -> RemoteModel:
    return fwc.in_worker(name, factory)


def checks(name: str) -> tuple[str, ...]:
    return ("forward", "backward", "training") if name in DIFFERENTIATED else ("forward",)


@pytest.mark.parametrize(
    "name", ["keras@torch", "keras@numpy", pytest.param("keras@jax", marks=pytest.mark.slow)]
)
def test_a_described_network_is_the_same_function(name):
    network = fn.Sequential(
        [
            fn.Conv2D(4, 3, padding="same", stride=2),
            fn.BatchNorm(),
            fn.Activation("gelu"),
            fn.AveragePool2D(2, padding="same"),
            fn.Flatten(),
            fn.Dense(3),
            fn.LayerNorm(),
        ],
        input_shape=(6, 6, 2),
    )
    comparison = fwc.compare(
        InFramework(network, "numpy"),
        InFramework(network, name),
        inputs=network.inputs,
        checks=checks(name),
        examples=2,
    )
    assert comparison.verdict == "equivalent", comparison.summary()
    assert comparison.gap < 1e-11
    told = comparison.environment[name]
    assert told["keras_backend"] == name.partition("@")[2]
    assert not comparison.notices


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param(keras_models.functional, marks=pytest.mark.slow),
        pytest.param(keras_models.subclassed, marks=pytest.mark.slow),
    ],
)
def test_a_model_is_the_same_on_torch_and_jax(factory):
    comparison = fwc.compare(
        remote(factory, "keras@torch"),
        remote(factory, "keras@jax"),
        inputs=TWO if factory is keras_models.functional else ONE,
        checks=checks("keras@torch"),
        examples=2,
    )
    assert comparison.verdict == "equivalent", comparison.summary()
    assert comparison.gap < 1e-11
    assert comparison.controls.caught == len(comparison.controls.tried) > 0


@pytest.mark.parametrize(
    "name", ["keras@numpy", *(pytest.param(n, marks=pytest.mark.slow) for n in DIFFERENTIATED)]
)
def test_a_wrong_epsilon_is_found_and_named(name):
    comparison = fwc.compare(
        remote(keras_models.functional, "keras@jax" if name == "keras@torch" else "keras@torch"),
        remote(keras_models.other_epsilon, name),
        inputs=TWO,
        checks=("forward",) if name == "keras@numpy" else ("forward", "backward"),
        examples=3,
    )
    assert comparison.verdict == "semantic"
    if name != "keras@numpy":  # it records nothing, so nothing can be proved
        proved = comparison.cause == "norm-epsilon"
        assert proved or any("epsilon is 0.001" in hint for hint in comparison.hints)
        assert "norm" in comparison.culprit
        assert "norm" in comparison.port_culprit


@pytest.mark.parametrize("name", ALL)
def test_dropout_that_was_left_on_is_named(name):
    comparison = fwc.compare(
        remote(keras_models.dropout_left_on, name),
        remote(keras_models.dropout_left_on, name),
        inputs=ONE,
        checks=("forward",),
        examples=2,
    )
    assert (comparison.verdict, comparison.cause) == ("semantic", "dropout")


def test_numpy_gives_no_gradients_and_says_so():
    side = open_side(
        remote(keras_models.subclassed, "keras@numpy"),
        "port",
        dtype="float32",
        device="cpu",
        mode="eager",
    ).side
    from pytest_fwcompare.backends.base import Argument

    passed = side.forward([Argument("x", [[1.0] * 6])], precision="working")
    with pytest.raises(ModelError, match=r"port, backward: Keras on NumPy gives no gradients; co"):
        passed.backward({})
    side.close()


def test_what_they_can_do_is_said_before_anything_starts():
    assert backend("keras@numpy").can_differentiate is False
    assert backend("keras@jax").modes == ("eager", "graph", "compiled")
    assert backend("keras@torch").modes == ("eager",)
    network = fn.Sequential([fn.Dense(3)], input_shape=(2,))
    with pytest.raises(FrameworkUnavailable, match=r"dtype 'float64' was asked for, but keras@ja"):
        open_side(
            InFramework(network, "keras@jax"),
            "port",
            dtype="float64",
            device="cpu",
            mode="eager",
        )


@pytest.mark.parametrize("name", ALL)
def test_a_model_of_another_dtype_is_refused_with_what_to_do(name):
    with pytest.raises(ModelError, match=r"working dtype float32, got float16; make the model in"):
        open_side(
            remote(keras_models.in_float16, name),
            "port",
            dtype="float32",
            device="cpu",
            mode="eager",
        )
