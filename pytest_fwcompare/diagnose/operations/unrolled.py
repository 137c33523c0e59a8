"""Gradients of recurrent layers by their inputs, with the way back through time cut or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations.base import Operation
from pytest_fwcompare.diagnose.operations.recurrent import single_direction

STEP = 1e-6
"""Central differences of a step of a cell: exact to some 1e-9 of its slopes."""

Step = Callable[[Array, list[Array]], list[Array]]


@dataclass(frozen=True)
class Cut:
    """Where no gradient passes from one step to the one before.

    Attributes:
        states: numbers of the states that are held constant: 0 the hidden, 1 the cell state.
        every: steps after which they are.
    """

    states: tuple[int, ...] = ()
    every: int = 1

    def stops(self, state: int, step: int) -> bool:
        """Whether nothing passes from that step to the one before, by that state."""
        return state in self.states and step % self.every == 0


def input_gradient(operation: Operation, gradient: Array, cut: Cut) -> Array | None:
    """What a recurrent layer sends back to its input, shaped as the input.

    Args:
        operation: of kind "recurrent", one of its results (see `recurrent.recurrent`).
        gradient: of that result.
        cut: where the way back through time is cut, in all layers and directions.
    """
    options = operation.options
    if "sizes" in options or operation.arguments[0].ndim != 3:
        return None
    if options.get("squeezed") and gradient.ndim == 2:
        gradient = gradient[None]
    x = np.asarray(operation.arguments[0], np.float64)
    x = np.swapaxes(x, 0, 1) if options["batch_first"] else x
    layers = _forward(operation, x)
    sequence = np.zeros_like(layers[-1].outputs)
    if options["output"] == 0:
        sequence = np.swapaxes(gradient, 0, 1) if options["batch_first"] else gradient
    for number in range(len(layers) - 1, -1, -1):
        last = _last_state(options, gradient, number, len(layers))
        sequence = layers[number].back(sequence, last, cut)
    return np.asarray(np.swapaxes(sequence, 0, 1) if options["batch_first"] else sequence)


def _last_state(
    options: Mapping[str, Any], gradient: Array, layer: int, count: int
) -> dict[tuple[int, int], Array]:
    """Gradients of the last states of a layer, by direction and state."""
    if options["output"] == 0:
        return {}
    ways = len(gradient) // count
    state = options["output"] - 1
    return {(way, state): gradient[layer * ways + way] for way in range(ways)}


@dataclass(frozen=True)
class Layer:
    """One layer of a recurrent network at its recorded inputs.

    Attributes:
        inputs: (time, batch, features).
        outputs: (time, batch, units of all directions).
        directions: for each, the weights to the gates (features, gates), the steps in the order
            they are made, the input part of the gates by step, the states before each step, and
            the cell.
    """

    inputs: Array
    outputs: Array
    directions: Sequence[tuple[Array, Sequence[int], Array, Sequence[list[Array]], Step]]

    def back(self, sequence: Array, last: Mapping[tuple[int, int], Array], cut: Cut) -> Array:
        """Gradient of the layer's inputs by that of its outputs and last states."""
        total = np.zeros_like(self.inputs)
        units = self.outputs.shape[-1] // len(self.directions)
        for way, (to_gates, order, gates, states, cell) in enumerate(self.directions):
            own = sequence[..., way * units : (way + 1) * units]
            carried = [np.zeros(own.shape[1:]) for _ in states[order[0]]]
            for (direction, state), gradient in last.items():
                if direction == way:
                    carried[state] = carried[state] + gradient
            for step in reversed(order):
                carried[0] = carried[0] + own[step]
                into, carried = _pulled(cell, gates[step], states[step], carried)
                total[step] += into @ to_gates.T
                carried = [
                    np.zeros_like(c) if cut.stops(number, step) else c
                    for number, c in enumerate(carried)
                ]
        return total


def _pulled(
    cell: Step, gates: Array, states: list[Array], gradients: list[Array]
) -> tuple[Array, list[Array]]:
    """Gradients of a step's gates (batch, gates) and states, by central differences."""
    sizes = [gates.shape[-1], *(state.shape[-1] for state in states)]
    made: list[Array] = []
    for slot, size in enumerate(sizes):
        values = [gates, *states]
        moves = np.eye(size)[:, None, :] * STEP
        ends = []
        for sign in (1.0, -1.0):
            moved: list[Array] = [np.broadcast_to(v, (size, *v.shape)) for v in values]
            moved[slot] = values[slot] + sign * moves
            flat = [v.reshape(-1, v.shape[-1]) for v in moved]
            after = cell(flat[0], flat[1:])
            ends.append([a.reshape(size, -1, a.shape[-1]) for a in after])
        pulled = sum(
            np.einsum("pbu,bu->bp", (up - down) / (2 * STEP), gradient)
            for up, down, gradient in zip(*ends, gradients, strict=True)
        )
        made.append(np.asarray(pulled))
    return made[0], made[1:]


def _forward(operation: Operation, x: Array) -> list[Layer]:
    """All layers of the operation at the inputs x (time, batch, features)."""
    options = operation.options
    states = 2 if options["cell"] == "lstm" else 1
    _, *rest = operation.arguments
    initial, weights = rest[:states], rest[states:]
    each = 4 if options["biased"] else 2
    ways = 2 if options["bidirectional"] else 1
    layers = []
    for layer in range(initial[0].shape[0] // ways):
        directions, outputs = [], []
        for way in range(ways):
            number = layer * ways + way
            block = weights[number * each : (number + 1) * each]
            start = [state[number] for state in initial]
            made, sequence = single_direction(options, number, x, block, start, way == 1)
            directions.append(made)
            outputs.append(sequence)
        layers.append(Layer(x, np.concatenate(outputs, axis=-1), directions))
        x = layers[-1].outputs
    return layers
