"""The reference's modules in data-flow order, and how far the port follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.align import Match
from pytest_fwcompare.diagnose.gradients import groups
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.parting import TOLERANCE, distance
from pytest_fwcompare.records import DepthRow

LARGE = 6000
"""Operations beyond which gradients are not aligned for the tree alone."""

Status = Literal["matched", "culprit", "after", "unmatched"]


@dataclass(frozen=True)
class Stretch:
    """Operations that one module ran one after the other.

    Attributes:
        path: of the module.
        places: positions in the reference's graph, in execution order.
    """

    path: str
    places: tuple[int, ...]


def depth_rows(
    sides: Sides, found: Diagnosis, layers: Sequence[Parameter] = ()
) -> tuple[DepthRow, ...]:
    """A row for each call of a module, and for each stretch of code between modules.

    Args:
        sides: both recorded passes, aligned.
        found: the diagnosis, whose culprits are marked.
        layers: parameters of the reference, which tell the kinds of their layers.
    """
    made = stretches(sides)
    faults = _faults(sides, made, found)
    backward = _backward_gaps(sides)
    after = _after(sides, made, faults)
    kinds = _kinds(sides, layers)
    return tuple(
        _row(sides, stretch, faults.get(number), number in after, backward, kinds)
        for number, stretch in enumerate(made)
    )


def independent(sides: Sides, found: Diagnosis) -> list[Diagnosis]:
    """The further differences of a diagnosis that are no trace of the first.

    Args:
        sides: both recorded passes, aligned.
        found: the diagnosis; where its culprit is a container, it speaks for all in it.
    """
    inside = (found.culprit or "") + "."
    beside = [d for d in found.others if d.backward and not found.backward]
    ahead = replace(found, others=tuple(d for d in found.others if d not in beside))
    return [
        other
        for other in _faults(sides, stretches(sides), ahead).values()
        if other is not ahead
        and not (other.cause == found.cause and (other.culprit or "").startswith(inside))
    ] + beside


def _faults(sides: Sides, made: Sequence[Stretch], found: Diagnosis) -> dict[int, Diagnosis]:
    """Diagnoses by the number of the stretch where each difference begins."""
    faults: dict[int, Diagnosis] = {}
    for diagnosis in (found, *found.others):
        place = _stretch_of(sides, made, diagnosis)
        # What is not proved and depends on a culprit may be the trace of that.
        if place is not None and (diagnosis.cause or place not in _after(sides, made, faults)):
            faults.setdefault(place, diagnosis)
    return faults


def stretches(sides: Sides) -> list[Stretch]:
    """The reference's live operations by what ran them; one by one where there are no modules."""
    graph = sides.graph
    alone = len(graph.running) < 2
    made: list[Stretch] = []
    for place, record in enumerate(graph.records):
        if place not in graph.live or record.operation == "input":
            continue
        if alone and not sides.telling(place):
            continue
        if made and made[-1].path == record.path and not alone:
            made[-1] = Stretch(record.path, (*made[-1].places, place))
        else:
            made.append(Stretch(record.path, (place,)))
    return [s for s in made if any(map(sides.telling, s.places))]


def _stretch_of(sides: Sides, made: Sequence[Stretch], found: Diagnosis) -> int | None:
    """Number of the stretch where a difference begins; None if it has no place."""
    if found.culprit is None:
        return None
    path = found.culprit
    inside = path + "." if path else ""
    own = [number for number, stretch in enumerate(made) if stretch.path == path]
    if found.between is not None:
        own = _between(made, own, found.between) or own
    elif not any(_runs(sides, made[number], found.operation) for number in own):
        # A module that is made of others runs nothing itself, or other things.
        parts = [n for n, stretch in enumerate(made) if stretch.path.startswith(inside)]
        own = [n for n in parts if _runs(sides, made[n], found.operation)] or own or parts
    wrong = [n for n in own if any(not sides.right[place] for place in made[n].places)]
    return next(iter(wrong or own), None)


def _runs(sides: Sides, stretch: Stretch, operation: str) -> bool:
    """Whether an operation of that name is among those of a stretch."""
    return any(sides.graph.records[place].operation == operation for place in stretch.places)


def _between(made: Sequence[Stretch], own: Sequence[int], ends: tuple[str, str]) -> list[int]:
    """Those stretches of a container that lie between two of its modules."""
    before, after = ends
    chosen = []
    for number in own:
        earlier = [stretch.path for stretch in made[:number]]
        later = [stretch.path for stretch in made[number + 1 :]]
        if (not before or before in earlier) and (not after or after in later):
            chosen.append(number)
    return chosen


def _after(sides: Sides, made: Sequence[Stretch], faults: Mapping[int, Diagnosis]) -> set[int]:
    """Numbers of the stretches that depend on a culprit; gradients go the other way."""
    reached: set[int] = set()
    for number, diagnosis in faults.items():
        walk = sides.graph.upstream if diagnosis.backward else sides.graph.downstream
        reached |= walk(made[number].places)
    return {
        number
        for number, stretch in enumerate(made)
        if number not in faults and reached.intersection(stretch.places)
    }


def _row(
    sides: Sides,
    stretch: Stretch,
    fault: Diagnosis | None,
    after: bool,
    backward: Mapping[int, float],
    kinds: Mapping[str, str],
) -> DepthRow:
    shown = [place for place in stretch.places if sides.telling(place)]
    wrong = [place for place in shown if not sides.right[place]]
    # What a module gives last is its value; a culprit shows where it went wrong.
    place = wrong[0] if fault is not None and wrong else shown[-1]
    nearest = _nearest(sides, place)
    gap = None if nearest is None else float(nearest.distance)
    back = backward.get(place)
    if back is None and nearest is not None:
        back = _gradient_gap(sides, place, nearest)
    differs = bool(wrong) or (fault is not None and not fault.backward)
    status: Status = "matched"
    if fault is not None:
        status = "culprit"
    elif after and (differs or (back is not None and back > TOLERANCE)):
        status = "after"
    elif wrong and place in wrong:
        status = "unmatched"
    port_path = None
    if fault is not None:
        port_path = fault.port_culprit
    elif status == "matched":
        port = sides.port_record(sides.graph.records[place].value)
        port_path = None if port is None else port.path
    operation = sides.graph.records[place].operation
    if fault is not None and fault.operation:
        operation = fault.operation
    return DepthRow(stretch.path, kinds.get(stretch.path, operation), status, port_path, gap, back)


def _nearest(sides: Sides, place: int) -> Match | None:
    """The port's tensor of the same values, else the closest."""
    matches = sides.alignment.matches[place]
    return matches[0] if matches else sides.index.nearest(sides.graph.records[place].value)


def _kinds(sides: Sides, layers: Sequence[Parameter]) -> dict[str, str]:
    """Class of each module that runs operations and holds no others, as far as it is known."""
    known = {p.layer.replace("/", "."): p.kind for p in layers if p.kind}
    # Keras keeps the weights of a recurrent layer in its cell, which no path names.
    cells = {path: kind for path, kind in known.items() if kind.endswith("Cell") and "." in path}
    for path, kind in cells.items():
        known.setdefault(path.rpartition(".")[0], kind.removesuffix("Cell"))
    known |= {record.path: record.operation for record in sides.graph.modules}
    return {path: kind for path, kind in known.items() if path not in sides.graph.containers}


def _backward_gaps(sides: Sides) -> dict[int, float]:
    """Relative difference of the gradients of values that both sides have, by position."""
    records = sides.graph.records
    if len(records) > LARGE or not any(record.gradient is not None for record in records):
        return {}
    return {
        member: float(group.gap)
        for group in groups(sides)
        for member in group.members
        if group.gap < float("inf")
    }


def _gradient_gap(sides: Sides, place: int, nearest: Match) -> float | None:
    """Relative difference of the gradients of a value and the port's closest."""
    expected = sides.graph.records[place].gradient
    obtained = sides.port.records[nearest.index].gradient
    if expected is None or obtained is None:
        return None
    gap = distance(expected, obtained)
    return gap if gap < float("inf") else None
