"""Which unit of the reference is which of the port: by shapes, kinds, order and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np

from pytest_fwcompare.weights.assign import FORBIDDEN, hungarian
from pytest_fwcompare.weights.blocks import MISSING, Pairing
from pytest_fwcompare.weights.pairs import pair
from pytest_fwcompare.weights.trees import Unit
from pytest_fwcompare.weights.words import Vocabulary, agree, words

NAMES = 0.8
"""Cost of two names with nothing in common: less than leaving any two parameters alone."""

MOST_PARTS = 4
"""Units that may be one fused unit of the other side."""

TELLING = 0.08
"""Difference of likeness from which names decide between two pairings."""

REORDERED = 1.0
"""By how much pairs out of order must be cheaper than pairs in order."""

Group = tuple[tuple[int, ...], tuple[int, ...]]
"""Indices of units of the reference and of the port that are one layer."""


@dataclass
class Aligner:
    """Costs of pairing the units of two sides, kept by signature.

    Attributes:
        ordered: both sides list their parameters in the order of definition.
        defined: they do, and not in the order of use.
        backwards: the last number of the port's names counts the layers.
    """

    reference: Sequence[Unit]
    port: Sequence[Unit]
    ordered: bool
    defined: bool = True
    costs: dict[tuple[object, ...], float] = field(default_factory=dict)
    vocabulary: Vocabulary = field(init=False)
    classes: tuple[list[int], list[int]] = field(init=False)
    likenesses: dict[tuple[int, int], float] = field(default_factory=dict)
    pairings: dict[Group, Pairing | None] = field(default_factory=dict)
    backwards: bool = False

    def __post_init__(self) -> None:
        self.vocabulary = Vocabulary(
            [[u.path for u in side] for side in (self.reference, self.port)]
        )
        numbers: dict[tuple[object, ...], int] = {}
        self.classes = tuple(  # type: ignore[assignment]
            [numbers.setdefault(unit.signature, len(numbers)) for unit in side]
            for side in (self.reference, self.port)
        )

    @cached_property
    def kernels(self) -> tuple[list[int], list[int]]:
        """Kernel values of all units up to each place, for both sides."""
        ones, others = (
            list(accumulate((unit.kernel_size for unit in side), initial=0))
            for side in (self.reference, self.port)
        )
        return ones, others

    def likeness(self, one: int, other: int) -> float:
        """How alike the names of two units are, 0 to 1."""
        if (one, other) not in self.likenesses:
            first, second = self.reference[one], self.port[other]
            numbers = second.numbers[::-1] if self.backwards else second.numbers
            self.likenesses[one, other] = self.vocabulary.likeness(
                first.path, second.path, first.numbers, numbers
            )
        return self.likenesses[one, other]

    def fit(self, ones: tuple[int, ...], others: tuple[int, ...]) -> float:
        """Cost of a pairing by shapes and kinds alone."""
        key = (
            tuple(self.classes[0][i] for i in ones),
            tuple(self.classes[1][j] for j in others),
        )
        if key not in self.costs:
            found = self.pairing((ones, others))
            extra = 0.2 * (len(ones) + len(others) - 2)
            self.costs[key] = FORBIDDEN if found is None else found.cost + extra
        return self.costs[key]

    def cost(self, ones: tuple[int, ...], others: tuple[int, ...]) -> float:
        """Cost of a pairing, names included."""
        plain = self.fit(ones, others)
        if plain >= FORBIDDEN:
            return plain
        likeness = [self.likeness(i, j) for i in ones for j in others]
        return plain + NAMES * (1 - sum(likeness) / len(likeness))

    def pairing(self, group: Group) -> Pairing | None:
        """The parameters' pairing inside a group; kept, as plans have most groups in common."""
        if group not in self.pairings:
            ones, others = group
            self.pairings[group] = pair(
                [self.reference[i] for i in ones], [self.port[j] for j in others]
            )
        return self.pairings[group]

    def can_be_parts(self, ones: Sequence[Unit], others: Sequence[Unit]) -> bool:
        """Whether one unit and several have equally many values in kernels."""
        sizes = [sum(unit.kernel_size for unit in side) for side in (ones, others)]
        without = sum(not unit.kernel_size for unit in (*ones, *others))
        return sizes[0] == sizes[1] > 0 and without <= 1

    def align(self) -> list[list[Group]]:
        """Ways to pair all units, the likeliest first, each in the reference's order."""
        found = []
        if self.ordered:
            groups = self.in_order()
            if self.reads_backwards(groups):
                self.backwards = True
                self.likenesses.clear()
                groups = self.in_order()
            groups += self.leftovers(groups)
            found.append(groups)
            if any(self.alone(groups)) or any(len(one) + len(two) > 2 for one, two in groups):
                free = self.all_free()
                first = self.total(free) < self.total(groups) - REORDERED
                found.insert(0 if first else 1, free)
        else:
            found.append(self.all_free())
        if self.defined and (made := self.as_made(found[0])) != sorted(found[0]):
            found.insert(0, made)
        ways = [sorted(self.named_swaps(found[0])), *map(sorted, found)]
        return [way for place, way in enumerate(ways) if way not in ways[:place]]

    def reads_backwards(self, groups: Sequence[Group]) -> bool:
        """Whether the port's names count layers last ("norm2_0"), as the order of both tells."""
        straight = reverse = 0.0
        count = 0
        for one, two in groups:
            if len(one) != 1 or len(two) != 1:
                continue
            first, second = self.reference[one[0]].numbers, self.port[two[0]].numbers
            if first and len(second) > 1:
                count += 1
                straight += agree(first, second)
                reverse += agree(first, second[::-1])
        return count > 1 and reverse > straight and reverse >= 0.85 * count

    def all_free(self) -> list[Group]:
        """Groups of least cost where the order of definition says nothing."""
        groups = self.any_order(range(len(self.reference)), range(len(self.port)))
        return groups + self.leftovers(groups)

    def total(self, groups: Sequence[Group]) -> float:
        """Cost of all groups and of all that is in none."""
        rows, columns = self.alone(groups)
        skipped = [self.reference[i] for i in rows] + [self.port[j] for j in columns]
        return sum(self.cost(*group) for group in groups) + sum(map(skip_cost, skipped))

    def in_order(self) -> list[Group]:
        """Monotone alignment of least cost (dynamic programming over both lists)."""
        rows, columns = len(self.reference), len(self.port)
        skip = [[skip_cost(unit) for unit in side] for side in (self.reference, self.port)]
        best = np.full((rows + 1, columns + 1), np.inf)
        best[0, 0] = 0.0
        step: dict[tuple[int, int], tuple[int, int]] = {}
        for i in range(rows + 1):
            for j in range(columns + 1):
                for a, b in self.moves(i, j):
                    if a and b:
                        ones, others = tuple(range(i - a, i)), tuple(range(j - b, j))
                        cost = self.cost(ones, others)
                    else:
                        cost = skip[0][i - 1] if a else skip[1][j - 1]
                    if best[i - a, j - b] + cost < best[i, j]:
                        best[i, j] = best[i - a, j - b] + cost
                        step[i, j] = (a, b)
        groups: list[Group] = []
        i, j = rows, columns
        while i or j:
            a, b = step[i, j]
            if a and b:
                groups.append((tuple(range(i - a, i)), tuple(range(j - b, j))))
            i, j = i - a, j - b
        return groups[::-1]

    def moves(self, i: int, j: int) -> list[tuple[int, int]]:
        """Numbers of units of both sides that may end at that place of the alignment."""
        found = []
        if i:
            found.append((1, 0))
        if j:
            found.append((0, 1))
        if i and j:
            found.append((1, 1))
            for count in range(2, MOST_PARTS + 1):
                for a, b in ((1, count), (count, 1)):
                    if a <= i and b <= j and self.equal_kernels(i, j, a, b):
                        ones, others = self.reference[i - a : i], self.port[j - b : j]
                        if self.can_be_parts(ones, others):
                            found.append((a, b))
        return found

    def equal_kernels(self, i: int, j: int, a: int, b: int) -> bool:
        """Whether the last a and b units before that place hold equally many kernel values."""
        ones, others = self.kernels
        return ones[i] - ones[i - a] == others[j] - others[j - b]

    def any_order(self, rows: Sequence[int], columns: Sequence[int]) -> list[Group]:
        """Pairs of least cost whatever their order; order only breaks ties."""
        cost = np.full((len(rows), len(columns)), FORBIDDEN)
        for a, i in enumerate(rows):
            for b, j in enumerate(columns):
                cost[a, b] = self.cost((i,), (j,))
                if cost[a, b] < FORBIDDEN:
                    cost[a, b] += 0.1 * abs(i / len(self.reference) - j / len(self.port))
        skips = [
            np.array([skip_cost(side[i]) for i in some])
            for side, some in ((self.reference, rows), (self.port, columns))
        ]
        return [((rows[a],), (columns[b],)) for a, b in hungarian(cost, skips[0], skips[1])]

    def leftovers(self, groups: Sequence[Group]) -> list[Group]:
        """Pair what no group has: one with one, then one with several next to each other."""
        rows, columns = self.alone(groups)
        found = self.any_order(rows, columns)
        rows, columns = self.alone([*groups, *found])
        for count in range(MOST_PARTS, 1, -1):
            for forwards in (True, False):
                few, many = (rows, columns) if forwards else (columns, rows)
                for one in list(few):
                    for start in range(len(many) - count + 1):
                        parts = tuple(many[start : start + count])
                        group = ((one,), parts) if forwards else (parts, (one,))
                        sides = (
                            [self.reference[i] for i in group[0]],
                            [self.port[j] for j in group[1]],
                        )
                        if self.can_be_parts(*sides) and self.cost(*group) < FORBIDDEN:
                            found.append(group)
                            few.remove(one)
                            for part in parts:
                                many.remove(part)
                            break
        return found

    def alone(self, groups: Sequence[Group]) -> tuple[list[int], list[int]]:
        """Indices of units in no group."""
        taken = [{k for group in groups for k in group[side]} for side in (0, 1)]
        return (
            [i for i in range(len(self.reference)) if i not in taken[0]],
            [j for j in range(len(self.port)) if j not in taken[1]],
        )

    def exchangeable(self, groups: Sequence[Group]) -> list[list[Group]]:
        """Groups of one unit each whose pairs could be exchanged as far as shapes tell."""
        classes: dict[tuple[int, int], list[Group]] = {}
        for group in sorted(groups):
            if len(group[0]) == len(group[1]) == 1:
                key = (self.classes[0][group[0][0]], self.classes[1][group[1][0]])
                classes.setdefault(key, []).append(group)
        return [some for some in classes.values() if len(some) > 1]

    def as_made(self, groups: list[Group]) -> list[Group]:
        """Pairs of equal shapes in the order in which both sides made their layers.

        A functional model of Keras lists its layers by their distance from the outputs, so that
        those of two branches come mixed. The numbers in names that nobody gave tell the order in
        which they were written down.
        """
        fixed = list(groups)
        for some in self.exchangeable(groups):
            alike: dict[tuple[str, str], list[Group]] = {}
            for group in some:
                names = [unit.counted[0] if unit.counted else "" for unit in self.units(group)]
                if any(names):
                    alike.setdefault((names[0], names[1]), []).append(group)
            for members in alike.values():
                ones, others = (
                    sorted(
                        (group[side][0] for group in members),
                        key=lambda k: units[k].counted or ("", k),
                    )
                    for side, units in enumerate((self.reference, self.port))
                )
                fixed = [group for group in fixed if group not in members]
                fixed += [((i,), (j,)) for i, j in zip(ones, others, strict=True)]
        return sorted(fixed)

    def units(self, group: Group) -> tuple[Unit, Unit]:
        """The first unit of either side in a group."""
        return self.reference[group[0][0]], self.port[group[1][0]]

    def named_swaps(self, groups: list[Group]) -> list[Group]:
        """Exchange pairs of equal shapes where names clearly say so."""
        fixed = list(groups)
        for some in self.exchangeable(groups):
            others = [two for _, (two,) in some]
            rank = {two: place for place, two in enumerate(sorted(others))}
            # Squares, so that two pairs side by side are cheaper than two that cross.
            cost = np.array(
                [
                    [
                        1 - self.likeness(one, two) + 0.01 * (a - rank[two]) ** 2 / len(some)
                        for two in others
                    ]
                    for a, ((one,), _) in enumerate(some)
                ]
            )
            never = np.full(len(some), FORBIDDEN / 10)
            found = hungarian(cost, never, never)
            moved = [(a, b) for a, b in found if a != b]
            gain = sum(cost[a, a] - cost[a, b] for a, b in moved)
            if moved and gain > TELLING * len(moved) / 2:
                for a, b in moved:
                    fixed.remove(some[a])
                    fixed.append((some[a][0], some[b][1]))
        return fixed

    def told_apart(self, one: Group, other: Group) -> bool:
        """Whether names say that two pairs must not be exchanged.

        Both pairs must say so: a norm "before" and one "after" something are not told apart by
        what the name of one alone has in common with a name of the other side.
        """
        (i,), (j,) = one
        (k,), (m,) = other
        straight = self.likeness(i, j) + self.likeness(k, m)
        if straight - self.likeness(i, m) - self.likeness(k, j) <= TELLING:
            return False
        marks = [[self.marks[0][a], self.marks[1][b]] for a, b in ((i, j), (k, m))]
        shared = [pair[0] & pair[1] for pair in marks]
        return all(
            mine - theirs or pair[0] == pair[1]
            for mine, theirs, pair in zip(shared, reversed(shared), marks, strict=True)
        )

    @cached_property
    def marks(self) -> list[list[frozenset[object]]]:
        """What names of each side say: words that not all have, and depth numbers by place."""
        made: list[list[frozenset[object]]] = []
        for side in (self.reference, self.port):
            found: list[frozenset[object]] = [frozenset(words(unit.path)) for unit in side]
            common = frozenset.intersection(*found) if found else frozenset()
            made.append(
                [
                    frozenset([*(some - common), *enumerate(unit.numbers)])
                    for some, unit in zip(found, side, strict=True)
                ]
            )
        return made


def skip_cost(unit: Unit) -> float:
    """Cost of leaving a unit alone."""
    return sum(MISSING.get(slot.role, 0.8) for slot in unit.slots)
