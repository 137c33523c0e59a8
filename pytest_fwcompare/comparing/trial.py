"""One example judged, and the verdict confirmed where a single point could deceive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_fwcompare.comparing.overflow import excused, overflow_at
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.judge.distances import unit_roundoff
from pytest_fwcompare.judge.tally import TRAINING, Finding, plain_verdict
from pytest_fwcompare.judge.verdict import Assessment
from pytest_fwcompare.records import Verdict
from pytest_fwcompare.running.outputs import StructureError
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Point

NEIGHBOURS = 2
"""Nearby points that must agree before a verdict that one point could have made up is given."""


def judge_example(
    pair: Pair, example: Example, number: int, *, training: bool = False
) -> Finding[Example]:
    """Run, judge and confirm one example.

    Raises:
        ModelError: a side failed.
        StructureError: the sides do not give the same tensors.
    """
    point = pair.point(example)
    assessments = _assess(pair, point, training)
    verdict = plain_verdict(assessments)
    notices: tuple[str, ...] = ()
    if verdict in ("nonfinite", "precision"):
        found = overflow_at(pair, point, training=training)
        if found is not None:
            notices = (found.text,)
        if found is not None and found.excused:
            assessments = excused(assessments)
            verdict = plain_verdict(assessments)
    if verdict != "equivalent" and not _settled_forward(assessments, verdict):
        verdict, said = _confirm(pair, point, example, assessments, verdict, training)
        notices += said
    return Finding(example, number, verdict, _told(assessments, verdict), notices)


def _assess(pair: Pair, point: Point, training: bool) -> tuple[Assessment, ...]:
    found = pair.judged(point, training=training)
    if not training:
        return found
    return tuple(replace(item, name=f"{TRAINING}{item.name}") for item in found)


def _settled_forward(assessments: Sequence[Assessment], verdict: Verdict) -> bool:
    """A difference of outputs in exact arithmetic, or NaN among them, needs no second point."""
    return verdict in ("semantic", "nonfinite") and any(
        item.verdict == verdict and item.kind in ("output", "buffer") for item in assessments
    )


def _confirm(
    pair: Pair,
    point: Point,
    example: Example,
    assessments: Sequence[Assessment],
    verdict: Verdict,
    training: bool,
) -> tuple[Verdict, tuple[str, ...]]:
    """What is left of a verdict when the point is moved by a hair."""
    persists = all(
        _shows(verdict, _near(pair, point, seed, training)) for seed in range(1, NEIGHBOURS + 1)
    )
    name = next(item.name for item in assessments if item.verdict == verdict)
    if verdict == "semantic":
        return ("semantic" if persists else "subgradient"), ()
    explored = pair.plan.is_explored(example)
    if verdict == "nonfinite":
        if persists or not explored:
            return "nonfinite", ()
        return "equivalent", (
            f"{name} is not finite on one side at a single point that no spec asks for "
            f"({example}); nearby it is",
        )
    if not persists:
        # Rounding moved one side across a kink: that side's own gradient jumped, no accuracy lost.
        return "equivalent", ()
    if explored:
        return "equivalent", (
            f"{name} is clearly noisier in the port on input that no spec asks for ({example})",
        )
    if _is_noted_constant(pair, assessments):
        return "equivalent", (
            f"{name} keeps float32 accuracy in the port: {'; '.join(pair.port.notices)}",
        )
    return "precision", ()


def _shows(verdict: Verdict, assessments: Sequence[Assessment]) -> bool:
    """Whether a nearby point shows the verdict too.

    Behind a kink the gap is gone; one that is only a little smaller there is no kink's.
    """
    if verdict == "semantic":
        return any(item.semantic_ratio > 1.0 for item in assessments)
    return verdict in {item.verdict for item in assessments}


def _is_noted_constant(pair: Pair, assessments: Sequence[Assessment]) -> bool:
    """In float64: no more than a constant that the framework is known to keep in float32."""
    noise = max((a.port_noise for a in assessments if a.verdict == "precision"), default=0.0)
    constant = 4 * unit_roundoff("float32")
    return pair.dtype == "float64" and bool(pair.port.notices) and noise < constant


def _near(pair: Pair, point: Point, seed: int, training: bool) -> tuple[Assessment, ...]:
    return _assess(pair, pair.near(point, seed), training)


def _told(assessments: Sequence[Assessment], verdict: Verdict) -> tuple[Assessment, ...]:
    """Assessments with the verdict that was confirmed instead of the one at the point alone."""
    first: Verdict = plain_verdict(assessments)
    if verdict == first:
        return tuple(assessments)
    return tuple(
        replace(item, verdict=verdict) if item.verdict == first else item for item in assessments
    )


def runs_alone(pair: Pair, example: Example) -> str | None:
    """Why neither side can run this example, or None; for sizes that a model does not take.

    Raises:
        ModelError: the reference can run it and the port cannot.
    """
    point = pair.point(example)
    try:
        pair.run("reference", point, "working", backward=False)
    except ModelError as error:
        return str(error)
    return None


__all__ = ["Finding", "StructureError", "judge_example", "runs_alone"]
