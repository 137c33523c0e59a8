"""Runs the reference again in NumPy from the place where a value was changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.operations import Operation, attempt, same, understand


class Replay:
    """Recomputation of a recorded pass, understood operation by operation, on demand.

    Args:
        graph: the recorded pass.
        known: operations that are known without looking: those that a repair has changed.
    """

    def __init__(self, graph: Graph, known: Mapping[int, Operation] | None = None) -> None:
        self.graph = graph
        self.known = dict(known or {})
        self._operations: dict[int, Operation | None] = dict(self.known)

    def operation(self, place: int) -> Operation | None:
        """The operation there, if NumPy reproduces its value; else None."""
        if place not in self._operations:
            self._operations[place] = understand(self.graph.records[place])
        return self._operations[place]

    def kind(self, place: int) -> str:
        """Kind of the operation there; "" where it is not understood."""
        operation = self.operation(place)
        return operation.kind if operation is not None else ""

    def is_identity(self, place: int) -> bool:
        """Whether the operation hands its input on unchanged (dropout in evaluation, copies)."""
        operation = self.operation(place)
        return operation is not None and operation.options.get("function") == "identity"

    def source(self, place: int, argument: int = 0) -> int | None:
        """Position that made an argument of the understood operation; None for others."""
        number = self._numbers(place)[argument] if self.operation(place) else None
        made = self.graph.sources(place)[number] if number is not None else None
        return made if isinstance(made, int) else None

    def slots(self, place: int, name: str) -> list[int]:
        """Arguments of the understood operation that are a parameter; empty where none is."""
        if self.operation(place) is None:
            return []
        sources = self.graph.sources(place)
        numbers = self._numbers(place)
        return [
            s for s, number in enumerate(numbers) if number is not None and sources[number] == name
        ]

    def _numbers(self, place: int) -> list[int | None]:
        """For each argument of the understood operation, its number in the record."""
        operation = self.operation(place)
        assert operation is not None
        recorded = self.graph.records[place].arguments
        taken: list[int | None] = []
        for slot, argument in enumerate(operation.arguments):
            number = next(
                (n for n, r in enumerate(recorded) if r is argument and n not in taken), None
            )
            if number is None:
                number = next(
                    (n for n, r in enumerate(recorded) if _is_taken(operation, slot, r)), None
                )
            taken.append(number)
        return taken

    def with_inputs(self, place: int, values: Mapping[int, Array]) -> Array | None:
        """The value there if the given positions had given other values; None if unknown."""
        operation = self.operation(place)
        if operation is None:
            return None
        sources = self.graph.sources(place)
        numbers = self._numbers(place)
        affected = {n for n, source in enumerate(sources) if source in values}
        if not affected <= {n for n in numbers if n is not None}:
            # A changed tensor plays a part that the implementation took as fixed.
            return None
        arguments = list(operation.arguments)
        for slot, number in enumerate(numbers):
            if number in affected:
                source = sources[number]
                assert isinstance(source, int)
                try:
                    arguments[slot] = operation.taken(slot, values[source])
                except ValueError:  # another rank than that of the recorded argument
                    return None
        return attempt(operation, arguments)

    def run(self, changed: Mapping[int, Array]) -> Iterator[tuple[int, Array]]:
        """New values downstream of changed ones, in execution order.

        What is not understood, or does not take the new shapes, ends its branch.

        Args:
            changed: new values by position; these come first.

        Yields:
            Position and new value.
        """
        values = dict(changed)
        for place in sorted(values):
            yield place, values[place]
        lost: set[int] = set()
        for place in sorted(self.graph.downstream(changed) - set(changed)):
            sources = self.graph.inputs[place]
            if any(source in lost for source in sources):
                lost.add(place)
                continue
            if not any(source in values for source in sources):
                continue
            value = self.with_inputs(place, values)
            if value is None:
                lost.add(place)
                continue
            values[place] = value
            yield place, value

    def value(self, place: int, arguments: Sequence[Array]) -> Array | None:
        """The value of the operation there with other arguments."""
        operation = self.operation(place)
        return None if operation is None else attempt(operation, arguments)


def _is_taken(operation: Operation, slot: int, recorded: Array) -> bool:
    """Whether an argument of the operation is a recorded one, transposed as it says."""
    axes = operation.layouts[slot] if slot < len(operation.layouts) else None
    if axes is not None and len(axes) != recorded.ndim:
        return False
    return same(operation.taken(slot, recorded), operation.arguments[slot], 0.0)
