"""Explains passes that agree forward and differ backward: gradients stopped, scaled or partial.

A tensor that is used several times has the sum of what its uses send back, and a port may hold it
several times. So gradients are compared for whole groups of tensors with equal values, at the
members that no other member leads to: their gradient is the sum over the group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.adjoints import contribution
from pytest_fwcompare.diagnose.align import Index, fingerprint
from pytest_fwcompare.diagnose.graph import Graph, ancestors, common_ancestor
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.operations.unrolled import Cut, input_gradient
from pytest_fwcompare.diagnose.parameter_gradients import called, explain_parameters
from pytest_fwcompare.diagnose.parting import TOLERANCE, distance, parted
from pytest_fwcompare.diagnose.prove import bracketed_root
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


def groups(sides: Sides) -> list[Group]:
    """Groups whose gradients both sides have, in the reference's execution order."""
    graph = sides.graph
    own = Index(record.value for record in graph.records)
    made: list[Group] = []
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
        obtained = _total(sides.port, roots(sides.port, twins))
        if len(reached) != 1 or obtained is None:
            continue
        if not graph.inputs[reached[0]] and not obtained.any():
            # Frameworks that keep no gradient of a placeholder; input gradients are judged apart.
            continue
        expected = graph.records[reached[0]].gradient
        assert expected is not None
        made.append(Group(reached[0], frozenset(members), expected, obtained))
    return made


def roots(graph: Graph, members: set[int]) -> list[int]:
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


def explain_group(sides: Sides, group: Group) -> Diagnosis:
    """One place where gradients part, with its cause if a changed path gives the port's."""
    graph, replay = sides.graph, Replay(sides.graph)
    tried: list[str] = []
    scale = float(np.abs(group.expected).max(initial=0))
    for edge, text, family in changes(graph, replay, group):
        for factor in (0.0, *_factors(family, group.obtained)):
            after = distance(family(factor), group.obtained, scale)
            if after > TOLERANCE:
                continue
            inside = INSIDE in text or CUT in text
            culprit, between = blame(graph, group.root, edge, inside)
            how = " stopped" if factor == 0 else f" multiplied by {factor:.8g}"
            how = "" if factor == 1 else how
            words = graph.records[edge].operation
            return Diagnosis(
                culprit=culprit,
                between=between,
                operation=words,
                port_culprit=_port_path(sides, group),
                cause="gradient-path",
                evidence=(
                    f"with the gradient that {text} sends back{how}, the difference of the "
                    f"gradient of {called(graph, group.root)} falls from {group.gap:.1e} to "
                    f"{after:.1e}",
                ),
                local_gap=group.gap,
                backward=True,
            )
        tried.append(f"the gradient from {text} stopped or scaled")
    record = graph.records[group.root]
    edges = [e for e in outgoing(graph, group) if e in graph.live]
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


def outgoing(graph: Graph, group: Group) -> list[int]:
    """Operations outside a group that use a member of it."""
    found = {
        consumer
        for member in group.members
        for consumer in graph.consumers[member]
        if consumer not in group.members
    }
    return sorted(place for place in found if graph.records[place].gradient is not None)


Family = tuple[int, str, "Scaled"]

INSIDE = "its statistics held constant"
"""Words for what happens within an operation, not on the way to it."""

CUT = "the way back through time cut"
"""Words for a loop whose states are held constant from one step to the next."""


@dataclass(frozen=True)
class Scaled:
    """Gradients with one part scaled: `rest + factor * part`."""

    rest: Array
    part: Array

    def __call__(self, factor: float) -> Array:
        return self.rest + factor * self.part


def changes(graph: Graph, replay: Replay, group: Group) -> Iterator[Family]:
    """Ways in which the gradient of a group may be made differently.

    Yields:
        The operation that uses the group, words for it, and the gradient by a factor on what
        that operation sends back.
    """
    edges = outgoing(graph, group)
    parts: dict[int, Array | None] = {}
    for edge in edges:
        parts[edge] = contribution(graph, replay, group.root, group.members, edge)
    known = {edge: part for edge, part in parts.items() if part is not None}
    unknown = [edge for edge, part in parts.items() if part is None]
    if len(unknown) == 1:
        # What one use sends back is what the others leave of the sum.
        known[unknown[0]] = group.expected - sum(known.values(), np.zeros_like(group.expected))
    for edge, part in known.items():
        yield edge, called(graph, edge), Scaled(group.expected - part, part)
    if len(edges) > 1:
        # All uses alike: the value is passed on through one changed copy.
        yield edges[0], "every use", Scaled(np.zeros_like(group.expected), group.expected)
        yield from _all_but_one(graph, group, known)
    yield from _cut_loops(graph, replay, group, known)
    yield from _other_adjoints(graph, replay, group, known)


def _all_but_one(graph: Graph, group: Group, known: Mapping[int, Array]) -> Iterator[Family]:
    """A copy that does not pass gradients goes into all uses but one."""
    for edge, part in known.items() if len(known) > 2 else ():
        other = next(place for place in known if place != edge)
        text = f"every use but {called(graph, edge)}"
        yield other, text, Scaled(part, group.expected - part)


def _cut_loops(
    graph: Graph, replay: Replay, group: Group, known: Mapping[int, Array]
) -> Iterator[Family]:
    """Recurrent layers that do not differentiate through all of their steps."""
    loops = [edge for edge in known if replay.kind(edge) == "recurrent"]
    if not loops:
        return
    count = len(graph.records[loops[0]].arguments[0])
    states = {"": (0, 1), " by the hidden state": (0,), " by the cell state": (1,)}
    for words, chosen in states.items():
        for every in (1, 2, 3, 4, 5, 8, 10) if not words else (1,):
            parts = [_cut(graph, replay, edge, Cut(chosen, every)) for edge in loops]
            if any(p is None or p.shape != group.expected.shape for p in parts) or every > count:
                continue
            part = sum((p for p in parts if p is not None), np.zeros_like(group.expected))
            rest = group.expected - sum(known[edge] for edge in loops)
            steps = "step" if every == 1 else f"{every} steps"
            text = f"{called(graph, loops[0])}, {CUT} at every {steps}{words},"
            yield loops[0], text, Scaled(np.asarray(rest), part)


def _cut(graph: Graph, replay: Replay, edge: int, cut: Cut) -> Array | None:
    operation, gradient = replay.operation(edge), graph.records[edge].gradient
    assert operation is not None
    return None if gradient is None else input_gradient(operation, gradient, cut)


def _other_adjoints(
    graph: Graph, replay: Replay, group: Group, known: Mapping[int, Array]
) -> Iterator[Family]:
    """Uses that send back something else: statistics held constant, an activation passed by."""
    for edge, part in known.items():
        operation = replay.operation(edge)
        gradient = graph.records[edge].gradient
        if operation is None or gradient is None or part.shape != gradient.shape:
            continue
        rest = group.expected - part
        if operation.kind == "activation":
            yield (
                edge,
                f"{called(graph, edge)}, taken as the identity,",
                Scaled(rest, gradient),
            )
        if operation.kind == "norm" and operation.options.get("variance") is None:
            x = operation.arguments[0]
            step = 1e-6 * (np.abs(x).max() or 1.0)
            # With its statistics constant a norm is a straight line: slope weight / deviation.
            fixed = _fixed_statistics(operation.options, x)
            if fixed is not None:
                up = operation.compute((x + step,), **fixed)
                down = operation.compute((x - step,), **fixed)
                held = gradient * (up - down) / (2 * step)
                text = f"{called(graph, edge)}, {INSIDE},"
                yield edge, text, Scaled(rest, held)


def _fixed_statistics(options: Mapping[str, object], x: Array) -> dict[str, Array] | None:
    if options.get("groups"):
        return None
    axes = options["axes"]
    assert isinstance(axes, tuple)
    mean = x.mean(axis=axes, keepdims=True)
    centre = mean if options["centred"] else np.zeros_like(mean)
    return {"mean": centre, "variance": ((x - centre) ** 2).mean(axis=axes, keepdims=True)}


def _factors(family: Scaled, target: Array) -> list[float]:
    """Factors at which a figure of the family meets that of the target."""
    wanted = fingerprint(target).figures
    found: list[float] = [1.0] if not family.rest.any() else []
    grid = [-4.0, -2.0, -1.0, -0.5, -0.1, 1e-6, 0.1, 0.3, 0.6, 0.9, 1.1, 1.7, 3.0, 6.0, 20.0]
    figures = np.array([fingerprint(family(factor)).figures for factor in grid])
    for figure in (2, 3, 1):
        misses = figures[:, figure] - wanted[figure]
        for start in np.flatnonzero(np.sign(misses[:-1]) != np.sign(misses[1:])):

            def miss(factor: float, figure: int = figure) -> float:
                return float(fingerprint(family(factor)).figures[figure] - wanted[figure])

            root = bracketed_root(
                miss, grid[start], grid[start + 1], misses[start], misses[start + 1]
            )
            if root is not None:
                found.extend([float(f"{root:.6g}"), root])
    return found


def blame(
    graph: Graph, source: int, edge: int, inside: bool = False
) -> tuple[str, tuple[str, str] | None]:
    """Module of the connection from an operation to one that uses it, and its neighbours.

    Args:
        graph: of the reference.
        source: position of what is used.
        edge: position of what uses it.
        inside: the fault is in how the user differentiates, not in how it is connected.
    """
    before, after = graph.records[source].path, graph.records[edge].path
    # A module that hands its input on (an identity) and whose parent uses the value.
    for module in graph.modules:
        leaf = module.path not in graph.containers and module.path not in graph.running
        parent = ancestors(module.path)[0] if module.path else ""
        if leaf and parent == after and np.array_equal(module.value, graph.records[source].value):
            return module.path, None
    if after not in graph.containers and before == after:
        return after, None
    if after in graph.containers:
        return after, graph.between([edge])
    if before not in graph.containers and not graph.inputs[source]:
        return after, None
    if inside:
        return after, None
    holder = common_ancestor([before, after])
    # A container without code of its own cannot change what it passes on.
    around = [holder, *ancestors(holder)]
    running = next((path for path in around if path in graph.running and path != after), None)
    if running is None:
        # Layers in a row, and nothing between them that could be wrong.
        return before, None
    return running, (before, after)
