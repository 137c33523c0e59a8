"""The automatic mapping: a best guess from both parameter trees, and evidence where it is open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from collections.abc import Mapping as MappingLike
from dataclasses import dataclass, field, replace

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights.align import Aligner, Group
from pytest_fwcompare.weights.mapping import Evidence, Link, Mapping
from pytest_fwcompare.weights.pairs import UNDOCUMENTED, Draft
from pytest_fwcompare.weights.transforms import Transform
from pytest_fwcompare.weights.trees import alphabetical, units
from pytest_fwcompare.weights.words import template

MOST_CALLS = 60
"""Candidates shown to the evidence at most; each costs a run of both shadows."""

MOST_DOUBTS = 30
"""Of them, at most so many for pairings that order and shapes already agree on."""


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
    """

    question: str
    answers: tuple[tuple[str, Callable[[Plan], Plan]], ...]
    touches: frozenset[str]
    open: bool


@dataclass
class Candidates:
    """The best guess with the questions it leaves.

    Attributes:
        plan: the best guess.
        choices: questions in the reference's order, whole kinds of layers before single ones.
        assumed: axis orders that follow a framework's habit, not a layer's documentation.
    """

    aligner: Aligner
    reference: Sequence[Parameter]
    port: Sequence[Parameter]
    plan: Plan
    choices: list[Choice] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    @property
    def best(self) -> Mapping:
        """The mapping of the best guess."""
        return self.mapping(self.plan)

    def mapping(self, plan: Plan) -> Mapping:
        """The mapping that a plan describes."""
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
                transform, note = draft.options[layouts.get(draft.port, 0)]
                reason = f"{why}; {note}" if note else why
                links[draft.port] = Link(draft.port, draft.sources, transform, reason)
        rows, columns = self.aligner.alone(plan.groups)
        for i in rows:
            for slot in self.aligner.reference[i].slots:
                left_reference[slot.name] = f"no layer of the port fits {slot.native}"
        for j in columns:
            for slot in self.aligner.port[j].slots:
                left_port[slot.name] = f"no layer of the reference fits {slot.native}"
        order = {parameter.name: place for place, parameter in enumerate(self.port)}
        used = {source for link in links.values() for source in link.sources}
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
        roles = [template(p.role or p.name) if p.kind else "" for p in (source, target)]
        return f"{kinds[0]}.{roles[0]} to {kinds[1]}.{roles[1]} ({len(target.shape)} axes)"

    def drafts(self) -> list[Draft]:
        """All drafts of the plan with one source at least."""
        found = [self.aligner.pairing(group) for group in self.plan.groups]
        return [draft for some in found if some for draft in some.drafts if draft.sources]


def candidates(
    reference_parameters: Sequence[Parameter],
    port_parameters: Sequence[Parameter],
    *,
    reference_framework: str,
    port_framework: str,
) -> Candidates:
    """The best guess from names, shapes, kinds and order, and what it leaves open.

    Raises:
        MappingError: the two have nothing in common.
    """
    sides = (
        units(reference_parameters, reference_framework),
        units(port_parameters, port_framework),
    )
    ordered = not any(
        framework == "jax" and alphabetical(parameters)
        for framework, parameters in (
            (reference_framework, reference_parameters),
            (port_framework, port_parameters),
        )
    )
    aligner = Aligner(*sides, ordered)
    groups = aligner.align()
    made = Candidates(aligner, reference_parameters, port_parameters, Plan(tuple(groups)))
    check_common(made)
    made.plan = replace(made.plan, layouts=voted(made))
    made.assumed = assumed(made)
    made.choices = [*layout_choices(made), *swap_choices(made)]
    return made


def check_common(made: Candidates) -> None:
    """Raise MappingError where next to nothing could be paired.

    Raises:
        MappingError: with both lists side by side.
    """
    sizes = {p.name: max(1, _size(p)) for p in made.reference}
    used = {source for draft in made.drafts() for source in draft.sources}
    kernels = [p for p in made.reference if len(p.shape) > 1] or list(made.reference)
    total = sum(sizes[p.name] for p in kernels)
    share = sum(sizes[p.name] for p in kernels if p.name in used) / max(1, total)
    if share >= 0.25 or not (made.reference or made.port):
        return
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


# Questions --------------------------------------------------------------------------------------


def voted(made: Candidates) -> tuple[tuple[str, int], ...]:
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


def layout_choices(made: Candidates) -> list[Choice]:
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
            answers = tuple(
                (
                    some[0].options[n][1] + f": {some[0].options[n][0]!r}",
                    _with_layout([d.port for d in some], n),
                )
                for n in range(min(len(d.options) for d in some))
                if n != now
            )
            kind = question if some[0].layout else f"axis order of {question}"
            text = f"{kind}: " + ", ".join(draft.port for draft in some)
            touched = frozenset(source for draft in some for source in draft.sources)
            found.append(Choice(text, answers, touched, some is drafts and is_open(some, layouts)))
    return found


def assumed(made: Candidates) -> list[str]:
    """Questions about axis orders that only a habit answers: square matrices without votes."""
    voted = dict(made.plan.layouts)
    found = {
        made.question(draft): draft
        for draft in made.drafts()
        if len(draft.options) > 1 and not draft.layout and draft.port not in voted
    }
    return [f"axis order of {question}" for question in found]


def is_open(drafts: Sequence[Draft], voted: MappingLike[str, int]) -> bool:
    """Whether the first option is a mere guess: no layer's convention, no other layer's vote."""
    return drafts[0].options[0][1] == UNDOCUMENTED and not any(d.port in voted for d in drafts)


def _with_layout(ports: Sequence[str], number: int) -> Callable[[Plan], Plan]:
    def change(plan: Plan) -> Plan:
        layouts = {**dict(plan.layouts), **dict.fromkeys(ports, number)}
        return replace(plan, layouts=tuple(layouts.items()))

    return change


def swap_choices(made: Candidates) -> list[Choice]:
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
    made: Candidates, groups: Sequence[Group], first: str, second: str
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


# Evidence ---------------------------------------------------------------------------------------


def automatic_mapping(
    reference_parameters: Sequence[Parameter],
    port_parameters: Sequence[Parameter],
    *,
    reference_framework: str,
    port_framework: str,
    evidence: Callable[[Mapping], Evidence] | None = None,
) -> Mapping:
    """Pair the parameters of two models with no help.

    Args:
        reference_parameters: as the reference lists them.
        port_parameters: as the port lists them.
        reference_framework: import name, e.g. "torch".
        port_framework: import name.
        evidence: runs both float64 shadows with a candidate's weights and says how much of the
            reference is found in the port. Called only where something is open, at most
            `MOST_CALLS` times.

    Raises:
        MappingError: nothing in common, or a question that matters stays open; with the
            candidates.
    """
    made = candidates(
        reference_parameters,
        port_parameters,
        reference_framework=reference_framework,
        port_framework=port_framework,
    )
    if not made.choices:
        return made.best
    if evidence is None:
        undecided = [choice for choice in made.choices if choice.open]
        if undecided:
            raise ambiguous(undecided)
        return made.best
    return Search(made, evidence).run()


@dataclass
class Search:
    """Greedy search: an answer is kept only if clearly more of the reference is explained."""

    made: Candidates
    evidence: Callable[[Mapping], Evidence]
    calls: int = 0
    doubts: int = 0
    tied: dict[str, Choice] = field(default_factory=dict)

    def run(self) -> Mapping:
        """The mapping that explains most."""
        plan = self.made.plan
        known = self.ask(plan)
        moved: list[str] = []
        improved = True
        while improved and not known.settled:
            improved = False
            for choice in self.by_suspicion(known):
                step = self.best_answer(choice, plan, known)
                if step is not None:
                    answer, plan, known = step
                    moved.append(f"{choice.question}: {answer}")
                    improved = True
                    break
        if not known.settled and self.tied:
            raise ambiguous(list(self.tied.values()))
        notices = [
            f"weights: decided by the values of both float64 shadows: {text}" for text in moved
        ]
        if not known.settled:
            notices += [
                f"weights: {question} is taken as usual for the framework; no value confirmed it"
                for question in self.made.assumed
            ]
        return replace(self.made.mapping(plan), notices=tuple(notices))

    def ask(self, plan: Plan) -> Evidence:
        """The evidence for one plan."""
        self.calls += 1
        return self.evidence(self.made.mapping(plan))

    def by_suspicion(self, known: Evidence) -> list[Choice]:
        """Choices that touch what was not found, then those that are open anyway."""
        suspects = set(known.suspects)
        first = [c for c in self.made.choices if c.touches & suspects]
        rest = [c for c in self.made.choices if c not in first and (c.open or not suspects)]
        return first + rest

    def best_answer(
        self, choice: Choice, plan: Plan, known: Evidence
    ) -> tuple[str, Plan, Evidence] | None:
        """The best other answer to a choice if it is better than the present one."""
        best: tuple[str, Plan, Evidence] | None = None
        self.tied.pop(choice.question, None)
        for answer, change in choice.answers:
            if self.calls >= MOST_CALLS or (not choice.open and self.doubts >= MOST_DOUBTS):
                return best
            self.doubts += not choice.open
            candidate = change(plan)
            found = self.ask(candidate)
            if found.better_than(best[2] if best else known):
                best = (answer, candidate, found)
                if found.settled:
                    return best
            elif choice.open and not known.better_than(found):
                self.tied[choice.question] = choice
        if best is not None:
            self.tied.pop(choice.question, None)
        return best


def ambiguous(choices: Sequence[Choice]) -> MappingError:
    """The error for questions that nothing settles."""
    lines = [
        f"  {choice.question}; or {' or '.join(answer for answer, _ in choice.answers)}"
        for choice in choices[:10]
    ]
    return MappingError(
        "the weights can be paired in more than one way, and nothing tells which is meant:\n"
        + "\n".join(lines)
        + "\nSay it with weights={port name: (reference name, transform)}; the rest is still "
        "found automatically"
    )
