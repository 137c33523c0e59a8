"""Recurrent layers by lax.scan, and attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from pytest_fwcompare.backends.jax.layers import Use, Value, compute, lowers
from pytest_fwcompare.networks import layers as described

State = tuple[Value, ...]
"""Arrays (batch, units), the output first."""

Weights = tuple[Value, ...]
"""recurrent_kernel (units, gates units) and, where there is one, recurrent_bias (gates units)."""

Cell = Callable[[Weights, State, Value], State]
"""The next state from the weights, the last state and x @ kernel + bias of the step."""


def unrolled(layer: described.Recurrent, use: Use, cell: Cell, states: int) -> Value:
    """The last state, or all of them, of a cell applied step by step."""
    projected = jnp.swapaxes(use.biased(use.x @ use.parameters["kernel"]), 0, 1)
    zero = jnp.zeros((use.x.shape[0], layer.units), projected.dtype)
    names = ("recurrent_kernel", "recurrent_bias")
    weights = tuple(use.parameters[name] for name in names if name in use.parameters)
    start = (weights, (zero,) * states)
    (_, last), outputs = jax.lax.scan(body(cell), start, projected, reverse=layer.reverse)
    return jnp.swapaxes(outputs, 0, 1) if layer.return_sequences else last[0]


@cache
def body(cell: Cell) -> Callable[[Any, Value], Any]:
    """A step for lax.scan, one function a cell with the weights carried along.

    JAX compiles a scan anew for each function object: a closure over the weights would be
    compiled at every call outside of jit.
    """

    def step(carry: tuple[Weights, State], item: Value) -> tuple[tuple[Weights, State], Value]:
        weights, state = carry
        state = cell(weights, state, item)
        return (weights, state), state[0]

    return step


@lowers(described.SimpleRNN)
def _simple_rnn(layer: described.SimpleRNN, use: Use) -> Value:
    return unrolled(layer, use, _tanh_cell if layer.activation == "tanh" else _relu_cell, 1)


def _tanh_cell(weights: Weights, state: State, item: Value) -> State:
    return (jnp.tanh(item + state[0] @ weights[0]),)


def _relu_cell(weights: Weights, state: State, item: Value) -> State:
    return (jax.nn.relu(item + state[0] @ weights[0]),)


@lowers(described.LSTM)
def _lstm(layer: described.LSTM, use: Use) -> Value:
    return unrolled(layer, use, _lstm_cell, 2)


def _lstm_cell(weights: Weights, state: State, item: Value) -> State:
    hidden, cell = state
    inputs, forget, new, output = jnp.split(item + hidden @ weights[0], 4, -1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(inputs) * jnp.tanh(new)
    return jax.nn.sigmoid(output) * jnp.tanh(cell), cell


@lowers(described.GRU)
def _gru(layer: described.GRU, use: Use) -> Value:
    return unrolled(layer, use, _reset_after if layer.reset == "after" else _reset_before, 1)


def _reset_after(weights: Weights, state: State, item: Value) -> State:
    (hidden,) = state
    sums = hidden @ weights[0]
    if len(weights) > 1:
        sums = sums + weights[1]
    split = 2 * hidden.shape[-1]
    reset, update = jnp.split(jax.nn.sigmoid(item[:, :split] + sums[:, :split]), 2, -1)
    new = jnp.tanh(item[:, split:] + reset * sums[:, split:])
    return ((1 - update) * new + update * hidden,)


def _reset_before(weights: Weights, state: State, item: Value) -> State:
    (hidden,) = state
    split = 2 * hidden.shape[-1]
    sums = hidden @ weights[0][:, :split]
    reset, update = jnp.split(jax.nn.sigmoid(item[:, :split] + sums), 2, -1)
    new = jnp.tanh(item[:, split:] + (reset * hidden) @ weights[0][:, split:])
    return ((1 - update) * new + update * hidden,)


@lowers(described.Bidirectional)
def _bidirectional(layer: described.Bidirectional, use: Use) -> Value:
    both = []
    for prefix, direction in layer.directions.items():
        parameters: Mapping[str, Any] = use.parameters[prefix]
        both.append(compute(direction, Use(use.inputs, use.keywords, parameters)))
    if layer.merge == "concatenate":
        return jnp.concatenate(both, -1)
    if layer.merge == "multiply":
        return both[0] * both[1]
    return (both[0] + both[1]) / (2 if layer.merge == "average" else 1)


@lowers(described.MultiHeadAttention)
def _attention(layer: described.MultiHeadAttention, use: Use) -> Value:
    query, memory = use.inputs[0], use.inputs[-1]

    def projected(name: str, x: Value) -> Value:
        """(batch, time, heads, size)."""
        value = use.biased(x @ use.parameters[f"{name}_kernel"], f"{name}_bias")
        return value.reshape(*value.shape[:2], layer.heads, layer.size)

    queries, keys = projected("query", query), projected("key", memory)
    values = projected("value", memory)
    scores = jnp.einsum("bthd,bshd->bhts", queries, keys) / float(layer.size) ** 0.5
    allowed = _allowed(layer, use)
    weights = jax.nn.softmax(scores) if allowed is None else masked_softmax(scores, allowed)
    mixed = jnp.einsum("bhts,bshd->bthd", weights, values)
    joined = mixed.reshape(*mixed.shape[:2], layer.heads * layer.size)
    return use.biased(joined @ use.parameters["output_kernel"], "output_bias")


def _allowed(layer: described.MultiHeadAttention, use: Use) -> Value | None:
    """True where a target step may attend to a source step; broadcasts to the scores."""
    allowed = None
    if "mask" in use.keywords:
        allowed = use.keywords["mask"].astype(bool)[:, None, None, :]
    if layer.causal:
        target, source = use.inputs[0].shape[1], use.inputs[-1].shape[1]
        earlier = np.tri(target, source, dtype=bool)[None, None]
        allowed = earlier if allowed is None else allowed & earlier
    return allowed


def masked_softmax(scores: Value, allowed: Value) -> Value:
    """Softmax over the last axis where allowed; weights of zero where nothing is."""
    highest = jnp.max(scores, -1, keepdims=True, initial=-np.inf, where=allowed)
    highest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(highest), highest, 0))
    # Cells that are left out are moved to zero before exp, so that no infinity arises.
    below = jnp.where(allowed, scores - highest, 0)
    # A compiled program may compute scores twice and round them differently, so that large ones
    # exceed their own maximum; what they exceed it by is taken off, which no gradient sees.
    below = below - jax.lax.stop_gradient(jnp.maximum(below, 0))
    powers = jnp.where(allowed, jnp.exp(below), 0)
    total = jnp.sum(powers, -1, keepdims=True)
    return powers / jnp.where(total == 0, 1, total)
