"""A text scorer of raw TensorFlow operations in modules, with attention: TensorFlow to torch."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import torch
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase

WORDS, WIDTH, HEADS, INNER, OUT = 11, 12, 3, 20, 5


class Linear(tf.Module):
    """Rows (..., a) to (..., b)."""

    def __init__(self, rng, a, b, dtype, name):
        super().__init__(name=name)
        self.w = tf.Variable((rng.standard_normal((a, b)) / a**0.5).astype(dtype), name="w")
        self.b = tf.Variable((0.3 * rng.standard_normal(b)).astype(dtype), name="b")

    def __call__(self, x):
        return tf.linalg.matmul(x, self.w) + self.b


class Norm(tf.Module):
    """Layer norm of (..., 12)."""

    def __init__(self, rng, dtype, name):
        super().__init__(name=name)
        self.gain = tf.Variable(rng.uniform(0.5, 1.5, WIDTH).astype(dtype), name="gain")
        self.shift = tf.Variable(rng.uniform(-0.5, 0.5, WIDTH).astype(dtype), name="shift")

    def __call__(self, x):
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-5) * self.gain + self.shift


class Attention(tf.Module):
    """Attention over (batch, time, 12) with a mask (batch, time)."""

    def __init__(self, rng, dtype, name):
        super().__init__(name=name)
        self.query = Linear(rng, WIDTH, WIDTH, dtype, "query")
        self.key = Linear(rng, WIDTH, WIDTH, dtype, "key")
        self.value = Linear(rng, WIDTH, WIDTH, dtype, "value")
        self.out = Linear(rng, WIDTH, WIDTH, dtype, "out")

    def __call__(self, x, mask):
        batch, time = tf.shape(x)[0], tf.shape(x)[1]

        def heads(y):
            y = tf.reshape(y, [batch, time, HEADS, WIDTH // HEADS])
            return tf.transpose(y, [0, 2, 1, 3])

        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        scores = tf.matmul(q, k, transpose_b=True) * (WIDTH // HEADS) ** -0.5
        scores += (1.0 - tf.cast(mask, x.dtype))[:, None, None, :] * -1e9
        y = tf.transpose(tf.matmul(tf.nn.softmax(scores), v), [0, 2, 1, 3])
        return self.out(tf.reshape(y, [batch, time, WIDTH]))


class Scorer(tf.Module):
    """Tokens and mask (batch, time) to log-probabilities (batch, 5)."""

    def __init__(self, dtype):
        super().__init__(name="scorer")
        rng = np.random.default_rng(8)
        table = rng.standard_normal((WORDS, WIDTH)).astype(dtype)
        self.table = tf.Variable(table, name="table")
        self.norm1 = Norm(rng, dtype, "norm1")
        self.attention = Attention(rng, dtype, "attention")
        self.norm2 = Norm(rng, dtype, "norm2")
        self.grow = Linear(rng, WIDTH, INNER, dtype, "grow")
        self.shrink = Linear(rng, INNER, WIDTH, dtype, "shrink")
        self.head = Linear(rng, 2 * WIDTH, OUT, dtype, "head")

    def __call__(self, tokens, mask):
        x = tf.gather(self.table, tokens)
        x = x + self.attention(self.norm1(x), mask)
        x = x + self.shrink(tf.nn.leaky_relu(self.grow(self.norm2(x)), 0.2))
        pooled = tf.concat([x[:, 0], tf.reduce_mean(x, 1)], -1)
        return tf.nn.log_softmax(self.head(pooled))


class Port(nn.Module):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.words = nn.Embedding(WORDS, WIDTH)
        self.ln1 = nn.LayerNorm(WIDTH)
        self.ln2 = nn.LayerNorm(WIDTH, eps=1e-3 if option == "epsilon" else 1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.fc = nn.Linear(2 * WIDTH, OUT)

    def attend(self, x, mask):
        def heads(y):
            return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        q, k, v = heads(self.q(x)), heads(self.k(x)), heads(self.v(x))
        keep = mask[:, None, None, :]
        if self.option == "mask-inverted":
            keep = ~keep
        scale = None if self.option != "unscaled" else 1.0
        scores = q @ k.mT * ((WIDTH // HEADS) ** -0.5 if scale is None else scale)
        scores = scores + torch.where(keep, 0.0, -1e9)
        weights = torch.softmax(scores, -2 if self.option == "softmax-over-queries" else -1)
        y = weights @ v
        if self.option != "heads-unmoved":
            y = y.transpose(1, 2)
        return self.o(y.reshape(x.shape))

    def forward(self, tokens, mask):
        x = self.words(tokens)
        y = self.ln1(x)
        x = (y if self.option == "residual-of-norm" else x) + self.attend(y, mask)
        y = self.up(self.ln2(x))
        y = F.leaky_relu(y, 0.01 if self.option == "slope" else 0.2)
        x = x + self.down(y)
        pooled = torch.cat([x[:, 0], x.mean(1)], -1)
        return torch.log_softmax(self.fc(pooled), -1)


def make_reference(dtype="float32"):
    return Scorer(dtype)


def make_port(dtype="float32", fault=None):
    return Port(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value.numpy()))


def copy_weights(reference, port):
    fill(port.words.weight, reference.table)
    a = reference.attention
    for ours, theirs in (
        (a.query, port.q),
        (a.key, port.k),
        (a.value, port.v),
        (a.out, port.o),
        (reference.grow, port.up),
        (reference.shrink, port.down),
        (reference.head, port.fc),
    ):
        fill(theirs.weight, tf.transpose(ours.w))
        fill(theirs.bias, ours.b)
    for ours, theirs in ((reference.norm1, port.ln1), (reference.norm2, port.ln2)):
        fill(theirs.weight, ours.gain)
        fill(theirs.bias, ours.shift)


CASES = [
    PortCase(
        name="tf_modules",
        reference_framework="tensorflow",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "tokens": Input(("batch", "time"), kind="tokens", high=WORDS),
            "mask": Input(("batch", "time"), kind="mask"),
        },
        faults={
            "epsilon": Fault("semantic", "norm2", "norm-epsilon"),
            "mask-inverted": Fault("semantic", "attention", "mask"),
            "unscaled": Fault("semantic", "attention", "attention-scale"),
            "softmax-over-queries": Fault("semantic", "attention", "softmax-axis"),
            "heads-unmoved": Fault("semantic", "attention", "head-split"),
            "residual-of-norm": Fault("semantic", "", "residual", between=("attention", "norm2")),
            "slope": Fault("semantic", "", "activation-parameter", between=("grow", "shrink")),
        },
    )
]
