"""The reference's recorded operations as a graph: who feeds whom, and which module runs what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded


class Graph:
    """Operations of one recorded pass, linked by data flow.

    Positions count the operations kept here, in execution order; `Recorded.index` is not used
    outside. Records of whole modules repeat an operation's value and are kept aside.

    Args:
        records: of one side.
        parameters: float64 values by parameter name, to tell parameters among the arguments.

    Attributes:
        records: the operations.
        modules: the records of whole modules.
        inputs: for each operation, the positions it was computed from.
        consumers: for each operation, the positions computed from it.
    """

    def __init__(
        self, records: Sequence[Recorded], parameters: Mapping[str, Array] | None = None
    ) -> None:
        self.parameters: Mapping[str, Array] = {} if parameters is None else parameters
        self.modules = [record for record in records if record.is_module]
        self.records = [record for record in records if not record.is_module]
        position = {record.index: place for place, record in enumerate(self.records)}
        # A module's record stands for the operation that made its value.
        by_index = {record.index: record for record in records}
        self.inputs: list[tuple[int, ...]] = []
        for record in self.records:
            found: list[int] = []
            for index in record.inputs:
                found.extend(_operations(index, by_index, position))
            self.inputs.append(tuple(dict.fromkeys(found)))
        self.consumers: list[list[int]] = [[] for _ in self.records]
        for place, sources in enumerate(self.inputs):
            for source in sources:
                self.consumers[source].append(place)
        self._sources: dict[int, tuple[int | str | None, ...]] = {}

    def __len__(self) -> int:
        return len(self.records)

    def sources(self, place: int) -> tuple[int | str | None, ...]:
        """Where each argument of an operation comes from.

        Returns:
            For each argument: the position of the operation that made it, the name of the
            parameter it is, or None for inputs and constants.
        """
        if place not in self._sources:
            record = self.records[place]
            self._sources[place] = tuple(
                self._source(place, argument) for argument in record.arguments
            )
        return self._sources[place]

    def _source(self, place: int, argument: Array) -> int | str | None:
        for source in self.inputs[place]:
            if self.records[source].value is argument:
                return source
        for source in self.inputs[place]:
            if _same(self.records[source].value, argument):
                return source
        for name in self.records[place].parameters:
            if name in self.parameters and _same(self.parameters[name], argument):
                return name
        return None

    def with_values(self, values: Mapping[int, Array]) -> Graph:
        """The same graph with some values replaced, as arguments of later operations too.

        Args:
            values: by position.
        """
        other = copy(self)
        other.records = list(self.records)
        # Sources are known by now from the values that were recorded.
        other._sources = {place: self.sources(place) for place in range(len(self))}
        for place, record in enumerate(self.records):
            arguments = tuple(
                values[source] if isinstance(source, int) and source in values else argument
                for source, argument in zip(other._sources[place], record.arguments, strict=True)
            )
            other.records[place] = replace(
                record, value=values.get(place, record.value), arguments=arguments
            )
        return other

    def with_gradients(self, gradients: Mapping[int, Array]) -> Graph:
        """The same graph with some gradients replaced.

        Args:
            gradients: by position.
        """
        other = copy(self)
        other.records = [
            replace(record, gradient=gradients.get(place, record.gradient))
            for place, record in enumerate(self.records)
        ]
        return other

    @cached_property
    def paths(self) -> frozenset[str]:
        """Paths of all modules seen."""
        return frozenset(record.path for record in [*self.records, *self.modules])

    @cached_property
    def containers(self) -> frozenset[str]:
        """Paths of modules that have child modules; "" is the root."""
        return frozenset(parent for path in self.paths for parent in ancestors(path))

    @cached_property
    def running(self) -> frozenset[str]:
        """Paths of modules that run operations themselves."""
        return frozenset(r.path for r in self.records if r.operation != "input")

    @cached_property
    def live(self) -> frozenset[int]:
        """Positions whose value reaches an output: by gradients where a backward pass was run."""
        if not any(record.gradient is not None for record in self.records):
            return frozenset(range(len(self.records)))
        # A loop's last state has a gradient of zeros where only the sequence is used.
        ends = [
            place
            for place, r in enumerate(self.records)
            if r.gradient is not None and (self.consumers[place] or r.gradient.any())
        ]
        return frozenset(ends) | frozenset(self.upstream(ends))

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Live positions that nothing live consumes."""
        return tuple(
            place
            for place in range(len(self.records))
            if place in self.live and not any(c in self.live for c in self.consumers[place])
        )

    def upstream(self, places: Iterable[int]) -> set[int]:
        """Positions that `places` depend on, themselves included."""
        return _reach(places, self.inputs)

    def downstream(self, places: Iterable[int]) -> set[int]:
        """Positions that depend on `places`, themselves included."""
        return _reach(places, self.consumers)

    def between(self, places: Iterable[int]) -> tuple[str, str]:
        """Submodules just before and after operations run by their container itself.

        Args:
            places: operations of one path.

        Returns:
            Paths of the modules whose operations come last before and first after, in data flow;
            "" where there is none inside the container.
        """
        places = list(places)
        container = self.records[places[0]].path
        before = self._beyond(places, container, self.inputs)
        after = self._beyond(places, container, self.consumers)
        return (
            self.records[max(before)].path if before else "",
            self.records[min(after)].path if after else "",
        )

    def _beyond(
        self, places: list[int], container: str, links: Sequence[Sequence[int]]
    ) -> list[int]:
        """First operations of submodules of `container` reached along `links`."""
        inside = container + "." if container else ""
        seen, front, found = set(places), list(places), []
        while front:
            for place in links[front.pop()]:
                if place in seen:
                    continue
                seen.add(place)
                path = self.records[place].path
                if path == container:
                    front.append(place)
                elif path.startswith(inside) and place in self.live:
                    found.append(place)
        return found


def ancestors(path: str) -> list[str]:
    """Paths of the modules around a module, nearest first; the root last ("" has none)."""
    if not path:
        return []
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, -1, -1)]


def common_ancestor(paths: Iterable[str]) -> str:
    """Path of the innermost module that holds all of `paths`, which may be one of them."""
    split = [path.split(".") if path else [] for path in paths]
    common: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def _operations(
    index: int, by_index: Mapping[int, Recorded], position: Mapping[int, int]
) -> list[int]:
    """Positions of the operations that a recorded index stands for."""
    if index in position:
        return [position[index]]
    record = by_index.get(index)
    if record is None:
        return []
    return [place for source in record.inputs for place in _operations(source, by_index, position)]


def _reach(places: Iterable[int], links: Sequence[Sequence[int]]) -> set[int]:
    seen = set(places)
    front = list(seen)
    while front:
        for place in links[front.pop()]:
            if place not in seen:
                seen.add(place)
                front.append(place)
    return seen


def _same(left: Array, right: Array) -> bool:
    if left is right:
        return True
    return left.shape == right.shape and bool(np.array_equal(left, right, equal_nan=True))
