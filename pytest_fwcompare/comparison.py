"""The comparison of two networks, readable as a table of contents."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_fwcompare.comparing.attempts import attempted
from pytest_fwcompare.comparing.conclusion import conclude, time_sides
from pytest_fwcompare.comparing.judging import judge_examples
from pytest_fwcompare.comparing.link import choose_mapping
from pytest_fwcompare.comparing.request import Repro, Request, Story, check_request
from pytest_fwcompare.errors import FwcompareError, ModelError, OutOfMemory
from pytest_fwcompare.gate.digest import digest_of
from pytest_fwcompare.golden.replay import GoldenPair, GoldenReference, GoldenSide
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.inputs.search import telling_example
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.opening.trial import open_guarded
from pytest_fwcompare.progress import tell
from pytest_fwcompare.randomness import seeded
from pytest_fwcompare.records import (
    Comparison,
    Examples,
)
from pytest_fwcompare.running.arrays import keep_freed
from pytest_fwcompare.running.outputs import StructureError
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import arguments, called_with
from pytest_fwcompare.running.supply import Own, Source
from pytest_fwcompare.sides import Opened

LARGE = 4_000_000
"""Parameters from which on a network is judged with all threads."""

FIRST_EXAMPLES = 8
"""Planned examples among which one must have sizes that the reference takes."""


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
    distributions: bool = False,
    deterministic: bool = False,
    thorough: bool = False,
) -> Comparison:
    """Judge whether `port` computes the same function as `reference`.

    Both sides run in the working dtype and as float64 shadows on generated inputs, with randomised
    weights and with the given ones; the objects passed in are left as they were found.

    Args:
        reference: what is taken as right: a model of any framework, a zero-argument factory that
            returns one, a described network, or a `GoldenReference`.
        port: what is judged; the same choices.
        inputs: by name, passed by position in this order: `TensorSpec`, Hypothesis strategy, or
            array.
        weights: "auto" pairs the parameters and fills the port with the reference's; "given"
            leaves both sides theirs; a dict {port name: reference name or (names, transform)}
            pairs by hand, what it leaves out is paired automatically; a function
            copy(reference_model, port_model) copies as it likes.
        outputs: by name, `TensorSpec` with `axes` and `port_axes` where axis orders differ.
        checks: of "forward", "backward", "training" (outputs and buffers of a training step).
        dtype: working dtype: float32, float64, float16, bfloat16; mixed_float16 and
            mixed_bfloat16 keep parameters in float32 and compute narrowly; tf32 is float32 with
            the rounded products of NVIDIA GPUs.
        device: "cpu", "cuda[:N]", or the reference's and the port's: "cpu/cuda".
        mode: "eager", "graph" or "compiled".
        examples: how many examples to judge.
        seed: equal seeds give equal examples.
        explain: say where and why if it is not equivalent.
        timings: time both sides.
        repro: folder to write a standalone script to if the verdict fails; for described networks
            and factories that can be imported by name.
        distributions: keep histograms of both sides' parameters and gradients.
        deterministic: give equal figures in equal runs, as a baseline needs: examples of specs
            are planned and not searched for, factories find global random states seeded, and the
            comparison has a digest of both sides.
        thorough: after a pass, disturb every parameter, buffer, epsilon and slope of the port, not
            a few, and find the smallest disturbance that is noticed.

    Raises:
        UsageError: an argument asks for something that cannot be done.
        MappingError: the parameters cannot be paired without a guess that matters.
    """
    started = time.perf_counter()
    request = check_request(
        inputs, weights, outputs, checks, dtype, device, mode, examples, seed, explain, timings
    )
    request = replace(request, distributions=distributions)
    if repro is not None:
        request = replace(request, repro=Repro(Path(repro), reference, port))
    request = replace(request, deterministic=deterministic, thorough=thorough)

    def attempt(**changes: Any) -> Comparison:
        asked = replace(request, **changes)
        if isinstance(reference, GoldenReference):
            asked = reference.adapted(asked)
        axes = {"dtype": asked.dtype, "device": asked.device, "mode": asked.mode}
        with ExitStack() as stack:
            tell("opening the reference")
            with seeded(asked.seed if asked.deterministic else None):
                ours = (
                    reference.opened()
                    if isinstance(reference, GoldenReference)
                    else open_guarded(reference, "reference", asked, **axes)
                )
            stack.callback(ours.side.close)
            tell("opening the port")
            with seeded(asked.seed if asked.deterministic else None):
                theirs = open_guarded(port, "port", asked, **axes)
            stack.callback(theirs.side.close)
            return compare_opened(ours, theirs, asked)

    axes = {"dtype": request.dtype, "device": device, "mode": mode}
    made = attempted(attempt, reference, port, **axes)
    return replace(made, seconds=time.perf_counter() - started)


def compare_opened(ours: Opened, theirs: Opened, request: Request) -> Comparison:
    """The comparison of two opened sides; they stay open."""
    blank = blank_of(ours, theirs, request)
    story = Story()
    try:
        telling = prepare(ours, theirs, request)
        with calm_threads(ours, theirs):
            tell("pairing the weights")
            pair = make_pair(ours, theirs, request, story, telling)
            if not pair.supply.large:
                keep_freed()
            judge_examples(pair, request, story)
            if request.deterministic:
                first = story.tally.findings[0].example
                blank = replace(blank, digest=digest_of(pair, first))
            story.notices.update(pair.notices)
            story.notices.update(dict.fromkeys(ours.notices + theirs.notices))
            judged = conclude(blank, pair, request, story)
    except (ModelError, StructureError) as error:
        text = plain_text(str(error)) + axes_hint(error, request)
        return replace(blank, message=text, examples=Examples(len(story.tally.findings)))
    if request.timings:
        judged = replace(judged, timings=time_sides(pair))
    return judged


def plain_text(text: str) -> str:
    """A framework's words without its terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def axes_hint(error: FwcompareError, request: Request) -> str:
    """What to write if the port failed because it wants its images or signals in another order."""
    if not isinstance(error, ModelError) or error.role != "port" or error.stage == "memory":
        return ""
    if not re.search("shape|channel|axis|dimension", str(error), re.IGNORECASE):
        return ""
    unordered = [
        name
        for name, spec in request.plan.layouts.items()
        if len(spec.shape) > 2 and spec.to_port is None
    ]
    if not unordered:
        return ""
    return (
        f"\nThe port got {' and '.join(map(repr, unordered))} in the reference's axis order. If "
        f'it wants another, say so: TensorSpec(..., axes="NCHW", port_axes="NHWC")'
    )


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


def blank_of(ours: Opened, theirs: Opened, request: Request) -> Comparison:
    """What is known before anything has run; an error until it is known better."""
    return Comparison(
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


def is_large(opened: Opened) -> bool:
    """Whether a side has enough parameters for threads to pay."""
    return sum(math.prod(p.shape) for p in opened.side.parameters()) > LARGE


def make_pair(
    ours: Opened, theirs: Opened, request: Request, story: Story, telling: Example
) -> Pair:
    """Both sides with their weights mapped."""
    source, own = Source(ours, request.dtype), Own(theirs)
    kind = GoldenPair if isinstance(ours.side, GoldenSide) else Pair

    def with_mapping(mapping: Any) -> Pair:
        return kind(
            ours,
            theirs,
            request.plan,
            mapping=mapping,
            share_weights=request.weights != "given",
            outputs=request.outputs,
            checks=request.checks,
            dtype=request.dtype,
            source=source,
            own=own,
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
        except OutOfMemory:
            raise
        except ModelError as error:
            first = first or called_with(error, given, plan)
            continue
        given = arguments(plan, theirs, "port", arrays)
        try:
            theirs.side.prepare(given)
        except OutOfMemory:
            raise
        except ModelError as error:
            raise called_with(error, given, plan) from error
        return example
    assert first is not None
    raise first
