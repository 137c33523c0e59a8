"""Repairs of tables that are added: to steps, and to scores (relative positions, slopes).

What the port adds is seen where it shows the sum: less the reference's scores, it must be the same
for every row of the batch. It is a cause only if it is made of what the reference adds: the same
heads in another order, other multiples of the same distances, other rows of the same parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair
from pytest_fwcompare.diagnose.repairs.order import near_softmax

EXACT = 1e-9
"""Relative difference below which two tables are the same; what is subtracted leaves some."""

OTHERS = 6
"""Tables of the port that are looked at."""


@dataclass(frozen=True)
class Added:
    """A table that is added to scores.

    Attributes:
        number: of the argument that is the table.
        scores: what it is added to, (batch, heads, queries, keys).
        table: broadcast to (heads, queries, keys).
    """

    number: int
    scores: Array
    table: Array


ROLLED = 64
"""Rows of a table up to which each number of rows that it may be rolled by is tried."""

FEW = 4
"""The same for longer tables: rows at their start and at their end."""


@repair("arithmetic")
def rolled_table(spot: Spot) -> Iterator[Candidate]:
    """A table of positions added with its rows moved on, the last ones to the front."""
    operation = spot.operation
    if operation.options["function"] != "add" or len(operation.arguments) != 2:
        return
    for number, own in enumerate(operation.arguments):
        source = spot.replay.source(spot.place, number)
        if (source is not None and source in spot.sides.fed) or spot.place not in spot.sides.fed:
            continue
        for text, other in _rolls(own):
            made = attempt(operation, spot.replaced(number, other))
            if made is not None:
                yield Candidate("position", text, {spot.place: made}, places=(spot.place,))


def _rolls(table: Array) -> Iterator[tuple[str, Array]]:
    """A table rolled along each axis but its last, the features."""
    for axis in range(table.ndim - 1):
        size = table.shape[axis]
        for step in range(1, size) if size <= ROLLED else (*range(1, FEW), *range(-FEW, 0)):
            other = np.roll(table, step, axis)
            if not np.array_equal(table, other):
                shown = step if step <= size // 2 else step - size
                yield f"the table rolled by {shown} along axis {axis}", other


@repair("arithmetic", "attention")
def tables(spot: Spot) -> Iterator[Candidate]:
    """Another table added to scores, made of what the reference adds."""
    added = _added(spot)
    if added is None:
        return
    for other in _others(spot, added):
        text = _told(spot, added, other)
        own = spot.operation.arguments[added.number]
        if text is None:
            continue
        shaped = other if own.ndim < 4 else other[None]
        value = attempt(spot.operation, spot.replaced(added.number, shaped))
        if value is not None:
            yield Candidate("position", text, {spot.place: value}, places=(spot.place,))


def _added(spot: Spot) -> Added | None:
    """The table that the operation adds to scores; None where it adds none."""
    operation = spot.operation
    arguments = operation.arguments
    if operation.kind == "attention":
        if len(arguments) < 4 or arguments[0].ndim != 4 or _is_mask(arguments[3]):
            return None
        query, key = arguments[:2]
        if query.shape[:2] != key.shape[:2] or operation.options["causal"]:
            return None
        scores = query @ np.swapaxes(key, -1, -2) * operation.options["scale"]
        return _fitting(3, scores, arguments[3])
    if operation.options["function"] != "add" or len(arguments) != 2:
        return None
    if not near_softmax(spot, spot.place):
        return None
    for number in (0, 1):
        source = spot.replay.source(spot.place, number)
        given = spot.replay.source(spot.place, 1 - number)
        if given is None or not _is_fed(spot, given):
            continue
        if source is None or not _is_fed(spot, source):
            table = arguments[number]
            return None if _is_mask(table) else _fitting(number, arguments[1 - number], table)
    return None


def _is_fed(spot: Spot, place: int) -> bool:
    """Whether an input goes into a value."""
    graph = spot.graph
    return any(graph.records[p].operation == "input" for p in graph.upstream([place]))


def _is_mask(table: Array) -> bool:
    """Whether a table only hides: zeros and one other number."""
    return np.unique(table).size < 3


def _fitting(number: int, scores: Array, table: Array) -> Added | None:
    """The table as (heads, queries, keys) where it is the same for the whole batch."""
    if scores.ndim != 4 or table.ndim > 4 or (table.ndim == 4 and table.shape[0] != 1):
        return None
    try:
        full = np.broadcast_to(table, (1, *scores.shape[1:]))[0]
    except ValueError:
        return None
    usable = np.isfinite(full).all() and np.isfinite(scores).all()
    return Added(number, scores, np.asarray(full, np.float64)) if usable else None


def _others(spot: Spot, added: Added) -> Iterator[Array]:
    """Tables (heads, queries, keys) that the port adds, or may add, instead."""
    sides, seen = spot.sides, 0
    for place, record in enumerate(sides.port.records):
        value = record.value
        if place in sides.explained or seen >= OTHERS or not np.isfinite(value).all():
            continue
        other: Array | None = None
        if value.shape == added.scores.shape:
            left = value - added.scores
            scale = float(np.abs(value).max()) or 1.0
            if np.abs(left - left[:1]).max() <= EXACT * scale and len(left) > 1:
                other = left.mean(axis=0)
        elif value.size == added.table.size and value.squeeze().shape == added.table.shape:
            other = np.asarray(value, np.float64).squeeze()
        if other is not None and not _same(other, added.table):
            seen += 1
            yield other


def _same(left: Array, right: Array) -> bool:
    scale = max(float(np.abs(right).max()), 1e-300)
    return left.shape == right.shape and bool(np.abs(left - right).max() <= 1e3 * EXACT * scale)


def _told(spot: Spot, added: Added, other: Array) -> str | None:
    """How another table is made of what the reference's is made of; None where it is not."""
    own = added.table
    heads = _heads(own, other)
    if heads is not None:
        return f"heads of the table in the order {heads}"
    for words, table in (("", own), (" transposed", np.swapaxes(own, -1, -2))):
        factors = _multiples(table, other)
        if factors is None:
            continue
        if np.ptp(factors) <= 1e-6 * np.abs(factors).max():
            return f"{_number(factors[0])} times the table{words} added (reference 1)"
        listed = ", ".join(_number(factor) for factor in factors)
        return f"the table{words} times {listed} by head (reference 1)"
    return _slopes(own, other) or _rows(spot, own, other)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _heads(own: Array, other: Array) -> tuple[int, ...] | None:
    """The order of heads that makes one table the other."""
    if len(own) < 2:
        return None
    order = []
    for one in other:
        found = [head for head, table in enumerate(own) if _same(one, table)]
        order += found[:1]
    distinct = len(set(order)) == len(own) == len(order)
    return tuple(order) if distinct and order != sorted(order) else None


def _multiples(table: Array, other: Array) -> Array | None:
    """For each head, the number by which the other table is a multiple of this one."""
    power = (table * table).sum(axis=(1, 2))
    if not power.all():
        return None
    factors: Array = (table * other).sum(axis=(1, 2)) / power
    return factors if factors.all() and _same(factors[:, None, None] * table, other) else None


def _slopes(own: Array, other: Array) -> str | None:
    """Slopes of another kind of distance, where the reference adds slopes of one."""
    known = _distances(own.shape[1], own.shape[2])
    mine = next(((n, f) for n, d in known.items() if (f := _spread(d, own)) is not None), None)
    if mine is None:
        return None
    for name, distance in known.items():
        factors = _spread(distance, other)
        if factors is not None:
            listed = ", ".join(_number(factor) for factor in factors)
            were = ", ".join(_number(factor) for factor in mine[1])
            return f"slopes {listed} of {name} (reference {were} of {mine[0]})"
    return None


def _distances(queries: int, keys: int) -> dict[str, Array]:
    """Kinds of distances (queries, keys) of a key j from a query i that slopes are taken of."""
    i, j = np.arange(queries)[:, None], np.arange(keys)[None, :]
    away = (j - i).astype(np.float64)
    return {
        "-|j - i|": -np.abs(away),
        "min(j - i, 0)": np.minimum(away, 0.0),
        "j - i": away,
        "j": np.broadcast_to(j, away.shape).astype(np.float64),
        "j - last": np.broadcast_to(j - keys + 1, away.shape).astype(np.float64),
    }


def _spread(distance: Array, table: Array) -> Array | None:
    """Slopes by head where the table is slopes times a distance."""
    return _multiples(np.broadcast_to(distance, table.shape), table)


def _rows(spot: Spot, own: Array, other: Array) -> str | None:
    """Other rows of the parameter that the reference looks up."""
    for held in _parameters(spot, own.shape[0]):
        mine, theirs = _looked_up(held, own), _looked_up(held, other)
        if mine is None or theirs is None or np.array_equal(mine, theirs):
            continue
        by_distance, were = _by_distance(theirs), _by_distance(mine)
        if by_distance is None or were is None:
            count = int((mine != theirs).sum())
            return f"other rows of the table looked up at {count} of {mine.size} pairs"
        first = 1 - own.shape[1]
        return (
            f"rows {' '.join(map(str, by_distance))} of the table looked up at distances from "
            f"{first} (reference {' '.join(map(str, were))})"
        )
    return None


def _parameters(spot: Spot, heads: int) -> list[Array]:
    """Parameters (rows, heads) that go into a table which is added here."""
    graph, found = spot.graph, {}
    places = [p for p in graph.inputs[spot.place] if not _is_fed(spot, p)]
    for place in graph.upstream(places):
        for name in graph.records[place].parameters:
            held = graph.parameters.get(name)
            if held is not None and held.ndim == 2 and heads in held.shape:
                found[name] = held if held.shape[1] == heads else held.T
    return list(found.values())


def _looked_up(held: Array, table: Array) -> Array | None:
    """For each query and key, the row of a parameter (rows, heads) that the table holds."""
    entries = np.moveaxis(table, 0, -1)
    if len(np.unique(held, axis=0)) != len(held):
        return None  # equal rows: none can be told
    apart = np.abs(entries[:, :, None, :] - held).max(axis=-1)
    rows: Array = apart.argmin(axis=-1)
    scale = float(np.abs(held).max()) or 1.0
    return rows if apart.min(axis=-1).max() <= 1e3 * EXACT * scale else None


def _by_distance(rows: Array) -> list[int] | None:
    """The row for each distance of key from query, where that is all that it depends on."""
    queries, keys = rows.shape
    made = []
    for distance in range(1 - queries, keys):
        along = np.unique(np.diagonal(rows, distance))
        if along.size != 1:
            return None
        made.append(int(along[0]))
    return made
