"""What each layer computes, in NumPy: one function a layer, found by its class.

Formulas: the docstrings in `networks.layers`. A function takes the layer, its inputs and its
parameters by name (arrays, or autograd's boxes of them) and the state of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import prod
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

from pytest_fwcompare.backends.numpy import elementwise, primitives, windows
from pytest_fwcompare.backends.numpy.traced import Value
from pytest_fwcompare.dropout import current
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.base import Layer
from pytest_fwcompare.networks.layers.windows import expand, span


@dataclass
class State:
    """State of one pass.

    Attributes:
        training: batch statistics, dropout.
        generator: draws what dropout keeps.
        buffers: new values of buffers by their full name, filled by a pass in training mode.
    """

    training: bool = False
    generator: np.random.Generator | None = None
    buffers: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Use:
    """One layer about to compute.

    Attributes:
        name: of the layer in its network.
        inputs: by position.
        keywords: inputs by keyword.
        parameters: by their name within the layer.
        state: of the pass.
    """

    name: str
    inputs: Sequence[Value]
    keywords: Mapping[str, Value]
    parameters: Mapping[str, Value]
    state: State

    @property
    def x(self) -> Value:
        """The first input."""
        return self.inputs[0]

    def biased(self, value: Value) -> Value:
        """The value plus the layer's bias where it has one."""
        return value + self.parameters["bias"] if "bias" in self.parameters else value


Lowering = Callable[[Any, Use], Value]

LOWERINGS: dict[type[Layer], Lowering] = {}


def lowers(*kinds: type[Layer]) -> Callable[[Lowering], Lowering]:
    """Register what layers of these classes, and their subclasses, compute."""

    def register(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(kinds, function))
        return function

    return register


def compute(layer: Layer, use: Use) -> Value:
    """Output of a layer.

    Raises:
        NetworkError: the layer cannot take inputs of these sizes, or no function is known for it.
    """
    layer.infer(*(value.shape for value in use.inputs))
    for kind in type(layer).__mro__:
        if kind in LOWERINGS:
            return LOWERINGS[kind](layer, use)
    raise layer.error("the NumPy reference does not know this layer")


@lowers(described.Dense)
def _dense(layer: described.Dense, use: Use) -> Value:
    return use.biased(primitives.dense(use.x, use.parameters["kernel"]))


@lowers(described.Embedding)
def _embedding(layer: described.Embedding, use: Use) -> Value:
    tokens = getval(use.x)
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < layer.vocabulary):
        raise layer.error(
            f"expected tokens in [0, {layer.vocabulary}), got {tokens.min()} to {tokens.max()}"
        )
    return primitives.embed(use.parameters["table"], tokens, layer.padding_index)


@lowers(described.PositionalEmbedding)
def _positional_embedding(layer: described.PositionalEmbedding, use: Use) -> Value:
    return use.x + use.parameters["table"][: use.x.shape[1]]


def _geometry(layer: Any, x: Value) -> windows.Geometry:
    """Windows of a convolution or a pooling layer over x."""
    space = x.shape[1:-1]
    pool = isinstance(layer, described.Pool)
    axes = len(space)
    return windows.Geometry(
        kernel=expand(layer.pool_size if pool else layer.kernel_size, axes),
        stride=expand(layer.strides if pool else layer.stride, axes),
        dilation=(1,) * axes if pool else expand(layer.dilation, axes),
        pads=layer.pads(*space),
        out=tuple(int(size) for size in layer.infer(x.shape)[1:-1]),
    )


@lowers(described.Conv)
def _conv(layer: described.Conv, use: Use) -> Value:
    geometry = _geometry(layer, use.x)
    return use.biased(windows.convolve(use.x, use.parameters["kernel"], geometry, layer.groups))


def _depthwise(layer: Any, x: Value, kernel: Value) -> Value:
    # A convolution with a group for each feature: kernel (h, w, 1, in * multiplier).
    *space, inputs, multiplier = kernel.shape
    grouped = anp.reshape(kernel, (*space, 1, inputs * multiplier))
    return windows.convolve(x, grouped, _geometry(layer, x), inputs)


@lowers(described.DepthwiseConv2D)
def _depthwise_conv(layer: described.DepthwiseConv2D, use: Use) -> Value:
    return use.biased(_depthwise(layer, use.x, use.parameters["kernel"]))


@lowers(described.SeparableConv2D)
def _separable_conv(layer: described.SeparableConv2D, use: Use) -> Value:
    middle = _depthwise(layer, use.x, use.parameters["depthwise_kernel"])
    return use.biased(primitives.dense(middle, use.parameters["pointwise_kernel"]))


@lowers(described.ConvTranspose)
def _conv_transpose(layer: described.ConvTranspose, use: Use) -> Value:
    space = use.x.shape[1:-1]
    axes = len(space)
    kernel, stride = expand(layer.kernel_size, axes), expand(layer.stride, axes)
    dilation = expand(layer.dilation, axes)
    out = tuple(int(size) for size in layer.infer(use.x.shape)[1:-1])
    first = tuple(before for before, _ in layer.crops())
    full = tuple(
        max((n - 1) * s + span(k, d), start + cells)
        for n, s, k, d, start, cells in zip(
            space, stride, kernel, dilation, first, out, strict=True
        )
    )
    geometry = windows.Geometry(kernel, stride, dilation, ((0, 0),) * axes, space)
    return use.biased(
        windows.convolve_transposed(use.x, use.parameters["kernel"], geometry, full, first, out)
    )


@lowers(described.MaxPool)
def _max_pool(layer: described.MaxPool, use: Use) -> Value:
    return windows.max_pool(use.x, _geometry(layer, use.x))


@lowers(described.AveragePool)
def _average_pool(layer: described.AveragePool, use: Use) -> Value:
    geometry = _geometry(layer, use.x)
    sums = windows.sum_pool(use.x, geometry)
    if layer.count_include_pad:
        return sums / prod(geometry.kernel)
    inside = np.ones((1, *use.x.shape[1:-1], 1), getval(use.x).dtype)
    return sums / windows.sum_pool(inside, geometry)


@lowers(described.GlobalAveragePool)
def _global_average_pool(layer: described.GlobalAveragePool, use: Use) -> Value:
    return primitives.mean(use.x, axis=tuple(range(1, use.x.ndim - 1)))


@lowers(described.GlobalMaxPool)
def _global_max_pool(layer: described.GlobalMaxPool, use: Use) -> Value:
    return primitives.greatest(use.x, tuple(range(1, use.x.ndim - 1)))


@lowers(described.AdaptiveAveragePool)
def _adaptive_average_pool(layer: described.AdaptiveAveragePool, use: Use) -> Value:
    batch, *space, features = use.x.shape
    windows_of = expand(layer.output_size, len(space))
    split: list[int] = []
    for size, count in zip(space, windows_of, strict=True):
        split += [count, size // count]
    axes = tuple(range(2, 2 * len(space) + 1, 2))
    return primitives.mean(anp.reshape(use.x, (batch, *split, features)), axis=axes)


@lowers(described.Upsample)
def _upsample(layer: described.Upsample, use: Use) -> Value:
    x = use.x
    for axis in range(1, x.ndim - 1):
        size, cells = x.shape[axis], np.arange(x.shape[axis] * layer.factor)
        if layer.mode == "nearest":
            x = primitives.gather(x, cells // layer.factor, axis)
            continue
        if layer.align_corners:
            place = cells * ((size - 1) / max(size * layer.factor - 1, 1))
        else:
            place = np.clip((cells + 0.5) / layer.factor - 0.5, 0, size - 1)
        low = np.minimum(np.floor(place).astype(np.intp), max(size - 2, 0))
        weight = (place - low).reshape(-1, *(1,) * (x.ndim - 1 - axis))
        weight = weight.astype(getval(x).dtype)
        below = primitives.gather(x, low, axis)
        above = primitives.gather(x, np.minimum(low + 1, size - 1), axis)
        x = (1 - weight) * below + weight * above
    return x


def _normalised(x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    """X with mean 0 and variance 1 (up to epsilon) over the axes."""
    centred = x - primitives.mean(x, axis=axes, keepdims=True)
    return centred / anp.sqrt(
        primitives.mean(centred * centred, axis=axes, keepdims=True) + epsilon
    )


def _affine(use: Use, x: Value) -> Value:
    if "scale" in use.parameters:
        x = x * use.parameters["scale"]
    return x + use.parameters["shift"] if "shift" in use.parameters else x


@lowers(described.BatchNorm)
def _batch_norm(layer: described.BatchNorm, use: Use) -> Value:
    if not use.state.training:
        deviation = anp.sqrt(use.parameters["variance"] + layer.epsilon)
        return _affine(use, (use.x - use.parameters["mean"]) / deviation)
    axes = tuple(range(use.x.ndim - 1))
    values = getval(use.x)
    for name, statistic in (("mean", values.mean(axis=axes)), ("variance", values.var(axis=axes))):
        # A layer used twice in one pass updates what its first use left.
        full = f"{use.name}.{name}"
        old = use.state.buffers.get(full, getval(use.parameters[name]))
        use.state.buffers[full] = (1 - layer.momentum) * old + layer.momentum * statistic
    return _affine(use, _normalised(use.x, axes, layer.epsilon))


@lowers(described.LayerNorm)
def _layer_norm(layer: described.LayerNorm, use: Use) -> Value:
    axes = tuple(range(use.x.ndim - layer.axes, use.x.ndim))
    return _affine(use, _normalised(use.x, axes, layer.epsilon))


@lowers(described.GroupNorm)
def _group_norm(layer: described.GroupNorm, use: Use) -> Value:
    *outer, features = use.x.shape
    split = anp.reshape(use.x, (*outer, layer.groups, features // layer.groups))
    axes = (*range(1, len(outer)), split.ndim - 1)
    return _affine(use, anp.reshape(_normalised(split, axes, layer.epsilon), use.x.shape))


@lowers(described.InstanceNorm)
def _instance_norm(layer: described.InstanceNorm, use: Use) -> Value:
    axes = tuple(range(1, use.x.ndim - 1))
    return _affine(use, _normalised(use.x, axes, layer.epsilon))


@lowers(described.RMSNorm)
def _rms_norm(layer: described.RMSNorm, use: Use) -> Value:
    square = primitives.mean(use.x * use.x, (-1,), keepdims=True)
    return _affine(use, use.x / anp.sqrt(square + layer.epsilon))


@lowers(described.MultiHeadAttention)
def _attention(layer: described.MultiHeadAttention, use: Use) -> Value:
    query, memory = use.inputs[0], use.inputs[-1]

    def projected(name: str, x: Value) -> Value:
        """(batch, heads, time, size)."""
        value = primitives.dense(x, use.parameters[f"{name}_kernel"])
        if layer.use_bias:
            value = value + use.parameters[f"{name}_bias"]
        heads = anp.reshape(value, (*value.shape[:2], layer.heads, layer.size))
        return anp.transpose(heads, (0, 2, 1, 3))

    keys = anp.transpose(projected("key", memory), (0, 1, 3, 2))
    scores = primitives.matmul(projected("query", query), keys) / float(layer.size) ** 0.5
    weights = primitives.softmax(scores, -1, _allowed(layer, use))
    mixed = anp.transpose(primitives.matmul(weights, projected("value", memory)), (0, 2, 1, 3))
    joined = anp.reshape(mixed, (*mixed.shape[:2], layer.heads * layer.size))
    output = primitives.dense(joined, use.parameters["output_kernel"])
    return output + use.parameters["output_bias"] if layer.use_bias else output


def _allowed(layer: described.MultiHeadAttention, use: Use) -> np.ndarray | None:
    """True where a target step may attend to a source step; broadcasts to the scores."""
    allowed = None
    if "mask" in use.keywords:
        allowed = getval(use.keywords["mask"]).astype(bool)[:, None, None, :]
    if layer.causal:
        target, source = use.inputs[0].shape[1], use.inputs[-1].shape[1]
        earlier = np.tri(target, source, dtype=bool)[None, None]
        allowed = earlier if allowed is None else allowed & earlier
    return allowed


@lowers(described.Flatten)
def _flatten(layer: described.Flatten, use: Use) -> Value:
    return anp.reshape(use.x, (use.x.shape[0], prod(use.x.shape[1:])))


@lowers(described.Reshape)
def _reshape(layer: described.Reshape, use: Use) -> Value:
    return anp.reshape(use.x, layer.infer(use.x.shape))


@lowers(described.Permute)
def _permute(layer: described.Permute, use: Use) -> Value:
    return anp.transpose(use.x, (0, *layer.axes))


@lowers(described.Pad)
def _pad(layer: described.Pad, use: Use) -> Value:
    x = use.x
    if layer.mode == "zero":
        amounts = tuple((before, after) for before, after in layer.amounts)
        return primitives.pad_zero(x, ((0, 0), *amounts, (0, 0)))
    mode = {"reflect": "reflect", "replicate": "edge"}[layer.mode]
    for axis, pair in enumerate(layer.amounts, start=1):
        cells = np.pad(np.arange(x.shape[axis]), tuple(pair), mode=mode)  # type: ignore[call-overload]
        x = primitives.gather(x, cells, axis)
    return x


@lowers(described.Concatenate)
def _concatenate(layer: described.Concatenate, use: Use) -> Value:
    return anp.concatenate(list(use.inputs), axis=layer.axis)


@lowers(described.Add)
def _add(layer: described.Add, use: Use) -> Value:
    return reduce(anp.add, use.inputs)


@lowers(described.Multiply)
def _multiply(layer: described.Multiply, use: Use) -> Value:
    return reduce(anp.multiply, use.inputs)


@lowers(described.MatMul)
def _matmul(layer: described.MatMul, use: Use) -> Value:
    second = use.inputs[1]
    if layer.transpose_second:
        second = anp.swapaxes(second, -1, -2)
    return primitives.matmul(use.x, second)


@lowers(described.Softmax)
def _softmax(layer: described.Softmax, use: Use) -> Value:
    return primitives.softmax(use.x, layer.axis)


@lowers(described.LogSoftmax)
def _log_softmax(layer: described.LogSoftmax, use: Use) -> Value:
    return primitives.log_softmax(use.x, layer.axis)


@lowers(described.Activation)
def _activation(layer: described.Activation, use: Use) -> Value:
    function = elementwise.FUNCTIONS[layer.function]
    if layer.function in ("leaky_relu", "elu", "celu"):
        return function(use.x, layer.parameter)
    return function(use.x)


@lowers(described.PReLU)
def _prelu(layer: described.PReLU, use: Use) -> Value:
    return elementwise.prelu(use.x, use.parameters["slope"])


@lowers(described.GLU)
def _glu(layer: described.GLU, use: Use) -> Value:
    half = use.x.shape[-1] // 2
    gate = elementwise.FUNCTIONS[layer.gate]
    return use.x[..., :half] * gate(use.x[..., half:])


@lowers(described.Dropout)
def _dropout(layer: described.Dropout, use: Use) -> Value:
    if not use.state.training or use.state.generator is None:
        return use.x
    draws, value = current(), getval(use.x)
    if draws is not None:
        factor = draws.factor(draws.site(), value, value.shape, 1 - layer.rate)
        return use.x * factor.astype(value.dtype)
    kept = use.state.generator.random(use.x.shape) >= layer.rate
    return use.x * (kept / (1 - layer.rate)).astype(getval(use.x).dtype)
