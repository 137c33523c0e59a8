"""Explicit amounts of padding on each spatial axis, where sizes may be free. No framework."""

from __future__ import annotations

from pytest_fwcompare.networks.checks import Amounts, Padding
from pytest_fwcompare.networks.layers.windows import Pads, expand, span


def spans(kernel_size: Amounts, dilation: Amounts, axes: int) -> tuple[int, ...]:
    """Cells that a window covers on each of `axes` spatial axes."""
    each = zip(expand(kernel_size, axes), expand(dilation, axes), strict=True)
    return tuple(span(kernel, steps) for kernel, steps in each)


def explicit_pads(padding: Padding, cells: tuple[int, ...]) -> Pads | None:
    """(before, after) of each axis; None for "same", which depends on the size of the input.

    Args:
        padding: as in a layer's description.
        cells: that a window covers on each axis.
    """
    if padding == "same":
        return None
    if isinstance(padding, int):
        return ((padding, padding),) * len(cells)
    if isinstance(padding, str):
        return tuple((count - 1 if padding == "causal" else 0, 0) for count in cells)
    return tuple((before, after) for before, after in padding)
