"""Finds the first operations of the reference, in data flow, whose results the port lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from copy import copy
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.align import TOLERANCE, Alignment, Index, Match, match
from pytest_fwcompare.diagnose.canonical import canonical
from pytest_fwcompare.diagnose.canonical.numbers import INDEXED
from pytest_fwcompare.diagnose.canonical.unrolled import EARLY, rolled
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.held import Held
from pytest_fwcompare.diagnose.operations import normalised

FINE = (1e-8, 1e-10)
"""Tolerances for faults too small for the usual one, tried where nothing else differs."""


NEAR = 3e-2
"""Relative difference below which a tensor is like another one, not an unrelated one."""


@dataclass(frozen=True)
class Location:
    """Where the difference begins.

    Attributes:
        place: position of the operation in the reference's graph.
        culprit: path of the module that ran it, "" for the root.
        operation: its name.
        between: for an operation that a container ran itself, the submodules just before and
            after it; else None.
        port_culprit: path of the port's operation that gave the nearest tensor; None unknown.
        port_operation: its name.
        gap: relative difference of the reference's tensor and the port's nearest, infinite if the
            port has none of that size.
        rounding: largest relative difference of the matched inputs: what comes in with them.
    """

    place: int
    culprit: str
    operation: str
    between: tuple[str, str] | None
    port_culprit: str | None
    port_operation: str
    gap: float
    rounding: float


class Sides:
    """Both passes, aligned.

    Args:
        reference_records: of the reference.
        port_records: of the port.
        reference_parameters: float64 values by name, to tell parameters among arguments.
        reference_outputs: float64 outputs by name.
        port_outputs: of the port; without them, what nothing in the port consumes.
        tolerance: of the alignment.

    Attributes:
        graph: the reference's operations.
        port: the port's.
        index: the port's tensors; outputs: those that are outputs.
        output_values: the latter as they are, in the reference's order of axes where it is known.
        alignment: of the reference's operations with `index`.
    """

    def __init__(
        self,
        reference_records: Sequence[Recorded],
        port_records: Sequence[Recorded],
        *,
        reference_parameters: Mapping[str, Array] | None = None,
        reference_outputs: Mapping[str, Array] | None = None,
        port_outputs: Mapping[str, Array] | None = None,
        tolerance: float = TOLERANCE,
    ) -> None:
        self.tolerance = tolerance
        self.unknown: set[int] = set()
        # Read once, if ever: those of a large network are drawn anew at every reading.
        held = Held(reference_parameters or {}, reference_records)
        self.graph = Graph(canonical(reference_records, held), held)
        self._reference_outputs = reference_outputs or {}
        self.port = Graph(port_records)
        self.index = Index(record.value for record in self.port.records)
        ends = list((port_outputs or {}).values()) or [
            self.port.records[place].value for place in self.port.ends
        ]
        self.outputs, self.output_values = Index(ends), ends
        self.output_places = self._output_places(reference_outputs or {})
        self._align()

    def repaired(self, values: Mapping[int, Array], changed: Iterable[int]) -> Sides:
        """The sides with some of the reference's values replaced: what is left differs elsewhere.

        Args:
            values: by position.
            changed: positions where the change was made; what depends on them and has no new
                value is unknown, and no longer held against the port.
        """
        other = copy(self)
        other.graph = self.graph.with_values(values)
        other.unknown = self.unknown | (self.graph.downstream(changed) - set(values))
        other._align(self.alignment, values.keys())
        return other

    def rolled(self) -> Sides | None:
        """The same with the reference's loops over steps as recurrent layers; None without any."""
        records = rolled([*self.graph.records, *self.graph.modules], self.graph.parameters)
        if records is None:
            return None
        other = copy(self)
        other.graph = Graph(records, self.graph.parameters)
        other.output_places = other._output_places(self._reference_outputs)
        other._align()
        return other

    def at(self, tolerance: float) -> Sides:
        """The same sides aligned at another tolerance."""
        other = copy(self)
        other.tolerance = tolerance
        other._align()
        return other

    def _align(self, known: Alignment | None = None, changed: Set[int] = frozenset()) -> None:
        self.alignment: Alignment = match(
            self.graph.records, self.index, self.tolerance, known, changed
        )
        self._explained = frozenset(
            found.index for matches in self.alignment.matches for found in matches
        )
        self._judge()

    def _output_places(self, outputs: Mapping[str, Array]) -> frozenset[int]:
        """Positions whose values the reference hands out."""
        places = set()
        for value in outputs.values():
            equal = [
                place
                for place, record in enumerate(self.graph.records)
                if record.value.size == value.size and np.array_equal(record.value, value)
            ]
            places.update(equal[-1:])
        return frozenset(places or self.graph.ends)

    @property
    def explained(self) -> frozenset[int]:
        """Positions of the port whose values the reference has, too."""
        return self._explained

    @property
    def fed(self) -> set[int]:
        """Positions that an input goes into; whole numbers go in where a table is looked up."""
        records = enumerate(self.graph.records)
        return self.graph.downstream(
            place
            for place, r in records
            if r.operation == "input"
            or (not self.graph.inputs[place] and normalised(r.operation) in INDEXED)
        )

    def matched(self, place: int) -> bool:
        """Whether the value is in the port; an output must be an output there, too."""
        if place in self.output_places:
            value = self.graph.records[place].value
            return bool(self.outputs.find(value, self.tolerance))
        return bool(self.alignment.matches[place])

    def has(self, place: int) -> bool:
        """Whether the port has the value there, and it says something."""
        return self.telling(place) and self.matched(place)

    def telling(self, place: int) -> bool:
        """Whether the value there says anything."""
        return self.alignment.telling[place]

    def _judge(self) -> None:
        """Which operations are surely right, and which may be taken as right."""
        count = len(self.graph)
        self.sure = [False] * count
        for place in reversed(range(count)):
            # What is found later proves that this was right, though the port may fuse it. An
            # output that is not handed out is wrong, whatever else uses it.
            later = place not in self.output_places and any(
                self.sure[consumer] and EARLY not in self.graph.records[consumer].attributes
                for consumer in self.graph.consumers[place]
            )
            self.sure[place] = (self.telling(place) and self.matched(place)) or later
        self.right = [False] * count
        for place in range(count):
            inputs = all(self.right[source] for source in self.graph.inputs[place])
            record = self.graph.records[place]
            silent = not self.telling(place) or not record.arguments or _bookkeeping(record)
            silent = silent or self._is_parameter(place)
            # What is handed out counts whatever it says: zeros instead of something, too.
            silent = silent and (place not in self.output_places or self.matched(place))
            self.right[place] = self.sure[place] or (inputs and silent) or place in self.unknown

    def _is_parameter(self, place: int) -> bool:
        """Whether the value is a parameter in another shape, of which a port has no need."""
        record = self.graph.records[place]
        if self.graph.inputs[place] or len(record.parameters) != 1:
            return False
        held = self.graph.parameters.get(record.parameters[0])
        if held is None or held.size != record.value.size:
            return False
        return bool(np.array_equal(np.sort(held, axis=None), np.sort(record.value, axis=None)))

    def culprits(self) -> list[int]:
        """Positions with right inputs and a wrong result, in execution order."""
        return [
            place
            for place in range(len(self.graph))
            if not self.right[place]
            and place in self.graph.live
            and all(self.right[source] for source in self.graph.inputs[place])
        ]

    def near_misses(self) -> list[int]:
        """Positions whose value the port nearly has, in execution order.

        A difference may fade so much behind its source that later values are found: they clear
        the source only if the port has nothing like it. So these are suspects, not culprits.
        """
        found = []
        for place in range(len(self.graph)):
            matched = self.alignment.matches[place] or not self.telling(place)
            if matched or place not in self.graph.live:
                continue
            if not all(self.right[source] for source in self.graph.inputs[place]):
                continue
            nearest = self.nearest(place)
            if nearest is not None and nearest.distance < NEAR:
                found.append(place)
        return found

    def nearest(self, place: int) -> Match | None:
        """The port's closest tensor; for an output, its position is that of an output."""
        index = self.outputs if place in self.output_places else self.index
        return index.nearest(self.graph.records[place].value)

    def port_record(self, value: Array) -> Recorded | None:
        """The port's operation that holds a value, preferably one that the reference lacks."""
        matches = self.index.find(value, self.tolerance) or [
            found for found in [self.index.nearest(value)] if found is not None
        ]
        if not matches:
            return None
        fresh = [found for found in matches if found.index not in self.explained]
        return self.port.records[(fresh or matches)[0].index]

    def location(self, place: int, places: Sequence[int] = ()) -> Location:
        """Everything about a culprit.

        Args:
            place: its position.
            places: positions of the same path that make up the culprit, if more than one.
        """
        record = self.graph.records[place]
        nearest = self.nearest(place)
        port = self.port_record(record.value)
        glue = record.path in self.graph.containers
        rounding = max(
            (
                self.alignment.matches[source][0].distance
                for source in self.graph.inputs[place]
                if self.alignment.matches[source]
            ),
            default=0.0,
        )
        return Location(
            place=place,
            culprit=record.path,
            operation=record.operation,
            between=self.graph.between(places or [place]) if glue else None,
            port_culprit=port.path if port is not None else None,
            port_operation=port.operation if port is not None else "",
            gap=nearest.distance if nearest is not None else np.inf,
            rounding=rounding,
        )


def _bookkeeping(record: Recorded) -> bool:
    """Whether the value only counts, chooses or packs: masks, lengths, indices, ragged batches.

    A port has other ways to say the same, so such a value is held against it no further than by
    what is computed from it.
    """
    if "packed" in record.operation or "pack_padded" in record.operation:
        return True
    if record.gradient is not None:
        return False
    with np.errstate(all="ignore"):
        return bool(np.all(record.value == np.floor(record.value)))


def locate(
    reference_records: Sequence[Recorded],
    port_records: Sequence[Recorded],
    *,
    reference_parameters: Mapping[str, Array] | None = None,
    reference_outputs: Mapping[str, Array] | None = None,
    port_outputs: Mapping[str, Array] | None = None,
    tolerance: float = TOLERANCE,
) -> list[Location]:
    """The places where the forward passes part, in execution order; empty if they do not.

    Args:
        reference_records: the reference's float64 pass.
        port_records: the port's, on the same inputs and weights.
        reference_parameters: float64 values by parameter name.
        reference_outputs: float64 outputs by name.
        port_outputs: the same of the port.
        tolerance: of the alignment.
    """
    sides = Sides(
        reference_records,
        port_records,
        reference_parameters=reference_parameters,
        reference_outputs=reference_outputs,
        port_outputs=port_outputs,
        tolerance=tolerance,
    )
    return [sides.location(place) for place in sides.culprits()]
