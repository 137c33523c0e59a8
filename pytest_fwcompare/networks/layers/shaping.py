"""Layers that move, pad or join values and compute nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from pytest_fwcompare.networks import checks, sizes
from pytest_fwcompare.networks.base import Layer, Shape, Size, join, show


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """(batch, ...) to (batch, product), in canonical C order (features change fastest).

    A framework that stores features first must bring them last before it flattens.
    """

    rank = (1, None)
    moves_values = True

    def _infer(self, *shapes: Shape) -> Shape:
        return (shapes[0][0], sizes.product(*shapes[0][1:]))


@dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """(batch, ...) to (batch, *shape), in canonical C order.

    Args:
        shape: sizes without the batch; one may be -1 and takes what is left.
    """

    shape: tuple[int, ...]

    rank = (1, None)
    moves_values = True

    def __post_init__(self) -> None:
        if not isinstance(self.shape, (tuple, list)):
            raise self.error(f"shape is a tuple of sizes without the batch, got {self.shape!r}")
        for size in self.shape:
            if size != -1:
                checks.whole(self, "a size", size, 0)
        if list(self.shape).count(-1) > 1:
            raise self.error(f"at most one size is -1, got {self.shape}")

    def _infer(self, *shapes: Shape) -> Shape:
        shape = shapes[0]
        count = sizes.product(*shape[1:])
        known = prod(size for size in self.shape if size != -1)
        if isinstance(count, str):
            return (shape[0], *self._infer_free(shape, known))
        fits = count % known == 0 if -1 in self.shape and known else count == known
        if not fits:
            raise self.error(
                f"expected {known} values an example for shape {self.shape}, got {count} in "
                f"{show(shape)}"
            )
        rest = count // known if known else 0
        return (shape[0], *(rest if size == -1 else size for size in self.shape))

    def _infer_free(self, shape: Shape, known: int) -> tuple[Size, ...]:
        """With free sizes, -1 takes them all; the known sizes must divide."""
        count = prod(size for size in shape[1:] if isinstance(size, int))
        if -1 not in self.shape or not known or count % known:
            raise self.error(
                f"expected a shape with -1 whose other sizes divide {count}, since the free "
                f"sizes of {show(shape)} are not known, got {self.shape}"
            )
        free = [size for size in shape[1:] if isinstance(size, str)]
        rest = sizes.product(count // known, *free)
        return tuple(rest if size == -1 else size for size in self.shape)


@dataclass(frozen=True, eq=False)
class Permute(Layer):
    """y[b, i_1, ...] with axis j of y being axis axes[j - 1] of x; the batch stays first.

    Args:
        axes: axes of the input in the output's order, counted from 1: (2, 1) swaps time and
            features.
    """

    axes: tuple[int, ...]

    moves_values = True

    def __post_init__(self) -> None:
        if not isinstance(self.axes, (tuple, list)) or sorted(self.axes) != list(
            range(1, len(self.axes) + 1)
        ):
            raise self.error(f"axes names each axis after the batch once, from 1, got {self.axes}")

    def _infer(self, *shapes: Shape) -> Shape:
        shape = shapes[0]
        if len(self.axes) != len(shape) - 1:
            raise self.error(
                f"axes={self.axes} needs {len(self.axes)} axes after the batch, got "
                f"{len(shape) - 1} in shape {show(shape)}"
            )
        return (shape[0], *(shape[axis] for axis in self.axes))


@dataclass(frozen=True, eq=False)
class Pad(Layer):
    """Adds cells before and after each spatial axis.

    zero: zeros. reflect: the input mirrored at its edge cell, which is not repeated (c b a b c);
    amounts are below the size. replicate: the edge cell again.

    Shapes: x (batch, *space, features) gives (batch, *(before + n + after), features).

    Args:
        amounts: (before, after) for each spatial axis.
        mode: "zero", "reflect" or "replicate".
    """

    amounts: tuple[tuple[int, int], ...]
    mode: Literal["zero", "reflect", "replicate"] = "zero"

    rank = (3, None)

    def __post_init__(self) -> None:
        checks.pairs(self, "amounts", self.amounts, None)
        checks.choice(self, "mode", self.mode, ("zero", "reflect", "replicate"))

    def _infer(self, *shapes: Shape) -> Shape:
        shape = shapes[0]
        if len(self.amounts) != len(shape) - 2:
            raise self.error(
                f"amounts has {len(self.amounts)} pairs, got {len(shape) - 2} spatial axes in "
                f"shape {show(shape)}"
            )
        space: list[Size] = []
        for axis, (size, pair) in enumerate(zip(shape[1:-1], self.amounts, strict=True)):
            least = {"zero": 0, "reflect": max(pair) + 1, "replicate": 1}[self.mode]
            if isinstance(size, int) and size < least:
                raise self.error(
                    f"{self.mode} padding of {tuple(pair)} needs at least {least} cells on "
                    f"spatial axis {axis + 1}, got {size} in shape {show(shape)}"
                )
            space.append(sizes.plus(size, sum(pair)))
        return (shape[0], *space, shape[-1])


@dataclass(frozen=True, eq=False)
class Concatenate(Layer):
    """Inputs one after the other along an axis; their other sizes are equal.

    Args:
        axis: not the batch (0); negative ones count from the end.
    """

    axis: int = -1

    arity = (2, None)
    moves_values = True

    def __post_init__(self) -> None:
        check_axis(self, self.axis)

    def _infer(self, *shapes: Shape) -> Shape:
        axis = find_axis(self, self.axis, shapes[0])
        rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
        if len(rest) > 1 or len({len(shape) for shape in shapes}) > 1:
            raise self.error(
                f"expected inputs that differ on axis {self.axis} only, got "
                f"{join(map(show, shapes))}"
            )
        joined = sizes.total(*(shape[axis] for shape in shapes))
        return (*shapes[0][:axis], joined, *shapes[0][axis + 1 :])


def check_axis(layer: Layer, axis: object) -> None:
    """An axis is an integer and not the batch."""
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise layer.error(f"axis is an integer, got {axis!r}")
    if axis == 0:
        raise layer.error("axis 0 is the batch, along which nothing is computed")


def find_axis(layer: Layer, axis: int, shape: Shape) -> int:
    """The axis counted from the front; it must exist and not be the batch."""
    found = axis + len(shape) if axis < 0 else axis
    if not 0 < found < len(shape):
        raise layer.error(f"axis {axis} is the batch or does not exist in shape {show(shape)}")
    return found
