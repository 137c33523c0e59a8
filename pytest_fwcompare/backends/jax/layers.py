"""Layers as functions of jax.lax and jax.numpy: dense, elementwise, norms, shaping.

Each is registered for its description and called as f(layer, use). Feature axes come last, as in
the description, so nothing is transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax import numpy as jnp

from pytest_fwcompare.backends.jax.dropout import dropped
from pytest_fwcompare.dropout import current
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.base import Layer

Value = Any
"""A jax.Array or a traced one."""


@dataclass
class Use:
    """One use of a layer in a call.

    Attributes:
        inputs: by position.
        keywords: by name.
        parameters: parameters and buffers of the layer by name, as nested dictionaries.
        training: in training mode.
        key: random key of this use in training mode; None where none was given.
        changed: new values of buffers, filled by the layer.
    """

    inputs: Sequence[Value]
    keywords: Mapping[str, Value]
    parameters: Mapping[str, Any]
    training: bool = False
    key: Value = None
    changed: dict[str, Value] = field(default_factory=dict)

    @property
    def x(self) -> Value:
        """The first input."""
        return self.inputs[0]

    def biased(self, value: Value, name: str = "bias") -> Value:
        """The value plus a bias, where the layer has one."""
        return value + self.parameters[name] if name in self.parameters else value

    def affine(self, value: Value) -> Value:
        """Scale value + shift, as far as the layer has them."""
        if "scale" in self.parameters:
            value = value * self.parameters["scale"]
        return self.biased(value, "shift")


Lowering = Callable[[Any, Use], Value]

LOWERINGS: dict[type[Layer], Lowering] = {}
"""The function of each kind of layer."""


def lowers(kind: type[Layer]) -> Callable[[Lowering], Lowering]:
    """Register the function of a kind of layer and of its subclasses."""

    def register(function: Lowering) -> Lowering:
        LOWERINGS[kind] = function
        return function

    return register


def compute(layer: Layer, use: Use) -> Value:
    """Output of a layer."""
    for kind in type(layer).__mro__:
        if kind in LOWERINGS:
            return LOWERINGS[kind](layer, use)
    raise NotImplementedError(f"{layer.label}: the jax backend has no such layer")


@lowers(described.Dense)
def _dense(layer: described.Dense, use: Use) -> Value:
    return use.biased(use.x @ use.parameters["kernel"])


@lowers(described.Embedding)
def _embedding(layer: described.Embedding, use: Use) -> Value:
    rows = use.parameters["table"][use.x]
    if layer.padding_index is None:
        return rows
    padded = (use.x == layer.padding_index)[..., None]
    return jnp.where(padded, jax.lax.stop_gradient(rows), rows)


@lowers(described.PositionalEmbedding)
def _positional_embedding(layer: described.PositionalEmbedding, use: Use) -> Value:
    return use.x + use.parameters["table"][: use.x.shape[1]]


# Normalisation


def wide(x: Value) -> Value:
    """Numbers of sixteen bits in float32: in float16 the square of 256 is infinite."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def normalised(x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """(x - mean) / sqrt(variance + epsilon), the variance biased."""
    centred = wide(x) - jnp.mean(wide(x), axes, keepdims=True)
    variance = jnp.mean(centred * centred, axes, keepdims=True)
    return (centred / jnp.sqrt(variance + epsilon)).astype(x.dtype)


@lowers(described.BatchNorm)
def _batch_norm(layer: described.BatchNorm, use: Use) -> Value:
    mean, variance, x = use.parameters["mean"], use.parameters["variance"], wide(use.x)
    if use.training:
        axes = tuple(range(x.ndim - 1))
        batch_mean = jnp.mean(x, axes)
        batch_variance = jnp.mean((x - batch_mean) ** 2, axes)
        rate, kept = layer.momentum, mean.dtype
        use.changed["mean"] = ((1 - rate) * mean + rate * batch_mean).astype(kept)
        use.changed["variance"] = ((1 - rate) * variance + rate * batch_variance).astype(kept)
        mean, variance = batch_mean, batch_variance
    normal = (x - mean) / jnp.sqrt(wide(variance) + layer.epsilon)
    return use.affine(normal.astype(use.x.dtype))


@lowers(described.LayerNorm)
def _layer_norm(layer: described.LayerNorm, use: Use) -> Value:
    return use.affine(normalised(use.x, tuple(range(-layer.axes, 0)), layer.epsilon))


@lowers(described.GroupNorm)
def _group_norm(layer: described.GroupNorm, use: Use) -> Value:
    *outer, features = use.x.shape
    grouped = use.x.reshape(*outer, layer.groups, features // layer.groups)
    axes = (*range(1, len(outer)), len(outer) + 1)
    return use.affine(normalised(grouped, axes, layer.epsilon).reshape(use.x.shape))


@lowers(described.InstanceNorm)
def _instance_norm(layer: described.InstanceNorm, use: Use) -> Value:
    return use.affine(normalised(use.x, tuple(range(1, use.x.ndim - 1)), layer.epsilon))


@lowers(described.RMSNorm)
def _rms_norm(layer: described.RMSNorm, use: Use) -> Value:
    x = wide(use.x)
    square = jnp.mean(x * x, -1, keepdims=True)
    return use.affine((x / jnp.sqrt(square + layer.epsilon)).astype(use.x.dtype))


# Shaping and joining


@lowers(described.Flatten)
def _flatten(layer: described.Flatten, use: Use) -> Value:
    return use.x.reshape(use.x.shape[0], -1) if use.x.ndim > 1 else use.x[:, None]


@lowers(described.Reshape)
def _reshape(layer: described.Reshape, use: Use) -> Value:
    return use.x.reshape(use.x.shape[0], *layer.shape)


@lowers(described.Permute)
def _permute(layer: described.Permute, use: Use) -> Value:
    return jnp.transpose(use.x, (0, *layer.axes))


@lowers(described.Pad)
def _pad(layer: described.Pad, use: Use) -> Value:
    mode = {"zero": "constant", "reflect": "reflect", "replicate": "edge"}[layer.mode]
    return jnp.pad(use.x, ((0, 0), *layer.amounts, (0, 0)), mode)


@lowers(described.Concatenate)
def _concatenate(layer: described.Concatenate, use: Use) -> Value:
    return jnp.concatenate(use.inputs, layer.axis)


@lowers(described.Add)
def _add(layer: described.Add, use: Use) -> Value:
    first, *others = use.inputs
    for value in others:
        first = first + value
    return first


@lowers(described.Multiply)
def _multiply(layer: described.Multiply, use: Use) -> Value:
    first, *others = use.inputs
    for value in others:
        first = first * value
    return first


@lowers(described.MatMul)
def _matmul(layer: described.MatMul, use: Use) -> Value:
    first, second = use.inputs
    return first @ (jnp.swapaxes(second, -1, -2) if layer.transpose_second else second)


# Elementwise functions


@lowers(described.Softmax)
def _softmax(layer: described.Softmax, use: Use) -> Value:
    return jax.nn.softmax(use.x, layer.axis)


@lowers(described.LogSoftmax)
def _log_softmax(layer: described.LogSoftmax, use: Use) -> Value:
    return jax.nn.log_softmax(use.x, layer.axis)


def clipped(value: Value, x: Value, low: float, high: float, top: float) -> Value:
    """The value where low < x < high, 0 below and `top` above: flat at both kinks."""
    return jnp.where(x <= low, 0, jnp.where(x >= high, top, value)).astype(x.dtype)


def exponential(x: Value, alpha: float, scale: float = 1.0) -> Value:
    """X above zero, else alpha (exp(x / scale) - 1)."""
    # The inner choice keeps infinities out of the derivative.
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x) / scale))


# Klambauer et al. 2017, arXiv:1706.02515: the fixed point (0, 1).
SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946

FUNCTIONS: dict[str, Callable[[Value, float], Value]] = {
    "relu": lambda x, alpha: jax.nn.relu(x),
    "relu6": lambda x, alpha: clipped(x, x, 0, 6, 6),
    "tanh": lambda x, alpha: jnp.tanh(x),
    "sigmoid": lambda x, alpha: jax.nn.sigmoid(x),
    "silu": lambda x, alpha: jax.nn.silu(x),
    "mish": lambda x, alpha: x * jnp.tanh(jax.nn.softplus(x)),
    "gelu": lambda x, alpha: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x, alpha: jax.nn.gelu(x, approximate=True),
    "softplus": lambda x, alpha: jax.nn.softplus(x),
    "softsign": lambda x, alpha: jax.nn.soft_sign(x),
    "leaky_relu": lambda x, alpha: jnp.where(x > 0, x, alpha * x),
    "elu": lambda x, alpha: exponential(x, alpha),
    "celu": lambda x, alpha: exponential(x, alpha, alpha),
    "selu": lambda x, alpha: SELU_SCALE * exponential(x, SELU_ALPHA),
    "hard_sigmoid": lambda x, alpha: clipped(x / 6 + 0.5, x, -3, 3, 1),
    "hard_silu": lambda x, alpha: x * clipped(x / 6 + 0.5, x, -3, 3, 1),
}
"""Elementwise functions of x and alpha."""


@lowers(described.Activation)
def _activation(layer: described.Activation, use: Use) -> Value:
    return FUNCTIONS[layer.function](use.x, layer.parameter)


@lowers(described.PReLU)
def _prelu(layer: described.PReLU, use: Use) -> Value:
    return jnp.where(use.x > 0, use.x, use.parameters["slope"] * use.x)


@lowers(described.GLU)
def _glu(layer: described.GLU, use: Use) -> Value:
    value, gate = jnp.split(use.x, 2, -1)
    return value * (jax.nn.sigmoid(gate) if layer.gate == "sigmoid" else jax.nn.silu(gate))


@lowers(described.Dropout)
def _dropout(layer: described.Dropout, use: Use) -> Value:
    if not use.training or not layer.rate:
        return use.x
    draws = current()
    if draws is not None:
        return dropped(use.x, 1 - layer.rate, use.x.shape, draws)
    if use.key is None:
        raise ValueError(f"{layer.label}: training needs a random key: apply(..., key=key)")
    kept = jax.random.bernoulli(use.key, 1 - layer.rate, use.x.shape)
    return jnp.where(kept, use.x / (1 - layer.rate), 0).astype(use.x.dtype)
