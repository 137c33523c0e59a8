"""Described networks in Keras 3: every layer in float64, training, saving, wrong answers."""

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
from pytest_fwcompare.weights.transforms import Identity, Stack

pytest.importorskip("torch")  # has to be imported before TensorFlow
require("keras").version()
keras = pytest.importorskip("keras")

ROUNDED = ("attention", "shared-attention", "leaky_relu", "gelu", "gelu_tanh")
"""Cases in which Keras or TensorFlow keeps a constant in float32."""


def observed(each: Case) -> tuple[dict[str, float], tuple[str, ...]]:
    """Largest gap of each tensor to the NumPy reference in float64, and the notices."""
    network = each.network()
    found: dict[str, float] = {}
    with ExitStack() as stack:
        reference = opened(stack, require("numpy"), network, "float64")
        port = opened(stack, require("keras"), network, "float64")
        for sizes in each.sizes:
            inputs = each.inputs(sizes)
            for name, gap in gaps(reference.observe(inputs), port.observe(inputs)).items():
                found[name] = max(found.get(name, 0.0), gap)
        return found, port.built.notices


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_layer_computes_what_the_reference_computes(each: Case) -> None:
    found, notices = observed(each)
    rounded = each.name.startswith("attention") or any(
        each.name in (name, f"activation-{name}") for name in ROUNDED
    )
    if not rounded:
        assert not notices
        assert max(found.values()) < 1e-12
    elif notices:
        # A notice that is no longer true has to go.
        assert 1e-12 < max(found.values()) < 1e-7
    else:
        assert max(found.values()) < 1e-12


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (
            nn.Activation("leaky_relu", name="leaky"),
            (3,),
            "Activation 'leaky': TensorFlow keeps the slope of leaky_relu in float32: "
            "0.009999999776482582 for 0.01",
        ),
        (
            nn.MultiHeadAttention(2, 3, name="heads"),
            (4, 6),
            "MultiHeadAttention 'heads': Keras' attention rounds its scale to float32 on "
            "TensorFlow: 0.5773502588272095 for 0.5773502691896258",
        ),
        (
            nn.Activation("gelu", name="gelu"),
            (3,),
            "Activation 'gelu': TensorFlow's gelu rounds its constants to float32, which is up "
            "to 1e-8 off in float64",
        ),
    ],
)
def test_rounded_constants_are_noted(layer: Any, shape: tuple[int, ...], text: str) -> None:
    built = require("keras").build(nn.Sequential([layer], shape))
    assert built.notices == (text,)


@pytest.mark.parametrize(
    "layer", [nn.Activation("leaky_relu", 0.25), nn.MultiHeadAttention(2, 4)], ids=type
)
def test_exact_constants_are_not_noted(layer: Any) -> None:
    assert require("keras").build(nn.Sequential([layer], (4, 6))).notices == ()


def test_gates_in_the_canonical_order_are_caught() -> None:
    network = case("gru").network()
    with ExitStack() as stack:
        reference = opened(stack, require("numpy"), network, "float64")
        port = stack.enter_context(Bench(require("keras"), network, "float64"))
        placements = tuple(
            replace(
                placed, transform=Stack(0) if placed.parameter.endswith("bias") else Identity()
            )
            for placed in port.built.placements
        )
        port.built = replace(port.built, placements=placements)
        port.fill(nn.random_parameters(network, 0))
        inputs = case("gru").inputs({"batch": 2, "time": 4})
        found = gaps(reference.observe(inputs), port.observe(inputs))
        assert found["output output"] > 1e-3


def test_layers_are_keras_own_where_there_are_such() -> None:
    network = nn.Sequential(
        [
            nn.Conv2D(4, 3, stride=2, padding="same", name="conv"),
            nn.BatchNorm(momentum=0.125, epsilon=1e-4, name="norm"),
            nn.MaxPool2D(2, padding=1, name="pool"),
            nn.GlobalAveragePool(name="mean"),
            nn.Dense(3, name="scores"),
        ],
        ("height", "width", 3),
    )
    built = require("keras").build(network)
    kinds = [(layer.name, type(layer).__name__) for layer in built.model.layers]
    assert kinds == [
        ("x", "InputLayer"),
        ("conv", "Conv2D"),
        ("norm", "BatchNormalization"),
        ("pool_pad", "Padding"),
        ("pool", "MaxPooling2D"),
        ("mean", "GlobalAveragePooling2D"),
        ("scores", "Dense"),
    ]
    norm = built.model.get_layer("norm")
    assert (norm.momentum, norm.epsilon) == (0.875, 1e-4)
    assert [placed.parameter for placed in built.placements][:6] == [
        "conv/kernel",
        "conv/bias",
        "norm/gamma",
        "norm/beta",
        "norm/moving_mean",
        "norm/moving_variance",
    ]


SAVED = [
    "conv2d-same-stride-dilation",
    "conv1d-groups",
    "conv-transpose2d-same-dilation",
    "average-pool1d-same-count",
    "average-pool2d-explicit",
    "max-pool2d-uneven",
    "adaptive-average-pool2d",
    "global-max-pool3d",
    "upsample2d-align-corners",
    "rms-norm-plain",
    "lstm-reverse",
    "bidirectional-sum",
    "attention-masked-causal",
    "embedding-padding",
    "positional-embedding",
    "pad3d-replicate",
    "matmul-transposed",
    "log-softmax-axis",
    "glu-silu",
    "activation-celu-alpha",
    "activation-gelu_tanh",
    "shared",
    "shared-attention",
]
"""Cases that together have every layer of our own."""


# Keras reads its own variables in a way that NumPy 2 has deprecated.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
@pytest.mark.parametrize("name", SAVED)
def test_a_saved_model_is_the_same_model(name: str, tmp_path: Path) -> None:
    each = case(name)
    built = require("keras").build(each.network(), dtype="float64")
    values = list(each.inputs(each.sizes[0]).values())
    given = values[0] if len(values) == 1 else values
    path = tmp_path / "model.keras"
    built.model.save(path)
    loaded = keras.saving.load_model(path)
    for saved, again in zip(
        keras.tree.flatten(built.model(given)), keras.tree.flatten(loaded(given)), strict=True
    ):
        assert np.array_equal(saved, again)


def test_a_model_is_trained_by_keras_fit() -> None:
    network = nn.Sequential(
        [nn.Conv1D(4, 3, padding=1), nn.BatchNorm(), nn.GRU(3), nn.Dense(1)], ("time", 2)
    )
    model = require("keras").build(network).model
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 5, 2)).astype(np.float32)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    losses = model.fit(x, x[:, 0, :1], epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 1.2


def test_batch_norm_moves_its_buffers_by_the_weight_of_the_new_value() -> None:
    network = nn.Sequential([nn.BatchNorm(momentum=0.25, name="norm")], ("height", 3))
    model = require("keras").build(network, dtype="float64").model
    values = np.random.default_rng(0).standard_normal((4, 5, 3)) * 2 + 1
    model(values, training=True)
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, 0.25 * values.mean((0, 1)), rtol=1e-12)
    np.testing.assert_allclose(norm.moving_variance, 0.75 + 0.25 * values.var((0, 1)), rtol=1e-12)


def test_celu_has_its_one_derivative_at_zero() -> None:
    import tensorflow as tf

    network = nn.Sequential([nn.Activation("celu", 0.5)], (3,))
    model = require("keras").build(network).model
    x = tf.Variable(np.zeros((1, 3), np.float32))
    with tf.GradientTape() as tape:
        y = model(x)
    assert np.array_equal(tape.gradient(y, x), np.ones((1, 3)))


def test_a_layer_unknown_to_the_backend_is_named() -> None:
    class Cube(nn.Layer):
        pass

    network = nn.Sequential([Cube(name="cube")], (3,))
    with pytest.raises(NotImplementedError, match=r"^Cube 'cube': the keras backend has no"):
        require("keras").build(network)
