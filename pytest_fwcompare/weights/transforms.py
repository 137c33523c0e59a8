"""Linear maps between parameters: how arrays of the reference become one array of the port.

A transform maps a list of source arrays to one target array (`apply`) and pulls a gradient of the
target back to the sources (`adjoint`). All are linear, so a gradient maps by the adjoint exactly.
Each prints as the code that makes it, so that a mapping can be pasted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import TypeVar

import numpy as np

Array = np.ndarray
_T = TypeVar("_T")


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
class Slice(Transform):
    """The part of an axis from `start` to before `stop` (one of several tables in one array)."""

    start: int
    stop: int
    axis: int = 0

    def apply(self, *sources: Array) -> Array:
        return sources[0][self._place(sources[0].ndim)]

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        whole = np.zeros(shapes[0], gradient.dtype)
        whole[self._place(whole.ndim)] = gradient
        return [whole]

    def _place(self, rank: int) -> tuple[slice, ...]:
        every = [slice(None)] * rank
        every[self.axis] = slice(self.start, self.stop)
        return tuple(every)


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


@dataclass(frozen=True)
class Parallel(Transform):
    """A transform of its own for every source, or for a few each, then a combining transform.

    Attributes:
        each: the transforms.
        combine: takes what they make.
        counts: how many sources each of them takes, in order; () if all take one.
    """

    each: tuple[Transform, ...]
    combine: Transform
    counts: tuple[int, ...] = ()

    def apply(self, *sources: Array) -> Array:
        steps = zip(self.each, self._shares(sources), strict=True)
        return self.combine.apply(*(step.apply(*share) for step, share in steps))

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        shares = self._shares(shapes)
        middle = [shape_of(step, *share) for step, share in zip(self.each, shares, strict=True)]
        parts = self.combine.adjoint(gradient, *middle)
        return [
            one
            for step, part, share in zip(self.each, parts, shares, strict=True)
            for one in step.adjoint(part, *share)
        ]

    def _shares(self, given: tuple[_T, ...]) -> list[tuple[_T, ...]]:
        """What each transform takes of the sources, or of their shapes."""
        counts = self.counts or (1,) * len(self.each)
        if sum(counts) != len(given):
            raise ValueError(f"expected {sum(counts)} sources, got {len(given)}")
        ends = list(accumulate(counts))
        return [given[end - count : end] for count, end in zip(counts, ends, strict=True)]


@dataclass(frozen=True)
class Assemble(Transform):
    """Equal target blocks along an axis, each the sum of blocks of the sources.

    Recurrent biases that are summed for some gates only, fused projections cut otherwise.

    Attributes:
        blocks: one entry a target block: terms (source, block, count), each the block of that
            number out of `count` equal blocks of that source along `axis`; no terms give zeros.
        axis: along which sources are cut and the target is put together.
    """

    blocks: tuple[tuple[tuple[int, int, int], ...], ...]
    axis: int = 0

    def apply(self, *sources: Array) -> Array:
        cut = {
            (source, count): np.split(sources[source], count, axis=self.axis)
            for terms in self.blocks
            for source, _, count in terms
        }
        parts = [
            reduce(np.add, (cut[source, count][block] for source, block, count in terms))
            if terms
            else None
            for terms in self.blocks
        ]
        known = next(part for part in parts if part is not None)
        return np.concatenate(
            [np.zeros_like(known) if part is None else part for part in parts], axis=self.axis
        )

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        gradients = [np.zeros(shape, gradient.dtype) for shape in shapes]
        parts = np.split(gradient, len(self.blocks), axis=self.axis)
        for terms, part in zip(self.blocks, parts, strict=True):
            for source, block, count in terms:
                # Basic slices are views, so adding to them fills the gradient.
                np.split(gradients[source], count, axis=self.axis)[block][...] += part
        return gradients


@dataclass(frozen=True)
class Zeros(Transform):
    """No source at all: the second of two biases where the reference has one."""

    shape: tuple[int, ...]

    def apply(self, *sources: Array) -> Array:
        return np.zeros(self.shape)

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        return []


@dataclass(frozen=True, eq=False, repr=False)
class Gather(Transform):
    """Any rearrangement: element i of the target is element `index[i]` of the sources.

    Attributes:
        index: integers of the target's shape, places in all sources flattened in C order and
            joined end to end; -1 gives zero.
    """

    index: Array

    def __repr__(self) -> str:
        if self.index.size > 64:
            return f"Gather({'x'.join(map(str, self.index.shape))} places)"
        return f"Gather(numpy.array({self.index.tolist()}))"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gather) and np.array_equal(self.index, other.index)

    def __hash__(self) -> int:
        return hash(self.index.tobytes())

    def apply(self, *sources: Array) -> Array:
        flat = np.concatenate([source.ravel() for source in sources])
        return np.where(self.index >= 0, flat[self.index], np.zeros((), flat.dtype))

    def adjoint(self, gradient: Array, *shapes: tuple[int, ...]) -> list[Array]:
        sizes = [int(np.prod(shape)) for shape in shapes]
        flat = np.zeros(sum(sizes), gradient.dtype)
        known = self.index >= 0
        np.add.at(flat, self.index[known], gradient[known])
        parts = np.split(flat, np.cumsum(sizes)[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def invert(transform: Transform, shape: tuple[int, ...]) -> Transform:
    """The inverse of a rearrangement of one source of that shape.

    Raises:
        TypeError: it is no rearrangement (Sum, Take, ...).
    """
    match transform:
        case Identity() | Flip():
            return transform
        case Transpose(axes):
            return Transpose(tuple(int(i) for i in np.argsort(axes)))
        case Reshape():
            return Reshape(shape)
        case Blocks(order, axis):
            return Blocks(tuple(int(i) for i in np.argsort(order)), axis)
        case Chain(steps):
            back = []
            for step in steps:
                back.append(invert(step, shape))
                shape = shape_of(step, shape)
            return Chain(tuple(reversed(back)))
    raise TypeError(f"{transform} has no inverse")


def shape_of(transform: Transform, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the target for sources of those shapes.

    Raises:
        ValueError: the shapes do not fit the transform.
    """
    return transform.apply(*(np.broadcast_to(np.float32(0), shape) for shape in shapes)).shape


def compose(shape: tuple[int, ...], *transforms: Transform) -> Transform:
    """Single-source transforms one after the other, without the steps that do nothing.

    Args:
        shape: of the source.
        transforms: rearrangements; chains are flattened.
    """
    steps: list[Transform] = []
    shapes = [shape]
    pending = list(transforms)
    while pending:
        step = pending.pop(0)
        if isinstance(step, Chain):
            pending = [*step.steps, *pending]
            continue
        if steps and isinstance(step, Transpose) and isinstance(steps[-1], Transpose):
            before = steps.pop().axes  # type: ignore[attr-defined]
            shapes.pop()
            step = Transpose(tuple(before[axis] for axis in step.axes))
        elif steps and isinstance(step, Reshape) and isinstance(steps[-1], Reshape):
            steps.pop()
            shapes.pop()
        if not _does_nothing(step, shapes[-1]):
            steps.append(step)
            shapes.append(shape_of(step, shapes[-1]))
    if not steps:
        return Identity()
    return steps[0] if len(steps) == 1 else Chain(tuple(steps))


def _does_nothing(step: Transform, shape: tuple[int, ...]) -> bool:
    """Whether a step gives back every source of that shape unchanged."""
    match step:
        case Identity():
            return True
        case Transpose(axes):
            return axes == tuple(range(len(axes)))
        case Reshape(target):
            return target == shape
        case Blocks(order):
            return order == tuple(range(len(order)))
        case Flip(axes):
            return all(shape[axis] == 1 for axis in axes)
    return False
