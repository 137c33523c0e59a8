"""NumPy float64 implementations of recorded operations, found by normalised name.

Importing this package registers all of them.
"""

from __future__ import annotations

from pytest_fwcompare.diagnose.operations import (
    attention,
    elementwise,
    frameworks,
    linear,
    movement,
    norms,
    recurrent,
    spatial,
    tables,
)
from pytest_fwcompare.diagnose.operations.base import (
    Folded,
    Operation,
    attempt,
    normalised,
    same,
    understand,
)

__all__ = [
    "Folded",
    "Operation",
    "attempt",
    "normalised",
    "same",
    "understand",
    "elementwise",
    "frameworks",
    "linear",
    "norms",
    "attention",
    "recurrent",
    "spatial",
    "movement",
    "tables",
]
