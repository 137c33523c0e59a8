"""Explains passes that agree forward and differ backward: gradients stopped, scaled or partial.

A tensor that is used several times has the sum of what its uses send back, and a port may hold it
several times. So gradients are compared for whole groups of tensors with equal values, at the
members that no other member leads to: their gradient is the sum over the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.adjoints import contribution
from pytest_fwcompare.diagnose.align import Index
from pytest_fwcompare.diagnose.gradient_paths import (
    Change,
    Scaled,
    blame,
    changes,
    factors,
    outgoing,
)
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.parameter_gradients import called, explain_parameters
from pytest_fwcompare.diagnose.parting import TOLERANCE, distance, parted
from pytest_fwcompare.diagnose.replay import Replay


@dataclass(frozen=True)
class Group:
    """Tensors of the reference that hold the same values.

    Attributes:
        root: the member that leads to the others.
        members: positions, the root included.
        expected: gradient of the root: the sum over all uses.
        obtained: the same of the port; zeros where nothing depends on it.
    """

    root: int
    members: frozenset[int]
    expected: Array
    obtained: Array

    @property
    def gap(self) -> float:
        """Largest difference of the sorted gradients, relative to the largest expected."""
        return distance(self.expected, self.obtained)


@dataclass(frozen=True)
class Family:
    """Tensors of equal values on both sides.

    Attributes:
        members: positions in the reference.
        roots: those of them with a gradient that no other member leads to.
        twins: positions in the port, of tensors of that size.
    """

    members: frozenset[int]
    roots: tuple[int, ...]
    twins: frozenset[int]


def families(sides: Sides) -> Iterator[Family]:
    """Tensors that both sides have and that gradients reach, in the reference's order."""
    graph = sides.graph
    own = Index(record.value for record in graph.records)
    done: set[int] = set()
    for place, record in enumerate(graph.records):
        if place in done or place not in graph.live or record.gradient is None:
            continue
        if not sides.alignment.matches[place]:
            continue
        size = record.value.size
        members = {
            m.index
            for m in own.find(record.value, sides.tolerance)
            if graph.records[m.index].value.size == size
        } | {place}
        done |= members
        reached = [m for m in roots(graph, members) if graph.records[m].gradient is not None]
        twins = {
            m.index
            for m in sides.alignment.matches[place]
            if sides.port.records[m.index].value.size == size
        }
        yield Family(frozenset(members), tuple(reached), frozenset(twins))


def groups(sides: Sides) -> list[Group]:
    """Groups whose gradients both sides have, in the reference's execution order."""
    graph = sides.graph
    made: list[Group] = []
    for family in families(sides):
        obtained = _total(sides.port, roots(sides.port, family.twins))
        if len(family.roots) != 1 or obtained is None:
            continue
        root = family.roots[0]
        if not graph.inputs[root] and not obtained.any():
            # Frameworks that keep no gradient of a placeholder; input gradients are judged apart.
            continue
        expected = graph.records[root].gradient
        assert expected is not None
        made.append(Group(root, family.members, expected, obtained))
    return made


def roots(graph: Graph, members: Set[int]) -> list[int]:
    """Members that no other member leads to."""
    return [m for m in sorted(members) if not (graph.upstream([m]) - {m}) & members]


def _total(graph: Graph, places: Sequence[int]) -> Array | None:
    """Sum of the gradients of tensors that were made independently; None if their axes differ."""
    shapes = {graph.records[place].value.shape for place in places}
    if not places or len(shapes) > 1:
        return None
    total = np.zeros(shapes.pop())
    for place in places:
        gradient = graph.records[place].gradient
        if gradient is not None:
            total = total + gradient
    return total


def explain_gradients(
    sides: Sides,
    parameters: Mapping[str, tuple[Array, Array]] | None,
    layers: Sequence[Parameter],
) -> list[Diagnosis]:
    """Where gradients part: the last such places in data flow; else the parameters alone.

    Args:
        sides: both passes, aligned, with gradients.
        parameters: expected and obtained gradients that differ; None where nobody compared them.
        layers: parameters of the reference, to tell their modules.
    """
    every = groups(sides)
    wrong = [group for group in every if group.gap > TOLERANCE]
    clear: Set[str] | None = None
    if parameters is not None:
        clear = {name for name, both in parameters.items() if parted(*both)} if wrong else set()
    wrong = [group for group in wrong if _matters(sides, group, wrong, every, clear)]
    places = {group.root: group for group in wrong}
    found = []
    for group in reversed(wrong):
        after = sides.graph.downstream([group.root]) - group.members
        if not any(other in places for other in after):
            found.append(explain_group(sides, group))
    found.sort(key=lambda diagnosis: diagnosis.cause is None)
    return found or explain_parameters(sides, parameters or {}, layers)


def _matters(
    sides: Sides,
    group: Group,
    wrong: Sequence[Group],
    every: Sequence[Group],
    parameters: Set[str] | None,
) -> bool:
    """Whether a wrong gradient reaches anything: parameters, or a tensor before it.

    A right port may split a computation so that equal tensors have different parts to play, and
    TensorFlow's custom gradients (`tf.nn.silu`) pass by the tensors computed inside.
    """
    right = {m for other in every if other.gap <= TOLERANCE for m in other.members}
    inputs, own = sides.graph.inputs[group.root], sides.graph.records[group.root].parameters
    if inputs and right.issuperset(inputs) and not set(own) & (parameters or set()):
        return False
    before = sides.graph.upstream([group.root]) - group.members
    if any(other.root in before for other in wrong):
        return True
    names = {n for p in before | {group.root} for n in sides.graph.records[p].parameters}
    if names & (parameters or set()):
        return True
    return parameters is None and not any(other.root in before for other in every)


@dataclass(frozen=True)
class Account:
    """What the uses of a group send back to it.

    Attributes:
        expected: the sum over all uses.
        obtained: what the port has instead.
        parts: by operation that uses the group, as far as they are known.
        shown: turns a gradient of the root into the form that these have: the gradient itself, or
            its products with a few directions.
    """

    expected: Array
    obtained: Array
    parts: Mapping[int, Array]
    shown: Callable[[Array], Array] = np.asarray

    @property
    def scale(self) -> float:
        """Largest magnitude expected."""
        return float(np.abs(self.expected).max(initial=0))

    def family(self, change: Change) -> Scaled:
        """The expected sum with a change made, by a factor on what was changed."""
        some = sum((self.parts[edge] for edge in change.uses), np.zeros_like(self.expected))
        rest = some if change.others else self.expected - some
        part = self.expected - rest if change.part is None else self.shown(change.part)
        return Scaled(np.asarray(rest), np.asarray(part))


def account(graph: Graph, replay: Replay, group: Group) -> Account:
    """The account of a group where the forward passes agree."""
    edges = outgoing(graph, group.members)
    parts = {edge: contribution(graph, replay, group.root, group.members, edge) for edge in edges}
    known = {edge: part for edge, part in parts.items() if part is not None}
    unknown = [edge for edge, part in parts.items() if part is None]
    if len(unknown) == 1:
        # What one use sends back is what the others leave of the sum.
        known[unknown[0]] = group.expected - sum(known.values(), np.zeros_like(group.expected))
    return Account(group.expected, group.obtained, known)


def explain_group(
    sides: Sides, group: Group, replay: Replay | None = None, given: Account | None = None
) -> Diagnosis:
    """One place where gradients part, with its cause if a changed path gives the port's.

    Args:
        sides: both passes, aligned.
        group: whose gradients part.
        replay: recomputation of the reference, if there is one that knows more.
        given: the account of the group, where it is known already.
    """
    graph, replay = sides.graph, replay or Replay(sides.graph)
    held = given or account(graph, replay, group)
    tried: list[str] = []
    edges = outgoing(graph, group.members)
    shape = graph.records[group.root].value.shape
    for change in changes(graph, replay, edges, held.parts.keys(), shape):
        family = held.family(change)
        for factor in (0.0, *factors(family, held.obtained)):
            after = distance(family(factor), held.obtained, held.scale)
            if after > TOLERANCE:
                continue
            culprit, between = blame(graph, group.root, change.edge, change.inside)
            how = " stopped" if factor == 0 else f" multiplied by {factor:.8g}"
            how = "" if factor == 1 else how
            return Diagnosis(
                culprit=culprit,
                between=between,
                operation=graph.records[change.edge].operation,
                port_culprit=_port_path(sides, group),
                cause="gradient-path",
                evidence=(
                    f"with the gradient that {change.text} sends back{how}, the difference of "
                    f"the gradient of {called(graph, group.root)} falls from {group.gap:.1e} to "
                    f"{after:.1e}",
                ),
                local_gap=group.gap,
                backward=True,
            )
        tried.append(f"the gradient from {change.text} stopped or scaled")
    record = graph.records[group.root]
    edges = [e for e in edges if e in graph.live]
    culprit, between = (record.path, None)
    if edges:
        # A loop within one operation may stop a gradient that no connection outside it stops.
        looped = len(edges) == 1 and replay.kind(edges[0]) == "recurrent"
        culprit, between = blame(graph, group.root, edges[0], looped)
    return Diagnosis(
        culprit=culprit,
        between=between,
        operation=record.operation,
        port_culprit=_port_path(sides, group),
        local_gap=group.gap,
        tried=tuple(tried),
        backward=True,
    )


def _port_path(sides: Sides, group: Group) -> str | None:
    matches = sides.alignment.matches[group.root]
    return sides.port.records[matches[0].index].path if matches else None
