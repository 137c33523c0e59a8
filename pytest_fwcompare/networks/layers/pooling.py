"""Pooling over spatial axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pytest_fwcompare.networks import checks, sizes
from pytest_fwcompare.networks.base import Layer, Shape, Size, show
from pytest_fwcompare.networks.checks import Amounts, Padding
from pytest_fwcompare.networks.layers.windows import expand, pads, window_cells


@dataclass(frozen=True, eq=False)
class Pool(Layer):
    """Windows over the spatial axes.

    Shapes: x (batch, *space, features) gives (batch, *out, features), with out =
    floor((n + before + after - pool_size) / stride) + 1 on each spatial axis of size n; "same" and
    explicit padding as in `Conv`. Cells left over at the end are dropped (no "ceil mode").

    Args:
        pool_size: of each spatial axis.
        stride: steps between windows; None: the pool size.
        padding: "valid", "same", a number, or (before, after) for each spatial axis, below the
            pool size, so that every window has a cell of the input.
    """

    pool_size: Amounts
    stride: Amounts | None = None
    padding: Padding = "valid"

    space: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not self.space:
            raise self.error("it has no number of spatial axes; use MaxPool1D, MaxPool2D, ...")
        checks.amounts(self, "pool_size", self.pool_size, self.space)
        checks.padding(self, self.padding, self.space, ("valid", "same"))
        checks.amounts(self, "stride", self.strides, self.space)
        if isinstance(self.padding, str):
            return
        pool = expand(self.pool_size, self.space)
        for size, pair in zip(pool, self.pads(*pool), strict=True):
            if max(pair) >= size:
                raise self.error(
                    f"padding is below the pool size {self.pool_size}, so that every window has "
                    f"a cell of the input, got {self.padding}"
                )

    @property
    def strides(self) -> Amounts:
        """The stride; the pool size where none is given."""
        return self.pool_size if self.stride is None else self.stride

    def infer(self, *shapes: Shape) -> Shape:
        checks.spatial(self, shapes, self.space)
        return super().infer(*shapes)

    def _infer(self, *shapes: Shape) -> Shape:
        shape = shapes[0]
        space = window_cells(self, shape, self.pool_size, self.strides, 1, self.padding)
        return (shape[0], *space, shape[-1])

    def pads(self, *space: int) -> tuple[tuple[int, int], ...]:
        """(before, after) of each spatial axis, for an input of these sizes."""
        return pads(self.pool_size, self.strides, 1, self.padding, space)


@dataclass(frozen=True, eq=False)
class MaxPool(Pool):
    """Greatest cell of each window; padding never wins. At a tie the gradient goes to the first.

    First in the order of memory (rows, then columns), as in torch and TensorFlow on a CPU.
    """


class MaxPool1D(MaxPool):
    """Max pooling over (batch, time, features). See `MaxPool`, `Pool`."""

    space = 1


class MaxPool2D(MaxPool):
    """Max pooling over (batch, height, width, features). See `MaxPool`, `Pool`."""

    space = 2


@dataclass(frozen=True, eq=False)
class AveragePool(Pool):
    """Sum of each window's cells divided by their number; see `Pool` for shapes.

    Args:
        count_include_pad: divide by the window's size; otherwise by its cells inside the input
            (Keras and TensorFlow always do the latter, torch the former by default).
    """

    count_include_pad: bool = False


class AveragePool1D(AveragePool):
    """Average pooling over (batch, time, features). See `AveragePool`, `Pool`."""

    space = 1


class AveragePool2D(AveragePool):
    """Average pooling over (batch, height, width, features). See `AveragePool`, `Pool`."""

    space = 2


@dataclass(frozen=True, eq=False)
class GlobalPool(Layer):
    """One value a feature: (batch, *space, features) gives (batch, features)."""

    rank = (3, None)

    def _infer(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], shapes[0][-1])


class GlobalAveragePool(GlobalPool):
    """Mean over all spatial axes: (batch, *space, features) gives (batch, features)."""


class GlobalMaxPool(GlobalPool):
    """Maximum over all spatial axes: (batch, *space, features) gives (batch, features).

    At a tie the gradient is shared equally (as torch's and JAX's `amax`, TensorFlow's
    `reduce_max`).
    """


@dataclass(frozen=True, eq=False)
class AdaptiveAveragePool(Layer):
    """Mean over equal windows, `output_size` of them on each spatial axis.

    Shapes: x (batch, *space, features) gives (batch, *output_size, features); output_size divides
    the size of each spatial axis, where torch's and others' rules agree.

    Args:
        output_size: windows on each spatial axis.
    """

    output_size: Amounts

    space: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not self.space:
            raise self.error("use AdaptiveAveragePool1D or AdaptiveAveragePool2D")
        checks.amounts(self, "output_size", self.output_size, self.space)

    def _infer(self, *shapes: Shape) -> Shape:
        shape = shapes[0]
        if len(shape) != self.space + 2:
            raise self.error(
                f"expected an input of {self.space + 2} axes (batch, {self.space} spatial, "
                f"features), got {len(shape)} in shape {show(shape)}"
            )
        windows = expand(self.output_size, self.space)
        for axis, (size, out) in enumerate(zip(shape[1:-1], windows, strict=True)):
            if isinstance(size, int) and (size % out or not size):
                raise self.error(
                    f"output_size={self.output_size} does not divide spatial axis {axis + 1} of "
                    f"shape {show(shape)}; sizes must be multiples of it"
                )
        return (shape[0], *windows, shape[-1])


class AdaptiveAveragePool1D(AdaptiveAveragePool):
    """Over (batch, time, features). See `AdaptiveAveragePool`."""

    space = 1


class AdaptiveAveragePool2D(AdaptiveAveragePool):
    """Over (batch, height, width, features). See `AdaptiveAveragePool`."""

    space = 2


@dataclass(frozen=True, eq=False)
class Upsample(Layer):
    """Each spatial axis (one or two of them) times `factor`.

    nearest: cell i reads cell i // factor. bilinear: cell i reads at place p = (i + 0.5) / factor
    - 0.5, clamped to [0, n - 1] ("half-pixel centres": torch's align_corners=False, TensorFlow's
    tf.image.resize), or, with align_corners, at p = i (n - 1) / (n factor - 1), 0 where that is
    0 / 0; its value is (1 - p + floor(p)) x[floor(p)] + (p - floor(p)) x[floor(p) + 1], one axis
    after the other.

    Shapes: x (batch, *space, features) gives (batch, *(factor * n), features).

    Args:
        factor: a whole number.
        mode: "nearest" or "bilinear" (linear on one axis).
        align_corners: as above; "bilinear" only.
    """

    factor: int
    mode: Literal["nearest", "bilinear"] = "nearest"
    align_corners: bool = False

    rank = (3, 4)

    def __post_init__(self) -> None:
        checks.whole(self, "factor", self.factor)
        checks.choice(self, "mode", self.mode, ("nearest", "bilinear"))
        if self.align_corners and self.mode != "bilinear":
            raise self.error(f"align_corners goes with mode 'bilinear', got mode {self.mode!r}")

    def _infer(self, *shapes: Shape) -> Shape:
        space: list[Size] = [sizes.times(size, self.factor) for size in shapes[0][1:-1]]
        return (shapes[0][0], *space, shapes[0][-1])
