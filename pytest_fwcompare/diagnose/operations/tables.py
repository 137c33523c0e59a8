"""Sums and means of looked-up rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.operations.base import Arguments, Guess, rule


def _bags(record: Recorded) -> Iterator[Guess]:
    """embedding_bag(indices, table): indices (bags, count), a bag in each row."""
    if len(record.arguments) != 2:
        return
    for indices, table in (record.arguments, record.arguments[::-1]):
        if indices.ndim == 2 and table.ndim == 2 and np.array_equal(indices, np.round(indices)):
            for mode in ("mean", "sum", "max"):
                yield (indices, table), {"mode": mode}


@rule("bag", "embedding_bag", guesses=_bags)
def bag(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Rows of a table (rows, dim) at indices (bags, count), reduced in each bag: (bags, dim)."""
    indices, table = arguments
    found = table[indices.astype(np.int64)]
    return np.asarray(getattr(found, options["mode"])(axis=1))
