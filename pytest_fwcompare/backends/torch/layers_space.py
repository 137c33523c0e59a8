"""Convolutions, pooling, padding and resizing as torch modules, features before space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pytest_fwcompare.backends.torch.lowering import Lowered, Source, Use, lower, renamed
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.layers.windows import Pads, expand
from pytest_fwcompare.weights.transforms import Reshape, Transpose

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
AVERAGE_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d}


def pad(
    x: torch.Tensor, amounts: Sequence[tuple[int, int]], mode: str = "constant", value: float = 0.0
) -> torch.Tensor:
    """Pad the spatial axes of x (batch, features, *space); negative amounts crop."""
    flat = [amount for pair in reversed(amounts) for amount in pair]
    if not any(flat):
        return x
    return F.pad(x, flat, mode, value) if mode == "constant" else F.pad(x, flat, mode)


def symmetric(layer: Any, stride: Any) -> tuple[int, ...] | None:
    """One amount an axis where both sides are equal whatever the size; None otherwise.

    "same" is such a case where the stride is 1 and the window covers an odd number of cells.
    """
    pairs = layer.pads(*(1,) * layer.space)
    moves = any(step > 1 for step in expand(stride, layer.space))
    if (layer.padding == "same" and moves) or any(before != after for before, after in pairs):
        return None
    return tuple(before for before, _ in pairs)


class Padded(nn.Module):  # type: ignore[misc]
    """Pads by the rule of a described layer, which may depend on the size, then runs the rest."""

    def __init__(self, layer: Any, inner: nn.Module, value: float = 0.0) -> None:
        super().__init__()
        self.layer, self.inner, self.value = layer, inner, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(pad(x, self.layer.pads(*x.shape[2:]), value=self.value))


def convolution(
    layer: Any, features: int, filters: int, groups: int, use_bias: bool
) -> tuple[nn.Module, str]:
    """A convolution with the layer's windows, and the path of its parameters."""
    axes = layer.space
    amounts = {
        key: expand(value, axes)
        for key, value in (
            ("kernel_size", layer.kernel_size),
            ("stride", layer.stride),
            ("dilation", layer.dilation),
        )
    }
    plain = symmetric(layer, layer.stride)
    module = CONVOLUTIONS[axes](
        features, filters, padding=plain or 0, groups=groups, bias=use_bias, **amounts
    )
    return (module, "") if plain is not None else (Padded(layer, module), "inner.")


@lower.register
def _(layer: described.Conv, use: Use) -> Lowered:
    module, path = convolution(layer, use.features, layer.filters, layer.groups, layer.use_bias)
    order = (layer.space + 1, layer.space, *range(layer.space))
    return Lowered(module, _sources(path, Transpose(order), layer.use_bias))


def _sources(path: str, kernel: Any, use_bias: bool) -> tuple[Source, ...]:
    """Where kernel and bias of a convolution go."""
    bias = renamed(**{f"{path}bias": "bias"}) if use_bias else ()
    return ((f"{path}weight", "kernel", kernel), *bias)


def _depthwise(kernel: tuple[int, ...], features: int, multiplier: int) -> Any:
    """Kernel (h, w, in, m) to torch's (in m, 1, h, w), whose feature c m + j reads feature c."""
    return Transpose((2, 3, 0, 1)).then(Reshape((features * multiplier, 1, *kernel)))


@lower.register
def _(layer: described.DepthwiseConv2D, use: Use) -> Lowered:
    filters = use.features * layer.multiplier
    module, path = convolution(layer, use.features, filters, use.features, layer.use_bias)
    kernel = _depthwise(expand(layer.kernel_size, 2), use.features, layer.multiplier)
    return Lowered(module, _sources(path, kernel, layer.use_bias))


class Separable(nn.Module):  # type: ignore[misc]
    """A depthwise convolution, then one of a single cell."""

    def __init__(self, depthwise: nn.Module, pointwise: nn.Module) -> None:
        super().__init__()
        self.depthwise, self.pointwise = depthwise, pointwise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


@lower.register
def _(layer: described.SeparableConv2D, use: Use) -> Lowered:
    middle = use.features * layer.multiplier
    depthwise, path = convolution(layer, use.features, middle, use.features, False)
    pointwise = nn.Conv2d(middle, layer.filters, 1, bias=layer.use_bias)
    kernel = _depthwise(expand(layer.kernel_size, 2), use.features, layer.multiplier)
    point = Transpose((1, 0)).then(Reshape((layer.filters, middle, 1, 1)))
    return Lowered(
        Separable(depthwise, pointwise),
        (
            (f"depthwise.{path}weight", "depthwise_kernel", kernel),
            ("pointwise.weight", "pointwise_kernel", point),
            *(renamed(**{"pointwise.bias": "bias"}) if layer.use_bias else ()),
        ),
    )


class Cropped(nn.Module):  # type: ignore[misc]
    """A transposed convolution cropped or filled up where torch's own cannot: unequal sides."""

    def __init__(self, inner: nn.Module, amounts: Pads, filters: int, use_bias: bool) -> None:
        super().__init__()
        self.inner, self.amounts = inner, amounts
        self.bias = nn.Parameter(torch.zeros(filters)) if use_bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = pad(self.inner(x), self.amounts)
        return y if self.bias is None else y + self.bias.view(-1, *(1,) * (y.ndim - 2))


@lower.register
def _(layer: described.ConvTranspose, use: Use) -> Lowered:
    axes, crops = layer.space, layer.crops()
    extra = expand(layer.output_padding, axes)
    stride, dilation = expand(layer.stride, axes), expand(layer.dilation, axes)
    kernel = Transpose((axes, axes + 1, *range(axes)))
    kind, sizes = TRANSPOSED[axes], expand(layer.kernel_size, axes)
    plain = all(before == after for before, after in crops)
    if plain:
        module = kind(
            use.features,
            layer.filters,
            sizes,
            stride,
            tuple(before for before, _ in crops),
            extra,
            bias=layer.use_bias,
            dilation=dilation,
        )
        return Lowered(module, _sources("", kernel, layer.use_bias))
    inner = kind(use.features, layer.filters, sizes, stride, bias=False, dilation=dilation)
    amounts = tuple(
        (-before, more - after) for (before, after), more in zip(crops, extra, strict=True)
    )
    module = Cropped(inner, amounts, layer.filters, layer.use_bias)
    bias = renamed(bias="bias") if layer.use_bias else ()
    return Lowered(module, (("inner.weight", "kernel", kernel), *bias))


def _plain_pool(layer: described.Pool) -> tuple[int, ...] | None:
    """Padding that torch's own pooling takes: equal sides of at most half a window."""
    plain = symmetric(layer, layer.strides)
    pool = expand(layer.pool_size, layer.space)
    if plain is None or any(2 * p > k for p, k in zip(plain, pool, strict=True)):
        return None
    return plain


@lower.register
def _(layer: described.MaxPool, use: Use) -> Lowered:
    size, stride = expand(layer.pool_size, layer.space), expand(layer.strides, layer.space)
    plain = _plain_pool(layer)
    if plain is not None:
        return Lowered(MAX_POOLS[layer.space](size, stride, plain))
    # Padding never wins, so it is minus infinity.
    return Lowered(Padded(layer, MAX_POOLS[layer.space](size, stride), -math.inf))


class InsideAverage(nn.Module):  # type: ignore[misc]
    """Average over the cells of each window that lie inside the input."""

    def __init__(self, layer: Any, inner: nn.Module) -> None:
        super().__init__()
        self.layer, self.inner = layer, inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pads = self.layer.pads(*x.shape[2:])
        inside = torch.ones_like(x[:1, :1]).detach()
        return self.inner(pad(x, pads)) / self.inner(pad(inside, pads))


@lower.register
def _(layer: described.AveragePool, use: Use) -> Lowered:
    size, stride = expand(layer.pool_size, layer.space), expand(layer.strides, layer.space)
    kind, plain = AVERAGE_POOLS[layer.space], _plain_pool(layer)
    if plain is not None:
        return Lowered(kind(size, stride, plain, count_include_pad=layer.count_include_pad))
    inner = kind(size, stride)
    return Lowered((Padded if layer.count_include_pad else InsideAverage)(layer, inner))


class GlobalAveragePool(nn.Module):  # type: ignore[misc]
    """(batch, features, *space) to (batch, features)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(tuple(range(2, x.ndim)))


class GlobalMaxPool(nn.Module):  # type: ignore[misc]
    """(batch, features, *space) to (batch, features); equal maxima share the gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax(tuple(range(2, x.ndim)))


@lower.register
def _(layer: described.GlobalAveragePool, use: Use) -> Lowered:
    return Lowered(GlobalAveragePool())


@lower.register
def _(layer: described.GlobalMaxPool, use: Use) -> Lowered:
    return Lowered(GlobalMaxPool())


@lower.register
def _(layer: described.AdaptiveAveragePool, use: Use) -> Lowered:
    kind = nn.AdaptiveAvgPool1d if layer.space == 1 else nn.AdaptiveAvgPool2d
    size = expand(layer.output_size, layer.space)
    return Lowered(kind(size[0] if layer.space == 1 else size))


class Pad(nn.Module):  # type: ignore[misc]
    """Pads the spatial axes of (batch, features, *space)."""

    def __init__(self, amounts: Pads, mode: str) -> None:
        super().__init__()
        self.amounts, self.mode = amounts, mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mode == "constant" or len(self.amounts) <= 3:
            return pad(x, self.amounts, self.mode)
        for axis, (before, after) in enumerate(self.amounts, start=2):
            # torch mirrors three axes at most: gather the cells one axis after the other.
            places = torch.arange(-before, x.shape[axis] + after, device=x.device)
            last = x.shape[axis] - 1
            if self.mode == "replicate":
                places = places.clamp(0, last)
            else:
                places = last - (last - places.abs()).abs()
            x = x.index_select(axis, places)
        return x


@lower.register
def _(layer: described.Pad, use: Use) -> Lowered:
    mode = "constant" if layer.mode == "zero" else layer.mode
    return Lowered(Pad(tuple((int(b), int(a)) for b, a in layer.amounts), mode))


class Repeat(nn.Module):  # type: ignore[misc]
    """Each cell `factor` times along every spatial axis."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for axis in range(2, x.ndim):
            x = x.repeat_interleave(self.factor, axis)
        return x


@lower.register
def _(layer: described.Upsample, use: Use) -> Lowered:
    if layer.mode == "nearest":
        # torch multiplies by a rounded 1 / factor: right only where that is a power of two.
        exact = layer.factor & (layer.factor - 1) == 0
        return Lowered(nn.Upsample(scale_factor=layer.factor) if exact else Repeat(layer.factor))
    mode = "linear" if use.rank == 3 else "bilinear"
    return Lowered(
        nn.Upsample(scale_factor=layer.factor, mode=mode, align_corners=layer.align_corners)
    )
