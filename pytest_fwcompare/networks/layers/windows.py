"""Sizes and padding of sliding windows, for convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_fwcompare.networks import sizes
from pytest_fwcompare.networks.base import Layer, Shape, Size, show
from pytest_fwcompare.networks.checks import Amounts, Padding

Pads = tuple[tuple[int, int], ...]
"""(before, after) of each spatial axis."""


def expand(amount: Amounts, axes: int) -> tuple[int, ...]:
    """One number for each spatial axis."""
    return (amount,) * axes if isinstance(amount, int) else tuple(amount)


def span(kernel: int, dilation: int) -> int:
    """Cells that a window covers from its first to its last."""
    return dilation * (kernel - 1) + 1


def pads(
    kernel: Amounts, stride: Amounts, dilation: Amounts, padding: Padding, space: Sequence[int]
) -> Pads:
    """(before, after) of each spatial axis for an input of known sizes.

    The rule of "same" is that of https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2
    """
    axes = len(space)
    if isinstance(padding, int):
        return ((padding, padding),) * axes
    if not isinstance(padding, str):
        return tuple((before, after) for before, after in padding)
    found = []
    for size, k, s, d in zip(
        space, expand(kernel, axes), expand(stride, axes), expand(dilation, axes), strict=True
    ):
        total = 0
        if padding == "same":
            total = max((-(-size // s) - 1) * s + span(k, d) - size, 0)
        before = span(k, d) - 1 if padding == "causal" else total // 2
        found.append((before, total - total // 2))
    return tuple(found)


def window_cells(
    layer: Layer,
    shape: Shape,
    kernel: Amounts,
    stride: Amounts,
    dilation: Amounts,
    padding: Padding,
) -> tuple[Size, ...]:
    """Number of windows along each spatial axis.

    Raises:
        NetworkError: a window covers more cells than the input has, padding included.
    """
    axes = len(shape) - 2
    found: list[Size] = []
    for axis, (size, k, s, d) in enumerate(
        zip(
            shape[1:-1],
            expand(kernel, axes),
            expand(stride, axes),
            expand(dilation, axes),
            strict=True,
        )
    ):
        if padding in ("same", "causal"):
            spare = sizes.plus(size, -1)
        else:
            added = 2 * padding if isinstance(padding, int) else 0
            if not isinstance(padding, (int, str)):
                added = sum(padding[axis])
            spare = sizes.plus(size, added - span(k, d))
        if isinstance(spare, int) and spare < 0:
            raise layer.error(
                f"a window covers {span(k, d)} cells, but spatial axis {axis + 1} of shape "
                f"{show(shape)} has {size} with padding {padding!r}"
            )
        found.append(sizes.plus(sizes.floor_divide(spare, s), 1))
    return tuple(found)
