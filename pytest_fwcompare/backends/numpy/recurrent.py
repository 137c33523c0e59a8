"""Recurrent layers, step by step. Formulas: the docstrings in `networks.layers.recurrent`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import autograd.numpy as anp
import numpy as np
from autograd.tracer import getval

from pytest_fwcompare.backends.numpy.elementwise import relu, sigmoid, tanh
from pytest_fwcompare.backends.numpy.lower import Use, compute, lowers
from pytest_fwcompare.backends.numpy.primitives import dense
from pytest_fwcompare.backends.numpy.traced import Value
from pytest_fwcompare.networks import layers as described

Step = Callable[[Value, Value], tuple[Value, Value]]
"""From the step's product with the kernel and the state to the next state and the output."""


def _run(layer: described.Recurrent, use: Use, step: Step, states: int = 1) -> Value:
    """Apply a cell to all steps from zero states; the output is the last one or all."""
    batch, time, _ = use.x.shape
    products = use.biased(dense(use.x, use.parameters["kernel"]))
    zeros = np.zeros((batch, layer.units), getval(use.x).dtype)
    state: Value = zeros if states == 1 else (zeros,) * states
    outputs: list[Value] = []
    for index in reversed(range(time)) if layer.reverse else range(time):
        state, output = step(products[:, index], state)
        outputs.append(output)
    if not layer.return_sequences:
        return outputs[-1]
    return anp.stack(outputs[::-1] if layer.reverse else outputs, axis=1)


def _gates(value: Value, count: int) -> list[Value]:
    units = value.shape[-1] // count
    return [value[:, gate * units : (gate + 1) * units] for gate in range(count)]


@lowers(described.SimpleRNN)
def _simple_rnn(layer: described.SimpleRNN, use: Use) -> Value:
    function = {"tanh": tanh, "relu": relu}[layer.activation]
    recurrent = use.parameters["recurrent_kernel"]

    def step(product: Value, state: Value) -> tuple[Value, Value]:
        new = function(product + dense(state, recurrent))
        return new, new

    return _run(layer, use, step)


@lowers(described.LSTM)
def _lstm(layer: described.LSTM, use: Use) -> Value:
    recurrent = use.parameters["recurrent_kernel"]

    def step(product: Value, state: Value) -> tuple[Value, Value]:
        hidden, cell = state
        i, f, g, o = _gates(product + dense(hidden, recurrent), 4)
        cell = sigmoid(f) * cell + sigmoid(i) * tanh(g)
        hidden = sigmoid(o) * tanh(cell)
        return (hidden, cell), hidden

    return _run(layer, use, step, states=2)


@lowers(described.GRU)
def _gru(layer: described.GRU, use: Use) -> Value:
    recurrent = use.parameters["recurrent_kernel"]
    units = layer.units

    def after(product: Value, state: Value) -> tuple[Value, Value]:
        inner = dense(state, recurrent)
        if "recurrent_bias" in use.parameters:
            inner = inner + use.parameters["recurrent_bias"]
        r, z = _gates(sigmoid(product[:, : 2 * units] + inner[:, : 2 * units]), 2)
        n = tanh(product[:, 2 * units :] + r * inner[:, 2 * units :])
        new = (1 - z) * n + z * state
        return new, new

    def before(product: Value, state: Value) -> tuple[Value, Value]:
        inner = dense(state, recurrent[:, : 2 * units])
        r, z = _gates(sigmoid(product[:, : 2 * units] + inner), 2)
        n = tanh(product[:, 2 * units :] + dense(r * state, recurrent[:, 2 * units :]))
        new = (1 - z) * n + z * state
        return new, new

    return _run(layer, use, after if layer.reset == "after" else before)


@lowers(described.Bidirectional)
def _bidirectional(layer: described.Bidirectional, use: Use) -> Value:
    forward, backward = (
        compute(
            one,
            replace(
                use,
                parameters={
                    name.removeprefix(f"{prefix}."): value
                    for name, value in use.parameters.items()
                    if name.startswith(f"{prefix}.")
                },
            ),
        )
        for prefix, one in layer.directions.items()
    )
    if layer.merge == "concatenate":
        return anp.concatenate([forward, backward], axis=-1)
    if layer.merge == "multiply":
        return forward * backward
    total = forward + backward
    return total / 2 if layer.merge == "average" else total
