"""Judges the examples of a comparison one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pytest_fwcompare.comparing.request import Request, Story
from pytest_fwcompare.comparing.steadiness import ROLES, between_calls, unlike_eager
from pytest_fwcompare.comparing.trial import judge_example, runs_alone
from pytest_fwcompare.errors import ModelError, OutOfMemory
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.inputs.search import search
from pytest_fwcompare.judge.tally import ORDER, Finding
from pytest_fwcompare.progress import tell
from pytest_fwcompare.running.pair import Pair


def judge_examples(pair: Pair, request: Request, story: Story) -> None:
    """Judge planned examples, then let Hypothesis look for worse ones."""

    def visit(example: Example) -> float:
        number = len(story.tally.findings)
        tell("example", number + 1, request.examples)
        if number == 0:
            look_for_instability(pair, example, request.mode, story)
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
    for example in by_weights(request.plan.planned(request.examples - searched)):
        visit(example)
        if story.unsteady is not None:
            break
    if searched and story.unstable is None and story.unsteady is None:
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


def by_weights(examples: Iterable[Example]) -> list[Example]:
    """Examples with equal weights one after the other, so that those are loaded once."""
    groups: dict[tuple[str, int], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.weights, example.weights_seed), []).append(example)
    return [example for group in groups.values() for example in group]


def look_for_instability(pair: Pair, example: Example, mode: str, story: Story) -> None:
    """Name a side that differs from itself before comparing anything.

    Between two equal calls it draws random numbers, or forms its sums in another order each time;
    between its mode and its own eager mode it is two functions.
    """
    point = pair.point(example)
    pair.expect(pair.run("reference", point, "working"))

    def note(text: str) -> None:
        story.notices[text] = None

    for role in ROLES:
        found = between_calls(pair, role, point, note)
        if isinstance(found, float):
            story.unstable = (role, found)
        elif found is not None:
            story.unsteady = found
        if found is not None:
            return
    if mode != "eager":
        wrong = (unlike_eager(pair, role, point, mode) for role in ROLES)
        story.unsteady = next((one for one in wrong if one is not None), None)


def judge(
    pair: Pair, example: Example, number: int, request: Request, story: Story
) -> Finding[Example] | None:
    """One example; None if the reference cannot run it at these sizes."""
    try:
        finding = judge_example(pair, example, number)
        if "training" in request.checks and story.unstable is None:
            finding = with_training(pair, example, number, finding, story)
    except ModelError as error:
        if isinstance(error, OutOfMemory):
            raise
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
        if isinstance(error, OutOfMemory) or error.role != "reference" or not example.sizes:
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
