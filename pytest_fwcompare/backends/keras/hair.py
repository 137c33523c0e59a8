"""Points moved by a hair, to see whether a gradient jumps there."""

from __future__ import annotations

from itertools import product

import numpy as np

from pytest_fwcompare.backends.base import Array

HAIR = 1e-7
"""How far a point is moved to see whether it is a kink, relative to the largest value."""

NEAR = 2
"""Directions in which a point is moved, forth and back."""


class Shaker:
    """Moves arrays by a hair, to see whether a gradient jumps there.

    Args:
        seed: of the direction.
        sign: 1.0 or -1.0, so that every kink has points on both of its sides.
    """

    def __init__(self, seed: int, sign: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.sign = sign

    def __call__(self, value: Array) -> Array:
        """The array moved; integers stay."""
        if value.dtype.kind != "f":
            return value
        size = self.sign * HAIR * (float(np.abs(value).max(initial=0.0)) or 1.0)
        moved: Array = value.astype(np.float64) + size * self.rng.standard_normal(value.shape)
        return moved


def shakers() -> list[Shaker]:
    """The ways to move a point."""
    return [Shaker(seed, sign) for seed, sign in product(range(NEAR), (1.0, -1.0))]
