"""Convolutions, pooling, padding and resizing in Keras.

Keras pads as "valid" or "same" only: explicit amounts are a padding layer before a "valid" one.
"""

from __future__ import annotations

from typing import Any

import keras

from pytest_fwcompare.backends.keras import layers_custom as custom
from pytest_fwcompare.backends.keras.layers import KERNEL, Context, Native, makes
from pytest_fwcompare.backends.spatial import explicit_pads, spans
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.layers.windows import Pads, expand
from pytest_fwcompare.weights.transforms import Reshape, Transform, Transpose

NATIVE_PADS = (
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
)


def _zeros(amounts: Pads, options: dict[str, Any]) -> Any:
    """A layer that pads with zeros."""
    if len(amounts) > len(NATIVE_PADS):
        return custom.Padding(amounts, **options)
    if len(amounts) == 1:
        return NATIVE_PADS[0](amounts[0], **options)
    return NATIVE_PADS[len(amounts) - 1](amounts, data_format="channels_last", **options)


def _window(
    layer: Any, to: Context, axes: int, **changed: Any
) -> tuple[dict[str, Any], tuple[Any, ...], tuple[Any, ...]]:
    """Arguments of a convolution, and the layers before and after it.

    Keras has no strides together with dilation, nor unequal strides of depthwise convolutions
    on TensorFlow: all windows then, and every stride-th of them.
    """
    stride, dilation = expand(layer.stride, axes), expand(layer.dilation, axes)
    span = spans(layer.kernel_size, layer.dilation, axes)
    amounts = explicit_pads(layer.padding, span)
    word = "same" if amounts is None else "valid"
    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()
    if amounts is not None and any(map(any, amounts)):
        if layer.padding == "causal" and layer.groups == 1:
            word = "causal"
        else:
            before = (_zeros(amounts, to.helper("pad")),)
    unequal = "depth_multiplier" in changed and len(set(stride)) > 1
    if unequal or (max(stride) > 1 and max(dilation) > 1):
        after = (custom.Subsample(stride, span, word == "same", **to.helper("stride")),)
        stride = (1,) * axes
    arguments = {
        "kernel_size": expand(layer.kernel_size, axes),
        "strides": stride,
        "dilation_rate": dilation,
        "padding": word,
        "use_bias": layer.use_bias,
        "data_format": "channels_last",
    }
    return arguments | changed | to.common, before, after


@makes(described.Conv1D, described.Conv2D, described.Conv3D)
def _conv(layer: described.Conv, to: Context) -> Native:
    axes = layer.space
    plain = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    grouped = (custom.GroupedConv1D, custom.GroupedConv2D, custom.GroupedConv3D)
    arguments, before, after = _window(layer, to, axes, filters=layer.filters, groups=layer.groups)
    made = (plain if layer.groups == 1 else grouped)[axes - 1](**arguments)
    return Native((*before, made, *after), to.held(made, KERNEL))


@makes(described.DepthwiseConv2D)
def _depthwise(layer: described.DepthwiseConv2D, to: Context) -> Native:
    arguments, before, after = _window(layer, to, 2, depth_multiplier=layer.multiplier)
    made = keras.layers.DepthwiseConv2D(**arguments)
    return Native((*before, made, *after), to.held(made, KERNEL))


@makes(described.SeparableConv2D)
def _separable(layer: described.SeparableConv2D, to: Context) -> Native:
    arguments, before, after = _window(
        layer, to, 2, depth_multiplier=layer.multiplier, filters=layer.filters
    )
    made = keras.layers.SeparableConv2D(**arguments)
    names = {
        "depthwise_kernel": "depthwise_kernel",
        "pointwise_kernel": "pointwise_kernel",
        "bias": "bias",
    }
    pointwise: Transform = Reshape((1, 1, *to.specs["pointwise_kernel"].shape))
    return Native((*before, made, *after), to.held(made, names, pointwise_kernel=pointwise))


@makes(described.ConvTranspose1D, described.ConvTranspose2D)
def _conv_transpose(layer: described.ConvTranspose, to: Context) -> Native:
    axes = layer.space
    kernel_size, stride = expand(layer.kernel_size, axes), expand(layer.stride, axes)
    extra = expand(layer.output_padding, axes)
    crops = tuple(
        (before, after - more) for (before, after), more in zip(layer.crops(), extra, strict=True)
    )
    arguments: dict[str, Any] = {
        "filters": layer.filters,
        "kernel_size": kernel_size,
        "strides": stride,
        "use_bias": layer.use_bias,
    } | to.common
    swap = Transpose((*range(axes), axes + 1, axes))
    kind = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)[axes - 1]
    chain: tuple[Any, ...]
    if max(expand(layer.dilation, axes)) > 1 or min(after for _, after in crops) < 0:
        made = custom.ComposedConvTranspose(
            dilation_rate=expand(layer.dilation, axes), crops=crops, **arguments
        )
        chain = (made,)
    elif layer.padding == "same":
        made = kind(padding="same", data_format="channels_last", **arguments)
        chain = (made,)
    else:
        made = kind(padding="valid", data_format="channels_last", **arguments)
        chain = (made,)
        # Keras' "valid" has n * stride cells at least.
        beyond = [max(s - k, 0) for s, k in zip(stride, kernel_size, strict=True)]
        cut = tuple((b, a + more) for (b, a), more in zip(crops, beyond, strict=True))
        if any(map(any, cut)):
            chain += (_cropping(cut, to.helper("crop")),)
    return Native(chain, to.held(made, KERNEL, kernel=swap))


def _cropping(amounts: Pads, options: dict[str, Any]) -> Any:
    if len(amounts) == 1:
        return keras.layers.Cropping1D(amounts[0], **options)
    return keras.layers.Cropping2D(amounts, data_format="channels_last", **options)


@makes(described.MaxPool1D, described.MaxPool2D)
def _max_pool(layer: described.MaxPool, to: Context) -> Native:
    axes = layer.space
    pool = expand(layer.pool_size, axes)
    amounts = explicit_pads(layer.padding, pool)
    before: tuple[Any, ...] = ()
    if amounts is not None and any(map(any, amounts)):
        before = (custom.Padding(amounts, "lowest", **to.helper("pad")),)
    kind = (keras.layers.MaxPooling1D, keras.layers.MaxPooling2D)[axes - 1]
    return Native((*before, kind(**_pooling(layer, pool, amounts), **to.common)))


def _pooling(layer: described.Pool, pool: tuple[int, ...], amounts: Pads | None) -> dict[str, Any]:
    stride = expand(layer.strides, layer.space)
    one = layer.space == 1
    return {
        "pool_size": pool[0] if one else pool,
        "strides": stride[0] if one else stride,
        "padding": "same" if amounts is None else "valid",
        "data_format": "channels_last",
    }


@makes(described.AveragePool1D, described.AveragePool2D)
def _average_pool(layer: described.AveragePool, to: Context) -> Native:
    axes = layer.space
    pool = expand(layer.pool_size, axes)
    amounts = explicit_pads(layer.padding, pool)
    padded = amounts is not None and any(map(any, amounts))
    wrong = amounts is None and keras.backend.backend() == "torch"  # see `_pads` of the layer
    if padded or wrong or (amounts is None and layer.count_include_pad):
        return Native(
            (
                custom.CountingAveragePooling(
                    pool,
                    expand(layer.strides, axes),
                    "same" if amounts is None else amounts,
                    layer.count_include_pad,
                    **to.common,
                ),
            )
        )
    kind = (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D)[axes - 1]
    return Native((kind(**_pooling(layer, pool, amounts), **to.common),))


@makes(described.GlobalAveragePool, described.GlobalMaxPool)
def _global_pool(layer: Any, to: Context) -> Native:
    mean = isinstance(layer, described.GlobalAveragePool)
    word, axes = "Average" if mean else "Max", to.rank - 2
    if axes > 3:
        return Native((custom.SpaceReduction("mean" if mean else "max", **to.common),))
    kind = getattr(keras.layers, f"Global{word}Pooling{axes}D")
    return Native((kind(data_format="channels_last", **to.common),))


@makes(described.AdaptiveAveragePool1D, described.AdaptiveAveragePool2D)
def _adaptive_pool(layer: described.AdaptiveAveragePool, to: Context) -> Native:
    windows = expand(layer.output_size, layer.space)
    return Native((custom.WindowMean(windows, **to.common),))


@makes(described.Pad)
def _pad(layer: described.Pad, to: Context) -> Native:
    if layer.mode == "zero":
        return Native((_zeros(layer.amounts, to.common),))
    return Native((custom.Padding(layer.amounts, layer.mode, **to.common),))


@makes(described.Upsample)
def _upsample(layer: described.Upsample, to: Context) -> Native:
    if layer.mode == "bilinear":
        return Native((custom.LinearUpSampling(layer.factor, layer.align_corners, **to.common),))
    if to.rank == 3:
        return Native((keras.layers.UpSampling1D(layer.factor, **to.common),))
    made = keras.layers.UpSampling2D(layer.factor, data_format="channels_last", **to.common)
    return Native((made,))
