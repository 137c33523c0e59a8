"""Places without a derivative: which operation, and what the two sides take there.

At relu(0), |0|, a tie of max or a clip limit every value between the one-sided derivatives is a
valid subgradient (Clarke, Optimization and Nonsmooth Analysis, 1983, section 2.1). A difference of
gradients that is confined to such places of one operation, and stays between what moving the
argument up and down gives, is explained by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.gradient_paths import blame
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.operations import Operation
from pytest_fwcompare.diagnose.replay import Replay

LARGEST = 1024
"""Elements of a tensor that is moved one by one."""

STEP = 1e-6
"""Relative size of a move: far below the distance of neighbouring values that are no tie."""

SAME = 1e-7
"""Relative difference below which one-sided derivatives, or gradients, are equal."""


def explain_kinks(sides: Sides) -> list[Diagnosis]:
    """Operations at whose kinks the gradients part, in the reverse order of the data flow."""
    graph, replay = sides.graph, Replay(sides.graph)
    found: list[Diagnosis] = []
    for place in reversed(range(len(graph))):
        record = graph.records[place]
        if record.gradient is None or not 0 < record.value.size <= LARGEST:
            continue
        for obtained in _gradients_of_equal(record, sides):
            residual = obtained - record.gradient
            scale = float(np.abs(record.gradient).max(initial=0)) or 1.0
            wrong = np.abs(residual) > SAME * scale
            if not wrong.any():
                break
            best = _best(sides, replay, place, residual, wrong)
            if best is not None:
                found.append(best)
                break
    return found


def _gradients_of_equal(record: Recorded, sides: Sides) -> Iterator[Array]:
    """Gradients of the port's tensors that hold the same values, in the reference's axes."""
    ours = record.value
    for other in sides.port.records:
        if other.gradient is None or other.value.size != ours.size:
            continue
        if other.value.ndim != ours.ndim:
            continue
        for axes in permutations(range(ours.ndim)):
            turned = other.value.transpose(axes)
            if turned.shape == ours.shape and np.allclose(turned, ours, rtol=1e-9, atol=1e-12):
                yield other.gradient.transpose(axes)
                break


def _best(
    sides: Sides, replay: Replay, place: int, residual: Array, wrong: Array
) -> Diagnosis | None:
    """The operation whose kinks hold the whole difference, the fewest kinks first."""
    graph = sides.graph
    fitting: list[tuple[int, int, Array, Array]] = []
    for edge in graph.consumers[place]:
        operation, gradient = replay.operation(edge), graph.records[edge].gradient
        if operation is None or gradient is None:
            continue
        slots = [s for s in range(len(operation.arguments)) if replay.source(edge, s) == place]
        if len(slots) != 1 or operation.arguments[slots[0]].shape != residual.shape:
            continue
        below, above = one_sided(operation, slots[0], gradient)
        size = float(max(np.abs(below).max(initial=0), np.abs(above).max(initial=0))) or 1.0
        kinks = np.abs(above - below) > SAME * size
        width = np.abs(above - below) + SAME * size
        if kinks.any() and not (wrong & ~kinks).any() and (np.abs(residual) <= width).all():
            fitting.append((int(kinks.sum()), edge, below, above))
    if not fitting:
        return None
    count, edge, below, above = min(fitting, key=lambda entry: entry[:2])
    culprit, between = blame(graph, place, edge)
    record = graph.records[edge]
    if record.path not in graph.containers:
        culprit, between = record.path, None
    at = np.unravel_index(int(np.argmax(np.abs(residual))), residual.shape)
    return Diagnosis(
        culprit=culprit,
        between=between,
        operation=record.operation,
        cause="gradient-path",
        evidence=(
            f"the gradients differ only where {record.operation} of {record.path or 'the root'} "
            f"has no derivative ({int(wrong.sum())} of {count} such places): there the port's "
            f"gradient differs from the reference's by up to {residual[at]:.3g}, within what the "
            f"one-sided derivatives {below[at]:.3g} and {above[at]:.3g} leave open",
        ),
        local_gap=float(np.abs(residual).max()),
        backward=True,
    )


def one_sided(operation: Operation, slot: int, gradient: Array) -> tuple[Array, Array]:
    """What each argument element sends back when it is moved down, and when it is moved up.

    Args:
        operation: recomputed in NumPy.
        slot: which argument is moved.
        gradient: of the operation's value, (*value shape).

    Returns:
        Two arrays of the argument's shape: the one-sided derivatives of sum(value * gradient).
    """
    argument = operation.arguments[slot]
    size = STEP * (float(np.abs(argument).max(initial=0)) or 1.0)
    still = float((operation.compute() * gradient).sum())
    sides = []
    for step in (-size, size):
        slopes = np.zeros(argument.size)
        for index in range(argument.size):
            shifted = argument.copy()
            shifted.reshape(-1)[index] += step
            arguments = list(operation.arguments)
            arguments[slot] = shifted
            value = float((operation.compute(arguments) * gradient).sum())
            slopes[index] = (value - still) / step
        sides.append(slopes.reshape(argument.shape))
    return sides[0], sides[1]
