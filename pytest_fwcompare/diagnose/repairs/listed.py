"""Repairs of what is listed or gathered in another order or way: pairs, bags, features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair


@repair("movement")
def entries(spot: Spot) -> Iterator[Candidate]:
    """Entries of a matrix, such as products of all pairs, listed in another order."""
    options, x = spot.operation.options, spot.operation.arguments[0]
    if options["move"] != "entries" or x.shape[-1] != x.shape[-2]:
        return
    size, count = x.shape[-1], len(options["where"][0])
    for name, triangle in (("lower", np.tril_indices), ("upper", np.triu_indices)):
        for offset in (-1, 0, 1):
            rows, columns = triangle(size, offset)
            if len(rows) != count:
                continue
            for words, where in (("rows", (rows, columns)), ("columns", (columns, rows))):
                value = x[..., where[0], where[1]]
                if not np.array_equal(value, spot.record.value):
                    text = f"the {name} triangle taken by {words}"
                    yield Candidate("flatten-order", text, {spot.place: value})


@repair("bag")
def bags(spot: Spot) -> Iterator[Candidate]:
    """Rows of a bag reduced in another way."""
    own = spot.operation.options["mode"]
    for mode in ("mean", "sum", "max", "min"):
        if mode != own:
            yield from spot.change("reduction", f"{mode} instead of {own}", mode=mode)


@repair("movement")
def reversed_features(spot: Spot) -> Iterator[Candidate]:
    """Features in reverse: left as they were, or rolled."""
    options, x = spot.operation.options, spot.operation.arguments[0]
    axes = tuple(np.atleast_1d(options.get("axes", ())))
    if options["move"] != "flip" or axes not in ((-1,), (x.ndim - 1,)):
        return
    choices = {"features not reversed": x}
    for shift in (1, -1):
        choices[f"features rolled by {shift} instead of reversed"] = np.roll(x, shift, -1)
    choices["halves exchanged instead of reversed"] = np.roll(x, x.shape[-1] // 2, -1)
    for text, value in choices.items():
        yield Candidate("channel-order", text, {spot.place: value}, places=(spot.place,))
