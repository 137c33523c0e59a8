"""How far apart two gradients are, whatever the order of their elements."""

from __future__ import annotations

import numpy as np

from pytest_fwcompare.backends.base import Array

TOLERANCE = 5e-7
"""Relative to the largest magnitude of a gradient."""


def distance(expected: Array, obtained: Array, least: float = 0.0) -> float:
    """Largest difference of sorted values, relative to the largest of both and to `least`."""
    left, right = np.sort(expected.reshape(-1)), np.sort(obtained.reshape(-1))
    if left.size != right.size or not np.isfinite(right).all():
        return float("inf")
    scale = max(float(np.abs(left).max(initial=0)), float(np.abs(right).max(initial=0)), least)
    return float(np.abs(left - right).max(initial=0) / scale) if scale else 0.0


def parted(expected: Array, obtained: Array) -> bool:
    """Whether the distance is above the tolerance; seldom by sorting, which is slow for weights.

    Mean and root mean square move by no more than the largest change of any element.
    """
    if expected.size == obtained.size and expected.size and np.isfinite(obtained).all():
        scale = max(float(np.abs(expected).max()), float(np.abs(obtained).max()))
        if not scale:
            return False
        ours, theirs = ((v.mean(), np.linalg.norm(v) / v.size**0.5) for v in (expected, obtained))
        apart = np.abs(np.subtract(ours, theirs)).max()
        if apart > TOLERANCE * scale:
            return True
        alike = expected.shape == obtained.shape
        if alike and float(np.abs(expected - obtained).max()) <= TOLERANCE * scale:
            return False
    return distance(expected, obtained) > TOLERANCE
