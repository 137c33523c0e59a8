"""Layers that one side keeps in one array: tables joined end to end, experts stacked.

What is left over on both sides is looked at: an array of one side is taken for several of the
other where its shape says so and nothing else is left that would fit, in the order of definition.
Parts are transposed where their shapes ask for it; square ones say nothing, and are left alone
unless they are tables.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.weights.conventions import Slot
from pytest_fwcompare.weights.mapping import Link
from pytest_fwcompare.weights.transforms import (
    Concatenate,
    Each,
    Reshape,
    Slice,
    Stack,
    Transform,
    Transpose,
    compose,
)

Shape = tuple[int, ...]

STACKED = "one array holds them, stacked in the order of definition"
JOINED = "one array holds them, joined in the order of definition"
DOUBTFUL = "one array holds them, by the order of definition; another reading fits as well"
"""Reasons of the links made here."""

MOST = 12
"""Parameters among which those that one array may hold are sought."""


@dataclass(frozen=True)
class Bundle:
    """An array of one side and what it holds of the other.

    Attributes:
        whole: the array.
        parts: of the other side, in order.
        turned: parts are transposed in it.
        joined: along the first axis that they have; else stacked along a new one.
        doubtful: another reading fits as well.
    """

    whole: Slot
    parts: tuple[Slot, ...]
    turned: bool
    joined: bool
    doubtful: bool = False

    @property
    def reason(self) -> str:
        """Why, in words."""
        if self.doubtful:
            return DOUBTFUL
        return JOINED if self.joined else STACKED

    def together(self) -> Transform:
        """From the parts to the whole."""
        combine: Transform = Concatenate(0) if self.joined else Stack(0)
        return Each(Transpose((1, 0)), combine) if self.turned else combine

    def apart(self) -> Iterator[tuple[Slot, Transform]]:
        """From the whole to each part."""
        start = 0
        for part in self.parts:
            stop = start + (part.native[0] if self.joined else 1)
            steps: list[Transform] = [Slice(start, stop, 0)]
            if not self.joined:
                steps.append(Reshape(self.whole.native[1:]))
            if self.turned:
                steps.append(Transpose((1, 0)))
            yield part, compose(self.whole.native, *steps)
            start = stop


def pair_stacks(
    reference: Sequence[Slot], port: Sequence[Slot], *, other: bool = False
) -> list[Link]:
    """Links between slots left over on both sides where one holds several of the other.

    Args:
        reference: left over on the reference's side, in order.
        port: left over on the port's side, in order.
        other: where it is doubtful which reading is meant, take the last and not the first.
    """
    links = [
        Link(
            made.whole.name, tuple(part.name for part in made.parts), made.together(), made.reason
        )
        for made in bundles(port, reference, other=other)
    ]
    for made in bundles(reference, port, other=other):
        links += [
            Link(part.name, (made.whole.name,), transform, made.reason)
            for part, transform in made.apart()
        ]
    return links


def bundles(
    wholes: Sequence[Slot], others: Sequence[Slot], *, other: bool = False
) -> Iterator[Bundle]:
    """Arrays among `wholes` that hold several of the others, in the order of definition.

    Where more than one reading fits, what is taken is doubtful: of experts with a kernel in and a
    kernel out, either may be what is transposed.
    """
    choose = max if other else min
    places = {other.name: place for place, other in enumerate(others)}
    found = {whole.name: list(readings(whole, others)) for whole in wholes}
    asked = Counter(
        part for made in found.values() for part in {p.name for one in made for p in one.parts}
    )
    used: set[str] = set()
    for ways in found.values():
        free = [made for made in ways if not used & {part.name for part in made.parts}]
        if not free:
            continue
        first = choose(free, key=lambda made: places[made.parts[0].name])
        used |= {part.name for part in first.parts}
        alone = len(ways) == 1 and all(asked[part.name] == 1 for part in first.parts)
        yield first if alone else replace(first, doubtful=True)


def readings(whole: Slot, others: Sequence[Slot]) -> Iterator[Bundle]:
    """What an array may hold: all others of a shape, stacked or joined along the first axis."""
    if len(whole.native) < 2:
        return
    shapes = dict.fromkeys(other.native for other in others)
    for shape in shapes:
        parts = tuple(other for other in others if other.native == shape)
        if len(parts) < 2 or whole.native[0] != len(parts):
            continue
        telling = len(shape) != 2 or shape[0] != shape[1] or parts[0].role == "embedding"
        if whole.native[1:] == shape and telling:
            yield Bundle(whole, parts, turned=False, joined=False)
        elif len(shape) == 2 and whole.native[1:] == shape[::-1] and telling:
            yield Bundle(whole, parts, turned=True, joined=False)
    for rest in dict.fromkeys(shape[1:] for shape in shapes if len(shape) > 1):
        parts = tuple(o for o in others if len(o.native) > 1 and o.native[1:] == rest)
        rows = sum(part.native[0] for part in parts)
        if len(parts) > 1 and whole.native == (rows, *rest):
            yield Bundle(whole, parts, turned=False, joined=True)


def fused_unknown(reference: Sequence[Parameter], port: Sequence[Parameter]) -> str:
    """What is left over on both sides and has as many values as several of the other side.

    A kernel of a recurrent cell for input and state together, say: it is fused in a way that is
    not known here, and to judge without it would accuse a right port.

    Args:
        reference: parameters of the reference without a partner.
        port: parameters of the port without a partner.

    Returns:
        In words, for a message; "" if there is no such thing.
    """
    for role, wholes, others in (("reference", reference, port), ("port", port, reference)):
        parts = [p for p in others if len(p.shape) > 1][:MOST]
        for whole in (p for p in wholes if len(p.shape) > 1):
            for chosen in several(parts):
                if sum(math.prod(part.shape) for part in chosen) == math.prod(whole.shape):
                    names = ", ".join(f"{part.name} {part.shape}" for part in chosen)
                    return (
                        f"the {role}'s {whole.name} {whole.shape} has as many values as {names} "
                        f"of the other side together"
                    )
    return ""


def several(parts: Sequence[Parameter]) -> Iterator[tuple[Parameter, ...]]:
    """Every two to four of them."""
    for count in range(2, min(len(parts), 4) + 1):
        yield from itertools.combinations(parts, count)
