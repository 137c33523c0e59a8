"""Names a rearrangement that is known element by element: Transpose, Blocks, Flip, Take, ..."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pytest_fwcompare.weights.blocks import simplest
from pytest_fwcompare.weights.transforms import (
    Blocks,
    Concatenate,
    Each,
    Flip,
    Gather,
    Identity,
    Parallel,
    Reshape,
    Take,
    Transform,
    Transpose,
    compose,
)

Array = np.ndarray

MOST_BLOCKS = 8
"""Equal blocks along an axis that are looked for: gates and fused projections have at most 8."""


def recognise(index: Array, shapes: Sequence[tuple[int, ...]]) -> Transform:
    """The plainest transform that puts element `index[i]` of the sources at place i.

    Args:
        index: integers of the target's shape, places in the sources flattened and joined.
        shapes: of the sources, in order.

    Returns:
        A `Gather` where nothing plainer does it.
    """
    if len(shapes) == 1:
        return recognise_one(index, shapes[0]) or Gather(index)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    source = np.searchsorted(ends, index, side="right")
    for axis in range(index.ndim):
        parts = _runs(source, axis)
        if parts is None:
            continue
        owners, cuts = parts
        if owners != list(range(len(shapes))):
            continue
        each = []
        for place, part in zip(owners, np.split(index, cuts, axis), strict=True):
            start = ends[place] - int(np.prod(shapes[place]))
            each.append(recognise_one(part - start, shapes[place]))
        if all(step is not None for step in each):
            known = [step for step in each if step is not None]
            join = Concatenate(axis)
            if all(isinstance(step, Identity) for step in known):
                return join
            alike = all(step == known[0] for step in known)
            return Each(known[0], join) if alike else Parallel(tuple(known), join)
    return Gather(index)


def _runs(source: Array, axis: int) -> tuple[list[int], list[int]] | None:
    """Sources that follow one another along an axis, and where they change; None if mixed."""
    lines = np.moveaxis(source, axis, 0).reshape(source.shape[axis], -1)
    if not lines.size or (lines != lines[:, :1]).any():
        return None
    first = lines[:, 0]
    cuts = [int(i) + 1 for i in np.flatnonzero(np.diff(first))]
    return [int(first[0]), *(int(first[cut]) for cut in cuts)], cuts


def recognise_one(index: Array, shape: tuple[int, ...]) -> Transform | None:
    """The plainest transform of one source, None if there is none but a gather."""
    target = index.shape
    places = np.arange(int(np.prod(shape)), dtype=np.int64)
    if index.size == places.size and np.array_equal(index.ravel(), places):
        return compose(shape, Reshape(target))
    if len(shape) == index.ndim:
        direct = _axes_moved(index, places.reshape(shape))
        if direct is not None:
            return compose(shape, *direct)
    own = tuple(length for length in shape if length != 1)
    wanted = tuple(length for length in target if length != 1)
    flat = index.reshape(wanted)
    found = _axes_moved(flat, places.reshape(own)) or _heads_moved(flat, places.reshape(own))
    if found is None:
        return None
    return compose(shape, Reshape(own), *found, Reshape(target))


def _axes_moved(index: Array, places: Array) -> list[Transform] | None:
    """Axes in another order, then flips, blocks or one block along an axis."""
    if index.ndim != places.ndim or index.ndim > 5:
        return None
    for axes in itertools.permutations(range(places.ndim)):
        moved = places.transpose(axes)
        differing = [a for a in range(index.ndim) if moved.shape[a] != index.shape[a]]
        if len(differing) > 1:
            continue
        rest = _along_axes(index, moved)
        if rest is not None:
            return [Transpose(axes), *rest]
    return None


def _along_axes(index: Array, places: Array) -> list[Transform] | None:
    """What happens along each axis by itself: nothing, a flip, blocks or a part."""
    orders = []
    for axis in range(index.ndim):
        # Element [0, ..., i, ..., 0] of the target lies in this slice of the source.
        line = np.moveaxis(index, axis, -1).reshape(-1, index.shape[axis])[0]
        if line.min() < 0 or line.max() >= places.size:
            return None
        inverse = np.unravel_index(_place_in(places, line), places.shape)
        orders.append(inverse[axis])
    if not np.array_equal(places[np.ix_(*orders)], index):
        return None
    steps: list[Transform] = []
    flips = tuple(
        axis
        for axis, order in enumerate(orders)
        if len(order) > 1 and np.array_equal(order, np.arange(places.shape[axis])[::-1])
    )
    if flips:
        steps.append(Flip(flips))
    for axis, order in enumerate(orders):
        if axis in flips or np.array_equal(order, np.arange(places.shape[axis])):
            continue
        step = _blocks(order, places.shape[axis], axis)
        if step is None:
            return None
        steps.append(step)
    return steps


def _place_in(places: Array, values: Array) -> Array:
    """Flat positions of values in a rearranged range."""
    back = np.empty(places.size, np.int64)
    back[places.ravel()] = np.arange(places.size)
    found: Array = back[values]
    return found


def _blocks(order: Array, length: int, axis: int) -> Transform | None:
    """Equal blocks of an axis in another order, or one of them."""
    for count in range(2, MOST_BLOCKS + 1):
        if length % count:
            continue
        size = length // count
        if len(order) % size or not len(order):
            continue
        blocks = order.reshape(-1, size)
        if (np.diff(blocks, axis=1) == 1).all() and (blocks[:, 0] % size == 0).all():
            chosen = [int(start) // size for start in blocks[:, 0]]
            if len(chosen) == 1:
                return Take(chosen[0], count, axis)
            if sorted(chosen) == list(range(count)):
                return Blocks(tuple(chosen), axis)
            if axis == 0:
                return simplest(tuple(((0, block, count),) for block in chosen), [count])
    return None


def _heads_moved(index: Array, places: Array) -> list[Transform] | None:
    """Axes split or merged (heads): a reshape, axes in another order, a reshape."""
    if index.size != places.size:
        return None
    if places.ndim > index.ndim:
        back = _heads_moved(_inverse(index, places), np.arange(index.size).reshape(index.shape))
        if back is None:
            return None
        axes = next(step.axes for step in back if isinstance(step, Transpose))
        undone = tuple(int(i) for i in np.argsort(axes))
        return [Transpose(undone), Reshape(index.shape)]
    for axes in itertools.permutations(range(index.ndim)):
        # The target's axes in source order, merged, would be the source.
        middle = tuple(index.shape[int(i)] for i in np.argsort(axes))
        if np.array_equal(places.reshape(middle).transpose(axes), index):
            return [Reshape(middle), Transpose(axes)]
    return None


def _inverse(index: Array, places: Array) -> Array:
    """The rearrangement that undoes `index`, in the source's shape."""
    back = np.empty(index.size, np.int64)
    back[index.ravel()] = np.arange(index.size)
    return back.reshape(places.shape)
