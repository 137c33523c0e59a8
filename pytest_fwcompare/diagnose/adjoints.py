"""What a use of a tensor sends back to it, for operations whose adjoint is short to write."""

from __future__ import annotations

from collections.abc import Set

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.operations import Operation
from pytest_fwcompare.diagnose.operations.unrolled import Cut, input_gradient
from pytest_fwcompare.diagnose.replay import Replay


def contribution(
    graph: Graph, replay: Replay, root: int, members: Set[int], edge: int
) -> Array | None:
    """Gradient that the operation `edge` sends back to `root`, through members of its group.

    Args:
        graph: the recorded pass, with gradients.
        replay: its recomputation.
        root: the tensor, shape (*sizes).
        members: positions that hold the root's values, rearranged.
        edge: an operation that uses a member.

    Returns:
        Shape (*sizes); None where the adjoint is not written down here.
    """
    operation, gradient = replay.operation(edge), graph.records[edge].gradient
    if operation is None or gradient is None:
        return None
    where = _places(replay, root, members)
    total: Array = np.zeros(graph.records[root].value.shape)
    for slot in range(len(operation.arguments)):
        source = replay.source(edge, slot)
        if source not in members:
            continue
        part = adjoint(operation, slot, gradient)
        index = where.get(source) if source is not None else None
        if part is None or index is None:
            return None
        np.add.at(total.reshape(-1), index.reshape(-1), part.reshape(-1))
    return total


def _places(replay: Replay, root: int, members: Set[int]) -> dict[int, Array]:
    """For each member, which element of the root each of its elements is."""
    value = replay.graph.records[root].value
    numbers = np.arange(value.size, dtype=np.float64).reshape(value.shape)
    found: dict[int, Array] = {}
    for place, moved in replay.run({root: numbers}):
        passive = place == root or replay.kind(place) == "movement" or replay.is_identity(place)
        if place in members and passive:
            found[place] = np.round(moved).astype(np.int64)
        if place > max(members):
            break
    return found


def adjoint(operation: Operation, slot: int, gradient: Array) -> Array | None:
    """Vector-Jacobian product of an operation by one of its arguments."""
    x = np.asarray(operation.arguments[slot], np.float64)
    if operation.kind == "arithmetic":
        return _arithmetic(operation, slot, gradient, x)
    if operation.kind == "linear" and slot == 0:
        return np.asarray(gradient @ operation.arguments[1])
    if operation.kind == "activation" and x.shape == gradient.shape:
        step = 1e-6 * (float(np.abs(x).max()) or 1.0)
        up, down = operation.compute((x + step,)), operation.compute((x - step,))
        return np.asarray(gradient * (up - down) / (2 * step))
    if operation.kind == "movement" and len(operation.arguments) == 1:
        numbers = np.arange(x.size, dtype=np.float64).reshape(x.shape)
        taken = np.round(operation.compute((numbers,))).astype(np.int64)
        if operation.options["move"] == "pad":
            return None
        total = np.zeros(x.size)
        np.add.at(total, taken.reshape(-1), gradient.reshape(-1))
        return total.reshape(x.shape)
    if operation.kind == "recurrent" and slot == 0:
        return input_gradient(operation, gradient, Cut())
    if operation.kind == "norm":
        return _norm(operation, gradient, x)
    if operation.kind == "matmul" and not operation.options.get("equation"):
        left, right = operation.arguments
        if left.ndim == right.ndim:
            pulled = (
                gradient @ np.swapaxes(right, -1, -2)
                if slot == 0
                else np.swapaxes(left, -1, -2) @ gradient
            )
            return np.asarray(pulled) if pulled.shape == x.shape else None
    return None


def _arithmetic(operation: Operation, slot: int, gradient: Array, x: Array) -> Array | None:
    name = operation.options["function"]
    swapped = bool(operation.options.get("swapped"))
    other = operation.arguments[1 - slot] if len(operation.arguments) == 2 else None
    if other is None:
        other = np.asarray(operation.options.get("number", 0.0))
    first = (slot == 0) != swapped
    if name == "add":
        part = gradient
    elif name == "subtract":
        part = gradient if first else -gradient
    elif name == "multiply":
        part = gradient * other
    elif name == "divide" and first:
        part = gradient / other
    elif name == "divide":
        part = -gradient * other / x**2
    else:
        return None
    # Broadcasting forward is a sum backward.
    while part.ndim > x.ndim:
        part = part.sum(axis=0)
    for axis, size in enumerate(x.shape):
        if size == 1 and part.shape[axis] != 1:
            part = part.sum(axis=axis, keepdims=True)
    return np.asarray(part)


def _norm(operation: Operation, gradient: Array, x: Array) -> Array | None:
    """Adjoint of (x - mean) / root over axes; with given statistics a product."""
    options = operation.options
    if options.get("groups") or options.get("outside"):
        return None
    scaled = gradient if options["weight"] is None else gradient * options["weight"]
    if options.get("variance") is not None:
        return np.asarray(scaled / np.sqrt(options["variance"] + options["eps"]))
    axes = tuple(options["axes"])
    mean = x.mean(axis=axes, keepdims=True) if options["centred"] else 0.0
    root = np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + options["eps"])
    unit = (x - mean) / root
    along = (scaled * unit).mean(axis=axes, keepdims=True)
    level = scaled.mean(axis=axes, keepdims=True) if options["centred"] else 0.0
    return np.asarray((scaled - level - unit * along) / root)
