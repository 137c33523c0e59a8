"""Convolutions. All are cross-correlations: kernels are not flipped, as in every framework."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from pytest_fwcompare.networks import checks, sizes
from pytest_fwcompare.networks.base import Layer, ParameterSpec, Shape, Size, show
from pytest_fwcompare.networks.checks import Amounts, Padding
from pytest_fwcompare.networks.layers.linear import bias
from pytest_fwcompare.networks.layers.windows import (
    expand,
    pads,
    span,
    window_cells,
)


@dataclass(frozen=True, eq=False)
class Window(Layer):
    """What convolutions share; not a layer by itself.

    Attributes:
        space: number of spatial axes, between the batch and the features.
    """

    space: ClassVar[int] = 0
    words: ClassVar[tuple[str, ...]] = ("valid", "same")

    def _check(self, kernel: Amounts, stride: Amounts, dilation: Amounts, pad: Padding) -> None:
        if not self.space:
            names = ", ".join(kind.__name__ for kind in type(self).__subclasses__())
            raise self.error(f"it has no number of spatial axes; use one of {names}")
        checks.amounts(self, "kernel_size", kernel, self.space)
        checks.amounts(self, "stride", stride, self.space)
        checks.amounts(self, "dilation", dilation, self.space)
        checks.padding(self, pad, self.space, self.words)

    def infer(self, *shapes: Shape) -> Shape:
        checks.spatial(self, shapes, self.space)
        return super().infer(*shapes)


@dataclass(frozen=True, eq=False)
class Conv(Window):
    """y[i, f] = bias[f] + sum over k, c of x[i stride + k dilation - before, c] kernel[k, c, f].

    Shapes: x (batch, *space, in) gives (batch, *out, filters), with out = floor((n + before +
    after - dilation (k - 1) - 1) / stride) + 1 on each spatial axis of size n.

    Parameters: kernel (*kernel_size, in / groups, filters), bias (filters). With groups, input
    features and filters are split into as many contiguous blocks, and block g of the filters sees
    block g of the input only (torch, TensorFlow and XLA agree on it).

    Padding cells are zero. "valid": none. "same" is TensorFlow's rule: out = ceil(n / stride);
    total = max((out - 1) stride + dilation (k - 1) + 1 - n, 0); before = total // 2, after =
    total - before. It depends on n where stride > 1. "causal" (1D): before = dilation (k - 1),
    after = 0. A number: that many on every side, as in torch.

    Args:
        filters: features of the output.
        kernel_size: of each spatial axis.
        stride: steps between windows.
        dilation: steps between the cells of a window.
        groups: blocks of features that do not see each other.
        padding: as above, or (before, after) for each spatial axis.
        use_bias: add a bias.
    """

    filters: int
    kernel_size: Amounts
    stride: Amounts = 1
    dilation: Amounts = 1
    groups: int = 1
    padding: Padding = "valid"
    use_bias: bool = True

    def __post_init__(self) -> None:
        self._check(self.kernel_size, self.stride, self.dilation, self.padding)
        checks.whole(self, "filters", self.filters)
        checks.whole(self, "groups", self.groups)
        if self.filters % self.groups:
            raise self.error(f"filters={self.filters} is not a multiple of groups={self.groups}")

    def _infer(self, *shapes: Shape) -> Shape:
        inputs = checks.features(self, shapes[0])
        if inputs % self.groups:
            raise self.error(
                f"expected a number of input features that groups={self.groups} divides, got "
                f"{inputs} in shape {show(shapes[0])}"
            )
        space = window_cells(
            self, shapes[0], self.kernel_size, self.stride, self.dilation, self.padding
        )
        return (shapes[0][0], *space, self.filters)

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        kernel = expand(self.kernel_size, self.space)
        inputs = checks.features(self, shapes[0]) // self.groups
        spec = ParameterSpec((*kernel, inputs, self.filters), "kernel", prod(kernel) * inputs)
        return {"kernel": spec} | bias(self.use_bias, self.filters)

    def pads(self, *space: int) -> tuple[tuple[int, int], ...]:
        """(before, after) of each spatial axis, for an input of these sizes."""
        return pads(self.kernel_size, self.stride, self.dilation, self.padding, space)


class Conv1D(Conv):
    """Convolution over (batch, time, features). The only one with padding "causal". See `Conv`."""

    space = 1
    words = ("valid", "same", "causal")


class Conv2D(Conv):
    """Convolution over (batch, height, width, features). See `Conv`."""

    space = 2


class Conv3D(Conv):
    """Convolution over (batch, depth, height, width, features). See `Conv`."""

    space = 3


@dataclass(frozen=True, eq=False)
class DepthwiseConv2D(Window):
    """y[i, c m + j] = bias[c m + j] + sum over k of x[i s + k d - before, c] kernel[k, c, j].

    Here s is the stride, d the dilation. Every input feature c has its own m = `multiplier`
    kernels, and an output sees no other feature.

    Shapes: x (batch, height, width, in) gives (batch, out, out, in * multiplier), sizes as in
    `Conv`. Parameters: kernel (height, width, in, multiplier), TensorFlow's layout; bias
    (in * multiplier).

    Args:
        kernel_size: of each spatial axis.
        multiplier: output features for each input feature.
        stride: steps between windows.
        dilation: steps between the cells of a window.
        padding: as in `Conv`.
        use_bias: add a bias.
    """

    kernel_size: Amounts
    multiplier: int = 1
    stride: Amounts = 1
    dilation: Amounts = 1
    padding: Padding = "valid"
    use_bias: bool = True

    space = 2

    def __post_init__(self) -> None:
        self._check(self.kernel_size, self.stride, self.dilation, self.padding)
        checks.whole(self, "multiplier", self.multiplier)

    def _infer(self, *shapes: Shape) -> Shape:
        inputs = checks.features(self, shapes[0])
        space = window_cells(
            self, shapes[0], self.kernel_size, self.stride, self.dilation, self.padding
        )
        return (shapes[0][0], *space, inputs * self.multiplier)

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        kernel = expand(self.kernel_size, self.space)
        inputs = checks.features(self, shapes[0])
        spec = ParameterSpec((*kernel, inputs, self.multiplier), "kernel", prod(kernel))
        return {"kernel": spec} | bias(self.use_bias, inputs * self.multiplier)

    def pads(self, *space: int) -> tuple[tuple[int, int], ...]:
        """(before, after) of each spatial axis, for an input of these sizes."""
        return pads(self.kernel_size, self.stride, self.dilation, self.padding, space)


@dataclass(frozen=True, eq=False)
class SeparableConv2D(Window):
    """A `DepthwiseConv2D` without bias, then y = depthwise @ pointwise_kernel + bias.

    Shapes: x (batch, height, width, in) gives (batch, out, out, filters), sizes as in `Conv`.
    Parameters: depthwise_kernel (height, width, in, multiplier), pointwise_kernel
    (in * multiplier, filters), bias (filters).

    Args:
        filters: features of the output.
        kernel_size: of the depthwise part.
        multiplier: depthwise features for each input feature.
        stride: of the depthwise part.
        dilation: of the depthwise part.
        padding: of the depthwise part, as in `Conv`.
        use_bias: add a bias at the end.
    """

    filters: int
    kernel_size: Amounts
    multiplier: int = 1
    stride: Amounts = 1
    dilation: Amounts = 1
    padding: Padding = "valid"
    use_bias: bool = True

    space = 2

    def __post_init__(self) -> None:
        self._check(self.kernel_size, self.stride, self.dilation, self.padding)
        checks.whole(self, "filters", self.filters)
        checks.whole(self, "multiplier", self.multiplier)

    def _infer(self, *shapes: Shape) -> Shape:
        checks.features(self, shapes[0])
        space = window_cells(
            self, shapes[0], self.kernel_size, self.stride, self.dilation, self.padding
        )
        return (shapes[0][0], *space, self.filters)

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        kernel = expand(self.kernel_size, self.space)
        inputs = checks.features(self, shapes[0])
        middle = inputs * self.multiplier
        depthwise = ParameterSpec((*kernel, inputs, self.multiplier), "kernel", prod(kernel))
        pointwise = ParameterSpec((middle, self.filters), "kernel", middle)
        return {"depthwise_kernel": depthwise, "pointwise_kernel": pointwise} | bias(
            self.use_bias, self.filters
        )

    def pads(self, *space: int) -> tuple[tuple[int, int], ...]:
        """(before, after) of each spatial axis, for an input of these sizes."""
        return pads(self.kernel_size, self.stride, self.dilation, self.padding, space)


@dataclass(frozen=True, eq=False)
class ConvTranspose(Window):
    """full[i stride + k dilation, f] += sum over c of x[i, c] kernel[k, c, f]; cropped; + bias.

    The gradient of a convolution by its input. `full` has (n - 1) stride + dilation (k - 1) + 1
    cells on a spatial axis of size n. y = full[before : before + out] + bias, where cells of
    `full` that do not exist are zero.

    Shapes: x (batch, *space, in) gives (batch, *out, filters), with out = size of full - before -
    after + output_padding. Parameters: kernel (*kernel_size, in, filters), bias (filters); it is
    not flipped.

    Padding is what is cropped. "valid": nothing. "same": out = n stride + output_padding, with
    before = max(dilation (k - 1) + 1 - stride, 0) // 2. A number or (before, after): as torch's
    `padding`, that many cells; `output_padding` then shows as many cells more at the end.

    Args:
        filters: features of the output.
        kernel_size: of each spatial axis.
        stride: steps between windows of the output.
        dilation: steps between the cells of a window.
        padding: what is cropped off, as above.
        output_padding: cells more at the end, smaller than stride or dilation (as in torch).
        use_bias: add a bias.
    """

    filters: int
    kernel_size: Amounts
    stride: Amounts = 1
    dilation: Amounts = 1
    padding: Padding = "valid"
    output_padding: Amounts = 0
    use_bias: bool = True

    def __post_init__(self) -> None:
        self._check(self.kernel_size, self.stride, self.dilation, self.padding)
        checks.whole(self, "filters", self.filters)
        checks.amounts(self, "output_padding", self.output_padding, self.space, 0)
        for extra, stride, dilation in zip(
            expand(self.output_padding, self.space),
            expand(self.stride, self.space),
            expand(self.dilation, self.space),
            strict=True,
        ):
            if extra >= max(stride, dilation):
                raise self.error(
                    f"output_padding is below the stride or the dilation, got "
                    f"{self.output_padding} with stride {self.stride}, dilation {self.dilation}"
                )

    def _infer(self, *shapes: Shape) -> Shape:
        checks.features(self, shapes[0])
        space: list[Size] = []
        lists = (self.kernel_size, self.stride, self.dilation, self.output_padding)
        each = zip(*(expand(amount, self.space) for amount in lists), strict=True)
        for axis, (size, (kernel, stride, dilation, extra)) in enumerate(
            zip(shapes[0][1:-1], each, strict=True)
        ):
            if self.padding == "same":
                out = sizes.plus(sizes.times(size, stride), extra)
            else:
                cropped = sum(self.crops()[axis])
                full = sizes.times(sizes.plus(size, -1), stride)
                out = sizes.plus(full, span(kernel, dilation) - cropped + extra)
            source = f"after cropping {self.padding!r} from shape {show(shapes[0])}"
            space.append(checks.nonempty(self, f"spatial axis {axis + 1}", out, source))
        return (shapes[0][0], *space, self.filters)

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        kernel = expand(self.kernel_size, self.space)
        inputs = checks.features(self, shapes[0])
        # A cell of the output lies in about kernel / stride windows.
        fan_in = max(1, prod(kernel) * inputs // prod(expand(self.stride, self.space)))
        spec = ParameterSpec((*kernel, inputs, self.filters), "kernel", fan_in)
        return {"kernel": spec} | bias(self.use_bias, self.filters)

    def crops(self) -> tuple[tuple[int, int], ...]:
        """(before, after) cropped off each spatial axis of `full`.

        For "same" with a stride beyond the window, `after` is negative: zeros are added.
        """
        if self.padding == "valid":
            return ((0, 0),) * self.space
        if self.padding == "same":
            found = []
            for kernel, stride, dilation in zip(
                expand(self.kernel_size, self.space),
                expand(self.stride, self.space),
                expand(self.dilation, self.space),
                strict=True,
            ):
                difference = span(kernel, dilation) - stride
                before = max(difference, 0) // 2
                found.append((before, difference - before))
            return tuple(found)
        if isinstance(self.padding, int):
            return ((self.padding, self.padding),) * self.space
        assert not isinstance(self.padding, str)
        return tuple((before, after) for before, after in self.padding)


class ConvTranspose1D(ConvTranspose):
    """Transposed convolution over (batch, time, features). See `ConvTranspose`."""

    space = 1


class ConvTranspose2D(ConvTranspose):
    """Transposed convolution over (batch, height, width, features). See `ConvTranspose`."""

    space = 2
