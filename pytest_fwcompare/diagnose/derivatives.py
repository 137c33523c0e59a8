"""Holds the gradients of a pass against the derivatives of its values, place by place.

Where the forward passes part, no gradient of the port is the reference's, though none may be
wrong. But each must be the derivative of what the port computes: the gradient of a tensor, times a
small move of it, is the sum over the next tensors of their gradients times their moves (the dot
product test of adjoints: Claerbout, "Earth Soundings Analysis", 1992, section 5.1). The moves come
from the reference's operations, repaired, so that they have the port's values; the gradients are
the port's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.gradients import Family, families, roots
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.replay import Replay

STEP = 1e-6
"""Size of a move, relative to the values': central differences lose as little to rounding as to
curvature (about 1e-10 of what they give, where that is not small itself)."""

CANCELLED = 1e-4
"""Part of the sum of magnitudes below which a sum is what cancellation has left."""

CLEAR = 16
"""Elements that differ by less than that many times the mismatch of the sides are not told
apart."""

Ends = Callable[[Array, int], "dict[int, Array] | None"]
"""Values of the next tensors by their root, by a moved value and an operation that uses it."""

RANK = 5
"""Axes up to which all orders of them are tried."""


@dataclass(frozen=True)
class Held:
    """A tensor with its gradient, in the reference's order of elements.

    Attributes:
        root: position of the member of its family that the others come from.
        members: positions of the reference with these values.
        gradient: of the root's shape; NaN where an element could not be told from another one.
    """

    root: int
    members: frozenset[int]
    gradient: Array = field(repr=False)


@dataclass(frozen=True)
class Sums:
    """What a gradient should be and what it is, along a few directions.

    Attributes:
        directions: (directions, *sizes of the tensor).
        parts: by operation that uses the tensor, what it sends back: (directions,).
        obtained: the tensor's own gradient along them: (directions,).
        magnitude: sum of the magnitudes of all products that were added up: (directions,).
    """

    directions: Array = field(repr=False)
    parts: Mapping[int, Array]
    obtained: Array
    magnitude: Array

    @property
    def expected(self) -> Array:
        """What all uses send back: (directions,)."""
        return np.asarray(sum(self.parts.values(), np.zeros_like(self.obtained)))

    @property
    def gap(self) -> float:
        """Largest difference, relative to the largest of both."""
        expected = self.expected
        both = max(np.abs(expected).max(), np.abs(self.obtained).max())
        scale = max(float(both), CANCELLED * float(self.magnitude.max()))
        return float(np.abs(expected - self.obtained).max()) / scale if scale else 0.0

    def shown(self, gradient: Array) -> Array:
        """A gradient of the tensor along the directions: (directions,)."""
        axes = tuple(range(1, self.directions.ndim))
        return np.asarray((self.directions * gradient).sum(axis=axes))


class Derivatives:
    """The gradients that a pass has at the reference's places, and how its values move.

    Args:
        graph: the reference's operations, with the values of the pass.
        replay: recomputation of them, which knows repaired operations.
        held: the tensors whose gradients are known.
        outputs: positions whose values are handed out.
        lost: positions whose values are not those of the pass.
    """

    def __init__(
        self,
        graph: Graph,
        replay: Replay,
        held: Sequence[Held],
        outputs: Set[int],
        lost: Set[int] = frozenset(),
    ) -> None:
        self.graph, self.replay, self.held = graph, replay, held
        self.at = {member: one for one in held for member in one.members}
        self._outputs, self._lost = outputs, lost
        self._behind = cache(lambda place: frozenset(graph.downstream([place])))
        self._before = cache(lambda place: frozenset(graph.upstream([place])))

    def sums(
        self, held: Held, edges: Sequence[int], count: int, passed: Set[int] = frozenset()
    ) -> Sums | None:
        """Both sums of a tensor along random directions.

        Args:
            held: the tensor.
            edges: operations that use it.
            count: number of directions.
            passed: roots of tensors that are passed through instead of asked for their gradient.

        Returns:
            None where something on the way is not known.
        """
        value = np.asarray(self.graph.records[held.root].value, np.float64)

        def ends(moved: Array, edge: int) -> dict[int, Array] | None:
            return self._ends_behind(held, moved, edge, passed)

        return self._sums(value, held.gradient, edges, count, ends)

    def parameter_sums(
        self, name: str, value: Array, gradient: Array, edges: Sequence[int], count: int
    ) -> Sums | None:
        """The same for a parameter.

        Args:
            name: of the parameter.
            value: of it, (*sizes).
            gradient: that it has, (*sizes).
            edges: operations that use it.
            count: number of directions.
        """

        def ends(moved: Array, edge: int) -> dict[int, Array] | None:
            made = self._with_parameter(edge, name, value, moved)
            if made is None or edge in self._lost:
                return None
            return self._ends({edge: made}, edge, frozenset(), frozenset())

        return self._sums(value, gradient, edges, count, ends)

    def _sums(
        self, value: Array, gradient: Array, edges: Sequence[int], count: int, ends: Ends
    ) -> Sums | None:
        told = np.isfinite(gradient)
        size = float(np.sqrt(np.mean(value**2))) if value.size else 0.0
        if not told.any() or not size or not np.isfinite(size):
            return None
        directions = np.random.default_rng(11).standard_normal((count, *value.shape)) * told
        parts = {edge: np.zeros(count) for edge in edges}
        products = directions * np.where(told, gradient, 0.0)
        axes = tuple(range(1, directions.ndim))
        magnitude = np.abs(products).sum(axis=axes)
        for number, direction in enumerate(directions):
            step = STEP * size * direction
            for edge in edges:
                made = self._sent(ends(value + step, edge), ends(value - step, edge))
                if made is None:
                    return None
                parts[edge][number] = made[0] / (2 * STEP * size)
                magnitude[number] += made[1] / (2 * STEP * size)
        return Sums(directions, parts, products.sum(axis=axes), magnitude)

    def _sent(
        self, up: dict[int, Array] | None, down: dict[int, Array] | None
    ) -> tuple[float, float] | None:
        """What moves of the next tensors give with their gradients, and all magnitudes."""
        if up is None or down is None or up.keys() != down.keys():
            return None
        total = magnitude = 0.0
        for root, high in up.items():
            gradient, low = self.at[root].gradient, down[root]
            if not high.shape == low.shape == gradient.shape:
                return None
            with np.errstate(all="ignore"):
                moved = np.where(high == low, 0.0, high - low)
            moves = moved != 0
            if not np.isfinite(moved).all() or np.isnan(gradient[moves]).any():
                return None
            products = gradient[moves] * moved[moves]
            total += float(products.sum())
            magnitude += float(np.abs(products).sum())
        return total, magnitude

    def reached(self, held: Held, edges: Sequence[int]) -> set[int]:
        """Roots of the tensors whose gradients make up that of a tensor."""
        value = np.asarray(self.graph.records[held.root].value, np.float64)
        found: set[int] = set()
        for edge in edges:
            found |= (self._ends_behind(held, value, edge, frozenset()) or {}).keys()
        return found

    def feeding(self, root: int) -> list[Held]:
        """Tensors with a known gradient that a tensor is computed from, nearest first."""
        found: dict[int, Held] = {}
        seen, front = {root}, [root]
        while front:
            for source in self.graph.inputs[front.pop()]:
                if source in seen:
                    continue
                seen.add(source)
                held = self.at.get(source)
                if held is None or held.root == root:
                    front.append(source)
                else:
                    found[held.root] = held
        return list(found.values())

    def _ends_behind(
        self, held: Held, moved: Array, edge: int, passed: Set[int]
    ) -> dict[int, Array] | None:
        """The values of the next tensors with a gradient behind one use of a moved tensor."""
        values = {held.root: moved}
        for member in sorted((held.members & self._before(edge)) - {held.root}):
            sources = {s: values[s] for s in self.graph.inputs[member] if s in values}
            made = self.replay.with_inputs(member, sources) if sources else None
            if made is not None:
                values[member] = made
        needed = set(self.graph.inputs[edge]) & held.members
        if not needed <= values.keys() or edge in self._lost:
            return None
        first = self.replay.with_inputs(edge, {s: values[s] for s in needed})
        if first is None:
            return None
        return self._ends({edge: first}, edge, held.members, passed)

    def _ends(
        self, moved: Mapping[int, Array], edge: int, members: Set[int], passed: Set[int]
    ) -> dict[int, Array] | None:
        """The values of the first tensors with a gradient from a moved place on.

        Each way ends at the first such tensor: what a second one gets from it is in its gradient.
        """
        values: dict[int, Array] = {}
        ends: dict[int, Array] = {}
        for place in sorted(self._behind(edge) - members):
            if self.graph.records[place].gradient is None:
                continue  # a copy that passes no gradients, or nothing that is used
            made = moved.get(place)
            if made is None:
                given = {s: values[s] for s in self.graph.inputs[place] if s in values}
                if not given:
                    continue
                made = None if place in self._lost else self.replay.with_inputs(place, given)
            if made is None:
                return None
            held = self.at.get(place)
            if held is not None and held.root not in passed:
                if place != held.root:
                    return None
                ends[place] = made
                continue
            if place in self._outputs or not set(self.graph.consumers[place]) & self.graph.live:
                return None  # an end whose gradient is not known
            values[place] = made
        return ends

    def _with_parameter(self, place: int, name: str, value: Array, moved: Array) -> Array | None:
        """The value of an operation with another value of a parameter; None if not known."""
        operation = self.replay.operation(place)
        if operation is None:
            return None
        slots = self.replay.slots(place, name)
        if slots:
            arguments = list(operation.arguments)
            for slot in slots:
                arguments[slot] = operation.taken(slot, moved)
            return attempt(operation, arguments)
        # Scales and shifts are options of the operations that take them.
        options = {
            key: moved.reshape(option.shape)
            for key, option in operation.options.items()
            if isinstance(option, np.ndarray)
            and option.size == value.size
            and np.array_equal(option.reshape(value.shape), value)
        }
        return attempt(operation, None, **options) if len(options) == 1 else None


def of_port(sides: Sides, replay: Replay) -> Derivatives:
    """The port's gradients, where it has the reference's values.

    Args:
        sides: both passes, aligned, the reference repaired where it could be.
        replay: recomputation of the reference, which knows repaired operations.
    """
    graph, lost = sides.graph, set(sides.unknown)
    lost |= {place for place in range(len(graph)) if not sides.right[place]}
    return Derivatives(graph, replay, list(_held(sides)), sides.output_places, lost)


def of_reference(sides: Sides, like: Derivatives) -> Derivatives:
    """The reference's own gradients and values.

    Args:
        sides: both passes, before any repair.
        like: says which tensors are asked for.
    """
    records = sides.graph.records
    held = [
        Held(one.root, one.members, np.asarray(gradient, np.float64))
        for one in like.held
        if (gradient := records[one.root].gradient) is not None
    ]
    return Derivatives(sides.graph, Replay(sides.graph), held, sides.output_places)


def _held(sides: Sides) -> Iterator[Held]:
    for family in families(sides):
        if len(family.roots) != 1:
            continue
        root = family.roots[0]
        gradient = _port_gradient(sides.graph, sides.port, family)
        if gradient is None or (not sides.graph.inputs[root] and not gradient.any()):
            continue  # frameworks that keep no gradient of a placeholder
        yield Held(root, family.members, gradient)


def _port_gradient(graph: Graph, port: Graph, family: Family) -> Array | None:
    """The port's gradient of a family of tensors, in the order of elements of its root."""
    value = np.asarray(graph.records[family.roots[0]].value, np.float64)
    total = np.zeros(value.shape)
    for twin in roots(port, family.twins):
        record = port.records[twin]
        if record.gradient is not None:
            total = total + laid_out(value, np.asarray(record.value, np.float64), record.gradient)
    return total


def laid_out(value: Array, other: Array, gradient: Array) -> Array:
    """A gradient in the order in which a tensor holds the values of another one.

    Args:
        value: (*sizes) of the reference.
        other: the same values, in any order and as many elements.
        gradient: of `other`, of its shape.

    Returns:
        (*sizes); NaN at elements that cannot be told from others.
    """
    ours, order, other_order = value.reshape(-1), np.argsort(value, None), np.argsort(other, None)
    with np.errstate(all="ignore"):
        mismatch = np.abs(ours[order] - other.reshape(-1)[other_order])
        apart = np.diff(ours[order])
        scale = np.abs(ours[np.isfinite(ours)]).max(initial=0.0)
        known = mismatch[np.isfinite(mismatch)].max(initial=0.0)
    limit = CLEAR * max(float(known), 1e-15 * float(scale))
    for axes in itertools.permutations(range(other.ndim)) if other.ndim <= RANK else ():
        turned = other.transpose(axes).reshape(value.shape)
        with np.errstate(all="ignore"):
            near = (np.abs(turned - value) <= limit) | (turned == value)
        if near.all():
            return np.asarray(gradient, np.float64).transpose(axes).reshape(value.shape)
    made = np.empty(value.size)
    made[order] = np.asarray(gradient, np.float64).reshape(-1)[other_order]
    alike = np.flatnonzero(~(apart > limit))
    made[order[alike]] = made[order[alike + 1]] = np.nan
    return made.reshape(value.shape)
