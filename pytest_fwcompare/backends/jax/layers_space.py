"""Convolutions, pooling and resizing with jax.lax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from pytest_fwcompare.backends.jax.layers import Use, Value, lowers
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.layers.windows import Pads, expand, span

AXES = {1: "W", 2: "HW", 3: "DHW"}
"""Letters of the spatial axes by their number."""


def convolved(
    x: Value,
    kernel: Value,
    pads: Pads,
    *,
    stride: Sequence[int] = (),
    dilation: Sequence[int] = (),
    spread: Sequence[int] = (),
    groups: int = 1,
) -> Value:
    """Cross-correlation; `spread` puts zeros between the cells of x."""
    space = x.ndim - 2
    letters = AXES[space]
    ones = (1,) * space
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=tuple(stride) or ones,
        padding=pads,
        lhs_dilation=tuple(spread) or ones,
        rhs_dilation=tuple(dilation) or ones,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
        feature_group_count=groups,
    )


@lowers(described.Conv)
def _conv(layer: described.Conv, use: Use) -> Value:
    space = layer.space
    return use.biased(
        convolved(
            use.x,
            use.parameters["kernel"],
            layer.pads(*use.x.shape[1:-1]),
            stride=expand(layer.stride, space),
            dilation=expand(layer.dilation, space),
            groups=layer.groups,
        )
    )


def depthwise(layer: Any, x: Value, kernel: Value) -> Value:
    """Each feature by its own kernels; output feature c * multiplier + m."""
    *space, features, multiplier = kernel.shape
    return convolved(
        x,
        kernel.reshape(*space, 1, features * multiplier),
        layer.pads(*x.shape[1:-1]),
        stride=expand(layer.stride, 2),
        dilation=expand(layer.dilation, 2),
        groups=features,
    )


@lowers(described.DepthwiseConv2D)
def _depthwise(layer: described.DepthwiseConv2D, use: Use) -> Value:
    return use.biased(depthwise(layer, use.x, use.parameters["kernel"]))


@lowers(described.SeparableConv2D)
def _separable(layer: described.SeparableConv2D, use: Use) -> Value:
    middle = depthwise(layer, use.x, use.parameters["depthwise_kernel"])
    return use.biased(middle @ use.parameters["pointwise_kernel"])


@lowers(described.ConvTranspose)
def _conv_transpose(layer: described.ConvTranspose, use: Use) -> Value:
    space = layer.space
    kernel = use.parameters["kernel"]
    dilation = expand(layer.dilation, space)
    # A convolution of the spread input with the flipped kernel, over all places where they meet.
    pads = tuple(
        (span(size, steps) - 1 - before, span(size, steps) - 1 - after + extra)
        for size, steps, (before, after), extra in zip(
            kernel.shape[:space],
            dilation,
            layer.crops(),
            expand(layer.output_padding, space),
            strict=True,
        )
    )
    flipped = jnp.flip(kernel, tuple(range(space)))
    spread = expand(layer.stride, space)
    return use.biased(convolved(use.x, flipped, pads, dilation=dilation, spread=spread))


def windows(layer: described.Pool, x: Value) -> dict[str, Any]:
    """Arguments of lax.reduce_window for a pooling layer."""
    space = layer.space
    return {
        "window_dimensions": (1, *expand(layer.pool_size, space), 1),
        "window_strides": (1, *expand(layer.strides, space), 1),
        "padding": ((0, 0), *layer.pads(*x.shape[1:-1]), (0, 0)),
    }


@lowers(described.MaxPool)
def _max_pool(layer: described.MaxPool, use: Use) -> Value:
    lowest = np.array(-np.inf, use.x.dtype)
    return jax.lax.reduce_window(use.x, lowest, jax.lax.max, **windows(layer, use.x))


@lowers(described.AveragePool)
def _average_pool(layer: described.AveragePool, use: Use) -> Value:
    zero = np.array(0, use.x.dtype)
    how = windows(layer, use.x)
    total = jax.lax.reduce_window(use.x, zero, jax.lax.add, **how)
    if layer.count_include_pad:
        return total / float(np.prod(how["window_dimensions"]))
    inside = jnp.ones((1, *use.x.shape[1:-1], 1), use.x.dtype)
    return total / jax.lax.reduce_window(inside, zero, jax.lax.add, **how)


@lowers(described.GlobalAveragePool)
def _global_average_pool(layer: described.GlobalAveragePool, use: Use) -> Value:
    return jnp.mean(use.x, tuple(range(1, use.x.ndim - 1)))


@lowers(described.GlobalMaxPool)
def _global_max_pool(layer: described.GlobalMaxPool, use: Use) -> Value:
    return jnp.max(use.x, tuple(range(1, use.x.ndim - 1)))


@lowers(described.AdaptiveAveragePool)
def _adaptive_average_pool(layer: described.AdaptiveAveragePool, use: Use) -> Value:
    batch, *space, features = use.x.shape
    split: list[int] = []
    for size, count in zip(space, expand(layer.output_size, len(space)), strict=True):
        split += [count, size // count]
    axes = tuple(range(2, 2 * len(space) + 1, 2))
    return jnp.mean(use.x.reshape(batch, *split, features), axes)


@lowers(described.Upsample)
def _upsample(layer: described.Upsample, use: Use) -> Value:
    x = use.x
    for axis in range(1, x.ndim - 1):
        size, cells = x.shape[axis], np.arange(x.shape[axis] * layer.factor)
        if layer.mode == "nearest":
            x = jnp.take(x, cells // layer.factor, axis)
            continue
        if layer.align_corners:
            place = cells * ((size - 1) / max(len(cells) - 1, 1))
        else:
            place = np.clip((cells + 0.5) / layer.factor - 0.5, 0, size - 1)
        low = np.floor(place).astype(np.int32)
        share = (place - low).reshape(-1, *(1,) * (x.ndim - 1 - axis)).astype(x.dtype)
        below = jnp.take(x, low, axis)
        above = jnp.take(x, np.minimum(low + 1, size - 1), axis)
        x = (1 - share) * below + share * above
    return x
