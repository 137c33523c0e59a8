"""The comparison of two networks, readable as a table of contents."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pytest_fwcompare.diagnosis import diagnose_finding
from pytest_fwcompare.errors import FwcompareError, ModelError, UsageError
from pytest_fwcompare.inputs.examples import Example, Plan, plan, search, shrink
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.judge.tally import ORDER, Finding, Tally
from pytest_fwcompare.link import choose_mapping, telling_example
from pytest_fwcompare.outputs import StructureError
from pytest_fwcompare.pair import Pair, arguments
from pytest_fwcompare.records import (
    Comparison,
    Controls,
    ExampleRecord,
    Examples,
    Timing,
    Verdict,
)
from pytest_fwcompare.sides import Opened, check_axes, open_side
from pytest_fwcompare.trial import judge_example, runs_alone

LARGE = 4_000_000
"""Parameters from which on a network is judged with all threads."""

FIRST_EXAMPLES = 8
"""Planned examples among which one must have sizes that the reference takes."""

CHECKS = ("forward", "backward", "training")
SELF_DIFFERENCE = 1e-5
"""Two equal calls may differ by the order of a threaded sum, not by more."""


@dataclass(frozen=True)
class Repro:
    """Where a script that shows a failure goes, and what was given to make both sides of."""

    folder: Path
    reference: Any
    port: Any


@dataclass(frozen=True)
class Request:
    """The arguments of `compare`, checked."""

    plan: Plan
    weights: Any
    outputs: Mapping[str, TensorSpec] | None
    checks: tuple[str, ...]
    dtype: str
    device: str
    mode: str
    examples: int
    seed: int
    explain: bool
    timings: bool
    repro: Repro | None = None


@dataclass
class Story:
    """What became known on the way, for the record."""

    tally: Tally[Example] = field(default_factory=Tally)
    notices: dict[str, None] = field(default_factory=dict)
    unstable: tuple[str, float] | None = None
    discarded: dict[str, int] = field(default_factory=dict)
    trained: int = 0
    untrained: ModelError | None = None


def compare(
    reference: Any,
    port: Any,
    *,
    inputs: Mapping[str, Any],
    weights: Any = "auto",
    outputs: Mapping[str, TensorSpec] | None = None,
    checks: Sequence[str] = ("forward", "backward"),
    dtype: str = "float32",
    device: str = "cpu",
    mode: str = "eager",
    examples: int = 20,
    seed: int = 0,
    explain: bool = True,
    timings: bool = False,
    repro: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Judge whether `port` computes the same function as `reference`.

    Both sides run in the working dtype and as float64 shadows on generated inputs, with randomised
    weights and with the given ones; the objects passed in are left as they were found.

    Args:
        reference: what is taken as right: a model of any framework, a zero-argument factory that
            returns one, or a described network.
        port: what is judged; the same choices.
        inputs: by name, passed by position in this order: `TensorSpec`, Hypothesis strategy, or
            array.
        weights: "auto" pairs the parameters and fills the port with the reference's; "given"
            leaves both sides theirs; a dict {port name: reference name or (names, transform)}
            pairs by hand, what it leaves out is paired automatically; a function
            copy(reference_model, port_model) copies as it likes.
        outputs: by name, `TensorSpec` with `axes` and `port_axes` where axis orders differ.
        checks: of "forward", "backward", "training" (outputs and buffers of a training step).
        dtype: working dtype.
        device: "cpu" or "cuda[:N]".
        mode: "eager", "graph" or "compiled".
        examples: how many examples to judge.
        seed: equal seeds give equal examples.
        explain: say where and why if it is not equivalent.
        timings: time both sides.
        repro: folder to write a standalone script to if the verdict fails; for described networks
            and factories that can be imported by name.

    Raises:
        UsageError: an argument asks for something that cannot be done.
        MappingError: the parameters cannot be paired without a guess that matters.
    """
    started = time.perf_counter()
    request = check_request(
        inputs, weights, outputs, checks, dtype, device, mode, examples, seed, explain, timings
    )
    if repro is not None:
        request = replace(request, repro=Repro(Path(repro), reference, port))
    with ExitStack() as stack:
        ours = open_side(reference, "reference", dtype=dtype, device=device, mode=mode)
        stack.callback(ours.side.close)
        theirs = open_side(port, "port", dtype=dtype, device=device, mode=mode)
        stack.callback(theirs.side.close)
        made = compare_opened(ours, theirs, request)
    return replace(made, seconds=time.perf_counter() - started)


def compare_opened(ours: Opened, theirs: Opened, request: Request) -> Comparison:
    """The comparison of two opened sides; they stay open."""
    blank = Comparison(
        "error",
        ours.side.framework,
        theirs.side.framework,
        dtype=request.dtype,
        device=request.device,
        mode=request.mode,
        checks=request.checks,
        seed=request.seed,
        environment={
            opened.side.framework: opened.backend.environment() for opened in (ours, theirs)
        },
    )
    story = Story()
    try:
        telling = prepare(ours, theirs, request)
        with calm_threads(ours, theirs):
            pair = make_pair(ours, theirs, request, story, telling)
            judge_examples(pair, request, story)
            story.notices.update(pair.notices)
            story.notices.update(dict.fromkeys(ours.notices + theirs.notices))
            judged = conclude(blank, pair, request, story)
    except (ModelError, StructureError) as error:
        return replace(blank, message=str(error), examples=Examples(len(story.tally.findings)))
    if request.timings:
        judged = replace(judged, timings=time_sides(pair))
    return judged


@contextmanager
def calm_threads(*sides: Opened) -> Iterator[None]:
    """One thread for small networks while they are judged.

    A handful of small matrices gains nothing from threads, and where other processes use the
    cores, as under pytest-xdist, waiting for them costs a hundredfold.
    """
    before = []
    for opened in sides:
        threads = opened.backend.threads()
        if threads is not None and threads > 1 and not is_large(opened):
            before.append((opened.backend, threads))
            opened.backend.set_threads(1)
    try:
        yield
    finally:
        for backend, threads in reversed(before):
            backend.set_threads(threads)


def is_large(opened: Opened) -> bool:
    """Whether a side has enough parameters for threads to pay."""
    return sum(math.prod(p.shape) for p in opened.side.parameters()) > LARGE


def check_request(
    inputs: Mapping[str, Any],
    weights: Any,
    outputs: Mapping[str, TensorSpec] | None,
    checks: Sequence[str],
    dtype: str,
    device: str,
    mode: str,
    examples: int,
    seed: int,
    explain: bool,
    timings: bool,
) -> Request:
    """Refuse what cannot be done, before anything is built.

    Raises:
        UsageError: with what was expected and what came.
    """
    check_axes(dtype, device, mode)
    if isinstance(checks, str) or not checks or any(check not in CHECKS for check in checks):
        raise UsageError(
            f"checks: expected some of {', '.join(CHECKS)}, as a tuple; got {checks!r}"
        )
    for name, value, least in (("examples", examples, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UsageError(f"{name}: expected an integer of at least {least}, got {value!r}")
    if outputs is not None and not (
        isinstance(outputs, Mapping)
        and all(isinstance(spec, TensorSpec) for spec in outputs.values())
    ):
        raise UsageError(f"outputs: expected a dict {{name: TensorSpec}}, got {outputs!r}")
    states = ("given",) if isinstance(weights, str) and weights == "given" else None
    return Request(
        plan(inputs, states or ("randomised", "given"), seed),
        weights,
        outputs,
        tuple(check for check in CHECKS if check in checks),
        dtype,
        device,
        mode,
        examples,
        seed,
        explain,
        timings,
    )


def make_pair(
    ours: Opened, theirs: Opened, request: Request, story: Story, telling: Example
) -> Pair:
    """Both sides with their weights mapped."""

    def with_mapping(mapping: Any) -> Pair:
        return Pair(
            ours,
            theirs,
            request.plan,
            mapping=mapping,
            share_weights=request.weights != "given",
            outputs=request.outputs,
            checks=request.checks,
            dtype=request.dtype,
        )

    mapping = choose_mapping(request.weights, ours, theirs, with_mapping, telling)
    story.notices.update(dict.fromkeys(mapping.notices))
    return with_mapping(mapping)


def prepare(ours: Opened, theirs: Opened, request: Request) -> Example:
    """Let sides that build themselves on their first call do so before they are asked anything.

    Returns:
        The first example whose sizes the reference can run.

    Raises:
        ModelError: the reference can run none of the first examples, or the port not this one.
    """
    plan = request.plan
    first: ModelError | None = None
    for example in list(plan.planned(FIRST_EXAMPLES)) or [telling_example(plan)]:
        arrays = plan.arrays(example)
        given = arguments(plan, ours, "reference", arrays)
        try:
            ours.side.prepare(given)
            if example.sizes:
                ours.side.forward(given, precision="working", gradients=False)
        except ModelError as error:
            first = first or error
            continue
        theirs.side.prepare(arguments(plan, theirs, "port", arrays))
        return example
    assert first is not None
    raise first


# Judging -----------------------------------------------------------------------------------------


def judge_examples(pair: Pair, request: Request, story: Story) -> None:
    """Judge planned examples, then let Hypothesis look for worse ones."""

    def visit(example: Example) -> float:
        number = len(story.tally.findings)
        if number == 0:
            look_for_instability(pair, example, story)
        finding = judge(pair, example, number, request, story)
        if finding is None:
            return 0.0
        story.tally.add(finding)
        story.notices.update(dict.fromkeys(finding.notices))
        return finding.ratio

    searched = request.examples if request.plan.searched else request.examples // 4
    if not request.plan.specs and not request.plan.searched:
        searched = 0
    for example in request.plan.planned(request.examples - searched):
        visit(example)
    if searched and story.unstable is None:
        search(request.plan, searched, visit, request.seed)
    if not story.tally.findings:
        reason = next(iter(story.discarded), "no example was drawn")
        raise ModelError("reference", "forward", f"no example could be run: {reason}")
    if story.untrained is not None and not story.trained:
        raise story.untrained
    for reason, count in story.discarded.items():
        story.notices[f"{count} examples left out, as the reference cannot run them: {reason}"] = (
            None
        )


def look_for_instability(pair: Pair, example: Example, story: Story) -> None:
    """Name a side that differs from itself between two equal calls before comparing anything."""
    point = pair.point(example)
    for role in ("reference", "port"):
        pair_ready = role == "reference" or pair.shapes_known
        if not pair_ready:
            pair.expect(pair.run("reference", point, "working", backward=False))
        apart = pair.differs_from_itself(role, point)
        if apart > SELF_DIFFERENCE:
            story.unstable = (role, apart)
            return


def judge(
    pair: Pair, example: Example, number: int, request: Request, story: Story
) -> Finding[Example] | None:
    """One example; None if the reference cannot run it at these sizes."""
    try:
        finding = judge_example(pair, example, number)
        if "training" in request.checks and story.unstable is None:
            finding = with_training(pair, example, number, finding, story)
    except ModelError as error:
        if error.role == "reference" and example.sizes and runs_alone(pair, example):
            text = str(error)
            story.discarded[text] = story.discarded.get(text, 0) + 1
            return None
        raise
    return finding


def with_training(
    pair: Pair, example: Example, number: int, finding: Finding[Example], story: Story
) -> Finding[Example]:
    """The same example after one step in training mode: outputs, gradients and buffers.

    Sizes that the reference refuses to be trained with (batch statistics of one value) are left
    out; `judge_examples` raises if no others were drawn.
    """
    try:
        if pair.training_is_random(pair.point(example)):
            story.trained += 1
            story.notices[
                "training outputs were not compared: a side draws random numbers in training "
                "mode (dropout)"
            ] = None
            return finding
        trained = judge_example(pair, example, number, training=True)
    except ModelError as error:
        if error.role != "reference" or not example.sizes:
            raise
        story.untrained = error
        return finding
    story.trained += 1
    return replace(
        finding,
        verdict=min(finding.verdict, trained.verdict, key=ORDER.index),
        assessments=finding.assessments + trained.assessments,
        notices=finding.notices + trained.notices,
    )


# Concluding --------------------------------------------------------------------------------------


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
    elif verdict not in ("equivalent",):
        worst = shrunk(pair, request, worst)
    found = diagnose_finding(pair, request.explain, verdict, worst, story.tally, story.unstable)
    verdict = found.verdict
    rows = story.tally.rows()
    compared = [row for row in rows if np.isfinite(row.gap)]
    made = replace(
        blank,
        verdict=verdict,
        message=found.message,
        culprit=found.culprit,
        between=found.between,
        port_culprit=found.port_culprit,
        cause=found.cause,
        evidence=found.evidence,
        gap=max((row.gap for row in compared), default=0.0),
        noise=max((row.port_noise for row in compared), default=0.0),
        tensors=rows,
        examples=Examples(len(story.tally.findings), record_of(pair, worst)),
        weights=pair.mapping.rows() if pair.mapping is not None else (),
        controls=controls_after(pair, story, verdict),
        notices=tuple({**story.notices, **dict.fromkeys(found.notices), **leak_notices(pair)}),
    )
    return made if made.passed or request.repro is None else reproduced(made, pair, request, worst)


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


def leak_notices(pair: Pair) -> dict[str, None]:
    """Shadows that were not float64 everywhere, said aloud."""
    said: dict[str, None] = {}
    for opened in (pair.reference, pair.port):
        for leak in opened.side.leaks[:5]:
            said[
                f"the {opened.side.role}'s float64 shadow computes in a narrower dtype: {leak}"
            ] = None
    return said


def controls_after(pair: Pair, story: Story, verdict: Verdict) -> Controls:
    """Disturbances after a pass, which the judge must notice, on the most telling example."""
    if verdict != "equivalent":
        return Controls()
    from pytest_fwcompare.controls import disturb

    examples = [finding.example for finding in story.tally.findings]
    return disturb(pair, max(examples, key=lambda example: example.telling))


def time_sides(pair: Pair) -> tuple[Timing, ...]:
    """Timings of both sides, interleaved."""
    from pytest_fwcompare.timing.sides import time_pair

    return time_pair(pair)
