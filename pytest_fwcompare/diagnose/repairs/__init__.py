"""The catalogue of repairs. Importing this package registers all of them, likely ones first."""

from __future__ import annotations

from pytest_fwcompare.diagnose.repairs import (
    activations,
    attention,
    blocks,
    convolution,
    heads,
    listed,
    losses,
    masks,
    norms,
    order,
    parts,
    patterns,
    recurrent,
    rotary,
    scales,
    segments,
    sources,
    tables,
    waves,
    windows,
)
from pytest_fwcompare.diagnose.repairs.base import REPAIRS, Spot, candidates

__all__ = [
    "REPAIRS",
    "Spot",
    "candidates",
    "heads",
    "losses",
    "norms",
    "convolution",
    "attention",
    "masks",
    "recurrent",
    "scales",
    "order",
    "parts",
    "blocks",
    "patterns",
    "segments",
    "listed",
    "sources",
    "tables",
    "rotary",
    "waves",
    "windows",
    "activations",
]
