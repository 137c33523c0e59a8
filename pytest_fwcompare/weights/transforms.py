"""Linear maps between parameters: how arrays of the reference become one array of the port.

A transform maps a list of source arrays to one target array (`apply`) and pulls a gradient of the
target back to the sources (`adjoint`). All are linear, so a gradient maps by the adjoint exactly.
Each prints as the code that makes it, so that a mapping can be pasted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

Array = np.ndarray


class Transform(ABC):
    """A linear map from source arrays to one target array."""

    @abstractmethod
    def apply(self, *sources: Array) -> Array:
        """The target made of the sources."""

    @abstractmethod
    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        """Gradients of the sources, whose shapes are given, from the gradient of the target."""

    def then(self, *others: Transform) -> Transform:
        """This transform followed by others of one source each."""
        return Chain((self, *others))


@dataclass(frozen=True)
class Identity(Transform):
    """The array as it is."""

    def apply(self, *sources: Array) -> Array:
        return sources[0]

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        return [gradient]


@dataclass(frozen=True)
class Transpose(Transform):
    """Axes in another order: target axis i is source axis `axes[i]`."""

    axes: tuple[int, ...]

    def apply(self, *sources: Array) -> Array:
        return sources[0].transpose(self.axes)

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        return [gradient.transpose(tuple(int(i) for i in np.argsort(self.axes)))]


@dataclass(frozen=True)
class Reshape(Transform):
    """The same values in C order under another shape (singleton axes, split or merged heads)."""

    shape: tuple[int, ...]

    def apply(self, *sources: Array) -> Array:
        return sources[0].reshape(self.shape)

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        return [gradient.reshape(shapes[0])]


@dataclass(frozen=True)
class Blocks(Transform):
    """Equal blocks along an axis in another order: target block i is source block `order[i]`.

    Recurrent gates and fused projections: `Blocks((1, 0, 2), axis=-1)` swaps the first two gates.
    """

    order: tuple[int, ...]
    axis: int = -1

    def apply(self, *sources: Array) -> Array:
        blocks = np.split(sources[0], len(self.order), axis=self.axis)
        return np.concatenate([blocks[i] for i in self.order], axis=self.axis)

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        back = tuple(int(i) for i in np.argsort(self.order))
        return [Blocks(back, self.axis).apply(gradient)]


@dataclass(frozen=True)
class Flip(Transform):
    """Values in reverse order along axes (convolution against correlation)."""

    axes: tuple[int, ...]

    def apply(self, *sources: Array) -> Array:
        return np.flip(sources[0], self.axes)

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        return [np.flip(gradient, self.axes)]


@dataclass(frozen=True)
class Take(Transform):
    """One of several equal blocks along an axis (a separate gate or projection of a fused one)."""

    block: int
    count: int
    axis: int = -1

    def apply(self, *sources: Array) -> Array:
        return np.split(sources[0], self.count, axis=self.axis)[self.block]

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        blocks = np.split(np.zeros(shapes[0], gradient.dtype), self.count, axis=self.axis)
        blocks[self.block] = gradient
        return [np.concatenate(blocks, axis=self.axis)]


@dataclass(frozen=True)
class Concatenate(Transform):
    """Several sources one after the other along an existing axis."""

    axis: int = -1

    def apply(self, *sources: Array) -> Array:
        return np.concatenate(sources, axis=self.axis)

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        ends = np.cumsum([shape[self.axis] for shape in shapes])[:-1]
        return np.split(gradient, ends, axis=self.axis)


@dataclass(frozen=True)
class Stack(Transform):
    """Several sources along a new axis."""

    axis: int = 0

    def apply(self, *sources: Array) -> Array:
        return np.stack(sources, axis=self.axis)

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        return [gradient.take(i, axis=self.axis) for i in range(len(shapes))]


@dataclass(frozen=True)
class Sum(Transform):
    """The sum of all sources (two biases of a recurrent cell against one)."""

    def apply(self, *sources: Array) -> Array:
        return reduce(np.add, sources)

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        return [gradient for _ in shapes]


@dataclass(frozen=True)
class Each(Transform):
    """One single-source transform applied to every source, then a combining transform."""

    each: Transform
    combine: Transform

    def apply(self, *sources: Array) -> Array:
        return self.combine.apply(*(self.each.apply(source) for source in sources))

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        middle = [self.each.apply(np.zeros(shape)).shape for shape in shapes]
        parts = self.combine.adjoint(gradient, *middle)
        return [
            self.each.adjoint(part, shape)[0] for part, shape in zip(parts, shapes, strict=True)
        ]


@dataclass(frozen=True)
class Chain(Transform):
    """Transforms one after the other; all but the first have one source."""

    steps: tuple[Transform, ...]

    def apply(self, *sources: Array) -> Array:
        value = self.steps[0].apply(*sources)
        for step in self.steps[1:]:
            value = step.apply(value)
        return value

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        # Shapes between the steps are found by applying them to empty strides: no memory is used.
        values = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
        between = [self.steps[0].apply(*values)]
        for step in self.steps[1:-1]:
            between.append(step.apply(between[-1]))
        for step, value in zip(self.steps[:0:-1], between[::-1], strict=True):
            (gradient,) = step.adjoint(gradient, value.shape)
        return self.steps[0].adjoint(gradient, *shapes)
