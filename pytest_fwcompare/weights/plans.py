"""One candidate of a mapping, and the questions that it leaves open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_fwcompare.weights.align import Group


@dataclass(frozen=True)
class Plan:
    """One candidate: pairs of units, and the layout chosen for each question.

    Attributes:
        groups: pairs of units.
        layouts: by question, the number of the chosen option.
    """

    groups: tuple[Group, ...]
    layouts: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Choice:
    """An open question and its other answers.

    Attributes:
        question: in words.
        answers: what each alternative says, in words, and how it changes a plan.
        touches: names of the reference's parameters that it moves.
        open: neither order, names nor documentation decide it: a guess that must not be silent.
        habit: only what is usual in a framework decides it, not the layer's documentation.
        layout: it is about axes or heads, not about which parameter it is.
        exhaustive: one of many answers that only all together tell: all are tried.
    """

    question: str
    answers: tuple[tuple[str, Callable[[Plan], Plan]], ...]
    touches: frozenset[str]
    open: bool
    habit: bool = False
    layout: bool = False
    exhaustive: bool = False
