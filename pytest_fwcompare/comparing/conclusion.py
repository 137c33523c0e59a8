"""Turns what the examples said into the record: verdict, smallest example, place, cause, proof."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pytest_fwcompare.comparing.controls import disturb, nothing_noticed
from pytest_fwcompare.comparing.diagnosis import Explained, diagnose_finding
from pytest_fwcompare.comparing.request import Request, Story
from pytest_fwcompare.comparing.trial import judge_example
from pytest_fwcompare.errors import FwcompareError, ModelError
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.inputs.search import shrink
from pytest_fwcompare.judge.distances import unit_roundoff
from pytest_fwcompare.judge.tally import Finding
from pytest_fwcompare.judge.verdict import PRECISION_FACTOR
from pytest_fwcompare.progress import tell
from pytest_fwcompare.records import (
    Comparison,
    Controls,
    Distribution,
    ExampleRecord,
    Examples,
    TensorRow,
    Timing,
    Verdict,
)
from pytest_fwcompare.running.outputs import StructureError
from pytest_fwcompare.running.pair import Pair


def conclude(blank: Comparison, pair: Pair, request: Request, story: Story) -> Comparison:
    """Verdict, smallest example, place and cause."""
    verdict, worst = story.tally.verdict, story.tally.worst()
    assert worst is not None
    if story.unstable is not None:
        role, apart = story.unstable
        verdict = "semantic"
        story.notices[
            f"the {role} differs from itself between two equal calls by {apart:.2g} of its "
            f"largest value: something is random in inference (dropout left on?)"
        ] = None
    elif verdict not in ("equivalent",) and story.unsteady is None:
        tell("making the example small")
        worst = shrunk(pair, request, worst)
    found = explained(pair, request, story, verdict, worst)
    verdict = found.verdict
    rows = story.tally.rows()
    distributions = kept_distributions(pair, request, story)
    compared = [row for row in rows if np.isfinite(row.gap)]
    controls = controls_after(pair, request, story, verdict)
    unproved = nothing_noticed(controls)
    made = replace(
        blank,
        verdict="error" if unproved else verdict,
        message=unproved or found.message,
        culprit=found.culprit,
        between=found.between,
        port_culprit=found.port_culprit,
        cause=found.cause,
        evidence=found.evidence,
        further=found.further,
        hints=found.hints,
        depth=found.depth,
        attribution=found.attribution,
        unlike_itself="" if story.unsteady is None else story.unsteady.role,
        gap=max((row.gap for row in compared), default=0.0),
        noise=max((row.port_noise for row in compared), default=0.0),
        tensors=rows,
        examples=Examples(
            len(story.tally.findings),
            record_of(pair, worst),
            tuple(finding.ratio for finding in story.tally.findings),
        ),
        weights=pair.mapping.rows() if pair.mapping is not None else (),
        controls=controls,
        distributions=distributions,
        notices=tuple(
            {
                **story.notices,
                **dict.fromkeys(found.notices),
                **leak_notices(pair),
                **reduced_notices(pair, verdict, rows),
            }
        ),
    )
    return made if made.passed or request.repro is None else reproduced(made, pair, request, worst)


def explained(
    pair: Pair, request: Request, story: Story, verdict: Verdict, worst: Finding[Example]
) -> Explained:
    """Place and cause of the worst finding; of a side that is unlike itself nothing is asked."""
    if story.unsteady is not None:
        return Explained(story.unsteady.verdict, message=story.unsteady.text)
    if verdict != "equivalent":
        tell("looking for the place and the cause")
    return diagnose_finding(pair, request.explain, verdict, worst, story.tally, story.unstable)


def reproduced(
    made: Comparison, pair: Pair, request: Request, worst: Finding[Example]
) -> Comparison:
    """The failed comparison with a folder that shows it, or with the reason why there is none."""
    from pytest_fwcompare.report.repro import write_repro

    assert request.repro is not None
    given = {"reference": request.repro.reference, "port": request.repro.port}
    point = pair.point(worst.example)
    try:
        write_repro(request.repro.folder, made, pair, point, given, training=worst.in_training)
    except FwcompareError as error:
        return replace(made, notices=(*made.notices, f"no script was written: {error}"))
    except Exception as error:  # a verdict is not lost to a framework that cannot export
        reason = f"{type(error).__name__}: {error}"
        return replace(made, notices=(*made.notices, f"no script was written: {reason}"))
    script = request.repro.folder / "repro.py"
    return replace(made, notices=(*made.notices, f"shown without this plugin by python {script}"))


def shrunk(pair: Pair, request: Request, worst: Finding[Example]) -> Finding[Example]:
    """The smallest form of the worst example that shows the same verdict."""
    best, training = [worst], worst.in_training

    def still_fails(example: Example) -> bool:
        try:
            finding = judge_example(pair, example, worst.number, training=training)
        except (ModelError, StructureError):
            return False
        if finding.verdict != worst.verdict:
            return False
        best[0] = finding
        return True

    shrink(request.plan, worst.example, still_fails)
    return best[0]


def record_of(pair: Pair, finding: Finding[Example]) -> ExampleRecord:
    """The example as the record keeps it."""
    inputs = pair.plan.arrays(finding.example)
    small = sum(value.size for value in inputs.values()) <= 64
    return ExampleRecord(
        number=finding.number,
        description=str(finding.example),
        shapes={name: value.shape for name, value in inputs.items()},
        values={name: value.tolist() for name, value in inputs.items()} if small else None,
        weights=finding.example.weights,
        ratio=finding.ratio,
    )


def kept_distributions(pair: Pair, request: Request, story: Story) -> tuple[Distribution, ...]:
    """Histograms of parameters and gradients, where they were asked for."""
    if not request.distributions:
        return ()
    from pytest_fwcompare.comparing.distributions import distributions_of

    pair.forget_loaded()
    examples = [finding.example for finding in story.tally.findings]
    try:
        return distributions_of(pair, max(examples, key=lambda example: example.telling))
    except FwcompareError as error:  # a verdict is not lost to what only illustrates it
        story.notices[f"no distributions of parameters and gradients: {error}"] = None
        return ()


def leak_notices(pair: Pair) -> dict[str, None]:
    """Shadows that were not float64 everywhere, said aloud."""
    said: dict[str, None] = {}
    for opened in (pair.reference, pair.port):
        for leak in opened.side.leaks[:5]:
            said[
                f"the {opened.side.role}'s float64 shadow computes in a narrower dtype: {leak}"
            ] = None
    return said


def reduced_notices(pair: Pair, verdict: Verdict, rows: Sequence[TensorRow]) -> dict[str, None]:
    """Products that a model let its framework round, said aloud, and whether that explains it."""
    said: dict[str, None] = {}
    coarser = unit_roundoff("tf32") / unit_roundoff(pair.dtype)
    for opened in (pair.reference, pair.port):
        if not (what := opened.side.reduced):
            continue
        text = (
            f"the {opened.side.role} let {opened.side.framework} compute products less exactly "
            f"than {pair.dtype}, which is off for judging: {what}"
        )
        wrong = [row for row in rows if row.verdict == "precision"]
        if verdict == "precision" and opened is pair.port and wrong and coarser > 1:
            noise = max(row.port_noise for row in wrong)
            limit = PRECISION_FACTOR * coarser
            if all(
                row.port_noise <= limit * max(row.jitter, unit_roundoff(pair.dtype))
                for row in wrong
            ):
                text += (
                    f". TF32 explains the noise of {noise:.2g}: its products may lose "
                    f"{coarser * max(max(r.jitter, unit_roundoff(pair.dtype)) for r in wrong):.2g}"
                )
        said[text] = None
    return said


def controls_after(pair: Pair, request: Request, story: Story, verdict: Verdict) -> Controls:
    """Disturbances after a pass, which the judge must notice, on the most telling example."""
    if verdict != "equivalent":
        return Controls()
    tell("disturbing the port")
    examples = sorted(
        (finding.example for finding in story.tally.findings),
        key=lambda example: example.telling,
        reverse=True,
    )
    return disturb(pair, examples[0], thorough=request.thorough, others=examples[1:])


def time_sides(pair: Pair) -> tuple[Timing, ...]:
    """Timings of both sides, interleaved."""
    from pytest_fwcompare.timing.sides import time_pair

    return time_pair(pair)
