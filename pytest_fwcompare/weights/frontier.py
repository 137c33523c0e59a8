"""Where two float64 passes stop agreeing, and how parameters could be paired there instead.

Up to some tensor the port holds every value of the reference; the first one it lacks was computed
from tensors that both have. Only parameters that go in between can be paired wrongly: few enough
to try every way. So a deep network is paired block by block, never by the product of all orders.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import islice, permutations

from pytest_fwcompare.backends.base import Recorded
from pytest_fwcompare.diagnose.align import Alignment
from pytest_fwcompare.weights.align import MOST_PARTS, Aligner, Group
from pytest_fwcompare.weights.mapping import Branches, Frontier
from pytest_fwcompare.weights.trees import Unit
from pytest_fwcompare.weights.usage import Use, uses_of
from pytest_fwcompare.weights.words import words

MOST_WAYS = 40
"""Pairings of one place tried at most: six orders of a fused projection with a few head counts."""


# Where ------------------------------------------------------------------------------------------


def frontiers_of(
    reference: Sequence[Recorded],
    port: Sequence[Recorded],
    alignment: Alignment,
    vectors: Container[str] = (),
) -> tuple[Frontier, ...]:
    """Places where parameters may be paired wrongly, nearest to the first tensor not found.

    Args:
        reference: its records of a float64 pass.
        port: its records.
        alignment: of both, by value.
        vectors: names of both sides' parameters that are no matrices.
    """
    position = first_missing(reference, alignment)
    if position is None:
        return ()
    ours = Flow(reference, vectors, {r.index for r in found_records(reference, alignment)})
    there = {port[match.index].index for some in alignment.matches for match in some}
    theirs = Flow(port, vectors, there)
    places = {record.index: place for place, record in enumerate(reference)}
    near: dict[tuple[int, ...], list[Use]] = {}
    suspects = ours.before([reference[position].index])
    # What goes in may be permuted itself where only the order of its parts differs.
    for use in [*suspects, *(u for s in suspects for u in ours.before(s.data))]:
        near.setdefault(use.data, []).append(use)
    found = []
    for data, core in near.items():
        beside = [u for u in ours.uses.values() if u.data == data and not ours.confirmed(u)]
        shared: list[int] = []
        for index in data:
            if alignment.telling[places[index]]:
                shared += [port[m.index].index for m in alignment.matches[places[index]]]
            else:
                shared += [record.index for record in port if record.operation == "input"]
        others = [use for use in theirs.first_after(shared) if not theirs.confirmed(use)]
        branches = ours.branches_beside(core)
        if others or branches:
            both = names_of([*core, *beside])
            found.append(Frontier(names_of(core), both, names_of(others), branches))
    return tuple(found)


def names_of(uses: Sequence[Use]) -> tuple[str, ...]:
    """Names of the parameters of several uses, each once."""
    return tuple(dict.fromkeys(name for use in uses for name in use.names))


def found_records(records: Sequence[Recorded], alignment: Alignment) -> Iterator[Recorded]:
    """Records of the reference whose values tell something and are in the port."""
    for position, record in enumerate(records):
        if alignment.telling[position] and alignment.matches[position]:
            yield record


def first_missing(reference: Sequence[Recorded], alignment: Alignment) -> int | None:
    """Position of the first operation of the reference whose value the port should have and lacks.

    What a port does not compute is no sign of a wrong pair: something that comes of it is found
    nevertheless, or nothing comes of it at all (the last states of a recurrent layer).
    """
    there = {record.index for record in found_records(reference, alignment)}
    takers: dict[int, list[int]] = {}
    for record in reference:
        if not record.is_module:
            for index in record.inputs:
                takers.setdefault(index, []).append(record.index)
    passed: set[int] = set()
    for record in reversed(reference):
        if any(taker in there or taker in passed for taker in takers.get(record.index, ())):
            passed.add(record.index)
    missing = [
        position
        for position, record in enumerate(reference)
        if not record.is_module and not alignment.found(position) and record.index not in passed
    ]
    used = [position for position in missing if takers.get(reference[position].index)]
    return next(iter(used or missing), None)


class Flow:
    """What is computed from what in one recorded pass.

    Args:
        records: of the pass.
        vectors: names of parameters that are no matrices.
        agreed: indices of records whose values the other side has too.
    """

    def __init__(
        self, records: Sequence[Recorded], vectors: Container[str], agreed: Container[int]
    ) -> None:
        self.inputs = {r.index: r.inputs for r in records if not r.is_module}
        self.uses = {use.index: use for use in uses_of(records)}
        self.vectors, self.agreed = vectors, agreed
        self._branches: dict[int, tuple[Use, ...]] = {}
        self.takers: dict[int, list[int]] = {}
        for index, inputs in self.inputs.items():
            for one in inputs:
                self.takers.setdefault(one, []).append(index)

    def before(self, indices: Sequence[int]) -> list[Use]:
        """The nearest uses upstream of records, themselves included, in order."""
        return self._nearest(indices, self.inputs)

    def after(self, indices: Sequence[int]) -> list[Use]:
        """The nearest uses downstream of records, in order."""
        starts = [taker for index in indices for taker in self.takers.get(index, ())]
        return self._nearest(starts, self.takers)

    def first_after(self, indices: Sequence[int]) -> list[Use]:
        """The nearest uses downstream, but for those that come of others of them.

        A residual connection leads past a block to the next one, whose turn comes later.
        """
        found = self.after(indices)
        waiting = [taker for use in found for taker in self.takers.get(use.index, ())]
        later = set(waiting)
        while waiting:
            for taker in self.takers.get(waiting.pop(), ()):
                if taker not in later:
                    later.add(taker)
                    waiting.append(taker)
        return [use for use in found if use.index not in later]

    def confirmed(self, use: Use) -> bool:
        """Whether a matrix that takes what comes of a use gives values both sides have.

        The values right behind a use are no proof: two layers that take one tensor give the same
        values when they are exchanged.
        """
        return any(
            other.index in self.agreed
            for other in self._nearest(self.takers.get(use.index, ()), self.takers, matrices=True)
        )

    def branch(self, use: Use) -> tuple[Use, ...]:
        """The uses that lead to one from a tensor that others take too, its own last."""
        found = [use]
        while len(self.after(found[0].data)) == 1:
            before = self.before(found[0].data)
            if len(before) != 1 or before[0] in found:
                break
            found.insert(0, before[0])
        return tuple(found)

    def branches_beside(self, core: Sequence[Use]) -> tuple[Branches, ...]:
        """Branches of one beginning and length with those that end in `core`, which come first.

        One of several experts, heads or towers: all its layers change places together.
        """
        if not self._branches:
            self._branches = {use.index: self.branch(use) for use in self.uses.values()}
        made = []
        for use in core:
            mine = self._branches[use.index]
            if len(mine) > 1:
                alike = [
                    tuple(names_of([step]) for step in other)
                    for other in self._branches.values()
                    if len(other) == len(mine) and other[0].data == mine[0].data
                ]
                own = tuple(names_of([step]) for step in mine)
                if len(alike) > 1:
                    made.append((own, *(other for other in alike if other != own)))
        return tuple(made)

    def _nearest(
        self, starts: Sequence[int], edges: Mapping[int, Sequence[int]], matrices: bool = False
    ) -> list[Use]:
        """The first uses on all ways from some records; of matrices only, if asked."""
        found: dict[int, Use] = {}
        seen, waiting = set(starts), list(starts)
        while waiting:
            index = waiting.pop()
            use = self.uses.get(index)
            if use and not (matrices and all(name in self.vectors for name in use.names)):
                found[index] = use
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
    core = set(units_of(aligner.reference, frontier.core))

    def near(groups: Iterator[tuple[Group, ...]]) -> Iterator[tuple[Group, ...]]:
        some = (way for way in groups if any(core & set(group[0]) for group in way))
        return islice(some, MOST_WAYS)

    yield from near(fused(aligner, ours, theirs))
    yield from near(one_by_one(aligner, ours, theirs))


def units_of(units: Sequence[Unit], names: Sequence[str]) -> list[int]:
    """Places of the units that hold any of those parameters, in order."""
    wanted = set(names)
    return [
        place
        for place, unit in enumerate(units)
        if any(slot.name in wanted for slot in unit.slots)
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


def other_orders(
    aligner: Aligner, groups: Sequence[Group], frontier: Frontier
) -> Iterator[tuple[Group, ...]]:
    """A fused layer of a plan at a frontier, its parts in other orders.

    Of two parts one may be found on both sides already, and so be no part of the frontier.
    """
    ours = set(units_of(aligner.reference, frontier.reference))
    for ones, others in groups:
        if len(ones) == len(others) or not ours & set(ones):
            continue
        if order_is_told(aligner, (ones, others)):
            continue
        forwards = len(ones) > 1
        for parts in permutations(ones if forwards else others):
            group = (parts, others) if forwards else (ones, parts)
            if group != (ones, others) and aligner.pairing(group) is not None:
                yield (group,)


def says_its_order(path: str) -> bool:
    """Whether a fused layer's name says what it holds, and so in which order."""
    said = set(words(path))
    # One name alone, or the letter k of a path, tells nothing of what else there is.
    return bool(said & {"qkv", "kv", "qk"}) or len(said & {"query", "key", "value"}) > 1


def denies_order(aligner: Aligner, groups: Sequence[Group]) -> bool:
    """Whether a fused layer takes its parts in an order that names deny.

    A port that takes them so is split at the wrong places.
    """
    return any(
        list(side) != sorted(side) and order_is_told(aligner, group)
        for group in groups
        for side in group
    )


def leaves_order_open(aligner: Aligner, groups: Sequence[Group]) -> bool:
    """Whether a fused layer may hold its parts in another order."""
    return any(
        len(group[0]) != len(group[1]) and not order_is_told(aligner, group) for group in groups
    )


def order_is_told(aligner: Aligner, group: Group) -> bool:
    """Whether names tell in which order a fused layer holds its parts.

    Query, key and value have a usual order, and "kv" says its own. Of a gate and what it gates,
    two heads or two branches no order is usual: any is a layout, and the values decide.
    """
    sides = [aligner.reference[i] for i in group[0]], [aligner.port[j] for j in group[1]]
    apart, whole = sorted(sides, key=len, reverse=True)
    projections = [frozenset(words(u.path)) & {"query", "key", "value"} for u in apart]
    # A gate beside a "value" is no attention: two of the three names make one. What all have in
    # common is their parent's.
    said = frozenset.union(*projections) - frozenset.intersection(*projections)
    return says_its_order(whole[0].path) or len(said) > 1


def one_by_one(
    aligner: Aligner, ours: Sequence[int], theirs: Sequence[int]
) -> Iterator[tuple[Group, ...]]:
    """Every way to give as many layers as possible a partner of the other side that fits."""
    fitting = {(i, j): aligner.pairing(((i,), (j,))) is not None for i in ours for j in theirs}
    mine = [i for i in ours if any(fitting[i, j] for j in theirs)]
    others = [j for j in theirs if any(fitting[i, j] for i in ours)]
    few, many = (mine, others) if len(mine) <= len(others) else (others, mine)
    if len(few) > MOST_PARTS:
        # Too many for all orders: one pair at a time.
        yield from ((((i,), (j,)),) for i in ours for j in theirs if fitting[i, j])
        return
    for chosen in permutations(many, len(few)):
        pairs = [
            (one, other) if few is mine else (other, one)
            for one, other in zip(few, chosen, strict=True)
        ]
        if pairs and all(fitting[pair] for pair in pairs):
            yield tuple(((i,), (j,)) for i, j in pairs)


def exchanged(
    aligner: Aligner, groups: Sequence[Group], frontier: Frontier
) -> Iterator[tuple[Group, ...]]:
    """Groups with the partners of whole branches exchanged: of two, then of all a few of them."""
    for branches in frontier.branches:
        units = [
            [tuple(units_of(aligner.reference, names)) for names in branch] for branch in branches
        ]
        count = len(units)
        orders = [_swap(count, 0, other) for other in range(1, count)]
        if count <= MOST_PARTS:
            orders += [o for o in permutations(range(count)) if o not in orders]
        partner = dict(groups)
        for order in orders[:MOST_WAYS]:
            moved = [
                (one, partner.get(units[source][place], ()))
                for branch, source in zip(units, order, strict=True)
                for place, one in enumerate(branch)
            ]
            changed = any(partner.get(one) != two for one, two in moved)
            if changed and all(one and two and aligner.pairing((one, two)) for one, two in moved):
                yield tuple({**partner, **dict(moved)}.items())


def _swap(count: int, one: int, other: int) -> tuple[int, ...]:
    order = list(range(count))
    order[one], order[other] = other, one
    return tuple(order)


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
