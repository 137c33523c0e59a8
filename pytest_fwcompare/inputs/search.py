"""Which examples to try: telling ones, those that Hypothesis finds, and simpler ones."""

from __future__ import annotations

from collections.abc import Callable

from pytest_fwcompare.inputs.examples import Example, Plan


def telling_example(plan: Plan) -> Example:
    """The first planned example, or the first that the user's strategies give."""
    planned = next(plan.planned(1), None)
    if planned is not None:
        return planned
    from pytest_fwcompare.inputs.strategies import first_example

    return first_example(plan)


def search(plan: Plan, count: int, evaluate: Callable[[Example], float], seed: int) -> None:
    """Let Hypothesis look for examples that raise what `evaluate` returns.

    Args:
        plan: what to draw from.
        count: number of examples.
        evaluate: judges an example and returns a figure to be driven up; must not raise for a
            failing example.
        seed: makes the search deterministic.
    """
    from pytest_fwcompare.inputs.strategies import run_search

    run_search(plan, count, evaluate, seed)


def shrink(
    plan: Plan, example: Example, still_fails: Callable[[Example], bool], budget: int = 24
) -> Example:
    """A simpler example that still fails, found in at most `budget` evaluations.

    What a strategy of the user's drew is shrunk by Hypothesis, the rest by simpler draws.
    """
    if plan.searched:
        from pytest_fwcompare.inputs.strategies import find_smaller

        return find_smaller(plan, example, still_fails, budget)
    improved = True
    while improved and budget > 0:
        improved = False
        for candidate in plan.simpler(example):
            budget -= 1
            if still_fails(candidate):
                example, improved = candidate, True
                break
            if budget <= 0:
                break
    return example
