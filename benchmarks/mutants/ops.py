"""One set of operations in torch, JAX and TensorFlow, in which each network is written once.

Every call of an operation passes `Ops.call`, so that a port can be changed in one of its calls. A
composite such as a layer norm is one fused operation in torch and several plain ones elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Tensor = Any


class Ops:
    """Operations by name; subclasses hold those of a framework as methods `_name`.

    Args:
        change: called with the number of the call, the operation's name, a function that computes
            it, and its arguments; gives the value that is used instead. None changes nothing.
    """

    def __init__(self, change: Callable[..., Tensor] | None = None) -> None:
        self.change = change
        self.calls: list[tuple[str, str, tuple[int, ...]]] = []
        self.path: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments, **options: self.call(name, *arguments, **options)

    def call(self, name: str, *arguments: Any, **options: Any) -> Tensor:
        """The value of an operation, changed if this is the call to change."""
        compute = getattr(self, "_" + name)
        number = len(self.calls)
        self.calls.append((name, ".".join(self.path), ()))
        if self.change is None:
            value = compute(*arguments, **options)
        else:
            value = self.change(self, number, name, compute, arguments, options)
        self.calls[number] = (name, ".".join(self.path), tuple(value.shape))
        return value

    def run(self, name: str, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """A function of tensors as a submodule of that name."""
        self.path.append(name)
        try:
            return self._within(".".join(self.path), function, inputs)
        finally:
            self.path.pop()

    def _within(self, path: str, function: Callable[..., Tensor], inputs: Sequence[Tensor]):
        return function(*inputs)

    # What all frameworks have operators for.

    def _add(self, x, y):
        return x + y

    def _subtract(self, x, y):
        return x - y

    def _multiply(self, x, y):
        return x * y

    def _divide(self, x, y):
        return x / y

    def _matmul(self, x, y):
        return x @ y

    def _scale(self, x, number):
        return x * number

    def _offset(self, x, number):
        return x + number

    def _negative(self, x):
        return -x

    def _slice(self, x, axis, start, stop):
        index = [slice(None)] * len(x.shape)
        index[axis] = slice(start, stop)
        return x[tuple(index)]

    def _pick(self, x, axis, at):
        index: list[Any] = [slice(None)] * len(x.shape)
        index[axis] = at
        return x[tuple(index)]

    # Composites.

    def layer_norm(self, x, scale, shift, eps=1e-5):
        centred = self.subtract(x, self.mean(x, -1, True))
        spread = self.mean(self.square(centred), -1, True)
        unit = self.divide(centred, self.sqrt(self.offset(spread, eps)))
        return self.add(self.multiply(unit, scale), shift)

    def rms_norm(self, x, scale, eps=1e-6):
        spread = self.mean(self.square(x), -1, True)
        return self.multiply(self.divide(x, self.sqrt(self.offset(spread, eps))), scale)

    def batch_norm(self, x, mean, var, scale, shift, eps=1e-5):
        """Of the last axis, with running statistics."""
        unit = self.divide(self.subtract(x, mean), self.sqrt(self.offset(var, eps)))
        return self.add(self.multiply(unit, scale), shift)

    def dense(self, x, w, b):
        return self.add(self.matmul(x, w), b)

    def attend(self, q, k, v, hidden=None):
        scores = self.scale(self.matmul(q, self.swap(k)), 1 / math.sqrt(q.shape[-1]))
        if hidden is not None:
            scores = self.where(hidden, scores, -1e9)
        return self.matmul(self.softmax(scores, -1), v)


class TorchOps(Ops):
    """In torch; with `fused`, composites are single operations of torch."""

    def __init__(self, change=None, fused=False, root=None):
        super().__init__(change)
        import torch

        self._torch, self._fused, self._root = torch, fused, root

    def _within(self, path, function, inputs):
        return self._root.get_submodule(path)(function, *inputs)

    def constant(self, value, like):
        return self._torch.as_tensor(np.asarray(value), dtype=like.dtype)

    def layer_norm(self, x, scale, shift, eps=1e-5):
        if not self._fused:
            return super().layer_norm(x, scale, shift, eps)
        return self._torch.nn.functional.layer_norm(x, x.shape[-1:], scale, shift, eps)

    def dense(self, x, w, b):
        return self.call("matmul", x, w) + b if self._fused else super().dense(x, w, b)

    def attend(self, q, k, v, hidden=None):
        if not self._fused:
            return super().attend(q, k, v, hidden)
        mask = None if hidden is None else ~hidden
        return self._torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def _swap(self, x):
        return x.transpose(-1, -2)

    def _transpose(self, x, axes):
        return x.permute(*axes)

    def _reshape(self, x, shape):
        return x.reshape(*shape)

    def _concat(self, tensors, axis):
        return self._torch.cat(list(tensors), axis)

    def _stack(self, tensors, axis):
        return self._torch.stack(list(tensors), axis)

    def _sum(self, x, axis, keep=False):
        return x.sum(axis, keepdim=keep)

    def _mean(self, x, axis, keep=False):
        return x.mean(axis, keepdim=keep)

    def _max(self, x, axis, keep=False):
        return x.amax(axis, keepdim=keep)

    def _take(self, table, index):
        return table[index.long()]

    def _where(self, hidden, x, fill):
        return x.masked_fill(hidden, fill)

    def _clip(self, x, low, high):
        return x.clamp(low, high)

    def _flip(self, x, axis):
        return x.flip(axis)

    def _roll(self, x, shift, axis):
        return self._torch.roll(x, shift, axis)

    def _stop(self, x):
        return x.detach()

    def _softmax(self, x, axis):
        return x.softmax(axis)

    def _conv(self, x, w, b, stride=1, pads=((1, 1), (1, 1))):
        """x (batch, height, width, in), w (rows, columns, in, out)."""
        (top, bottom), (left, right) = pads
        x = self._torch.nn.functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
        y = self._torch.nn.functional.conv2d(x, w.permute(3, 2, 0, 1), b, stride)
        return y.permute(0, 2, 3, 1)

    def _pool(self, x, kind="max"):
        pool = getattr(self._torch.nn.functional, f"{kind}_pool2d")
        return pool(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)

    def _upsample(self, x):
        return x.repeat_interleave(2, 1).repeat_interleave(2, 2)

    def _unary(self, name, x):
        torch = self._torch
        named = {"relu": torch.relu, "gelu": torch.nn.functional.gelu}
        named |= {"silu": torch.nn.functional.silu, "softplus": torch.nn.functional.softplus}
        return named.get(name, getattr(torch, name, None))(x)


class JaxOps(Ops):
    """In JAX."""

    def __init__(self, change=None):
        super().__init__(change)
        import jax

        self._jax, self._np = jax, jax.numpy

    def constant(self, value, like):
        return self._np.asarray(value, like.dtype)

    def _swap(self, x):
        return self._np.swapaxes(x, -1, -2)

    def _transpose(self, x, axes):
        return self._np.transpose(x, axes)

    def _reshape(self, x, shape):
        return self._np.reshape(x, shape)

    def _concat(self, tensors, axis):
        return self._np.concatenate(list(tensors), axis)

    def _stack(self, tensors, axis):
        return self._np.stack(list(tensors), axis)

    def _sum(self, x, axis, keep=False):
        return self._np.sum(x, axis, keepdims=keep)

    def _mean(self, x, axis, keep=False):
        return self._np.mean(x, axis, keepdims=keep)

    def _max(self, x, axis, keep=False):
        return self._np.max(x, axis, keepdims=keep)

    def _take(self, table, index):
        return self._np.take(table, index, 0)

    def _where(self, hidden, x, fill):
        return self._np.where(hidden, fill, x)

    def _clip(self, x, low, high):
        return self._np.clip(x, low, high)

    def _flip(self, x, axis):
        return self._np.flip(x, axis)

    def _roll(self, x, shift, axis):
        return self._np.roll(x, shift, axis)

    def _stop(self, x):
        return self._jax.lax.stop_gradient(x)

    def _softmax(self, x, axis):
        return self._jax.nn.softmax(x, axis)

    def _conv(self, x, w, b, stride=1, pads=((1, 1), (1, 1))):
        layout = ("NHWC", "HWIO", "NHWC")
        conv = self._jax.lax.conv_general_dilated
        return conv(x, w, (stride, stride), pads, dimension_numbers=layout) + b

    def _pool(self, x, kind="max"):
        batch, height, width, size = x.shape
        x = x[:, : height // 2 * 2, : width // 2 * 2]
        cells = x.reshape(batch, height // 2, 2, width // 2, 2, size)
        return getattr(cells, "max" if kind == "max" else "mean")((2, 4))

    def _upsample(self, x):
        return self._np.repeat(self._np.repeat(x, 2, 1), 2, 2)

    def _unary(self, name, x):
        nn = self._jax.nn
        if name == "gelu":
            return nn.gelu(x, approximate=False)
        plain = {"sigmoid", "relu", "silu", "softplus"}
        return getattr(nn if name in plain else self._np, name)(x)


class TensorflowOps(Ops):
    """In plain TensorFlow."""

    def __init__(self, change=None, root=None):
        super().__init__(change)
        import tensorflow as tf

        self._tf, self._root = tf, root

    def constant(self, value, like):
        return self._tf.constant(np.asarray(value), like.dtype)

    def _within(self, path, function, inputs):
        with self._tf.name_scope(path.rsplit(".", 1)[-1]):
            return function(*inputs)

    def _swap(self, x):
        return self._tf.linalg.matrix_transpose(x)

    def _transpose(self, x, axes):
        return self._tf.transpose(x, axes)

    def _reshape(self, x, shape):
        return self._tf.reshape(x, shape)

    def _concat(self, tensors, axis):
        return self._tf.concat(list(tensors), axis)

    def _stack(self, tensors, axis):
        return self._tf.stack(list(tensors), axis)

    def _sum(self, x, axis, keep=False):
        return self._tf.reduce_sum(x, axis, keepdims=keep)

    def _mean(self, x, axis, keep=False):
        return self._tf.reduce_mean(x, axis, keepdims=keep)

    def _max(self, x, axis, keep=False):
        return self._tf.reduce_max(x, axis, keepdims=keep)

    def _take(self, table, index):
        return self._tf.gather(table, index)

    def _where(self, hidden, x, fill):
        return self._tf.where(hidden, self._tf.constant(fill, x.dtype), x)

    def _clip(self, x, low, high):
        return self._tf.clip_by_value(x, low, high)

    def _flip(self, x, axis):
        return self._tf.reverse(x, [axis % len(x.shape)])

    def _roll(self, x, shift, axis):
        return self._tf.roll(x, shift, axis)

    def _stop(self, x):
        return self._tf.stop_gradient(x)

    def _softmax(self, x, axis):
        return self._tf.nn.softmax(x, axis)

    def _conv(self, x, w, b, stride=1, pads=((1, 1), (1, 1))):
        padding = [[0, 0], *(list(pair) for pair in pads), [0, 0]]
        return self._tf.nn.bias_add(self._tf.nn.conv2d(x, w, stride, padding), b)

    def _pool(self, x, kind="max"):
        return getattr(self._tf.nn, f"{kind}_pool2d")(x, 2, 2, "VALID")

    def _upsample(self, x):
        return self._tf.repeat(self._tf.repeat(x, 2, 1), 2, 2)

    def _unary(self, name, x):
        plain = {"relu", "gelu", "silu", "softplus"}
        return getattr(self._tf.nn if name in plain else self._tf.math, name)(x)


UNARY = (
    *("relu", "gelu", "silu", "softplus", "tanh", "sigmoid", "exp", "log", "sqrt", "square"),
    *("abs", "sin", "cos"),
)

for _name in UNARY:

    def _made(self, x, _name=_name):
        return self._unary(_name, x)

    setattr(Ops, "_" + _name, _made)
