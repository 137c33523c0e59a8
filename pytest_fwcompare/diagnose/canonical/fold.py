"""Folds several recorded operations into one and links what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.operations import Folded, Operation, attempt, same
from pytest_fwcompare.diagnose.operations.base import Compute, normalised

REACH = 10
"""Operations from one end of a pattern to the other along a path."""


@dataclass(frozen=True)
class Fold:
    """Operations that compute something known together.

    Attributes:
        end: position of the last one, whose value is that of the whole.
        arguments: positions of what it is computed from.
        known: what it is.
        name: of the operation, as a person calls it.
    """

    end: int
    arguments: tuple[int, ...]
    known: Operation
    name: str = ""
    parameters: tuple[str, ...] = field(default=())


class View:
    """Recorded operations as patterns are looked for in them.

    Args:
        records: of one pass.
        parameters: float64 values by name.
    """

    def __init__(self, records: Sequence[Recorded], parameters: Mapping[str, Array]) -> None:
        self.all = list(records)
        self.graph = Graph(records, parameters)
        self.parameters = parameters

    def value(self, place: int) -> Array:
        """Value of an operation."""
        return self.graph.records[place].value

    def name(self, place: int) -> str:
        """Normalised name of an operation."""
        return normalised(self.graph.records[place].operation)

    def named(self, names: Iterable[str]) -> list[int]:
        """Positions of operations of some names, the live ones."""
        wanted = set(names)
        return [
            place
            for place in range(len(self.graph))
            if self.name(place) in wanted and place in self.graph.live
        ]

    def onward(self, place: int, reach: int = REACH) -> list[int]:
        """What is computed from an operation in the same module, the farthest first."""
        path = self.graph.records[place].path
        seen = self._walk(
            place, self.graph.consumers, reach, lambda p: self.graph.records[p].path == path
        )
        return sorted(seen, reverse=True)

    def back(self, place: int, reach: int = REACH) -> list[int]:
        """What an operation is computed from in the same module and just before it, in order."""
        path = self.graph.records[place].path
        inner = self._walk(
            place, self.graph.inputs, reach, lambda p: self.graph.records[p].path == path
        )
        border = {s for p in [*inner, place] for s in self.graph.inputs[p]}
        return sorted((inner | border) - {place})

    def _walk(
        self, place: int, links: Sequence[Sequence[int]], reach: int, fits: object
    ) -> set[int]:
        assert callable(fits)
        seen: set[int] = set()
        front = [place]
        for _ in range(reach):
            front = [p for spot in front for p in links[spot] if p not in seen and fits(p)]
            seen.update(front)
        return seen

    def between(self, starts: Iterable[int], end: int) -> set[int]:
        """Positions on the way from `starts` to `end`, the end included."""
        starts, seen, front = set(starts), {end}, [end]
        while front:
            for source in self.graph.inputs[front.pop()]:
                if source not in seen and source not in starts:
                    seen.add(source)
                    front.append(source)
        return seen

    def inside(self, fold: Fold) -> set[int]:
        """Positions that a fold stands for."""
        return self.between(fold.arguments, fold.end)

    def held(self, region: Iterable[int]) -> dict[str, Array]:
        """Parameters that operations of a region use, by name."""
        names = dict.fromkeys(
            name for p in sorted(region) for name in self.graph.records[p].parameters
        )
        return {name: self.parameters[name] for name in names if name in self.parameters}

    def fold(
        self,
        end: int,
        arguments: Sequence[int],
        kind: str,
        name: str,
        options: Mapping[str, object],
        compute: Compute,
        layouts: tuple[tuple[int, ...] | None, ...] = (),
        result: tuple[int, ...] | None = None,
    ) -> Fold | None:
        """A fold if the operation gives the recorded value."""
        values = [self.value(place) for place in arguments]
        plain = Operation(kind, name, tuple(values), options, compute, layouts, result)
        given = [plain.taken(number, value) for number, value in enumerate(values)]
        known = Operation(kind, name, tuple(given), options, compute, layouts, result)
        made = attempt(known)
        if made is None or not same(made, self.value(end)):
            return None
        region = self.between(arguments, end)
        if not all(self.closed(place) for place in region):
            return None
        return Fold(end, tuple(arguments), known, name, tuple(self.held(region)))

    def closed(self, place: int) -> bool:
        """Whether an operation takes what it takes from others, or from parameters."""
        record = self.graph.records[place]
        return bool(self.graph.inputs[place] or record.parameters or record.value.size == 1)


def apply(view: View, folds: Mapping[int, Fold]) -> list[Recorded]:
    """The records with folds in the places of their ends; what only they used is left out."""
    graph = view.graph
    replaced: dict[int, Recorded] = {}
    inputs = {place: list(graph.inputs[place]) for place in range(len(graph))}
    for end, fold in folds.items():
        record = graph.records[end]
        inputs[end] = list(dict.fromkeys(fold.arguments))
        replaced[record.index] = Folded(
            index=record.index,
            path=record.path,
            operation=fold.name or fold.known.name,
            value=record.value,
            inputs=tuple(graph.records[p].index for p in dict.fromkeys(fold.arguments)),
            parameters=fold.parameters,
            attributes={},
            arguments=tuple(view.value(p) for p in fold.arguments),
            gradient=record.gradient,
            place=record.place,
            known=fold.known,
        )
    ends = [place for place in range(len(graph)) if not graph.consumers[place]]
    needed, front = set(ends), list(ends)
    while front:
        for source in inputs[front.pop()]:
            if source not in needed:
                needed.add(source)
                front.append(source)
    dropped = {graph.records[p].index for p in range(len(graph)) if p not in needed}
    return [replaced.get(r.index, r) for r in view.all if r.is_module or r.index not in dropped]


def sampled(value: Array, count: int = 24) -> Array:
    """Positions in a flat tensor at which a formula is tried before all of it is computed."""
    size = value.size
    if size <= count:
        return np.arange(size)
    return np.linspace(0, size - 1, count).astype(int)
