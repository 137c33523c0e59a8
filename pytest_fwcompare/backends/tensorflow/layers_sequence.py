"""Recurrent layers and attention in raw TensorFlow operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from pytest_fwcompare.backends.tensorflow.layers import LayerModule, computes, sizes
from pytest_fwcompare.networks import ParameterSpec
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.base import renamed
from pytest_fwcompare.weights.transforms import Transform

LONGEST_UNROLLED = 128
"""A graph with more steps becomes a loop, whose tracing time does not grow with the steps."""

State = tuple[tf.Tensor, ...]
"""Tensors (batch, units), the output first."""


class Recurrent(LayerModule):
    """A cell applied step by step; subclasses give the cell."""

    states = 1

    def step(self, state: State, projected: tf.Tensor) -> State:
        """The next state.

        Args:
            state: the state before.
            projected: x @ kernel + bias of the step, (batch, gates * units).
        """
        raise NotImplementedError

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        layer = self.description
        projected = tf.transpose(self.biased(tf.tensordot(x, self.kernel, 1)), (1, 0, 2))
        start = (tf.zeros_like(projected[0, :, : layer.units]),) * self.states
        steps = projected.shape[0]
        if steps is None or (steps > LONGEST_UNROLLED and not tf.executing_eagerly()):
            outputs = tf.scan(self.step, projected, start, reverse=layer.reverse)[0]
            last = outputs[0] if layer.reverse else outputs[-1]
        else:
            listed = []
            state = start
            for index in reversed(range(steps)) if layer.reverse else range(steps):
                state = self.step(state, projected[index])
                listed.append(state[0])
            last = state[0]
            if not layer.return_sequences:
                return last
            outputs = tf.stack(listed[::-1] if layer.reverse else listed)
        return tf.transpose(outputs, (1, 0, 2)) if layer.return_sequences else last


@computes(described.SimpleRNN)
class SimpleRNN(Recurrent):
    """A state without gates."""

    def step(self, state: State, projected: tf.Tensor) -> State:
        function = {"tanh": tf.tanh, "relu": tf.nn.relu}[self.description.activation]
        return (function(projected + state[0] @ self.recurrent_kernel),)


@computes(described.LSTM)
class LSTM(Recurrent):
    """Gates input, forget, cell, output."""

    states = 2

    def step(self, state: State, projected: tf.Tensor) -> State:
        hidden, cell = state
        gates = tf.split(projected + hidden @ self.recurrent_kernel, 4, -1)
        inputs, forget, new, output = gates
        cell = tf.sigmoid(forget) * cell + tf.sigmoid(inputs) * tf.tanh(new)
        return tf.sigmoid(output) * tf.tanh(cell), cell


@computes(described.GRU)
class GRU(Recurrent):
    """Gates reset, update, new."""

    def step(self, state: State, projected: tf.Tensor) -> State:
        (hidden,) = state
        reset_x, update_x, new_x = tf.split(projected, 3, -1)
        if self.description.reset == "after":
            recurrent = hidden @ self.recurrent_kernel
            bias = self.optional("recurrent_bias")
            recurrent = recurrent if bias is None else recurrent + bias
            reset_h, update_h, new_h = tf.split(recurrent, 3, -1)
            new = tf.tanh(new_x + tf.sigmoid(reset_x + reset_h) * new_h)
        else:
            units = self.description.units
            gates = hidden @ self.recurrent_kernel[:, : 2 * units]
            reset_h, update_h = tf.split(gates, 2, -1)
            kept = tf.sigmoid(reset_x + reset_h) * hidden
            new = tf.tanh(new_x + kept @ self.recurrent_kernel[:, 2 * units :])
        update = tf.sigmoid(update_x + update_h)
        return ((1 - update) * new + update * hidden,)


CELLS: dict[type[described.Recurrent], type[Recurrent]] = {
    described.SimpleRNN: SimpleRNN,
    described.LSTM: LSTM,
    described.GRU: GRU,
}

MERGES: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "concatenate": lambda forward, backward: tf.concat((forward, backward), -1),
    "sum": lambda forward, backward: forward + backward,
    "average": lambda forward, backward: (forward + backward) / 2,
    "multiply": lambda forward, backward: forward * backward,
}


@computes(described.Bidirectional)
class Bidirectional(LayerModule):
    """Holds a module for each direction, `forward` and `backward`."""

    def create(self, specs: Mapping[str, ParameterSpec], dtype: str) -> None:
        for direction, layer in self.description.directions.items():
            own = dict(_within(direction, specs))
            named = renamed(layer, f"{self.name}_{direction}")
            setattr(self, direction, CELLS[type(layer)](named, own, dtype))

    def placements(
        self, specs: Mapping[str, ParameterSpec]
    ) -> Iterator[tuple[str, str, Transform]]:
        for direction in self.description.directions:
            inner = getattr(self, direction).placements(dict(_within(direction, specs)))
            for path, name, transform in inner:
                yield f"{direction}.{path}", f"{direction}.{name}", transform

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return MERGES[self.description.merge](self.forward(x), self.backward(x))


def _within(
    prefix: str, specs: Mapping[str, ParameterSpec]
) -> Iterator[tuple[str, ParameterSpec]]:
    for name, spec in specs.items():
        if name.startswith(f"{prefix}."):
            yield name.removeprefix(f"{prefix}."), spec


@computes(described.MultiHeadAttention)
class MultiHeadAttention(LayerModule):
    """Projections, `softmax_where`, output projection."""

    def __call__(
        self,
        query: tf.Tensor,
        memory: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        layer = self.description
        memory = query if memory is None else memory
        queries, keys = self._heads("query", query), self._heads("key", memory)
        scores = tf.matmul(queries, keys, transpose_b=True) / math.sqrt(layer.size)
        weights = softmax_where(scores, self._allowed(query, memory, mask))
        heads = tf.matmul(weights, self._heads("value", memory))
        batch, target, _ = sizes(query)
        joined = tf.reshape(
            tf.transpose(heads, (0, 2, 1, 3)), (batch, target, layer.heads * layer.size)
        )
        return self._project("output", joined)

    def _project(self, name: str, x: tf.Tensor) -> tf.Tensor:
        y = tf.tensordot(x, getattr(self, f"{name}_kernel"), 1)
        bias = self.optional(f"{name}_bias")
        return y if bias is None else y + bias

    def _heads(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """(batch, heads, time, size)."""
        batch, time, _ = sizes(x)
        shape = (batch, time, self.description.heads, self.description.size)
        return tf.transpose(tf.reshape(self._project(name, x), shape), (0, 2, 1, 3))

    def _allowed(
        self, query: tf.Tensor, memory: tf.Tensor, mask: tf.Tensor | None
    ) -> tf.Tensor | None:
        """Where attention may go, broadcast to (batch, heads, target, source); None: anywhere."""
        allowed = None if mask is None else mask[:, tf.newaxis, tf.newaxis, :]
        if self.description.causal:
            target, source = tf.range(sizes(query)[1]), tf.range(sizes(memory)[1])
            past = (target[:, tf.newaxis] >= source)[tf.newaxis, tf.newaxis]
            allowed = past if allowed is None else tf.logical_and(past, allowed)
        return allowed


def softmax_where(scores: tf.Tensor, allowed: tf.Tensor | None) -> tf.Tensor:
    """Softmax over the last axis of what is allowed; zeros where nothing is."""
    if allowed is None:
        return tf.nn.softmax(scores)
    weights = tf.nn.softmax(tf.where(allowed, scores, scores.dtype.min))
    return tf.where(allowed, weights, tf.zeros((), scores.dtype))
