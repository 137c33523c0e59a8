"""Asks where and why: records both shadows on the telling example and hands them to `diagnose`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from threadpoolctl import threadpool_limits

from pytest_fwcompare.comparing.doubt import gradients_in_doubt
from pytest_fwcompare.comparing.mismatch import WrongGradients, wrong_buffers
from pytest_fwcompare.diagnose import Diagnosis, diagnose
from pytest_fwcompare.diagnose.held import without_weights
from pytest_fwcompare.diagnose.hints import hints
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.tree import depth_rows, independent
from pytest_fwcompare.dropout.cause import explain_dropout
from pytest_fwcompare.errors import FwcompareError
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.judge.distances import unit_roundoff
from pytest_fwcompare.judge.tally import TRAINING, Finding, Tally
from pytest_fwcompare.judge.verdict import Assessment
from pytest_fwcompare.records import Attribution, DepthRow, Difference, Verdict
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Point

TRIED = 12
"""Repairs that gave nothing and are listed."""

USERS = 8
"""Layers that use the culprit's value and are asked about, at most."""

SMALL = 2_000_000
"""Elements recorded of the port up to which a second look costs little."""

LOCAL_FACTOR = 16.0
"""A local difference of that many roundings of the working dtype is no rounded constant."""


@dataclass(frozen=True)
class Explained:
    """Verdict, place and cause as the record keeps them."""

    verdict: Verdict
    message: str = ""
    culprit: str | None = None
    between: tuple[str, str] | None = None
    port_culprit: str | None = None
    cause: str | None = None
    evidence: tuple[str, ...] = ()
    further: tuple[Difference, ...] = ()
    notices: tuple[str, ...] = ()
    depth: tuple[DepthRow, ...] = ()
    hints: tuple[str, ...] = ()
    attribution: Attribution | None = None


@dataclass(frozen=True)
class Traced:
    """Both recorded passes with what was found in them."""

    found: Diagnosis
    sides: Sides
    point: Point
    training: bool = False


def diagnose_finding(
    pair: Pair,
    explain: bool,
    verdict: Verdict,
    worst: Finding[Example],
    tally: Tally[Example],
    unstable: tuple[str, float] | None,
) -> Explained:
    """Place and cause of a verdict; a difference that float32 hides is looked at locally.

    Args:
        pair: both sides.
        explain: False leaves place and cause out.
        verdict: over all examples.
        worst: the example that shows it.
        tally: all findings.
        unstable: role and size of a side that differs from itself.
    """
    hidden = tally.most_hidden() if verdict == "equivalent" else None
    if verdict == "equivalent" and hidden is None:
        return Explained(verdict)
    if not explain and hidden is None:
        return Explained(verdict)
    example = hidden.example if hidden is not None else telling(worst, tally)
    try:
        # Thousands of small products: threads that wait for each other on a busy machine made
        # them 20 times slower.
        with threadpool_limits(1, user_api="blas"):
            traced = trace_sides(pair, example, verdict, training=(hidden or worst).in_training)
            if hidden is None and unstable is None:
                traced = _on_more(pair, example, verdict, worst.in_training, traced)
            explained = _explained(pair, verdict, traced.found, hidden, unstable)
            if verdict == "semantic" and worst.in_training:
                explained = _dropped(pair, explained, traced.point)
            further = _further(traced, explained)
            if further is not None and "training" in pair.checks:
                further += _in_training(pair, verdict, tally, traced, further)
            explained = replace(
                explained,
                further=further or (),
                depth=_depth(pair, traced, explained),
                hints=_hints(pair, traced, explained),
            )
        return replace(
            explained,
            **_attribution(
                pair, traced, explained, explain and unstable is None, worst.in_training
            ),
        )
    except FwcompareError as error:
        return Explained(verdict, notices=(f"no place was looked for: {error}",))
    except Exception as error:  # a verdict is not lost to a bug of what explains it
        return Explained(
            verdict,
            notices=(
                f"internal error of pytest-fwcompare while looking for the place, please report "
                f"it: {type(error).__name__}: {error}",
            ),
        )


def _on_more(
    pair: Pair, example: Example, verdict: Verdict, training: bool, traced: Traced
) -> Traced:
    """A second look on a larger example, where the first one proved no cause, and where it did.

    Two edges of a graph or one token tell a sum from a mean no more than a softmax over them from
    another, or a sum from the larger summand. What is proved on the larger example counts; where
    it shows a difference and proves nothing, the smaller one was a coincidence.
    """
    larger = example.larger
    if larger == example or verdict != "semantic" or traced.found.backward:
        return traced
    if sum(record.value.size for record in traced.sides.port.records) > SMALL:
        return traced
    shapes, first = pair.layouts.shapes, traced.found
    try:
        again = trace_sides(pair, larger, verdict, training=training)
        if again.found.cause is not None and again.found.cause != first.cause:
            return again
        differs = again.found.culprit is not None and not again.found.backward
        if first.cause is not None and again.found.cause is None and differs:
            return again
    except FwcompareError:  # a model has limits that no spec tells
        pass
    pair.layouts.shapes = shapes  # what comes next is about the smaller example
    return traced


def _explained(
    pair: Pair,
    verdict: Verdict,
    found: Diagnosis,
    hidden: Finding[Example] | None,
    unstable: tuple[str, float] | None,
) -> Explained:
    """What a diagnosis says of the verdict."""
    if hidden is not None:
        return _hidden(pair, hidden, found)
    explained = Explained(
        verdict,
        culprit=found.culprit,
        between=found.between,
        port_culprit=found.port_culprit,
        cause=found.cause,
        evidence=found.evidence,
        notices=_tried(found),
    )
    return explained if unstable is None else _random(pair, explained, unstable)


def _further(traced: Traced, explained: Explained) -> tuple[Difference, ...] | None:
    """Other places where a difference begins; None where somebody random was accused."""
    if explained.verdict == "equivalent" or explained.cause != traced.found.cause:
        return None
    return tuple(_difference(one) for one in independent(traced.sides, traced.found))


def _difference(found: Diagnosis) -> Difference:
    return Difference(
        found.culprit, found.between, found.port_culprit, found.cause, found.evidence
    )


def _in_training(
    pair: Pair,
    verdict: Verdict,
    tally: Tally[Example],
    traced: Traced,
    known: Sequence[Difference],
) -> tuple[Difference, ...]:
    """Further differences that show in training mode alone: running statistics, say.

    Where the forward passes part in inference, a step in training mode is looked at only if it
    leaves buffers different, and only what is proved there counts.
    """
    first = traced.found
    examples = [f.example for f in tally.showing() if any(map(_is_wrong_buffer, f.assessments))]
    if verdict != "semantic" or traced.training or not examples:
        return ()
    try:
        example = max(examples, key=lambda example: example.telling)
        trained = trace_sides(pair, example, verdict, training=True)
    except FwcompareError:  # a verdict is not lost to what is said beside it
        return ()
    places = {(one.culprit, one.between) for one in (_difference(first), *known)}
    found = [trained.found, *independent(trained.sides, trained.found)]
    return tuple(
        _difference(one)
        for one in found
        if one.cause is not None and (one.culprit, one.between) not in places
    )


def _is_wrong_buffer(assessment: Assessment) -> bool:
    wrong = assessment.verdict != "equivalent"
    return wrong and assessment.kind == "buffer" and assessment.name.startswith(TRAINING)


def _depth(pair: Pair, traced: Traced, explained: Explained) -> tuple[DepthRow, ...]:
    """The reference's modules as they fared; none where nothing fails."""
    if explained.verdict == "equivalent":
        return ()
    shown = replace(traced.found, culprit=explained.culprit, between=explained.between)
    return depth_rows(traced.sides, shown, list(pair.reference_parameters.values()))


def _hints(pair: Pair, traced: Traced, explained: Explained) -> tuple[str, ...]:
    """Options that differ, where something fails and no cause is proved."""
    if explained.verdict == "equivalent" or explained.cause is not None:
        return ()
    links = () if pair.mapping is None else pair.mapping.links
    return hints(
        traced.sides,
        traced.found,
        reference_layers=list(pair.reference_parameters.values()),
        port_layers=list(pair.port_parameters.values()),
        mapped={link.port: link.sources for link in links},
        frameworks=(pair.reference.side.library, pair.port.side.library),
    )


def _dropped(pair: Pair, found: Explained, point: Point) -> Explained:
    """Dropout, if changing it alone makes both sides agree."""
    odd = explain_dropout(pair, point)
    if odd is None:
        return found
    return replace(
        found,
        cause="dropout",
        culprit=odd.place or found.culprit,
        evidence=odd.evidence,
        between=None,
        notices=(),
    )


def _attribution(
    pair: Pair, traced: Traced, explained: Explained, explain: bool, training: bool
) -> dict[str, Any]:
    """Whether Keras, its backend or the port is at fault; a verdict is never lost to it."""
    if not explain or explained.verdict not in ("semantic", "precision", "nonfinite"):
        return {}
    if "keras" not in (pair.reference.side.library, pair.port.side.library):
        return {}
    from pytest_fwcompare.comparing.attribution import attribute_culprit

    try:
        found = attribute_culprit(
            pair,
            traced.point,
            explained.culprit,
            explained.port_culprit,
            proved=explained.cause is not None,
            training=training,
            users=_users(traced, explained),
            backward=traced.found.backward,
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        said = f"whether it is Keras or the backend was not found out: {reason}"
        return {"notices": (*explained.notices, said)}
    return {"attribution": found}


def _users(traced: Traced, explained: Explained) -> dict[str, list[str]]:
    """By role the layers that use what the culprit gives, where they may be at fault as well.

    They send its gradient back, and glue code lies between it and them.
    """
    if not traced.found.backward and explained.between is None:
        return {}
    made = {}
    for role, graph, path in (
        ("reference", traced.sides.graph, explained.culprit),
        ("port", traced.sides.port, explained.port_culprit),
    ):
        places = enumerate(graph.records) if path else ()
        inside = {place for place, record in places if record.path == path}
        users = {user for place in inside for user in graph.consumers[place]} - inside
        found = dict.fromkeys(graph.records[user].path for user in sorted(users))
        made[role] = [one for one in found if one and one != path][:USERS]
    if not explained.culprit and explained.between is not None:
        made["reference"] = [one for one in explained.between if one]
    return made


def _random(pair: Pair, found: Explained, unstable: tuple[str, float]) -> Explained:
    """Something random in inference: dropout that was left on, as far as anybody can tell."""
    role, apart = unstable
    said = (
        f"two equal calls of the {role} differ by {apart:.2g}; the float64 shadow of the "
        f"{'port' if role == 'reference' else 'reference'} repeats itself"
    )
    place = found.culprit
    if found.culprit is not None:
        place = _dropout_before(pair, found.culprit) or found.culprit
    return replace(
        found, cause="dropout", culprit=place, evidence=(said,), between=None, notices=()
    )


def _dropout_before(pair: Pair, culprit: str) -> str | None:
    """The reference's last dropout module that ran before the culprit."""
    last = None
    for path, kind in pair.reference_modules:
        if path == culprit:
            return last
        if "dropout" in kind.lower():
            last = path
    return last


def telling(worst: Finding[Example], tally: Tally[Example]) -> Example:
    """The example to look for the place with: not the smallest, whose tensors are all alike."""
    showing = [finding.example for finding in tally.showing()]
    return max([worst.example, *showing], key=lambda example: example.telling)


def _hidden(pair: Pair, finding: Finding[Example], found: Diagnosis) -> Explained:
    """A difference below the rounding that the network amplifies: is it large where it begins?"""
    limit = LOCAL_FACTOR * unit_roundoff(pair.dtype)
    worst = max((a for a in finding.assessments if a.hidden), key=lambda a: a.hidden_ratio)
    # Gradients alone part by rounding where a saturated unit's derivative is one.
    forward = any(a.hidden and a.kind == "output" for a in finding.assessments)
    if forward and not found.backward and found.culprit is not None and found.local_gap > limit:
        return Explained(
            "semantic",
            culprit=found.culprit,
            between=found.between,
            port_culprit=found.port_culprit,
            cause=found.cause,
            evidence=(
                f"{worst.name} differs by {worst.gap:.2g} in float64, which the network's own "
                f"amplification of rounding ({worst.jitter:.2g}) would hide; where it begins the "
                f"difference is {found.local_gap:.2g}, far above a rounding",
                *found.evidence,
            ),
            notices=_tried(found),
        )
    return Explained(
        "equivalent",
        notices=(
            f"hidden difference: {worst.name} differs by {worst.gap:.2g} in float64, below what "
            f"{pair.dtype} can tell ({worst.jitter:.2g}), as a rounded constant would give",
        ),
    )


def _tried(found: Diagnosis) -> tuple[str, ...]:
    if found.cause is not None or not found.tried:
        return ()
    first, more = found.tried[:TRIED], len(found.tried) - TRIED
    rest = f" and {more} more" if more > 0 else ""
    return (f"no cause could be proved; tried: {', '.join(first)}{rest}",)


def trace_sides(
    pair: Pair, example: Example, verdict: Verdict, *, training: bool = False
) -> Traced:
    """Record both shadows on an example and diagnose them.

    Args:
        pair: both sides.
        example: where they part.
        verdict: what the judge said.
        training: record a step in training mode, where the difference shows only there.
    """
    point = pair.point(example)
    reference = pair.run("reference", point, "double", training=training, record=True)
    pair.expect(reference)
    port = pair.run("port", point, "double", training=training, record=True)
    port = replace(port, recorded=tuple(without_weights(port.recorded)))
    pair.reference_modules = [
        (record.path, record.operation) for record in reference.recorded if record.is_module
    ]
    working = {}
    if verdict in ("precision", "nonfinite"):
        working = pair.run("port", point, "working", training=training, backward=False).outputs
    sides = Sides(
        reference.recorded,
        port.recorded,
        reference_parameters=point.weights or pair.given,
        reference_outputs=reference.outputs,
        port_outputs=port.outputs,
    )
    found = diagnose(
        reference.recorded,
        port.recorded,
        reference_parameters=point.weights or pair.given,
        reference_layers=list(pair.reference_parameters.values()),
        parameter_gradient_mismatch=WrongGradients(reference, port) if pair.backward else None,
        buffer_mismatch=wrong_buffers(pair, point, reference, port),
        reference_outputs=reference.outputs,
        port_outputs=port.outputs,
        port_working_outputs=working,
        verdict=verdict,
        sides=sides,
        gradients_in_doubt=lambda: (
            pair.backward and gradients_in_doubt(pair, point, port, training=training)
        ),
    )
    return Traced(found, sides, point, training)
