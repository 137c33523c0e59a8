"""Parameters that layers leave over on both sides, paired by themselves.

A function with parameters in plain dicts has no layers, and what is taken for one may lack a
member: a recurrent layer's second bias, a shift beside a scale. What is left on both sides and
fits is more likely one parameter than two that the other side lacks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pytest_fwcompare.weights.assign import FORBIDDEN, hungarian
from pytest_fwcompare.weights.conventions import Slot
from pytest_fwcompare.weights.conversions import conversions, slot_cost
from pytest_fwcompare.weights.mapping import Link
from pytest_fwcompare.weights.words import words

REASON = "left over on both sides, and it fits"
"""Of every link made here."""

ALONE = 2.0
"""Cost of leaving one alone: above that of any pair that fits."""


def pair_remnants(reference: Sequence[Slot], port: Sequence[Slot]) -> list[Link]:
    """Links between slots left over on both sides, by shape, role, names and order.

    Args:
        reference: left over on the reference's side, in order.
        port: left over on the port's side, in order.
    """
    cost = np.full((len(reference), len(port)), FORBIDDEN)
    for i, one in enumerate(reference):
        for j, other in enumerate(port):
            plain = slot_cost(one, other)
            if plain < FORBIDDEN:
                cost[i, j] = plain + 0.3 * unlike(one.name, other.name) + 0.02 * abs(i - j)
    pairs = hungarian(cost, np.full(len(reference), ALONE), np.full(len(port), ALONE))
    return [
        Link(
            port[j].name,
            (reference[i].name,),
            conversions(reference[i], port[j])[0][0],
            REASON,
        )
        for i, j in pairs
    ]


def unlike(one: str, other: str) -> float:
    """How unlike the words of two names are, 0 to 1."""
    first, second = set(words(one)), set(words(other))
    return 1.0 - len(first & second) / len(first | second) if first | second else 0.0
