"""Finds the tensor of the reference that a tensor of the port is, whatever the order of its axes.

In float64 the tensors of a right port agree to 1e-12, so a dropout of the port is told by what
goes into it. Neither the order of calls nor the order of axes has to be known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from pytest_fwcompare.backends.base import Array

EXACT = 1e-6
"""Difference, of the largest value, up to which two float64 tensors count as the same one. Inputs
that were moved by a rounding of float32 stay below it."""

ALIKE = 0.2
"""Correlation from which on another tensor is taken for its counterpart: behind a fault, or on the
other side of an activation."""

PROBES = 64
"""Cells that are looked at before a whole tensor is."""

MOST_AXES = 5
"""Tensors of more axes are only compared in the order they have."""


@dataclass(frozen=True)
class Fit:
    """How one tensor becomes another.

    Attributes:
        axes: permutation of its axes, before it is reshaped.
        exact: the values then agree.
        score: correlation of the values, 1 if they agree.
    """

    axes: tuple[int, ...]
    exact: bool
    score: float


def fit(source: Array, target: Array) -> Fit | None:
    """The permutation of axes that makes `source` most like `target`; None if none fits.

    Args:
        source: float64, of the reference.
        target: float64, of the port, with as many elements; of another number of axes if one of
            them was merged (batch and heads).
    """
    if source.size != target.size or not source.size:
        return None
    scale = float(np.abs(source).max()) or 1.0
    if not np.isfinite(scale):
        return None
    best: Fit | None = None
    for axes in _orders(source, target):
        turned = source.transpose(axes).reshape(target.shape)
        if _same(turned, target, EXACT * scale):
            return Fit(axes, True, 1.0)
        score = _correlation(turned, target)
        if best is None or score > best.score:
            best = Fit(axes, False, score)
    return best if best is not None and best.score >= ALIKE else None


def turned(mask: Array, source: Array, target: Array, axes: tuple[int, ...]) -> Array | None:
    """A mask of `source` for `target`; None where it has none.

    Args:
        mask: broadcasts to `source`: an axis of one is dropped as a whole.
        source: the reference's tensor.
        target: the port's.
        axes: what `fit` found.
    """
    made = mask.transpose(axes)
    if source.transpose(axes).shape == target.shape:
        return made
    return made.reshape(target.shape) if mask.size == source.size else None


def _orders(source: Array, target: Array) -> Iterator[tuple[int, ...]]:
    """Orders of the axes of `source` that can give `target`, the one it has first."""
    straight = tuple(range(source.ndim))
    if source.ndim > MOST_AXES:
        yield straight
        return
    for axes in permutations(straight):
        if source.ndim != target.ndim or source.transpose(axes).shape == target.shape:
            yield axes


def _same(one: Array, other: Array, limit: float) -> bool:
    places = np.linspace(0, one.size - 1, min(PROBES, one.size)).astype(int)
    index = np.unravel_index(places, one.shape)
    if np.abs(one[index] - other[index]).max() > limit:
        return False
    return bool(np.abs(one - other).max() <= limit)


def _correlation(one: Array, other: Array) -> float:
    first, second = one.ravel() - one.mean(), other.ravel() - other.mean()
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / size if size > 0 and np.isfinite(size) else 0.0
