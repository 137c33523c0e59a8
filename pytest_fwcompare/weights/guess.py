"""The best guess of a mapping from both parameter trees, and the questions it leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights.align import Aligner, Group
from pytest_fwcompare.weights.blocks import Draft
from pytest_fwcompare.weights.choices import (
    layout_choices,
    sibling_choices,
    swap_choices,
    voted,
    with_layout,
)
from pytest_fwcompare.weights.conventions import role_word
from pytest_fwcompare.weights.frontier import exchanged, other_orders, regrouped, units_of, ways
from pytest_fwcompare.weights.mapping import Frontier, Link, Mapping
from pytest_fwcompare.weights.plans import Choice, Plan
from pytest_fwcompare.weights.remnants import pair_remnants
from pytest_fwcompare.weights.stacks import pair_stacks
from pytest_fwcompare.weights.trees import alphabetical, units

TELLING_NAMES = 0.3
"""Mean likeness of names below which they are taken for meaningless: two letters have as much."""


@dataclass
class Candidates:
    """The best guess with the questions it leaves.

    Attributes:
        plan: the best guess.
        frameworks: import names of both sides.
        siblings: sets of the reference's parameters whose order nothing tells.
        others: whole plans besides, such as the plain order of definition where names moved pairs.
        choices: questions in the reference's order, whole kinds of layers before single ones.
    """

    aligner: Aligner
    reference: Sequence[Parameter]
    port: Sequence[Parameter]
    plan: Plan
    frameworks: tuple[str, str] = ("", "")
    siblings: tuple[tuple[str, ...], ...] = ()
    others: list[Plan] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)

    def with_plan(self, plan: Plan) -> Candidates:
        """The same with another plan as the best guess, and the questions that one leaves."""
        made = replace(self, plan=plan, choices=[])
        made.plan = self.with_votes(plan)
        made.choices = [*sibling_choices(made), *layout_choices(made), *swap_choices(made)]
        return made

    @property
    def best(self) -> Mapping:
        """The mapping of the best guess."""
        return self.mapping(self.plan)

    def mapping(self, plan: Plan, *, other_stacks: bool = False) -> Mapping:
        """The mapping that a plan describes; `other_stacks` is of `pair_stacks`."""
        layouts = dict(plan.layouts)
        links: dict[str, Link] = {}
        left_reference: dict[str, str] = {}
        left_port: dict[str, str] = {}
        for group in plan.groups:
            found = self.aligner.pairing(group)
            if found is None:
                continue
            left_reference |= found.left_reference
            left_port |= found.left_port
            why = self.why(group)
            for draft in found.drafts:
                number = layouts.get(draft.port, 0)
                transform, note = draft.options[number]
                reason = f"{why}; {note}" if note else why
                links[draft.port] = Link(draft.port, draft.taken(number), transform, reason)
        rows, columns = self.aligner.alone(plan.groups)
        for i in rows:
            for slot in self.aligner.reference[i].slots:
                left_reference[slot.name] = f"no layer of the port fits {slot.native}"
        for j in columns:
            for slot in self.aligner.port[j].slots:
                left_port[slot.name] = f"no layer of the reference fits {slot.native}"
        order = {parameter.name: place for place, parameter in enumerate(self.port)}
        used = {source for link in links.values() for source in link.sources}
        slots = [
            [slot for unit in side for slot in unit.slots if slot.name in left]
            for side, left in (
                (self.aligner.reference, left_reference.keys() - used),
                (self.aligner.port, left_port),
            )
        ]
        for link in pair_remnants(*slots):
            links[link.port] = link
            used.update(link.sources)
            del left_port[link.port]
        left = [
            [slot for slot in side if slot.name in names]
            for side, names in zip(slots, (left_reference.keys() - used, left_port), strict=True)
        ]
        for link in pair_stacks(*left, other=other_stacks):
            links[link.port] = link
            used.update(link.sources)
            del left_port[link.port]
        return Mapping(
            tuple(sorted(links.values(), key=lambda link: order[link.port])),
            {name: why for name, why in left_reference.items() if name not in used},
            left_port,
        )

    def why(self, group: Group) -> str:
        """Why two units are paired, in words."""
        ones = [self.aligner.reference[i] for i in group[0]]
        others = [self.aligner.port[j] for j in group[1]]
        parts = ["shapes and order" if self.aligner.ordered else "shapes"]
        likeness = self.aligner.likeness(group[0][0], group[1][0])
        if likeness > 0:
            parts.append(f"names alike ({likeness:.2f})")
        names = [" + ".join(unit.path for unit in side) for side in (ones, others)]
        return f"{names[0] or '(root)'} is {names[1] or '(root)'} by {' and '.join(parts)}"

    def question(self, draft: Draft) -> str:
        """Name of the layout question of a draft: one for all layers of a kind."""
        if draft.layout:
            return draft.layout
        source = next(p for p in self.reference if p.name == draft.sources[0])
        target = next(p for p in self.port if p.name == draft.port)
        kinds = [p.kind or f"{len(p.shape)} axes" for p in (source, target)]
        roles = [role_word(p) for p in (source, target)]
        return f"{kinds[0]}.{roles[0]} to {kinds[1]}.{roles[1]} ({len(target.shape)} axes)"

    def regrouped(self, plan: Plan, frontier: Frontier) -> Iterator[Plan]:
        """Other plans that differ where a frontier says that pairs may be wrong.

        Fused layers come with every order of heads that could be meant.
        """
        orders = other_orders(self.aligner, plan.groups, frontier)
        for chosen in chain(ways(self.aligner, frontier), orders):
            groups = regrouped(self.aligner, plan.groups, chosen)
            moved = {d.port for g in groups if g not in plan.groups for d in self._drafts(g)}
            kept = tuple((port, n) for port, n in plan.layouts if port not in moved)
            made = self.with_votes(Plan(groups, kept))
            if groups != plan.groups:
                yield made
            drafts = [d for g in chosen for d in self._drafts(g) if d.layout or d.port in moved]
            open_ones = [draft for draft in drafts if len(draft.options) > 1]
            now = dict(made.layouts)
            for number in range(min((len(draft.options) for draft in open_ones), default=0)):
                if any(now.get(draft.port, 0) != number for draft in open_ones):
                    yield with_layout([draft.port for draft in open_ones], number)(made)
        for groups in exchanged(self.aligner, plan.groups, frontier):
            yield replace(plan, groups=groups)

    def with_votes(self, plan: Plan) -> Plan:
        """The plan with the layouts that parameters of unequal sizes tell, where it says none."""
        layouts = {**dict(voted(replace(self, plan=plan))), **dict(plan.layouts)}
        return replace(plan, layouts=tuple(layouts.items()))

    def words(self, frontier: Frontier, plan: Plan) -> str:
        """What a plan pairs at a frontier."""
        ours = units_of(self.aligner.reference, frontier.reference)
        parts = [
            " + ".join(self.aligner.reference[i].path for i in ones)
            + " with "
            + " + ".join(self.aligner.port[j].path for j in others)
            for ones, others in plan.groups
            if set(ones) & set(ours)
        ]
        return "paired block by block: " + ", ".join(parts)

    def _drafts(self, group: Group) -> tuple[Draft, ...]:
        found = self.aligner.pairing(group)
        return found.drafts if found is not None else ()

    def names_tell(self, plan: Plan) -> bool:
        """Whether the names of what a plan pairs have something in common."""
        found = [
            self.aligner.likeness(i, j)
            for ones, others in plan.groups
            for i in ones
            for j in others
        ]
        return bool(found) and sum(found) / len(found) >= TELLING_NAMES

    def names_forbid(self, plan: Plan, other: Mapping) -> bool:
        """Whether another mapping exchanges what names tell apart in a plan."""
        units = [
            {slot.name: i for i, unit in enumerate(side) for slot in unit.slots}
            for side in (self.aligner.reference, self.aligner.port)
        ]
        single = [group for group in plan.groups if len(group[0]) == len(group[1]) == 1]
        by_reference = {ones[0]: others[0] for ones, others in single}
        by_port = {others[0]: ones[0] for ones, others in single}
        for link in other.links:
            for source in link.sources:
                mine, theirs = units[0].get(source), units[1].get(link.port)
                if mine not in by_reference or theirs not in by_port:
                    continue
                assert mine is not None
                assert theirs is not None
                if by_reference[mine] == theirs:
                    continue
                straight = ((mine,), (by_reference[mine],)), ((by_port[theirs],), (theirs,))
                if self.aligner.told_apart(*straight):
                    return True
        return False

    def drafts(self) -> list[Draft]:
        """All drafts of the plan with one source at least."""
        return [
            draft for group in self.plan.groups for draft in self._drafts(group) if draft.sources
        ]


def candidates(
    reference_parameters: Sequence[Parameter],
    port_parameters: Sequence[Parameter],
    *,
    reference_framework: str,
    port_framework: str,
    ordered: bool | None = None,
    siblings: tuple[tuple[str, ...], ...] = (),
) -> Candidates:
    """The best guess from names, shapes, kinds and order, and what it leaves open.

    Args:
        reference_parameters: in the order of definition, or of use.
        port_parameters: in that order too.
        reference_framework: import name.
        port_framework: import name.
        ordered: the order says something; None where names that come sorted say that it does not.
        siblings: sets of the reference's parameters whose order says nothing.

    Raises:
        MappingError: the two have nothing in common.
    """
    both = (
        units(reference_parameters, reference_framework),
        units(port_parameters, port_framework),
    )
    sorted_by_letters = any(
        framework == "jax" and alphabetical(parameters)
        for framework, parameters in (
            (reference_framework, reference_parameters),
            (port_framework, port_parameters),
        )
    )
    order = not sorted_by_letters if ordered is None else ordered
    aligner = Aligner(*both, order, defined=ordered is None)
    plans = [Plan(tuple(groups)) for groups in aligner.align()]
    frameworks = reference_framework, port_framework
    sides = reference_parameters, port_parameters
    made = Candidates(aligner, *sides, plans[0], frameworks, siblings)
    check_common(made)
    made.others = [made.with_plan(plan).plan for plan in plans[1:]]
    return made.with_plan(made.plan)


def check_common(made: Candidates) -> None:
    """Raise MappingError where next to nothing could be paired.

    Raises:
        MappingError: with both lists side by side.
    """
    sizes = {p.name: max(1, _size(p)) for p in made.reference}
    used = {source for link in made.best.links for source in link.sources}
    kernels = [p for p in made.reference if len(p.shape) > 1] or list(made.reference)
    total = sum(sizes[p.name] for p in kernels)
    share = sum(sizes[p.name] for p in kernels if p.name in used) / max(1, total)
    if share >= 0.25 or not (made.reference or made.port):
        return
    for role, parameters in (("reference", made.reference), ("port", made.port)):
        if not parameters:
            raise MappingError(
                f"the {role} has no parameters that could be set, and the other side has: a "
                f"function that takes its parameters is given as (function, params), a model that "
                f'makes them when it is called needs a call before. weights="given" compares '
                f"both sides as they are\n" + table(made.reference, made.port)
            )
    raise MappingError(
        f"the weights of the two models cannot be paired: only {share:.0%} of the reference's "
        f"values fit anything in the port. Give weights={{port name: reference name, ...}}, a "
        f"copy function, or check that these are the right models.\n"
        + table(made.reference, made.port)
    )


def _size(parameter: Parameter) -> int:
    total = 1
    for length in parameter.shape:
        total *= length
    return total


def table(reference: Sequence[Parameter], port: Sequence[Parameter], most: int = 30) -> str:
    """Both parameter lists side by side, for a message."""
    texts = [
        [f"{p.name} {p.shape}" + (f" ({p.kind})" if p.kind else "") for p in side[:most]]
        + ([f"... and {len(side) - most} more"] if len(side) > most else [])
        for side in (reference, port)
    ]
    width = max([len("reference"), *map(len, texts[0])])
    rows = [f"  {'reference':{width}}  port"]
    for place in range(max(map(len, texts))):
        cells = [side[place] if place < len(side) else "" for side in texts]
        rows.append(f"  {cells[0]:{width}}  {cells[1]}".rstrip())
    return "\n".join(rows)
