"""Ways in which a gradient may be made differently: uses stopped, scaled, or differentiated oddly.

A tensor's gradient is the sum of what its uses send back. A change puts a multiple of another part
in the place of some of that sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.align import fingerprint
from pytest_fwcompare.diagnose.graph import Graph, ancestors, common_ancestor
from pytest_fwcompare.diagnose.operations.unrolled import Cut, input_gradient
from pytest_fwcompare.diagnose.parameter_gradients import called
from pytest_fwcompare.diagnose.prove import bracketed_root
from pytest_fwcompare.diagnose.replay import Replay

INSIDE = "its statistics held constant"
"""Words for what happens within an operation, not on the way to it."""

CUT = "the way back through time cut"
"""Words for a loop whose states are held constant from one step to the next."""


@dataclass(frozen=True)
class Change:
    """One way in which the gradient of a tensor may be made differently.

    Attributes:
        edge: the operation that uses the tensor and is changed.
        text: words for it, to be read after "the gradient that".
        uses: those whose part of the gradient is changed.
        others: all uses but those are changed instead.
        part: what comes in the place of the changed part, in the shape of the tensor; None: the
            same, times a factor.
    """

    edge: int
    text: str
    uses: tuple[int, ...]
    others: bool = False
    part: Array | None = None

    @property
    def inside(self) -> bool:
        """Whether the change is in how the operation differentiates, not in how it is reached."""
        return INSIDE in self.text or CUT in self.text


@dataclass(frozen=True)
class Scaled:
    """Gradients with one part scaled: `rest + factor * part`."""

    rest: Array
    part: Array

    def __call__(self, factor: float) -> Array:
        return self.rest + factor * self.part


def outgoing(graph: Graph, members: Set[int]) -> list[int]:
    """Operations outside a group of tensors that use a member of it."""
    found = {
        consumer
        for member in members
        for consumer in graph.consumers[member]
        if consumer not in members
    }
    return sorted(place for place in found if graph.records[place].gradient is not None)


def changes(
    graph: Graph, replay: Replay, uses: Sequence[int], known: Set[int], shape: tuple[int, ...]
) -> Iterator[Change]:
    """Ways in which the gradient of a tensor may be made differently.

    Args:
        graph: the reference's, with the gradients that operations get.
        replay: its recomputation.
        uses: operations that use the tensor.
        known: those of them whose part of its gradient is known.
        shape: of the tensor.
    """
    edges = [edge for edge in uses if edge in known]
    for edge in edges:
        yield Change(edge, called(graph, edge), (edge,))
    if len(uses) > 1:
        # All uses alike: the value is passed on through one changed copy.
        yield Change(uses[0], "every use", (), others=True)
        for edge in edges if len(edges) > 2 else ():
            # A copy that does not pass gradients goes into all uses but one.
            other = next(place for place in edges if place != edge)
            yield Change(other, f"every use but {called(graph, edge)}", (edge,), others=True)
    yield from _cut_loops(graph, replay, edges, shape)
    yield from _other_adjoints(graph, replay, edges, shape)


def _cut_loops(
    graph: Graph, replay: Replay, edges: Sequence[int], shape: tuple[int, ...]
) -> Iterator[Change]:
    """Recurrent layers that do not differentiate through all of their steps."""
    loops = [edge for edge in edges if replay.kind(edge) == "recurrent"]
    if not loops:
        return
    count = len(graph.records[loops[0]].arguments[0])
    states = {"": (0, 1), " by the hidden state": (0,), " by the cell state": (1,)}
    for words, chosen in states.items():
        for every in (1, 2, 3, 4, 5, 8, 10) if not words else (1,):
            parts = [_cut(graph, replay, edge, Cut(chosen, every)) for edge in loops]
            if any(p is None or p.shape != shape for p in parts) or every > count:
                continue
            part = sum((p for p in parts if p is not None), np.zeros(shape))
            steps = "step" if every == 1 else f"{every} steps"
            text = f"{called(graph, loops[0])}, {CUT} at every {steps}{words},"
            yield Change(loops[0], text, tuple(loops), part=part)


def _cut(graph: Graph, replay: Replay, edge: int, cut: Cut) -> Array | None:
    operation, gradient = replay.operation(edge), graph.records[edge].gradient
    assert operation is not None
    return None if gradient is None else input_gradient(operation, gradient, cut)


def _other_adjoints(
    graph: Graph, replay: Replay, edges: Sequence[int], shape: tuple[int, ...]
) -> Iterator[Change]:
    """Uses that send back something else: statistics held constant, an activation passed by."""
    for edge in edges:
        operation = replay.operation(edge)
        gradient = graph.records[edge].gradient
        if operation is None or gradient is None or shape != gradient.shape:
            continue
        if operation.kind == "activation":
            text = f"{called(graph, edge)}, taken as the identity,"
            yield Change(edge, text, (edge,), part=gradient)
        if operation.kind == "norm" and operation.options.get("variance") is None:
            x = operation.arguments[0]
            step = 1e-6 * (np.abs(x).max() or 1.0)
            # With its statistics constant a norm is a straight line: slope weight / deviation.
            fixed = _fixed_statistics(operation.options, x)
            if fixed is not None:
                up = operation.compute((x + step,), **fixed)
                down = operation.compute((x - step,), **fixed)
                held = gradient * (up - down) / (2 * step)
                yield Change(edge, f"{called(graph, edge)}, {INSIDE},", (edge,), part=held)


def _fixed_statistics(options: Mapping[str, object], x: Array) -> dict[str, Array] | None:
    if options.get("groups"):
        return None
    axes = options["axes"]
    assert isinstance(axes, tuple)
    mean = x.mean(axis=axes, keepdims=True)
    centre = mean if options["centred"] else np.zeros_like(mean)
    return {"mean": centre, "variance": ((x - centre) ** 2).mean(axis=axes, keepdims=True)}


def factors(family: Scaled, target: Array) -> list[float]:
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
