"""Products, lookups and normalised exponentials with their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from autograd.extend import defvjp

from pytest_fwcompare.backends.numpy.traced import Array, primitive


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


@primitive
def dense(x: Array, kernel: Array) -> Array:
    """X @ kernel as one product of matrices; x (..., in), kernel (in, units)."""
    return (_rows(x) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


defvjp(
    dense,
    lambda answer, x, kernel: lambda g: (_rows(g) @ kernel.T).reshape(x.shape),
    lambda answer, x, kernel: lambda g: _rows(x).T @ _rows(g),
)


@primitive
def matmul(x: Array, y: Array) -> Array:
    """X @ y over the last two axes, the others equal."""
    return x @ y


defvjp(
    matmul,
    lambda answer, x, y: lambda g: g @ y.swapaxes(-1, -2),
    lambda answer, x, y: lambda g: x.swapaxes(-1, -2) @ g,
)


@primitive
def mean(x: Array, axis: tuple[int, ...], keepdims: bool = False) -> Array:
    """Mean over axes. autograd's own gives float64 gradients of float32 arrays."""
    return x.mean(axis=axis, keepdims=keepdims)


def _mean_vjp(
    answer: Array, x: Array, axis: tuple[int, ...], keepdims: bool = False
) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        wide = g if keepdims else np.expand_dims(g, axis)
        return np.broadcast_to(wide / prod(x.shape[i] for i in axis), x.shape)

    return pull


defvjp(mean, _mean_vjp)


@primitive
def greatest(x: Array, axis: tuple[int, ...]) -> Array:
    """Maximum over axes; at a tie the gradient is shared equally."""
    return x.max(axis=axis)


def _greatest_vjp(answer: Array, x: Array, axis: tuple[int, ...]) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        wins = x == np.expand_dims(answer, axis)
        shares = g / np.maximum(wins.sum(axis=axis), 1).astype(x.dtype)
        return wins * np.expand_dims(shares, axis)

    return pull


defvjp(greatest, _greatest_vjp)


@primitive
def softmax(x: Array, axis: int, allowed: Array | None = None) -> Array:
    """Exponentials over their sum along an axis.

    Args:
        x: values.
        axis: along which they sum to one.
        allowed: False (broadcast to x) where the result is zero; a row with nothing allowed is
            zero altogether.
    """
    if allowed is None:
        powers = np.exp(x - x.max(axis=axis, keepdims=True))
        return powers / powers.sum(axis=axis, keepdims=True)
    limited = np.where(allowed, x, -np.inf).astype(x.dtype, copy=False)
    peak = limited.max(axis=axis, keepdims=True)
    powers = np.exp(limited - np.where(peak == -np.inf, 0, peak))
    sums = powers.sum(axis=axis, keepdims=True)
    return powers / np.where(sums == 0, 1, sums)


def _softmax_vjp(
    answer: Array, x: Array, axis: int, allowed: Array | None = None
) -> Callable[[Array], Array]:
    return lambda g: answer * (g - (g * answer).sum(axis=axis, keepdims=True))


defvjp(softmax, _softmax_vjp)


@primitive
def log_softmax(x: Array, axis: int) -> Array:
    """Logarithm of softmax, by the log-sum-exp of differences from the maximum."""
    below = x - x.max(axis=axis, keepdims=True)
    return below - np.log(np.exp(below).sum(axis=axis, keepdims=True))


defvjp(
    log_softmax,
    lambda answer, x, axis: lambda g: g - np.exp(answer) * g.sum(axis=axis, keepdims=True),
)


@primitive
def embed(table: Array, tokens: Array, padding_index: int | None = None) -> Array:
    """Rows of table (vocabulary, units) by token; the row padding_index gets no gradient."""
    return table[tokens]


def _embed_vjp(
    answer: Array, table: Array, tokens: Array, padding_index: int | None = None
) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        gradient = np.zeros_like(table)
        np.add.at(gradient, tokens, g)
        if padding_index is not None:
            gradient[padding_index] = 0
        return gradient

    return pull


defvjp(embed, _embed_vjp)


@primitive
def gather(x: Array, index: Array, axis: int) -> Array:
    """Cells `index` (one axis of integers) of x along an axis; cells may repeat."""
    return x.take(index, axis=axis)


def _gather_vjp(answer: Array, x: Array, index: Array, axis: int) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        gradient = np.zeros_like(x)
        np.add.at(gradient.swapaxes(0, axis), index, g.swapaxes(0, axis))
        return gradient

    return pull


defvjp(gather, _gather_vjp)


@primitive
def pad_zero(x: Array, amounts: tuple[tuple[int, int], ...]) -> Array:
    """Zeros around x: (before, after) for every axis."""
    return np.pad(x, amounts)


defvjp(
    pad_zero,
    lambda answer, x, amounts: (
        lambda g: g[
            tuple(
                slice(pair[0], pair[0] + size) for size, pair in zip(x.shape, amounts, strict=True)
            )
        ]
    ),
)


@primitive
def tap(x: Array, keep: Callable[[Array], None]) -> Array:
    """The array as it is; `keep` is given its gradient when the pass runs backward."""
    return x


def _tap_vjp(answer: Array, x: Array, keep: Callable[[Array], None]) -> Callable[[Array], Array]:
    def pull(g: Array) -> Array:
        keep(np.asarray(g))
        return g

    return pull


defvjp(tap, _tap_vjp)
