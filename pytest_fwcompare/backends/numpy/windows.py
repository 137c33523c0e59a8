"""Convolution and pooling: windows as rows of a matrix, and sums over the cells of a window.

Formulas: the docstrings of `networks.layers.convolution` and `networks.layers.pooling`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from autograd.extend import defvjp

from pytest_fwcompare.backends.numpy.traced import Array, primitive


@dataclass(frozen=True)
class Geometry:
    """Where windows lie; one entry for each spatial axis.

    Attributes:
        kernel: cells of a window.
        stride: steps between windows.
        dilation: steps between the cells of a window.
        pads: (before, after).
        out: number of windows.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    out: tuple[int, ...]

    def padded(self, x: Array, value: float = 0.0) -> Array:
        """X (batch, *space, features) with its padding."""
        if not any(map(any, self.pads)):
            return x
        return np.pad(x, ((0, 0), *self.pads, (0, 0)), constant_values=value)

    def unpadded(self, padded: Array) -> Array:
        """The inverse of `padded`."""
        return padded[(slice(None), *(slice(b, -a or None) for b, a in self.pads))]

    def padded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of `padded` for an array of this shape."""
        space = (size + sum(pair) for size, pair in zip(shape[1:-1], self.pads, strict=True))
        return (shape[0], *space, shape[-1])

    def cells(self) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Each cell of the window with the part of a padded array that it meets."""
        for place in product(*map(range, self.kernel)):
            yield (
                place,
                (
                    slice(None),
                    *(
                        slice(k * d, k * d + (n - 1) * s + 1, s)
                        for k, d, n, s in zip(
                            place, self.dilation, self.out, self.stride, strict=True
                        )
                    ),
                ),
            )

    def columns(self, padded: Array) -> Array:
        """Windows of a padded array: (batch, *out, *kernel, features), a view."""
        steps = padded.strides[1:-1]
        return np.lib.stride_tricks.as_strided(
            padded,
            (padded.shape[0], *self.out, *self.kernel, padded.shape[-1]),
            (
                padded.strides[0],
                *(step * s for step, s in zip(steps, self.stride, strict=True)),
                *(step * d for step, d in zip(steps, self.dilation, strict=True)),
                padded.strides[-1],
            ),
            writeable=False,
        )

    def scatter(self, columns: Array, shape: tuple[int, ...]) -> Array:
        """The transpose of `columns`: an array of that shape, each cell the sum of its uses."""
        gathered = np.zeros(shape, columns.dtype)
        axes = len(self.kernel)
        for place, part in self.cells():
            gathered[part] += columns[(slice(None),) * (axes + 1) + place]
        return gathered


def _rows(geometry: Geometry, padded: Array, groups: int) -> Array:
    """Windows as (groups, batch * out, kernel * features / groups)."""
    axes, inputs = len(geometry.kernel), padded.shape[-1] // groups
    columns = geometry.columns(padded)
    split = columns.reshape(*columns.shape[:-1], groups, inputs) if groups > 1 else columns
    if groups == 1:
        return split.reshape(1, -1, prod(geometry.kernel) * inputs)
    order = (2 * axes + 1, *range(2 * axes + 1), 2 * axes + 2)
    return split.transpose(order).reshape(groups, -1, prod(geometry.kernel) * inputs)


def _unrows(geometry: Geometry, rows: Array, batch: int) -> Array:
    """The inverse of `_rows`: (batch, *out, *kernel, features)."""
    axes, groups = len(geometry.kernel), rows.shape[0]
    split = rows.reshape(groups, batch, *geometry.out, *geometry.kernel, -1)
    moved = split.transpose(*range(1, 2 * axes + 2), 0, 2 * axes + 2)
    return moved.reshape(batch, *geometry.out, *geometry.kernel, -1)


def _kernels(kernel: Array, groups: int) -> Array:
    """Kernels by group: (groups, kernel * in / groups, filters / groups)."""
    filters = kernel.shape[-1] // groups
    return kernel.reshape(-1, groups, filters).transpose(1, 0, 2)


def _by_group(g: Array, groups: int) -> Array:
    """(batch, *out, filters) as (groups, batch * out, filters / groups)."""
    return g.reshape(-1, groups, g.shape[-1] // groups).transpose(1, 0, 2)


@primitive
def convolve(x: Array, kernel: Array, geometry: Geometry, groups: int = 1) -> Array:
    """Cross-correlation without bias; x (batch, *space, in)."""
    rows = _rows(geometry, geometry.padded(x), groups)
    values = rows @ _kernels(kernel, groups)
    return values.transpose(1, 0, 2).reshape(x.shape[0], *geometry.out, kernel.shape[-1])


def _convolve_vjp_x(
    answer: Array, x: Array, kernel: Array, geometry: Geometry, groups: int = 1
) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        rows = _by_group(g, groups) @ _kernels(kernel, groups).swapaxes(1, 2)
        columns = _unrows(geometry, rows, x.shape[0])
        return geometry.unpadded(geometry.scatter(columns, geometry.padded_shape(x.shape)))

    return pull


def _convolve_vjp_kernel(
    answer: Array, x: Array, kernel: Array, geometry: Geometry, groups: int = 1
) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        rows = _rows(geometry, geometry.padded(x), groups)
        grouped = rows.swapaxes(1, 2) @ _by_group(g, groups)
        return grouped.transpose(1, 0, 2).reshape(kernel.shape)

    return pull


defvjp(convolve, _convolve_vjp_x, _convolve_vjp_kernel)


@primitive
def convolve_transposed(
    x: Array,
    kernel: Array,
    geometry: Geometry,
    full: tuple[int, ...],
    first: tuple[int, ...],
    out: tuple[int, ...],
) -> Array:
    """Each cell of x adds its kernel to the output; without bias.

    Args:
        x: (batch, *space, in); `geometry.out` is its space.
        kernel: (*kernel, in, filters).
        geometry: of the convolution that this is the transpose of, without padding.
        full: sizes of the output before cropping, at least first + out.
        first: cells cropped off before, on each axis.
        out: sizes of the output.
    """
    columns = _transposed_columns(x, kernel, geometry)
    spread = geometry.scatter(columns, (x.shape[0], *full, kernel.shape[-1]))
    return spread[_crop(first, out)]


def _crop(first: tuple[int, ...], out: tuple[int, ...]) -> tuple[slice, ...]:
    kept = (slice(start, start + cells) for start, cells in zip(first, out, strict=True))
    return (slice(None), *kept)


def _transposed_columns(x: Array, kernel: Array, geometry: Geometry) -> Array:
    inputs, filters = kernel.shape[-2:]
    matrix = np.moveaxis(kernel, -2, 0).reshape(inputs, -1)
    columns = x.reshape(-1, inputs) @ matrix
    return columns.reshape(x.shape[0], *geometry.out, *geometry.kernel, filters)


def _spread(g: Array, geometry: Geometry, full: tuple[int, ...], first: tuple[int, ...]) -> Array:
    """Rows (batch * space, kernel * filters) of an output's gradient."""
    whole = np.zeros((g.shape[0], *full, g.shape[-1]), g.dtype)
    whole[_crop(first, g.shape[1:-1])] = g
    return geometry.columns(whole).reshape(-1, prod(geometry.kernel) * g.shape[-1])


def _transposed_vjp_x(
    answer: Array,
    x: Array,
    kernel: Array,
    geometry: Geometry,
    full: tuple[int, ...],
    first: tuple[int, ...],
    out: tuple[int, ...],
) -> Callable[[Array], Array]:
    matrix = np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1)
    return lambda g: (_spread(g, geometry, full, first) @ matrix.T).reshape(x.shape)


def _transposed_vjp_kernel(
    answer: Array,
    x: Array,
    kernel: Array,
    geometry: Geometry,
    full: tuple[int, ...],
    first: tuple[int, ...],
    out: tuple[int, ...],
) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        matrix = x.reshape(-1, x.shape[-1]).T @ _spread(g, geometry, full, first)
        return np.moveaxis(
            matrix.reshape(x.shape[-1], *geometry.kernel, g.shape[-1]), 0, -2
        ).astype(kernel.dtype, copy=False)

    return pull


defvjp(convolve_transposed, _transposed_vjp_x, _transposed_vjp_kernel)


def _first_maximum(x: Array, geometry: Geometry) -> tuple[Array, Array]:
    """Greatest value of each window, and the number of its first cell in memory order."""
    padded = geometry.padded(x, -np.inf)
    best: Array | None = None
    for number, (_, part) in enumerate(geometry.cells()):
        cell = padded[part]
        if best is None:
            best, chosen = cell.copy(), np.zeros(cell.shape, np.int32)
            continue
        # "not <=" lets a NaN win, and the first NaN stay.
        wins = ~(cell <= best) & (best == best)
        best[wins], chosen[wins] = cell[wins], number
    assert best is not None
    return best, chosen


@primitive
def max_pool(x: Array, geometry: Geometry) -> Array:
    """Greatest cell of each window; padding never wins."""
    return _first_maximum(x, geometry)[0]


def _max_pool_vjp(answer: Array, x: Array, geometry: Geometry) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        chosen = _first_maximum(x, geometry)[1]
        gathered = np.zeros(geometry.padded_shape(x.shape), g.dtype)
        for number, (_, part) in enumerate(geometry.cells()):
            gathered[part] += np.where(chosen == number, g, 0)
        return geometry.unpadded(gathered)

    return pull


defvjp(max_pool, _max_pool_vjp)


@primitive
def sum_pool(x: Array, geometry: Geometry) -> Array:
    """Sum of each window's cells."""
    padded = geometry.padded(x)
    return sum((padded[part] for _, part in geometry.cells()), start=np.zeros((), x.dtype))


def _sum_pool_vjp(answer: Array, x: Array, geometry: Geometry) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        gathered = np.zeros(geometry.padded_shape(x.shape), g.dtype)
        for _, part in geometry.cells():
            gathered[part] += g
        return geometry.unpadded(gathered)

    return pull


defvjp(sum_pool, _sum_pool_vjp)
