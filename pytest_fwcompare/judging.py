"""Judges the examples of a comparison one after the other."""

from __future__ import annotations

from dataclasses import replace

from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.inputs.examples import Example, search
from pytest_fwcompare.judge.tally import ORDER, Finding
from pytest_fwcompare.pair import Pair
from pytest_fwcompare.progress import tell
from pytest_fwcompare.request import Request, Story
from pytest_fwcompare.trial import judge_example, runs_alone

SELF_DIFFERENCE = 1e-5
"""Two equal calls may differ by the order of a threaded sum, not by more."""


def judge_examples(pair: Pair, request: Request, story: Story) -> None:
    """Judge planned examples, then let Hypothesis look for worse ones."""

    def visit(example: Example) -> float:
        number = len(story.tally.findings)
        tell("example", number + 1, request.examples)
        if number == 0:
            look_for_instability(pair, example, story)
        finding = judge(pair, example, number, request, story)
        if finding is None:
            return 0.0
        story.tally.add(finding)
        story.notices.update(dict.fromkeys(finding.notices))
        return finding.ratio

    searched = request.examples if request.plan.searched else request.examples // 4
    if request.deterministic and not request.plan.searched:
        searched = 0  # a search leans on Hypothesis' version and on what else is imported
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
