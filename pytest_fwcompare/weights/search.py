"""The search for a mapping: other answers are tried where values part, the better one is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.progress import tell
from pytest_fwcompare.weights.choices import in_all_such_places
from pytest_fwcompare.weights.frontier import denies_order
from pytest_fwcompare.weights.guess import Candidates, candidates
from pytest_fwcompare.weights.mapping import Evidence, Mapping
from pytest_fwcompare.weights.plans import Choice, Plan
from pytest_fwcompare.weights.remnants import REASON
from pytest_fwcompare.weights.stacks import DOUBTFUL, fused_unknown
from pytest_fwcompare.weights.usage import InUse

MOST_CALLS = 60
"""Candidates shown to the evidence one after the other without gain; each costs a run of both
shadows."""

MOST_IN_ALL = 600
"""Candidates shown to the evidence at most, however deep the network."""

CLOSER = 10.0
"""Factor by which outputs must be closer where nothing else tells two plans apart."""

MOST_SAID = 3
"""Notices of one kind; more are summed up."""

MOST_DOUBTS = 30
"""Candidates at most for pairings that order and shapes already agree on."""


@dataclass
class Search:
    """Greedy search: an answer is kept only if clearly more of the reference is explained."""

    made: Candidates
    evidence: Callable[[Mapping], Evidence]
    in_use: Callable[[], InUse | None] | None = None
    calls: int = 0
    idle: int = 0
    doubts: int = 0
    tied: dict[str, Choice] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)
    guard: Callable[[Mapping], bool] | None = None
    outputs: Callable[[Mapping], Evidence] | None = None
    swept: set[tuple[str, Plan]] = field(default_factory=set)

    def run(self) -> Mapping:
        """The mapping that explains most."""
        plan = self.made.plan
        known = self.ask(plan)
        moved: list[str] = []
        for other in self.made.others:
            if known.settled:
                break
            found = self.ask(other)
            if clearly_better(found, known):
                plan, known = other, found
                moved = ["layers are paired in the order of their definition, not by names"]
        if plan is not self.made.plan:
            self.made = self.made.with_plan(plan)
            plan = self.made.plan
        defined, first = self.made, plan
        if defined.names_tell(first):
            # A port that takes the key for the query is wrong, not named oddly.
            self.guard = lambda mapping: defined.names_forbid(first, mapping)
        used = None if known.settled else self.by_use()
        by_use = self.with_use(used, plan, known) if used is not None else None
        if by_use is not None:
            plan, known, moved = by_use
        else:
            plan, known, steps = self.climb(plan, known)
            moved += steps
        if not known.settled and (undecided := self.matter(known)):
            raise ambiguous(undecided)
        notices = said_of(moved)
        if not known.settled:
            if fused := fusion(self.made, self.made.mapping(plan)):
                raise refused(f"{fused}: they may be fused in a way that is not known")
            notices += [
                f"weights: {question} is taken as usual for the framework; no value confirmed it"
                for question in self.unconfirmed()
            ]
        mapping = self.made.mapping(plan)
        if not known.settled:
            mapping = self.with_stacks(plan, mapping, known)
        return replace(mapping, notices=(*notices, *self.said))

    def with_stacks(self, plan: Plan, mapping: Mapping, known: Evidence) -> Mapping:
        """The mapping with those readings of arrays that hold several others that explain more.

        Raises:
            MappingError: both explain as much.
        """
        doubtful = [link for link in mapping.links if link.reason == DOUBTFUL]
        if not doubtful:
            return mapping
        other = self.made.mapping(plan, other_stacks=True)
        found = self.evidence(other)
        if found.better_than(known):
            return other
        if known.better_than(found):
            return mapping
        pairs = "; ".join(f"{link.port} from {', '.join(link.sources)}" for link in doubtful[:10])
        raise refused(
            f"several parameters are one array on the other side, and more than one reading fits: "
            f"{pairs}"
        )

    def with_use(
        self, used: Candidates, plan: Plan, known: Evidence
    ) -> tuple[Plan, Evidence, list[str]] | None:
        """Try the order of use where the evidence does not bear out `plan`.

        Values that then agree, or come clearly closer, speak for it. Where they say nothing, as
        with every plan of a port that is wrong early on, a sound order of definition stays.

        Returns:
            The plan, its questions answered and in `made`; its evidence; what moved, in words.
            None if `plan` stays.
        """
        defined, before, best = self.made, known, None
        named = defined.names_tell(plan)
        self.made = used
        for other in (used.plan, *used.others) if named else (*used.others, used.plan):
            if self.guard is not None and self.guard(used.mapping(other)):
                continue
            found = self.ask(other)
            tie = best is None and not named and not known.better_than(found)
            # Telling names are overruled only by outputs that then agree, or where the port shows
            # far more of the reference: a fault behind what is shown must not keep them wrong.
            better = far_better(found, known) if named else clearly_better(found, known) or tie
            if found.settled or better:
                best, known = other, found
            if known.settled:
                break
        if best is None:
            self.made = defined
            return None
        better = clearly_better(known, before)
        self.made = used if best is used.plan else used.with_plan(best)
        best, known, steps = self.climb(self.made.plan, known)
        said = ["layers are paired in the order in which a forward pass uses them", *steps]
        all_tried = not self.spent or not used.siblings
        if steps or better or not all_tried or not sound(defined, plan, self.made, best):
            return best, known, said
        if pairs(self.made.mapping(best)) != pairs(defined.mapping(plan)):
            self.said.append(
                "weights: layers are paired in the order of their definition; a forward pass uses "
                "them in another, and no value tells which is meant"
            )
        self.made, self.doubts = defined, 0
        self.tied.clear()
        self.confirmed.clear()
        return None

    def climb(self, plan: Plan, known: Evidence) -> tuple[Plan, Evidence, list[str]]:
        """Take better answers, where values part first and then anywhere, until there is none."""
        moved: list[str] = []
        while not known.settled:
            step = self.turned(plan, known) or self.regrouped(plan, known)
            step = step or self.answered(self.by_suspicion(known), plan, known)
            if step is None:
                break
            text, plan, known = self.everywhere(plan, step)
            moved.append(text)
            self.idle = self.doubts = 0
            # What other answers there are depends on the present ones.
            self.made = self.made.with_plan(plan)
            plan = self.made.plan
        if not known.settled and self.spent and self.made.siblings:
            # Not all of them could be tried.
            self.tied.update((c.question, c) for c in self.made.choices if c.open)
        return plan, known, moved

    def everywhere(
        self, plan: Plan, step: tuple[str, Plan, Evidence]
    ) -> tuple[str, Plan, Evidence]:
        """A step, taken in all places like that where it was found if this explains more."""
        text, moved, known = step
        wider = None if known.settled else in_all_such_places(self.made, plan, moved)
        if wider is None or (self.guard is not None and self.guard(self.made.mapping(wider))):
            return step
        found = self.ask(wider)
        return (
            (f"{text}, and alike in all such places", wider, found)
            if found.better_than(known)
            else step
        )

    @property
    def spent(self) -> bool:
        """Whether enough was tried for nothing."""
        return self.idle >= MOST_CALLS or self.calls >= MOST_IN_ALL

    def turned(self, plan: Plan, known: Evidence) -> tuple[str, Plan, Evidence] | None:
        """Another axis order of what computes the first tensor that is not found."""
        near = {name for frontier in known.frontiers for name in frontier.reference}
        near &= set(known.suspects)
        return self.answered(
            [c for c in self.made.choices if c.layout and c.touches & near], plan, known
        )

    def regrouped(self, plan: Plan, known: Evidence) -> tuple[str, Plan, Evidence] | None:
        """Other pairs where values part first: a block is paired before the next is looked at."""
        best: tuple[str, Plan, Evidence] | None = None
        for frontier in known.frontiers:
            for candidate in self.made.regrouped(plan, frontier):
                if self.spent:
                    return best
                if self.guard is not None and (
                    denies_order(self.made.aligner, candidate.groups)
                    or self.guard(self.made.mapping(candidate))
                ):
                    continue
                found = self.ask(candidate)
                if found.better_than(best[2] if best else known):
                    best = self.made.words(frontier, candidate), candidate, found
                    if found.settled or frontier not in found.frontiers:
                        return best
        return best

    def answered(
        self, choices: Sequence[Choice], plan: Plan, known: Evidence
    ) -> tuple[str, Plan, Evidence] | None:
        """The first choice of which another answer is better."""
        for choice in choices:
            step = self.best_answer(choice, plan, known)
            if step is not None:
                return f"{choice.question}: {step[0]}", *step[1:]
        return None

    def by_use(self) -> Candidates | None:
        """Candidates by the order of use; None if nobody knows it."""
        used = self.in_use() if self.in_use is not None else None
        if used is None:
            return None
        frameworks = self.made.frameworks
        return candidates(
            used.reference,
            used.port,
            reference_framework=frameworks[0],
            port_framework=frameworks[1],
            ordered=True,
            siblings=used.siblings,
        )

    def matter(self, known: Evidence) -> list[Choice]:
        """Ties before or where values part; what comes behind cannot be told and changes nothing.

        Whatever is paired behind it, a port that differs where all that goes in agrees is wrong.
        """
        if not known.frontiers:
            return list(self.tied.values())
        near = {name for place in known.frontiers for name in place.reference}
        behind = [choice for choice in self.tied.values() if not choice.touches & near]
        self.said += [
            f"weights: no value tells {choice.question}: it lies behind the first difference"
            for choice in behind[:MOST_SAID]
        ]
        return [choice for choice in self.tied.values() if choice not in behind]

    def unconfirmed(self) -> list[str]:
        """Axis orders that only habit decides and no evidence bears out."""
        return [
            choice.question
            for choice in self.made.choices
            if choice.habit and choice.question not in self.confirmed
        ]

    def ask(self, plan: Plan) -> Evidence:
        """The evidence for one plan."""
        self.calls += 1
        self.idle += 1
        tell("pairing the weights, try", self.calls)
        return self.evidence(self.made.mapping(plan))

    def by_suspicion(self, known: Evidence) -> list[Choice]:
        """Choices that touch what was not found, then those that are open anyway."""
        suspects = {*known.suspects, *(n for place in known.frontiers for n in place.core)}
        first = [c for c in self.made.choices if c.touches & suspects]
        rest = [
            c for c in self.made.choices if c not in first and (c.open or c.habit or not suspects)
        ]
        return first + rest

    def best_answer(
        self, choice: Choice, plan: Plan, known: Evidence
    ) -> tuple[str, Plan, Evidence] | None:
        """The best other answer to a choice if it is better than the present one."""
        if choice.exhaustive:
            return self.best_of_all(choice, plan, known)
        best: tuple[str, Plan, Evidence] | None = None
        self.tied.pop(choice.question, None)
        for answer, change in choice.answers:
            if self.spent or (not choice.open and self.doubts >= MOST_DOUBTS):
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
            if known.better_than(found):
                self.confirmed.add(choice.question)
        if best is not None:
            self.tied.pop(choice.question, None)
            self.confirmed.add(choice.question)
        return best

    def best_of_all(
        self, choice: Choice, plan: Plan, known: Evidence
    ) -> tuple[str, Plan, Evidence] | None:
        """The one answer that explains more than every other, all of them tried."""
        if (choice.question, plan) in self.swept:
            return None
        self.tied.pop(choice.question, None)
        self.swept.add((choice.question, plan))
        candidates = [(answer, change(plan)) for answer, change in choice.answers]
        for number, (answer, candidate) in enumerate(candidates, 1):
            tell("reading a recurrent cell, try", number)
            found = (self.outputs or self.evidence)(self.made.mapping(candidate))
            if found.settled:
                return answer, candidate, found
        tried = [(*one, self.evidence(self.made.mapping(one[1]))) for one in candidates]
        best = max(tried, key=lambda one: one[2].found)
        rivals = [one[2] for one in tried if one is not best] + [known]
        if any(not best[2].better_than(rival) for rival in rivals):
            if any(not known.better_than(one[2]) for one in tried):
                self.tied[choice.question] = choice
            return None
        self.swept.add((choice.question, best[1]))
        return best


def fusion(made: Candidates, mapping: Mapping) -> str:
    """What is left over on both sides that seems to be fused in a way that is not known."""
    return fused_unknown(
        [p for p in made.reference if p.name in mapping.unmatched_reference],
        [p for p in made.port if p.name in mapping.unmatched_port],
    )


def refused(text: str) -> MappingError:
    """The error for arrays that hold several parameters of the other side, no value says how."""
    return MappingError(
        f"{text}. The outputs do not agree so. Say it with weights={{port name: (reference name, "
        f"transform)}}, or pass a copy function; the rest is still found automatically"
    )


def said_of(moved: Sequence[str]) -> list[str]:
    """Notices of what the values decided."""
    decided = "decided by the values of both float64 shadows"
    if len(moved) > MOST_SAID:
        return [
            f"weights: {len(moved)} questions were {decided}, the first of them: {moved[0]}; "
            f"comparison.weights has every pair"
        ]
    return [f"weights: {decided}: {text}" for text in moved]


def clearly_better(found: Evidence, known: Evidence) -> bool:
    """More is explained; or as much, and the outputs are far closer.

    With a fault early on, every plan leaves the same unexplained: then the closer output tells.
    """
    closer = found.found == known.found and found.gap < known.gap / CLOSER
    return found.better_than(known) or closer


FAR = 2.0
"""How many times as much of the reference is found with pairs that overrule telling names."""


def far_better(found: Evidence, known: Evidence) -> bool:
    """Much more is explained."""
    return found.better_than(known) and found.found >= FAR * known.found


def sound(defined: Candidates, plan: Plan, used: Candidates, other: Plan) -> bool:
    """Whether the order of definition says something, and fits no worse than the order of use."""
    if not defined.aligner.ordered or any(choice.open for choice in defined.choices):
        return False
    return left_over(defined.mapping(plan)) <= left_over(used.mapping(other))


def left_over(mapping: Mapping) -> int:
    """Number of parameters that have no partner, or one only because nothing else was left."""
    by_rest = sum(link.reason == REASON for link in mapping.links)
    return len(mapping.unmatched_reference) + len(mapping.unmatched_port) + by_rest


def pairs(mapping: Mapping) -> dict[str, tuple[str, ...]]:
    """What each parameter of the port is made of."""
    return {link.port: link.sources for link in mapping.links}


def ambiguous(choices: Sequence[Choice]) -> MappingError:
    """The error for questions that nothing settles."""
    lines = [
        f"  {choice.question}; or {' or '.join(a for a, _ in choice.answers[:MOST_SAID])}"
        + (f", or {more} more ways" if (more := len(choice.answers) - MOST_SAID) > 0 else "")
        for choice in choices[:10]
    ]
    if any(choice.exhaustive for choice in choices):
        lines.append(
            "  With none of these do the outputs agree: the port seems to compute something else "
            "there, and to say what it must be known how its kernels lie"
        )
    return MappingError(
        "the weights can be paired in more than one way, and nothing tells which is meant:\n"
        + "\n".join(lines)
        + "\nSay it with weights={port name: (reference name, transform)}; the rest is still "
        "found automatically"
    )
