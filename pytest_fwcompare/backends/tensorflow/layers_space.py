"""Convolutions, pooling, padding and resizing in raw TensorFlow operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pytest_fwcompare.backends.spatial import explicit_pads, spans
from pytest_fwcompare.backends.tensorflow.layers import LayerModule, computes, sizes, spatial
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.layers.windows import expand
from pytest_fwcompare.weights.transforms import Transform, Transpose


def same_pairs(x: tf.Tensor, span: Sequence[int], stride: Sequence[int]) -> list[tuple[Any, Any]]:
    """(before, after) of "same" padding for each spatial axis; tensors where sizes are free."""
    result = []
    for size, cells, step in zip(sizes(x)[1:-1], span, stride, strict=True):
        missing = (-(-size // step) - 1) * step + cells - size
        total = max(missing, 0) if isinstance(missing, int) else tf.maximum(missing, 0)
        result.append((total // 2, total - total // 2))
    return result


def padded(x: tf.Tensor, amounts: Sequence[tuple[Any, Any]], value: float = 0.0) -> tf.Tensor:
    """The spatial axes extended by a constant."""
    if all(isinstance(n, int) and n == 0 for pair in amounts for n in pair):
        return x
    constant = tf.cast(value, x.dtype)
    return tf.pad(x, ((0, 0), *amounts, (0, 0)), constant_values=constant)


def strided(x: tf.Tensor, stride: Sequence[int]) -> tf.Tensor:
    """Every stride-th cell of each spatial axis."""
    steps = tuple(slice(None, None, step) for step in stride)
    return x[(slice(None), *steps, slice(None))]


@computes(described.Conv1D)
class Conv1D(LayerModule):
    """`tf.nn.convolution` on one to three spatial axes."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        conv, rank = self.description, x.shape.rank - 2
        stride, dilation = expand(conv.stride, rank), expand(conv.dilation, rank)
        span = spans(conv.kernel_size, conv.dilation, rank)
        amounts: Sequence[tuple[Any, Any]] | None = explicit_pads(conv.padding, span)
        mixed = max(stride) > 1 and max(dilation) > 1
        if amounts is None and mixed:
            amounts = same_pairs(x, span, stride)
        if amounts is not None:
            x = padded(x, amounts)
        # TensorFlow refuses strides together with dilation: all cells, then every stride-th.
        steps = (1,) * rank if mixed else stride
        word = "SAME" if amounts is None else "VALID"
        y = _grouped(x, self.kernel, conv.groups, steps, word, dilation)
        return self.biased(strided(y, stride) if mixed else y)


def _grouped(
    x: tf.Tensor,
    kernel: tf.Tensor,
    groups: int,
    stride: Sequence[int],
    padding: str,
    dilation: Sequence[int],
) -> tf.Tensor:
    """One convolution a group: TensorFlow has no gradient of grouped ones on a CPU."""
    # Named, since TensorFlow's eager gradient in 3D fails on the default.
    order = {1: "NWC", 2: "NHWC", 3: "NDHWC"}[len(stride)]

    def convolve(part: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
        return tf.nn.convolution(part, own, stride, padding, order, dilation)

    if groups == 1:
        return convolve(x, kernel)
    parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    return tf.concat([convolve(*both) for both in parts], -1)


@computes(described.Conv2D)
class Conv2D(Conv1D):
    """See `Conv1D`."""


@computes(described.Conv3D)
class Conv3D(Conv1D):
    """See `Conv1D`."""


def depthwise(x: tf.Tensor, kernel: tf.Tensor, layer: Any) -> tf.Tensor:
    """Depthwise convolution; kernel (height, width, in, multiplier)."""
    stride, dilation = expand(layer.stride, 2), expand(layer.dilation, 2)
    span = spans(layer.kernel_size, layer.dilation, 2)
    amounts: Sequence[tuple[Any, Any]] | None = explicit_pads(layer.padding, span)
    # TensorFlow takes no unequal strides, and is wrong for strides together with dilation.
    subsample = stride[0] != stride[1] or (max(stride) > 1 and max(dilation) > 1)
    if amounts is None and subsample:
        amounts = same_pairs(x, span, stride)
    if amounts is not None:
        x = padded(x, amounts)
    steps = (1, 1, 1, 1) if subsample else (1, *stride, 1)
    word = "SAME" if amounts is None else "VALID"
    y = tf.nn.depthwise_conv2d(x, kernel, steps, word, dilations=dilation)
    return strided(y, stride) if subsample else y


@computes(described.DepthwiseConv2D)
class DepthwiseConv2D(LayerModule):
    """`tf.nn.depthwise_conv2d`."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.biased(depthwise(x, self.kernel, self.description))


@computes(described.SeparableConv2D)
class SeparableConv2D(LayerModule):
    """Stores pointwise_kernel as (1, 1, in * multiplier, filters), as TensorFlow has it."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        y = depthwise(x, self.depthwise_kernel, self.description)
        return self.biased(tf.tensordot(y, self.pointwise_kernel, 1))


def _swap_last(rank: int) -> Transform:
    return Transpose((*range(rank - 2), rank - 1, rank - 2))


@computes(described.ConvTranspose1D)
class ConvTranspose1D(LayerModule):
    """Stores its kernel as (*kernel_size, filters, in), as `tf.nn.conv_transpose` takes it."""

    stored = {"kernel": _swap_last}  # noqa: RUF012

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        layer, rank = self.description, x.shape.rank - 2
        stride, dilation = expand(layer.stride, rank), expand(layer.dilation, rank)
        span = spans(layer.kernel_size, layer.dilation, rank)
        # All cells first; what `padding` leaves of them is cut out afterwards.
        if max(dilation) == 1:
            batch, *space, _ = sizes(x)
            full = [(n - 1) * s + c for n, s, c in zip(space, stride, span, strict=True)]
            shape = (batch, *full, layer.filters)
            y = tf.nn.conv_transpose(x, self.kernel, shape, stride, "VALID")
        else:
            y = _dilated_transpose(x, self.kernel, stride, dilation, span)
        extra = expand(layer.output_padding, rank)
        return self.biased(cut(y, layer.crops(), extra))


@computes(described.ConvTranspose2D)
class ConvTranspose2D(ConvTranspose1D):
    """See `ConvTranspose1D`."""


def _dilated_transpose(
    x: tf.Tensor,
    kernel: tf.Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    span: Sequence[int],
) -> tf.Tensor:
    """All cells by a convolution of the input with zeros between its cells.

    TensorFlow's own operation has no dilation on a CPU.
    """
    for axis, step in enumerate(stride, 1):
        if step > 1:
            shape = sizes(x)
            wide = tf.pad(
                tf.expand_dims(x, axis + 1),
                [(0, step - 1 if i == axis + 1 else 0) for i in range(x.shape.rank + 1)],
            )
            x = tf.reshape(wide, [n * step if i == axis else n for i, n in enumerate(shape)])
            x = x[(slice(None),) * axis + (slice(None, 1 - step),)]
    rank = len(stride)
    flipped = tf.reverse(tf.einsum("...oi->...io", kernel), axis=list(range(rank)))
    x = padded(x, [(cells - 1, cells - 1) for cells in span])
    return tf.nn.convolution(x, flipped, padding="VALID", dilations=dilation)


def cut(full: tf.Tensor, crops: Sequence[tuple[int, int]], extra: Sequence[int]) -> tf.Tensor:
    """What cropping and output padding leave of all cells of a transposed convolution."""
    after = [last - more for (_, last), more in zip(crops, extra, strict=True)]
    full = padded(full, [(0, max(-last, 0)) for last in after])
    places = tuple(
        slice(first, -last if last > 0 else None)
        for (first, _), last in zip(crops, after, strict=True)
    )
    return full[(slice(None), *places, slice(None))]


@computes(described.MaxPool1D)
class MaxPool1D(LayerModule):
    """`tf.nn.max_pool` over one or two spatial axes."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        window, stride, word, amounts = _window(self.description, x)
        if amounts is not None:
            x = padded(x, amounts, -math.inf)
        return tf.nn.max_pool(x, window, stride, word)


@computes(described.MaxPool2D)
class MaxPool2D(MaxPool1D):
    """See `MaxPool1D`."""


@computes(described.AveragePool1D)
class AveragePool1D(LayerModule):
    """`tf.nn.avg_pool` over one or two spatial axes."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        window, stride, word, amounts = _window(self.description, x)
        counts_all = self.description.count_include_pad
        if amounts is None and counts_all:
            # TensorFlow's "SAME" divides by the cells inside the input.
            amounts, word = same_pairs(x, window, stride), "VALID"
        if amounts is None:
            return tf.nn.avg_pool(x, window, stride, word)
        mean = tf.nn.avg_pool(padded(x, amounts), window, stride, word)
        if counts_all or not any(any(pair) for pair in amounts):
            return mean
        inside = tf.nn.avg_pool(padded(tf.ones_like(x), amounts), window, stride, word)
        return mean / inside


@computes(described.AveragePool2D)
class AveragePool2D(AveragePool1D):
    """See `AveragePool1D`."""


def _window(
    layer: Any, x: tf.Tensor
) -> tuple[tuple[int, ...], tuple[int, ...], str, Sequence[tuple[Any, Any]] | None]:
    """Window, stride, TensorFlow's word for the padding, and explicit amounts if any."""
    rank = x.shape.rank - 2
    window, stride = expand(layer.pool_size, rank), expand(layer.strides, rank)
    amounts = explicit_pads(layer.padding, window)
    return window, stride, "SAME" if amounts is None else "VALID", amounts


@computes(described.GlobalAveragePool)
class GlobalAveragePool(LayerModule):
    """Mean over space."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.reduce_mean(x, spatial(x))


@computes(described.GlobalMaxPool)
class GlobalMaxPool(LayerModule):
    """Maximum over space."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.reduce_max(x, spatial(x))


@computes(described.AdaptiveAveragePool1D)
class AdaptiveAveragePool1D(LayerModule):
    """Mean over equal windows."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        batch, *space, features = sizes(x)
        shape = [batch]
        windows = expand(self.description.output_size, len(space))
        for size, count in zip(space, windows, strict=True):
            shape += [count, size // count]
        return tf.reduce_mean(tf.reshape(x, (*shape, features)), [2 * a for a in spatial(x)])


@computes(described.AdaptiveAveragePool2D)
class AdaptiveAveragePool2D(AdaptiveAveragePool1D):
    """See `AdaptiveAveragePool1D`."""


@computes(described.Pad)
class Pad(LayerModule):
    """`tf.pad`, or a gather of the edge cells."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        amounts, mode = self.description.amounts, self.description.mode
        if mode == "zero":
            return padded(x, amounts)
        if mode == "reflect":
            return tf.pad(x, ((0, 0), *amounts, (0, 0)), "REFLECT")
        for axis, (before, after) in enumerate(amounts, 1):
            if before or after:
                last = sizes(x)[axis] - 1
                cells = tf.clip_by_value(tf.range(-before, last + after + 1), 0, last)
                x = tf.gather(x, cells, axis=axis)
        return x


@computes(described.Upsample)
class Upsample(LayerModule):
    """Nearest or linear, one axis after the other."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        layer = self.description
        for axis in spatial(x):
            if layer.mode == "nearest":
                x = tf.repeat(x, layer.factor, axis)
            else:
                x = _linear(x, axis, layer.factor, layer.align_corners)
        return x


def _linear(x: tf.Tensor, axis: int, factor: int, align_corners: bool) -> tf.Tensor:
    """Linear interpolation along one axis. `tf.image.resize` would compute in float32."""
    size = sizes(x)[axis]
    cells = tf.cast(tf.range(size * factor), tf.float64)
    last = tf.cast(size - 1, tf.float64)
    if align_corners:
        spread = tf.maximum(tf.cast(size * factor - 1, tf.float64), 1.0)
        place = cells * last / spread
    else:
        place = tf.clip_by_value((cells + 0.5) / factor - 0.5, 0.0, last)
    below = tf.floor(place)
    weight = tf.cast(place - below, x.dtype)
    weight = tf.reshape(weight, [-1] + [1] * (x.shape.rank - axis - 1))
    low = tf.gather(x, tf.cast(below, tf.int32), axis=axis)
    high = tf.gather(x, tf.cast(tf.minimum(below + 1, last), tf.int32), axis=axis)
    return low * (1 - weight) + high * weight
