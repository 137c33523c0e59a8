"""Outputs that hold the right values in the wrong places, which no comparison of sets can see."""

from __future__ import annotations

from collections.abc import Mapping
from time import thread_time

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.prove import Candidate, Prover
from pytest_fwcompare.diagnose.repairs import Spot, candidates
from pytest_fwcompare.diagnose.replay import Replay

STEPS = 30
"""Operations before an output among which rearrangements are tried, the nearest first."""


def explain_arrangement(
    sides: Sides,
    reference_outputs: Mapping[str, Array],
    port_outputs: Mapping[str, Array],
    deadline: float,
) -> list[Diagnosis]:
    """Where elements of an output change places, with the rearrangement that explains it.

    Args:
        sides: both passes, aligned, with no difference found by value.
        reference_outputs: float64 outputs by name.
        port_outputs: of the port, in the reference's axis order.
        deadline: of this thread's processor time, after which no more is tried.
    """
    for name, expected in reference_outputs.items():
        obtained = port_outputs.get(name)
        if obtained is None or obtained.shape != expected.shape:
            continue
        gap = _distance(expected, obtained)
        ordered = _distance(np.sort(expected, None), np.sort(obtained, None))
        place = _place(sides, expected)
        if gap > sides.tolerance >= ordered and place is not None:
            return [_explained(sides, place, obtained, gap, deadline)]
    return []


def _distance(expected: Array, obtained: Array) -> float:
    """Largest difference, relative to the largest magnitude; infinite where one is not finite."""
    if not (np.isfinite(expected).all() and np.isfinite(obtained).all()):
        return float("inf")
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(expected - obtained).max(initial=0.0) / scale)


def _place(sides: Sides, value: Array) -> int | None:
    """Position of the last operation with the value of an output."""
    records = sides.graph.records
    equal = [p for p, r in enumerate(records) if np.array_equal(r.value, value)]
    return equal[-1] if equal else None


def _explained(
    sides: Sides, output: int, obtained: Array, gap: float, deadline: float
) -> Diagnosis:
    replay = Replay(sides.graph)
    prover = Prover(sides, replay)
    tried: list[str] = []
    for place in sorted(sides.graph.upstream([output]), reverse=True)[:STEPS]:
        operation = replay.operation(place)
        if operation is None or operation.kind != "movement":
            continue
        for candidate in candidates(Spot(place, operation, sides, replay, prover)):
            after = _after(replay, candidate, output, obtained)
            if after <= sides.tolerance:
                return _diagnosis(sides, candidate, place, output, (gap, after))
            tried.append(candidate.change)
            if thread_time() > deadline:
                break
    record = sides.graph.records[output]
    glue = record.path in sides.graph.containers
    return Diagnosis(
        culprit=record.path,
        between=sides.graph.between([output]) if glue else None,
        operation=record.operation,
        local_gap=gap,
        tried=tuple(dict.fromkeys(tried)),
    )


def _after(replay: Replay, candidate: Candidate, output: int, obtained: Array) -> float:
    """Distance of the changed output to the port's, element by element."""
    for place, value in replay.run(candidate.values):
        if place == output:
            return _distance(obtained, value) if value.shape == obtained.shape else np.inf
    return np.inf


def _diagnosis(
    sides: Sides, candidate: Candidate, place: int, output: int, gaps: tuple[float, float]
) -> Diagnosis:
    places = list(candidate.places or [place])
    location = sides.location(places[0], places)
    culprit, between = candidate.culprit or (location.culprit, location.between)
    seen = sides.graph.records[output]
    where = f"{seen.operation} of {seen.path or 'the root'}"
    text = (
        f"with {candidate.change} the difference at {where}, "
        f"element by element, falls from {gaps[0]:.1e} to {gaps[1]:.1e}"
    )
    return Diagnosis(
        culprit=culprit,
        between=between,
        operation=sides.graph.records[places[0]].operation,
        port_culprit=location.port_culprit,
        port_operation=location.port_operation,
        cause=candidate.cause,
        evidence=(text, "so changed, the reference gives the port's output"),
        local_gap=gaps[0],
    )
