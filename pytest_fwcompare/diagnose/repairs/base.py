"""The table of repairs: for each kind of operation, changes that ports are known to make."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.operations import Operation, attempt, normalised
from pytest_fwcompare.diagnose.prove import Candidate, Prover, is_fitted
from pytest_fwcompare.diagnose.replay import Replay


@dataclass(frozen=True)
class Spot:
    """A position where repairs are tried.

    Attributes:
        place: the position.
        operation: as NumPy understands it.
        sides: both passes, aligned.
        replay: recomputation of the reference.
        prover: looks values up in the port.
    """

    place: int
    operation: Operation
    sides: Sides
    replay: Replay
    prover: Prover

    @property
    def graph(self) -> Graph:
        """The reference's operations."""
        return self.sides.graph

    @property
    def record(self) -> Recorded:
        """The record there."""
        return self.graph.records[self.place]

    def name(self, place: int) -> str:
        """Normalised name of an operation."""
        return normalised(self.graph.records[place].operation)

    @property
    def value(self) -> Array:
        """The value there in the axis order of the operation's arguments."""
        return self.operation.inward(self.record.value)

    def after(self, changed: Mapping[int, Array], place: int) -> Array | None:
        """The value at a place after changes elsewhere, if it can be computed."""
        for at, value in self.replay.run(changed):
            if at == place:
                return value
            if at > place:
                break
        return None

    def change(
        self, cause: str, change: str, *, weak: bool = False, **options: Any
    ) -> Iterator[Candidate]:
        """The candidate with options of the operation changed, if the change fits."""
        yield from self.operated(cause, change, self.operation.with_options(**options), weak)

    def operated(
        self, cause: str, change: str, operation: Operation, weak: bool = False
    ) -> Iterator[Candidate]:
        """The candidate with another operation of the same arguments, if these fit it."""
        value = attempt(operation)
        if value is not None:
            yield Candidate(cause, change, {self.place: value}, weak, operation=operation)

    def arguments(
        self, cause: str, change: str, *values: Array, weak: bool = False, **options: Any
    ) -> Iterator[Candidate]:
        """The candidate with other arguments, if they fit."""
        value = attempt(self.operation, values, **options)
        if value is not None:
            yield Candidate(cause, change, {self.place: value}, weak)

    def replaced(self, argument: int, value: Array) -> tuple[Array, ...]:
        """The arguments with one replaced."""
        arguments = list(self.operation.arguments)
        arguments[argument] = value
        return tuple(arguments)

    def solved(
        self, cause: str, label: str, option: str, reference: Any, grid: list[float], **fixed: Any
    ) -> Iterator[Candidate]:
        """Candidates with a numeric option solved for.

        Args:
            cause: cause word.
            label: name of the number in the evidence.
            option: its name among the operation's options.
            reference: the reference's own number, for the evidence.
            grid: numbers between which solutions are sought, in order.
            **fixed: other options to change with it.
        """

        def family(number: float) -> Array | None:
            changes: dict[str, Any] = {option: number, **fixed}
            return attempt(self.operation, None, **changes)

        some = False
        for observe in dict.fromkeys((None, self._fused())):
            if some:
                break
            for number, value in self.prover.solve(family, grid, observe):
                some = True
                text = f"{label}={number:.10g} (reference {show(reference)})"
                values = {self.place: value}
                changed = self.operation.with_options(**{option: number, **fixed})
                yield Candidate(
                    cause,
                    text,
                    values,
                    fitted=is_fitted(number),
                    number=number,
                    operation=changed,
                )

    def _fused(self) -> Callable[[Array], Iterator[tuple[int, Array]]] | None:
        """What follows a value that the port fuses with a reduction, or has with another sign."""
        kinds = {self.replay.kind(place) for place in self.graph.consumers[self.place]}
        if kinds != {"reduction"} and self.prover.targets(self.record.value):
            return None

        return self.following

    def following(self, value: Array) -> Iterator[tuple[int, Array]]:
        """What the next few operations make of a changed value: position and value."""
        values = self.replay.run({self.place: value})
        next(values)
        yield from itertools.islice(values, FUSED)


FUSED = 3
"""Operations onward in which a number is looked for where the port fuses them with this one."""

Repair = Callable[[Spot], Iterator[Candidate]]

REPAIRS: dict[str, list[Repair]] = {}
"""By kind of operation; "" for every kind, after the others."""

LATE: dict[str, list[Repair]] = {}
"""The same for repairs of wide reach, tried where no place near the culprit has a closer one."""


def repair(*kinds: str, late: bool = False) -> Callable[[Repair], Repair]:
    """Register a repair for kinds of operation."""

    def register(made: Repair) -> Repair:
        for kind in kinds:
            (LATE if late else REPAIRS).setdefault(kind, []).append(made)
        return made

    return register


def candidates(spot: Spot, late: bool = False) -> Iterator[Candidate]:
    """All candidates for a spot, likely ones first."""
    table = LATE if late else REPAIRS
    for made in [*table.get(spot.operation.kind, ()), *table.get("", ())]:
        yield from made(spot)


def table_cause(table: Array, words: str) -> tuple[str, str]:
    """Cause where a table of several axes is not added, and words for the table.

    The identity matrix is what a transform begins with, and no table of positions.

    Args:
        table: (..., rows, columns).
        words: for any other table.
    """
    square = table.ndim > 1 and table.shape[-1] == table.shape[-2]
    if square and bool((table == np.eye(table.shape[-1])).all()):
        return "residual", "identity"
    return "position", words


def show(number: Any) -> str:
    """A number as a person writes it."""
    return f"{number:.10g}" if isinstance(number, float) else str(number)


def decades(low: int, high: int, steps: int = 2) -> list[float]:
    """Numbers from 10**low to 10**high, `steps` a decade."""
    return [10.0 ** (low + index / steps) for index in range((high - low) * steps + 1)]
