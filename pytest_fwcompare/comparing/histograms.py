"""Histograms of values of any spread."""

from __future__ import annotations

import numpy as np

BINS = 30

WIDEST = 1e300
"""Range from which on the arithmetic of bins overflows."""

Array = np.ndarray


def histogram(values: Array) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Edges and counts of equal bins from the least to the largest value.

    Args:
        values: finite, of any shape.

    Returns:
        As many edges as counts and one more; a single bin where the values are too close together,
        or too far apart, to be divided; nothing at all of no values.
    """
    flat = np.asarray(values, float).ravel()
    if not flat.size:
        return (), ()
    low, high = float(flat.min()), float(flat.max())
    whole = (low, high), (flat.size,)
    if high - low > WIDEST:
        return whole
    try:
        counts, edges = np.histogram(flat, bins=BINS)
    except ValueError:  # NumPy: so many bins do not fit into this range
        return whole
    return tuple(edges.tolist()), tuple(counts.tolist())
