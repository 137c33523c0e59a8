"""Where two float64 passes stop agreeing, and how parameters could be paired there instead.

Up to some tensor the port holds every value of the reference; the first one it lacks was computed
from tensors that both have. Only parameters that go in between can be paired wrongly: few enough
to try every way. So a deep network is paired block by block, never by the product of all orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, permutations

from pytest_fwcompare.backends.base import Recorded
from pytest_fwcompare.diagnose.align import Alignment
from pytest_fwcompare.weights.align import MOST_PARTS, Aligner, Group
from pytest_fwcompare.weights.mapping import Frontier
from pytest_fwcompare.weights.usage import Use, uses_of
from pytest_fwcompare.weights.words import words

MOST_WAYS = 40
"""Pairings of one place tried at most: six orders of a fused projection with a few head counts."""


# Where ------------------------------------------------------------------------------------------


def frontiers_of(
    reference: Sequence[Recorded], port: Sequence[Recorded], alignment: Alignment
) -> tuple[Frontier, ...]:
    """Places where parameters may be paired wrongly, nearest to the first tensor not found.

    Args:
        reference: its records of a float64 pass.
        port: its records.
        alignment: of both, by value.
    """
    position = first_missing(reference, alignment)
    if position is None:
        return ()
    ours, theirs = Flow(reference), Flow(port)
    indices = {record.index: place for place, record in enumerate(reference)}
    places: dict[tuple[int, ...], None] = {}
    for use in ours.before(reference[position].index):
        places.setdefault(use.data)
    found = []
    for data in places:
        names = [name for use in ours.uses.values() if use.data == data for name in use.names]
        shared: list[int] = []
        for index in data:
            place = indices[index]
            if alignment.telling[place]:
                shared += [port[match.index].index for match in alignment.matches[place]]
            else:
                shared += [r.index for r in port if r.operation == "input"]
        others = [name for use in theirs.after(shared) for name in use.names]
        if names and others:
            found.append(Frontier(tuple(dict.fromkeys(names)), tuple(dict.fromkeys(others))))
    return tuple(found)


def first_missing(reference: Sequence[Recorded], alignment: Alignment) -> int | None:
    """Position of the first operation of the reference whose value the port lacks."""
    for position, record in enumerate(reference):
        if not record.is_module and not alignment.found(position):
            return position
    return None


class Flow:
    """What is computed from what in one recorded pass.

    Attributes:
        uses: by index of their record, the operations that take parameters.
    """

    def __init__(self, records: Sequence[Recorded]) -> None:
        self.inputs = {r.index: r.inputs for r in records if not r.is_module}
        self.uses = {use.index: use for use in uses_of(records)}
        self.takers: dict[int, list[int]] = {}
        for index, inputs in self.inputs.items():
            for one in inputs:
                self.takers.setdefault(one, []).append(index)

    def before(self, index: int) -> list[Use]:
        """The nearest uses upstream of a record, itself included, in order."""
        return self._nearest([index], self.inputs)

    def after(self, indices: Sequence[int]) -> list[Use]:
        """The nearest uses downstream of records, in order."""
        starts = [taker for index in indices for taker in self.takers.get(index, ())]
        return self._nearest(starts, self.takers)

    def _nearest(self, starts: Sequence[int], edges: dict[int, Sequence[int]]) -> list[Use]:
        found: dict[int, Use] = {}
        seen, waiting = set(starts), list(starts)
        while waiting:
            index = waiting.pop()
            if index in self.uses:
                found[index] = self.uses[index]
                continue
            for other in edges.get(index, ()):
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
        return [found[index] for index in sorted(found)]


# How --------------------------------------------------------------------------------------------


def ways(aligner: Aligner, frontier: Frontier) -> Iterator[tuple[Group, ...]]:
    """Ways to pair the layers of a frontier, one with one or one with several that it fuses.

    Args:
        aligner: of the units of both sides.
        frontier: names of parameters of both sides.
    """
    ours = units_of(aligner.reference, frontier.reference)
    theirs = units_of(aligner.port, frontier.port)
    yield from islice(fused(aligner, ours, theirs), MOST_WAYS)
    yield from islice(one_by_one(aligner, ours, theirs), MOST_WAYS)


def units_of(units: Sequence[object], names: Sequence[str]) -> list[int]:
    """Places of the units that hold any of those parameters, in order."""
    wanted = set(names)
    return [
        place
        for place, unit in enumerate(units)
        if any(slot.name in wanted for slot in unit.slots)  # type: ignore[attr-defined]
    ]


def fused(
    aligner: Aligner, ours: Sequence[int], theirs: Sequence[int]
) -> Iterator[tuple[Group, ...]]:
    """One layer of a side made of several of the other, in every order."""
    for count in range(min(MOST_PARTS, max(len(ours), len(theirs))), 1, -1):
        for few, many, forwards in ((theirs, ours, True), (ours, theirs, False)):
            for one in few:
                whole = (aligner.port if forwards else aligner.reference)[one]
                for parts in permutations(many, count):
                    group = (parts, (one,)) if forwards else ((one,), parts)
                    if says_its_order(whole.path) and list(parts) != sorted(parts):
                        continue
                    sides = (
                        [aligner.reference[i] for i in group[0]],
                        [aligner.port[j] for j in group[1]],
                    )
                    if aligner.can_be_parts(*sides) and aligner.pairing(group) is not None:
                        yield (group,)


def says_its_order(path: str) -> bool:
    """Whether a fused layer's name says what it holds, and so in which order."""
    known = {"query", "key", "value", "qkv", "kv", "qk"}
    return bool(known & set(words(path)))


def one_by_one(
    aligner: Aligner, ours: Sequence[int], theirs: Sequence[int]
) -> Iterator[tuple[Group, ...]]:
    """Every way to give as many layers as possible a partner of the other side that fits."""
    fits = {
        (i, j): aligner.pairing(((i,), (j,))) is not None for i in ours for j in theirs
    }
    mine = [i for i in ours if any(fits[i, j] for j in theirs)]
    others = [j for j in theirs if any(fits[i, j] for i in ours)]
    few, many = (mine, others) if len(mine) <= len(others) else (others, mine)
    for chosen in permutations(many, len(few)):
        pairs = [
            (one, other) if few is mine else (other, one)
            for one, other in zip(few, chosen, strict=True)
        ]
        if pairs and all(fits[pair] for pair in pairs):
            yield tuple(((i,), (j,)) for i, j in pairs)


def regrouped(
    aligner: Aligner, groups: Sequence[Group], chosen: Sequence[Group]
) -> tuple[Group, ...]:
    """Groups with those chosen among them; who lost a partner gets one of what is left."""
    taken = [{k for group in chosen for k in group[side]} for side in (0, 1)]
    kept = [
        group
        for group in groups
        if not (taken[0].intersection(group[0]) or taken[1].intersection(group[1]))
    ]
    made = [*kept, *chosen]
    return tuple(sorted([*made, *aligner.leftovers(made)]))
