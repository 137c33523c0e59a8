"""Least-cost assignment and alignment, in plain NumPy."""

from __future__ import annotations

import numpy as np

Array = np.ndarray

FORBIDDEN = 1e6
"""Cost of a pair that must not be."""


def hungarian(cost: Array, skip_row: Array, skip_column: Array) -> list[tuple[int, int]]:
    """Pairs (row, column) of least total cost, where rows and columns may stay alone.

    The algorithm is that of Kuhn and Munkres with potentials (Jonker and Volgenant's form).

    Args:
        cost: (rows, columns), `FORBIDDEN` or more where a pair must not be.
        skip_row: (rows,) cost of leaving a row alone.
        skip_column: (columns,) cost of leaving a column alone.
    """
    rows, columns = cost.shape
    if not rows or not columns:
        return []
    size = rows + columns
    full = np.zeros((size, size))
    full[:rows, :columns] = np.minimum(cost, FORBIDDEN)
    full[:rows, columns:] = FORBIDDEN
    full[rows:, :columns] = FORBIDDEN
    full[np.arange(rows), columns + np.arange(rows)] = skip_row
    full[rows + np.arange(columns), np.arange(columns)] = skip_column
    row_of = _augment(full)
    return [
        (int(row_of[column]), column)
        for column in range(columns)
        if row_of[column] < rows and cost[row_of[column], column] < FORBIDDEN
    ]


def _augment(cost: Array) -> Array:
    """Row assigned to each column of a square cost matrix."""
    size = len(cost)
    u, v = np.zeros(size + 1), np.zeros(size + 1)
    row_of, way = np.zeros(size + 1, int), np.zeros(size + 1, int)
    for row in range(1, size + 1):
        row_of[0], column = row, 0
        least = np.full(size + 1, np.inf)
        used = np.zeros(size + 1, bool)
        while row_of[column]:
            used[column] = True
            reduced = cost[row_of[column] - 1] - u[row_of[column]] - v[1:]
            better = ~used[1:] & (reduced < least[1:])
            least[1:][better] = reduced[better]
            way[1:][better] = column
            nearest = 1 + int(np.argmin(np.where(used[1:], np.inf, least[1:])))
            delta = least[nearest]
            u[row_of[used]] += delta
            v[used] -= delta
            least[~used] -= delta
            column = nearest
        while column:
            row_of[column] = row_of[way[column]]
            column = way[column]
    return row_of[1:] - 1
