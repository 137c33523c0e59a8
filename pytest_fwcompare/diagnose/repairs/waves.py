"""Repairs of tables of sines and cosines: rotary and sinusoid positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair

BASES = (100.0, 1e3, 1e4, 1e5, 1e6, 5e4, 5e5, 2.5e5, 500.0, 5e3)
"""Bases of rates that networks use."""


@dataclass(frozen=True)
class Waves:
    """A table (time, columns) of waves: sin or cos of (position * rate) in each column.

    Attributes:
        rates: (columns,) angle of one step.
        sines: (columns,) True for sines.
        start: position of the first row.
    """

    rates: Array
    sines: Array
    start: float = 0.0

    def table(self, count: int) -> Array:
        """The table of that many rows."""
        angles = (self.start + np.arange(count))[:, None] * self.rates
        return np.asarray(np.where(self.sines, np.sin(angles), np.cos(angles)))


def waves_of(table: Array) -> Waves | None:
    """What a table (time, columns) is made of, if it is one of waves from position 0."""
    if table.ndim != 2 or len(table) < 3 or not np.isfinite(table).all():
        return None
    first, second = table[0], table[1]
    sines = np.abs(first) < 1e-6
    if not (sines | (np.abs(first - 1) < 1e-6)).all() or np.abs(second).max() > 1 + 1e-9:
        return None
    with np.errstate(all="ignore"):
        rates = np.where(sines, np.arcsin(second), np.arccos(second))
    # An angle beyond a quarter turn: the third row tells.
    other = np.where(sines, np.pi - rates, rates)
    wanted = table[2]
    straight = np.where(sines, np.sin(2 * rates), np.cos(2 * rates))
    rates = np.where(np.abs(straight - wanted) < 1e-6, rates, other)
    made = Waves(_refined(table, rates, sines), sines)
    return made if np.abs(made.table(len(table)) - table).max() < 1e-6 else None


def _refined(table: Array, rates: Array, sines: Array) -> Array:
    """Rates from the rows that tell them best: a cosine near one says little of its angle."""
    steps = np.arange(len(table), dtype=float)[:, None]
    rough = steps * rates
    slopes = steps * np.abs(np.where(sines, np.cos(rough), np.sin(rough)))
    made = np.array(rates)
    # Rows come in the order of how much is known of the rate by then.
    for row in range(2, len(table)):
        angle, value = row * made, np.clip(table[row], -1.0, 1.0)
        turn = np.where(sines, np.arcsin(value), np.arccos(value))
        choices = np.stack([turn, -turn, np.pi - turn])
        whole = 2 * np.pi * np.round((angle - choices) / (2 * np.pi))
        near = choices + whole
        best = np.take_along_axis(near, np.abs(near - angle).argmin(axis=0)[None], axis=0)[0]
        better = (slopes[row] > slopes[:row].max(axis=0)) & (np.abs(best - angle) < 0.5)
        made = np.where(better, best / row, made)
    return made


def _flat(value: Array) -> Array:
    """A table without axes of size one."""
    return np.asarray(value, np.float64).squeeze()


def _tables(spot: Spot) -> dict[int, Waves]:
    """All tables of waves that no input goes into, by position."""
    graph, fed, found = spot.graph, spot.sides.fed, {}
    for place, record in enumerate(graph.records):
        if place not in fed and record.value.size > 5:
            waves = waves_of(_flat(record.value))
            if waves is not None:
                found[place] = waves
    return found


def _exponents(waves: Waves) -> Array | None:
    """Exponents of the rates to an unknown base, None where all rates are one."""
    with np.errstate(all="ignore"):
        logs = -np.log(waves.rates)
    return logs if np.isfinite(logs).all() and np.ptp(logs) > 1e-9 else None


@repair("")
def waves(spot: Spot) -> Iterator[Candidate]:
    """Another base, another first position, sines for cosines, columns paired otherwise."""
    if spot.place in spot.sides.fed or waves_of(_flat(spot.record.value)) is None:
        return
    every = _tables(spot)
    # One module may be wrong where others are right.
    own = {p: t for p, t in every.items() if spot.graph.records[p].path == spot.record.path}
    for tables in (own, every) if len(own) < len(every) else (own,):
        counts = {place: len(_flat(spot.graph.records[place].value)) for place in tables}
        for text, changed in _changes(tables[spot.place], tables, counts):
            values = {
                place: table.reshape(spot.graph.records[place].value.shape)
                for place, table in changed.items()
            }
            yield Candidate("position", text, values, places=(spot.place,))


@repair("arithmetic")
def constant_waves(spot: Spot) -> Iterator[Candidate]:
    """The same for a table that nobody computed: a constant that is added."""
    for number, argument in enumerate(spot.operation.arguments):
        if spot.replay.source(spot.place, number) is not None:
            continue
        table = _flat(argument)
        own = waves_of(table) if argument.size > 5 else None
        if own is None:
            continue
        for text, changed in _changes(own, {number: own}, {number: len(table)}):
            other = changed[number].reshape(argument.shape)
            value = attempt(spot.operation, spot.replaced(number, other))
            if value is not None:
                yield Candidate("position", text, {spot.place: value}, places=(spot.place,))


def _changes(
    first: Waves, tables: dict[int, Waves], counts: dict[int, int]
) -> Iterator[tuple[str, dict[int, Array]]]:
    """Ways in which tables may be made differently, all of them alike.

    Args:
        first: the one that tells what is possible.
        tables: those that are changed, by position.
        counts: rows of each.
    """
    own = _exponents(first)
    if own is not None:
        # With pairs of columns the rates are base ** (-j / pairs): the second tells the base.
        steps = np.unique(np.round(own, 9))
        base = float(np.exp(steps[1] * len(steps))) if len(steps) > 1 else 1.0
        for wanted in BASES if base > 1 else ():
            power = np.log(wanted) / np.log(base)
            text = f"rates to the base {wanted:g} (reference {base:.6g})"
            yield (
                text,
                {
                    place: replace(table, rates=table.rates**power).table(counts[place])
                    for place, table in tables.items()
                },
            )
        yield from _spaced(tables, counts, len(steps))
    for shift in (1, -1, 2):
        text = f"positions from {shift}"
        yield text, {p: replace(t, start=float(shift)).table(counts[p]) for p, t in tables.items()}
    yield (
        "angles negated",
        {p: replace(t, rates=-t.rates).table(counts[p]) for p, t in tables.items()},
    )
    yield (
        "sines and cosines exchanged",
        {p: replace(t, sines=~t.sines).table(counts[p]) for p, t in tables.items()},
    )
    for text, order in _orders(first):
        yield (
            text,
            {
                p: Waves(t.rates[order], t.sines[order]).table(counts[p])
                for p, t in tables.items()
                if len(t.rates) == len(order)
            },
        )


def _spaced(
    tables: dict[int, Waves], counts: dict[int, int], pairs: int
) -> Iterator[tuple[str, dict[int, Array]]]:
    """Exponents j / (pairs - 1) instead of j / pairs, and the other way round."""
    for power, words in ((pairs / (pairs - 1), "pairs - 1"), ((pairs - 1) / pairs, "pairs + 1")):
        if pairs > 2:
            yield (
                f"exponents divided by the number of {words}",
                {p: replace(t, rates=t.rates**power).table(counts[p]) for p, t in tables.items()},
            )


def _orders(table: Waves) -> Iterator[tuple[str, Array]]:
    """Columns in halves that were interleaved, and the other way round."""
    count = len(table.rates)
    if count % 2 or count < 4:
        return
    halves = np.concatenate([np.arange(0, count, 2), np.arange(1, count, 2)])
    yield "columns in halves instead of pairs", halves
    yield "columns in pairs instead of halves", np.argsort(halves)
