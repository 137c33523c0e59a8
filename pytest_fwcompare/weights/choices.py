"""The questions that a best guess leaves: axis orders, and which of equal shapes is which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import Protocol

from pytest_fwcompare.weights.align import Aligner, Group
from pytest_fwcompare.weights.blocks import Draft
from pytest_fwcompare.weights.conversions import UNDOCUMENTED, UNORDERED
from pytest_fwcompare.weights.plans import Choice, Plan
from pytest_fwcompare.weights.transforms import Transform
from pytest_fwcompare.weights.words import template


class Guess(Protocol):
    """What is asked of a best guess, to find the questions that it leaves; see `Candidates`."""

    aligner: Aligner
    plan: Plan
    siblings: tuple[tuple[str, ...], ...]

    def drafts(self) -> list[Draft]:
        """Every pair of the plan with the ways to read it."""

    def question(self, draft: Draft) -> str:
        """Name of the layout question of a draft."""


def voted(made: Guess) -> tuple[tuple[str, int], ...]:
    """For each layout question, the answer that layers with unequal sizes give."""
    votes: dict[str, Counter[Transform]] = {}
    drafts = made.drafts()
    for draft in drafts:
        if len(draft.options) == 1:
            votes.setdefault(made.question(draft), Counter())[draft.options[0][0]] += 1
    chosen = []
    for draft in drafts:
        known = votes.get(made.question(draft))
        if len(draft.options) > 1 and known:
            transforms = [option[0] for option in draft.options]
            number = max(range(len(transforms)), key=lambda n: (known[transforms[n]], -n))
            chosen.append((draft.port, number))
    return tuple(chosen)


def layout_choices(made: Guess) -> list[Choice]:
    """One choice for each kind of parameter whose axis order is open, then for each parameter."""
    questions: dict[str, list[Draft]] = {}
    for draft in made.drafts():
        if len(draft.options) > 1:
            questions.setdefault(made.question(draft), []).append(draft)
    layouts = dict(made.plan.layouts)
    found = []
    for question, drafts in questions.items():
        whole = len(drafts) == 1 or bool(drafts[0].layout)
        sets = [drafts] if whole else [drafts, *([draft] for draft in drafts)]
        for some in sets:
            now = layouts.get(some[0].port, 0)
            many = UNORDERED in some[0].options[0][1]
            answers = tuple(
                (
                    some[0].options[n][1] + ("" if many else f": {some[0].options[n][0]!r}"),
                    with_layout([d.port for d in some], n),
                )
                for n in range(min(len(d.options) for d in some))
                if n != now
            )
            kind = question if some[0].layout else f"axis order of {question}"
            text = f"{kind}: " + ", ".join(draft.port for draft in some)
            touched = frozenset(source for draft in some for source in draft.sources)
            unvoted = some is drafts and not any(draft.port in layouts for draft in some)
            guess = unvoted and some[0].options[0][1] == UNDOCUMENTED
            habit = unvoted and not guess and not some[0].layout
            made_of = Choice(text, answers, touched, guess or many, habit, layout=True)
            found.append(replace(made_of, exhaustive=many))
    return found


def with_layout(ports: Sequence[str], number: int) -> Callable[[Plan], Plan]:
    """Choose one layout for those parameters of the port."""

    def change(plan: Plan) -> Plan:
        layouts = {**dict(plan.layouts), **dict.fromkeys(ports, number)}
        return replace(plan, layouts=tuple(layouts.items()))

    return change


MOST_SIBLINGS = 4
"""Of so many all orders are tried."""


def sibling_choices(made: Guess) -> list[Choice]:
    """Other orders of layers that take one tensor: in all such places alike, then in each."""
    sets = [found for names in made.siblings if (found := _sibling_units(made, names))]
    places: dict[int, list[list[tuple[int, ...]]]] = {}
    for some in sets:
        places.setdefault(len(some), []).append(some)
    choices = []
    for count, alike in places.items():
        for chosen in [alike, *([one] for one in alike)] if len(alike) > 1 else [alike]:
            paths = [made.aligner.reference[ones[0]].path for ones in chosen[0]]
            slots = [
                s for ones in chosen for (i,) in ones for s in made.aligner.reference[i].slots
            ]
            answers = tuple(
                (
                    "in the order " + ", ".join(paths[place] for place in order),
                    _reordered(chosen, order),
                )
                for order in permutations(range(count))
                if order != tuple(range(count))
            )
            text = f"the order of {', '.join(paths)}" + (
                f" and {len(chosen) - 1} more such sets" if len(chosen) > 1 else ""
            )
            names = frozenset(slot.name for slot in slots)
            choices.append(Choice(text, answers, names, chosen is not alike or len(alike) == 1))
    return choices


def _sibling_units(made: Guess, names: Sequence[str]) -> list[tuple[int, ...]]:
    """The reference's units of those parameters, if shapes allow to exchange what they pair with.

    Sets of which names tell any apart are left alone.
    """
    holders = {
        slot.name: i for i, unit in enumerate(made.aligner.reference) for slot in unit.slots
    }
    wanted = [(holders[name],) for name in names if name in holders]
    for some in made.aligner.exchangeable(made.plan.groups):
        mine = [group for group in some if group[0] in wanted]
        apart = any(made.aligner.told_apart(one, other) for one, other in combinations(mine, 2))
        if 1 < len(mine) <= MOST_SIBLINGS and not apart:
            return [ones for ones, _ in mine]
    return []


def in_all_such_places(made: Guess, plan: Plan, moved: Plan) -> Plan | None:
    """A plan in which siblings everywhere are reordered as one set of them was.

    Who took query, key and value in an order of his own in one block did so in all of them.

    Args:
        made: knows which layers take one tensor.
        plan: before one set of them got other partners.
        moved: after it.

    Returns:
        None if that is not what moved, or there is no other such set.
    """
    units = made.aligner.reference
    holders = {slot.name: i for i, unit in enumerate(units) for slot in unit.slots}
    sets = [
        [(i,) for i in dict.fromkeys(holders[name] for name in names if name in holders)]
        for names in made.siblings
    ]
    before, after = dict(plan.groups), dict(moved.groups)
    for some in sets:
        was, now = ([partner.get(one) for one in some] for partner in (before, after))
        if was == now or len({*was}) < len(some) or {*was} != {*now}:
            continue
        others = [
            other
            for other in sets
            if other != some
            and [units[i].signature for (i,) in other] == [units[i].signature for (i,) in some]
            and [after.get(one) for one in other] == [before.get(one) for one in other]
        ]
        order = [was.index(partner) for partner in now]
        return _reordered(others, order)(moved) if others else None
    return None


def _reordered(
    sets: Sequence[Sequence[tuple[int, ...]]], order: Sequence[int]
) -> Callable[[Plan], Plan]:
    """Give each of a set the partner of another."""

    def change(plan: Plan) -> Plan:
        partner = dict(plan.groups)
        for ones in sets:
            if all(one in partner for one in ones):
                now = [partner[one] for one in ones]
                partner.update(zip(ones, (now[place] for place in order), strict=True))
        return replace(plan, groups=tuple(partner.items()))

    return change


def swap_choices(made: Guess) -> list[Choice]:
    """Pairs of equal shapes that names do not tell apart: all of a template, then single ones."""
    aligner = made.aligner
    whole, single = [], []
    for some in aligner.exchangeable(made.plan.groups):
        done = set()
        for a, one in enumerate(some):
            for other in some[a + 1 :]:
                if aligner.told_apart(one, other):
                    continue
                units_of = [aligner.reference[group[0][0]] for group in (one, other)]
                names = [unit.path for unit in units_of]
                touched = frozenset(s.name for unit in units_of for s in unit.slots)
                text = f"{names[0]} and {names[1]} could be exchanged"
                choice = Choice(
                    text,
                    (("exchanged", _swapped([(one[0], other[0])])),),
                    touched,
                    not aligner.ordered,
                )
                single.append((other[0][0] - one[0][0], choice))
                key = (template(names[0]), template(names[1]))
                twins = template_pairs(made, some, *key) if key not in done else []
                done.add(key)
                if len(twins) > 1:
                    text = f"all {key[0]} and {key[1]} could be exchanged"
                    whole.append(Choice(text, (("exchanged", _swapped(twins)),), touched, False))
    single.sort(key=lambda pair: pair[0])
    return [*whole, *(choice for _, choice in single)]


def template_pairs(
    made: Guess, groups: Sequence[Group], first: str, second: str
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of reference units of two templates that stand in one layer each."""
    if first == second:
        return []
    found: dict[tuple[int, ...], dict[str, tuple[int, ...]]] = {}
    for ones, _ in groups:
        unit = made.aligner.reference[ones[0]]
        if template(unit.path) in (first, second):
            found.setdefault(unit.numbers[:1], {})[template(unit.path)] = ones
    return [(both[first], both[second]) for both in found.values() if len(both) == 2]


def _swapped(
    pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
) -> Callable[[Plan], Plan]:
    """Exchange the port's units of pairs of the reference's units."""

    def change(plan: Plan) -> Plan:
        partner = dict(plan.groups)
        for one, other in pairs:
            if one in partner and other in partner:
                partner[one], partner[other] = partner[other], partner[one]
        return replace(plan, groups=tuple(partner.items()))

    return change
