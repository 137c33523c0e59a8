"""Names of what is asked of a reference, by content: equal questions have equal keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from pytest_fwcompare.backends.base import Argument, Array
from pytest_fwcompare.running.points import Point

OWN = "own"
"""Stands for the weights that a side came with."""


def of_arrays(named: Mapping[str, Array]) -> str:
    """The key of arrays by name, whatever their order.

    Args:
        named: of any shapes and dtypes, by name.
    """
    made = hashlib.sha256()
    for name in sorted(named):
        value = np.asarray(named[name], order="C")
        made.update(f"{name}\0{value.dtype.str}{value.shape}\0".encode())
        made.update(value.data)
    return made.hexdigest()


def of_own(values: Mapping[str, Array]) -> str:
    """The key that the weights of a side would have if they were loaded into it, in float64."""
    return of_arrays({name: np.asarray(v, np.float64) for name, v in values.items()})


def named(key: str, own: str) -> str:
    """The key of weights that were loaded: a side that is given its own has its own again."""
    return OWN if key == own else key


def of_pass(weights: str, arguments: Sequence[Argument], precision: str, *, training: bool) -> str:
    """The key of one pass of one side.

    Args:
        weights: key of those loaded for the precision.
        arguments: of the call.
        precision: "working" or "double".
        training: whether in training mode.
    """
    given = of_arrays({f"{place} {a.name}": a.value for place, a in enumerate(arguments)})
    text = f"{weights} {given} {precision} {training}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def of_jitter(point: Point, draws: int, *, training: bool) -> str:
    """The key of the jitter that is drawn at a point.

    Args:
        point: where.
        draws: number of moved runs.
        training: whether in training mode.
    """
    weights = OWN if point.weights is None else of_arrays(point.weights)
    text = f"{weights} {of_arrays(point.inputs)} {draws} {training}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
