"""Described layers as chains of native Keras 3 layers, and where their parameters live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from pytest_fwcompare.backends.keras import layers_algebra as algebra
from pytest_fwcompare.networks import ParameterSpec
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.base import Layer, Shape
from pytest_fwcompare.weights.transforms import Identity, Reshape, Transform

Stored = tuple[Any, tuple[str, ...], Transform]
"""A Keras variable, the canonical parameters it is made of, and how."""


@dataclass(frozen=True)
class Native:
    """What computes a described layer.

    Attributes:
        chain: layers applied one after the other; the first takes the inputs.
        stored: gives the variables, once the layers are built.
        call: applies the chain where it is not that simple.
        notices: where Keras is less exact than float64.
    """

    chain: tuple[Any, ...]
    stored: Callable[[], Iterable[Stored]] = tuple
    call: Callable[[list[Any], dict[str, Any]], Any] | None = None
    notices: tuple[str, ...] = ()

    def __call__(self, inputs: list[Any], keywords: dict[str, Any]) -> Any:
        """Apply to symbolic or real tensors."""
        if self.call is not None:
            return self.call(inputs, keywords)
        value: Any = inputs[0] if len(inputs) == 1 else inputs
        for layer in self.chain:
            value = layer(value)
        return value


@dataclass
class Context:
    """What a layer is made with.

    Attributes:
        name: of the layer in its network.
        dtype: of its computation and variables.
        specs: its canonical parameters.
        shapes: of its inputs, batch included.
        keywords: inputs by keyword that any use of it has.
        taken: names of Keras layers in use.
    """

    name: str
    dtype: str
    specs: Mapping[str, ParameterSpec]
    shapes: tuple[Shape, ...]
    keywords: frozenset[str] = frozenset()
    taken: set[str] = field(default_factory=set)

    @property
    def common(self) -> dict[str, Any]:
        """Arguments of the layer that holds the parameters."""
        return {"name": self.name, "dtype": self.dtype}

    @property
    def rank(self) -> int:
        """Axes of the first input, batch included."""
        return len(self.shapes[0])

    def helper(self, suffix: str) -> dict[str, Any]:
        """Arguments of a further layer of the chain, under a name of its own."""
        name = f"{self.name}_{suffix}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return {"name": name, "dtype": self.dtype}

    def held(
        self, owner: Any, names: Mapping[str, str], **transforms: Transform
    ) -> Callable[[], list[Stored]]:
        """Parameters kept as attributes of `owner`: {canonical name: attribute}."""

        def stored() -> list[Stored]:
            return [
                (getattr(owner, names[name]), (name,), transforms.get(name, Identity()))
                for name in self.specs
            ]

        return stored


Maker = Callable[[Any, Context], Native]

MAKERS: dict[type[Layer], Maker] = {}
"""What makes each described layer."""

KERNEL = {"kernel": "kernel", "bias": "bias"}


def makes(*kinds: type[Layer]) -> Callable[[Maker], Maker]:
    """Registers a maker for classes of described layers."""

    def register(maker: Maker) -> Maker:
        MAKERS.update(dict.fromkeys(kinds, maker))
        return maker

    return register


@makes(described.Dense)
def _dense(layer: described.Dense, to: Context) -> Native:
    made = keras.layers.Dense(layer.units, use_bias=layer.use_bias, **to.common)
    return Native((made,), to.held(made, KERNEL))


@makes(described.Embedding)
def _embedding(layer: described.Embedding, to: Context) -> Native:
    if layer.padding_index is None:
        made = keras.layers.Embedding(layer.vocabulary, layer.units, **to.common)
    else:
        made = algebra.PaddedEmbedding(
            layer.vocabulary, layer.units, layer.padding_index, **to.common
        )
    return Native((made,), to.held(made, {"table": "embeddings"}))


@makes(described.PositionalEmbedding)
def _positions(layer: described.PositionalEmbedding, to: Context) -> Native:
    made = algebra.PositionTable(layer.length, **to.common)
    return Native((made,), to.held(made, {"table": "table"}))


@makes(described.Dropout)
def _dropout(layer: described.Dropout, to: Context) -> Native:
    return Native((keras.layers.Dropout(layer.rate, **to.common),))


@makes(described.Flatten)
def _flatten(layer: described.Flatten, to: Context) -> Native:
    return Native((keras.layers.Flatten(data_format="channels_last", **to.common),))


@makes(described.Reshape)
def _reshape(layer: described.Reshape, to: Context) -> Native:
    return Native((keras.layers.Reshape(layer.shape, **to.common),))


@makes(described.Permute)
def _permute(layer: described.Permute, to: Context) -> Native:
    return Native((keras.layers.Permute(layer.axes, **to.common),))


@makes(described.Add)
def _add(layer: described.Add, to: Context) -> Native:
    return Native((keras.layers.Add(**to.common),))


@makes(described.Multiply)
def _multiply(layer: described.Multiply, to: Context) -> Native:
    return Native((keras.layers.Multiply(**to.common),))


@makes(described.Concatenate)
def _concatenate(layer: described.Concatenate, to: Context) -> Native:
    return Native((keras.layers.Concatenate(layer.axis, **to.common),))


@makes(described.MatMul)
def _matmul(layer: described.MatMul, to: Context) -> Native:
    return Native((algebra.MatrixProduct(layer.transpose_second, **to.common),))


@makes(described.Softmax)
def _softmax(layer: described.Softmax, to: Context) -> Native:
    return Native((keras.layers.Softmax(layer.axis, **to.common),))


@makes(described.LogSoftmax)
def _log_softmax(layer: described.LogSoftmax, to: Context) -> Native:
    return Native((algebra.LogSoftmax(layer.axis, **to.common),))


@makes(described.PReLU)
def _prelu(layer: described.PReLU, to: Context) -> Native:
    space = list(range(1, to.rank - 1))
    made = keras.layers.PReLU(shared_axes=space or None, **to.common)
    features = to.specs["slope"].shape
    return Native(
        (made,),
        to.held(made, {"slope": "alpha"}, slope=Reshape((*(1,) * len(space), *features))),
    )


@makes(described.GLU)
def _glu(layer: described.GLU, to: Context) -> Native:
    return Native((algebra.GatedUnit(layer.gate, **to.common),))


@makes(described.Activation)
def _activation(layer: described.Activation, to: Context) -> Native:
    function = layer.function
    notices: tuple[str, ...] = ()
    if function == "leaky_relu":
        made = keras.layers.LeakyReLU(layer.parameter, **to.common)
        rounded = float(np.float32(layer.parameter))
        if rounded != layer.parameter:
            notices = (
                f"{layer.label}: TensorFlow keeps the slope of leaky_relu in float32: "
                f"{rounded!r} for {layer.parameter!r}",
            )
    elif function == "elu":
        made = keras.layers.ELU(layer.parameter, **to.common)
    elif function == "celu":
        made = algebra.CELU(layer.parameter, **to.common)
    elif function == "gelu_tanh":
        made = keras.layers.Activation(algebra.gelu_tanh, **to.common)
    else:
        made = keras.layers.Activation(function, **to.common)
    if function.startswith("gelu"):
        notices = (
            f"{layer.label}: TensorFlow's gelu rounds its constants to float32, which is up to "
            f"1e-8 off in float64",
        )
    if keras.backend.backend() != "tensorflow":
        notices = ()
    return Native((made,), notices=notices)


@makes(described.BatchNorm)
def _batch_norm(layer: described.BatchNorm, to: Context) -> Native:
    made = keras.layers.BatchNormalization(
        momentum=1 - layer.momentum,
        epsilon=layer.epsilon,
        scale=layer.use_scale,
        center=layer.use_shift,
        **to.common,
    )
    buffers = {"mean": "moving_mean", "variance": "moving_variance"}
    return Native((made,), to.held(made, AFFINE | buffers))


AFFINE = {"scale": "gamma", "shift": "beta"}


@makes(described.LayerNorm)
def _layer_norm(layer: described.LayerNorm, to: Context) -> Native:
    made = keras.layers.LayerNormalization(
        axis=list(range(-layer.axes, 0)),
        epsilon=layer.epsilon,
        scale=layer.use_scale,
        center=layer.use_shift,
        **to.common,
    )
    return Native((made,), to.held(made, AFFINE))


@makes(described.GroupNorm)
def _group_norm(layer: described.GroupNorm, to: Context) -> Native:
    made = keras.layers.GroupNormalization(
        layer.groups,
        epsilon=layer.epsilon,
        scale=layer.use_scale,
        center=layer.use_shift,
        **to.common,
    )
    return Native((made,), to.held(made, AFFINE))


@makes(described.InstanceNorm)
def _instance_norm(layer: described.InstanceNorm, to: Context) -> Native:
    made = keras.layers.GroupNormalization(
        -1, epsilon=layer.epsilon, scale=layer.affine, center=layer.affine, **to.common
    )
    return Native((made,), to.held(made, AFFINE))


@makes(described.RMSNorm)
def _rms_norm(layer: described.RMSNorm, to: Context) -> Native:
    if not layer.use_scale:
        return Native((algebra.PlainRMSNorm(layer.epsilon, **to.common),))
    made = keras.layers.RMSNormalization(epsilon=layer.epsilon, **to.common)
    return Native((made,), to.held(made, {"scale": "scale"}))
