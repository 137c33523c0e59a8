"""Described layers as `tf.Module`s of raw TensorFlow operations; no Keras.

A module has the class name of its description, a `tf.Variable` for each parameter under the
parameter's name, and is called with tensors. Compositions take the place of operations that are
missing or that keep a constant in float32 (`tf.nn.gelu`, `tf.nn.leaky_relu`, `tf.image.resize`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from pytest_fwcompare.networks import ParameterSpec
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.base import Layer
from pytest_fwcompare.weights.transforms import Identity, Transform

MODULES: dict[type[Layer], type[LayerModule]] = {}
"""The module that computes each described layer."""


def computes(kind: type[Layer]) -> Callable[[type[LayerModule]], type[LayerModule]]:
    """Registers a module for a class of described layers."""

    def register(module: type[LayerModule]) -> type[LayerModule]:
        MODULES[kind] = module
        return module

    return register


class LayerModule(tf.Module):  # type: ignore[misc]
    """One described layer.

    Attributes:
        description: the layer it computes.
        stored: transforms from the canonical layout, by parameter; the others are canonical.
    """

    stored: ClassVar[Mapping[str, Callable[[int], Transform]]] = {}

    def __init__(self, layer: Any, specs: Mapping[str, ParameterSpec], dtype: str) -> None:
        super().__init__(name=layer.name)
        self.description = layer
        self.create(specs, dtype)

    def create(self, specs: Mapping[str, ParameterSpec], dtype: str) -> None:
        """Make the variables."""
        for name, spec in specs.items():
            value = self.transform(name, len(spec.shape)).apply(initial(spec, self.name + name))
            variable = tf.Variable(
                value, dtype=dtype, trainable=spec.trainable, name=f"{self.name}_{name}"
            )
            setattr(self, name, variable)

    def transform(self, name: str, rank: int) -> Transform:
        """From the canonical layout of a parameter with `rank` axes to the variable's."""
        make = self.stored.get(name)
        return make(rank) if make else Identity()

    def placements(
        self, specs: Mapping[str, ParameterSpec]
    ) -> Iterator[tuple[str, str, Transform]]:
        """(path of the variable within the module, canonical name, transform) of each."""
        for name, spec in specs.items():
            yield name, name, self.transform(name, len(spec.shape))

    def optional(self, name: str) -> tf.Variable | None:
        """The variable, or None where the description leaves it out."""
        return getattr(self, name, None)

    def biased(self, value: tf.Tensor) -> tf.Tensor:
        """With the bias added, if there is one."""
        bias = self.optional("bias")
        return value if bias is None else value + bias


def initial(spec: ParameterSpec, seed: str) -> np.ndarray:
    """Starting value of a parameter, float64: uniform of variance 1 / fan_in for kernels.

    The generator is its own, so that building disturbs no one's random numbers.
    """
    if spec.role in ("kernel", "table"):
        limit = math.sqrt(3 / max(spec.fan_in, 1))
        return np.random.default_rng(zlib.crc32(seed.encode())).uniform(-limit, limit, spec.shape)
    constant = {"scale": 1.0, "variance": 1.0, "slope": 0.25}.get(spec.role, 0.0)
    return np.full(spec.shape, constant)


def sizes(value: tf.Tensor) -> list[Any]:
    """Sizes of all axes: integers where they are known, scalar tensors where they are not."""
    dynamic = None
    result: list[Any] = value.shape.as_list()
    for axis, size in enumerate(result):
        if size is None:
            dynamic = tf.shape(value) if dynamic is None else dynamic
            result[axis] = dynamic[axis]
    return result


def spatial(value: tf.Tensor) -> list[int]:
    """Axes between batch and features."""
    return list(range(1, value.shape.rank - 1))


@computes(described.Dense)
class Dense(LayerModule):
    """x @ kernel + bias."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.biased(
            tf.tensordot(x, self.kernel, 1) if x.shape.rank > 2 else x @ self.kernel
        )


@computes(described.Embedding)
class Embedding(LayerModule):
    """Rows of `table`; the padding row is read behind `tf.stop_gradient`."""

    def __call__(self, tokens: tf.Tensor, training: bool = False) -> tf.Tensor:
        rows = tf.gather(self.table, tokens)
        padding = self.description.padding_index
        if padding is None:
            return rows
        # The value stays, the gradient of the padding row does not.
        is_padding = tf.equal(tokens, tf.cast(padding, tokens.dtype))[..., tf.newaxis]
        return tf.where(is_padding, tf.stop_gradient(rows), rows)


@computes(described.PositionalEmbedding)
class PositionalEmbedding(LayerModule):
    """x + table[:time]."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return x + self.table[: sizes(x)[1]]


@computes(described.Dropout)
class Dropout(LayerModule):
    """`tf.nn.dropout` in training mode."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.nn.dropout(x, self.description.rate) if training else x


@computes(described.Flatten)
class Flatten(LayerModule):
    """`tf.reshape` to (batch, product)."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        batch, *rest = sizes(x)
        return tf.reshape(x, (batch, math.prod(rest)))


@computes(described.Reshape)
class Reshape(LayerModule):
    """`tf.reshape` behind the batch."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.reshape(x, (sizes(x)[0], *self.description.shape))


@computes(described.Permute)
class Permute(LayerModule):
    """`tf.transpose` behind the batch."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.transpose(x, (0, *self.description.axes))


@computes(described.Add)
class Add(LayerModule):
    """Sum of its inputs."""

    def __call__(self, *values: tf.Tensor, training: bool = False) -> tf.Tensor:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total


@computes(described.Multiply)
class Multiply(LayerModule):
    """Product of its inputs."""

    def __call__(self, *values: tf.Tensor, training: bool = False) -> tf.Tensor:
        product = values[0]
        for value in values[1:]:
            product = product * value
        return product


@computes(described.Concatenate)
class Concatenate(LayerModule):
    """`tf.concat`."""

    def __call__(self, *values: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.concat(values, self.description.axis)


@computes(described.MatMul)
class MatMul(LayerModule):
    """`tf.matmul`."""

    def __call__(self, x: tf.Tensor, y: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.matmul(x, y, transpose_b=self.description.transpose_second)


@computes(described.Softmax)
class Softmax(LayerModule):
    """`tf.nn.softmax`."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.nn.softmax(x, self.description.axis)


@computes(described.LogSoftmax)
class LogSoftmax(LayerModule):
    """`tf.nn.log_softmax`."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.nn.log_softmax(x, self.description.axis)


@computes(described.Activation)
class Activation(LayerModule):
    """One of `ELEMENTWISE` or `PARAMETRIC`."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        layer = self.description
        if layer.function in PARAMETRIC:
            return PARAMETRIC[layer.function](x, layer.parameter)
        return ELEMENTWISE[layer.function](x)


@computes(described.PReLU)
class PReLU(LayerModule):
    """Below zero times `slope`."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.where(x > 0, x, self.slope * x)


@computes(described.GLU)
class GLU(LayerModule):
    """First half times the gate of the second."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        value, gate = tf.split(x, 2, axis=-1)
        return value * ELEMENTWISE[self.description.gate](gate)


def _gelu(x: tf.Tensor) -> tf.Tensor:
    # tf.nn.gelu casts sqrt(2) from float32: 5e-9 off in float64.
    return 0.5 * x * (1.0 + tf.math.erf(x / math.sqrt(2.0)))


def _gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * x * (1.0 + tf.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def _leaky_relu(x: tf.Tensor, alpha: float) -> tf.Tensor:
    # tf.nn.leaky_relu keeps its slope in a float32 attribute: 7e-10 off in float64.
    return tf.where(x > 0, x, alpha * x)


def _elu(x: tf.Tensor, alpha: float) -> tf.Tensor:
    # expm1 sees no large x, whose infinite derivative times zero would be NaN.
    return tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0.0)))


def _celu(x: tf.Tensor, alpha: float) -> tf.Tensor:
    return tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0.0) / alpha))


def _hard_sigmoid(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu6(x + 3.0) / 6.0


ELEMENTWISE: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "silu": lambda x: x * tf.sigmoid(x),
    "mish": lambda x: x * tf.tanh(tf.nn.softplus(x)),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "softplus": tf.nn.softplus,
    "softsign": tf.nn.softsign,
    "selu": tf.nn.selu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": lambda x: x * _hard_sigmoid(x),
}

PARAMETRIC: dict[str, Callable[[tf.Tensor, float], tf.Tensor]] = {
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "celu": _celu,
}
