"""A Conformer block for speech: torch to subclassed Keras."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of

WIDTH, HEADS, LONGEST, OUT = 12, 3, 16, 5


class Feed(nn.Module):
    """Half a step of a feed-forward net: (batch, time, width)."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, 20)
        self.act = nn.SiLU()
        self.down = nn.Linear(20, WIDTH)

    def forward(self, x):
        return x + 0.5 * self.down(self.act(self.up(self.norm(x))))


class Heads(nn.Module):
    """Self attention with a learned bias for each distance."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.distance = nn.Parameter(torch.randn(HEADS, 2 * LONGEST - 1))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, mask):
        n = x.shape[1]
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        apart = torch.arange(n)[None] - torch.arange(n)[:, None] + LONGEST - 1
        score = q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5 + self.distance[:, apart]
        score = score.masked_fill(~mask[:, None, None], -torch.inf)
        y = (score.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + self.out(y)


class Convolve(nn.Module):
    """Gated pointwise and depthwise convolutions."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.gated = nn.Conv1d(WIDTH, 2 * WIDTH, 1)
        self.glu = nn.GLU(1)
        self.depth = nn.Conv1d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH)
        self.batch = nn.BatchNorm1d(WIDTH)
        self.act = nn.SiLU()
        self.point = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x):
        y = self.glu(self.gated(self.norm(x).transpose(1, 2)))
        y = self.point(self.act(self.batch(self.depth(y))))
        return x + y.transpose(1, 2)


class Conformer(nn.Module):
    """Features (batch, time, 12) and their mask to log-probabilities (batch, time, 5)."""

    def __init__(self):
        super().__init__()
        self.feed1, self.heads, self.conv, self.feed2 = Feed(), Heads(), Convolve(), Feed()
        self.norm = nn.LayerNorm(WIDTH)
        self.ctc = nn.Linear(WIDTH, OUT)

    def forward(self, x, mask):
        x = self.feed2(self.conv(self.heads(self.feed1(x), mask)))
        return self.ctc(self.norm(x)).log_softmax(-1)


class Block(keras.Model):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option

        def norm(eps=1e-5):
            return layers.LayerNormalization(epsilon=eps)

        self.norms = [norm(), norm(), norm(1e-6 if option == "conv-epsilon" else 1e-5), norm()]
        self.last = norm()
        self.ups = [layers.Dense(20), layers.Dense(20)]
        self.downs = [layers.Dense(WIDTH), layers.Dense(WIDTH)]
        self.query, self.key, self.value = (layers.Dense(WIDTH) for _ in range(3))
        self.merge = layers.Dense(WIDTH)
        self.gate, self.mix = layers.Dense(2 * WIDTH), layers.Dense(WIDTH)
        side = "causal" if option == "causal" else "same"
        self.depth = layers.Conv1D(WIDTH, 5, padding=side, groups=WIDTH)
        self.bn = layers.BatchNormalization(
            epsilon=1e-5, momentum=0.99 if option == "keras-momentum" else 0.9
        )
        self.scores = layers.Dense(OUT)
        self.table = self.add_weight(
            name="t", shape=(HEADS, 2 * LONGEST - 1), initializer="normal"
        )

    def feed(self, x, which):
        y = self.ups[which](self.norms[3 * which](x))
        y = ops.gelu(y, approximate=False) if which and self.option == "gelu" else ops.silu(y)
        return x + 0.5 * self.downs[which](y)

    def attend(self, x, mask):
        y, n = self.norms[1](x), ops.shape(x)[1]

        def heads(t):
            return ops.transpose(ops.reshape(t, (-1, n, HEADS, WIDTH // HEADS)), (0, 2, 1, 3))

        q, k, v = heads(self.query(y)), heads(self.key(y)), heads(self.value(y))
        at = ops.arange(n)
        apart = at[None] - at[:, None] + LONGEST - 1
        if self.option == "distance-reversed":
            apart = at[:, None] - at[None] + LONGEST - 1
        score = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2)))
        score = score / (WIDTH if self.option == "full-scale" else WIDTH // HEADS) ** 0.5
        score = score + ops.take(self.table, apart, axis=1)
        if self.option != "unmasked":
            score = ops.where(mask[:, None, None], score, -float("inf"))
        z = ops.matmul(ops.softmax(score, -1), v)
        return x + self.merge(ops.reshape(ops.transpose(z, (0, 2, 1, 3)), (-1, n, WIDTH)))

    def convolve(self, x, training):
        y = self.norms[2](x)
        first, second = ops.split(self.gate(y), 2, -1)
        if self.option == "gate-first":
            first, second = second, first
        y = self.depth(first * ops.sigmoid(second))
        y = self.mix(ops.silu(self.bn(y, training=training)))
        return (self.norms[2](x) if self.option == "residual-of-norm" else x) + y

    def call(self, x, mask, training=False):
        x = self.attend(self.feed(x, 0), mask)
        x = self.feed(self.convolve(x, training), 1)
        return ops.log_softmax(self.scores(self.last(x)), -1)


def make_reference(dtype="float32"):
    return as_trained(Conformer(), dtype)


def make_port(dtype="float32", fault=None):
    keras.utils.set_random_seed(8)
    with keras_in(dtype):
        port = Block(fault or "")
        port(np.zeros((1, 7, WIDTH), dtype), np.ones((1, 7), bool))
    return port


def copy_weights(reference, port):
    def dense(layer, linear):
        layer.set_weights([values_of(linear.weight).squeeze().T, values_of(linear.bias)])

    def norm(layer, ours):
        layer.set_weights([values_of(ours.weight), values_of(ours.bias)])

    r = reference
    for theirs, ours in zip(port.norms, (r.feed1, r.heads, r.conv, r.feed2), strict=True):
        norm(theirs, ours.norm)
    norm(port.last, r.norm)
    for which, ours in enumerate((r.feed1, r.feed2)):
        dense(port.ups[which], ours.up)
        dense(port.downs[which], ours.down)
    weights = np.split(values_of(r.heads.qkv.weight), 3)
    biases = np.split(values_of(r.heads.qkv.bias), 3)
    for layer, weight, bias in zip(
        (port.query, port.key, port.value), weights, biases, strict=True
    ):
        layer.set_weights([weight.T, bias])
    dense(port.merge, r.heads.out)
    dense(port.gate, r.conv.gated)
    dense(port.mix, r.conv.point)
    dense(port.scores, r.ctc)
    kernel = values_of(r.conv.depth.weight).transpose(2, 1, 0)
    port.depth.set_weights([kernel, values_of(r.conv.depth.bias)])
    b = r.conv.batch
    port.bn.set_weights([values_of(t) for t in (b.weight, b.bias, b.running_mean, b.running_var)])
    port.table.assign(values_of(r.heads.distance))


CASES = [
    PortCase(
        name="conformer",
        reference_framework="torch",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "x": Input(("batch", 11, WIDTH)),
            "mask": Input(("batch", 11), kind="mask"),
        },
        faults={
            "conv-epsilon": Fault("semantic", "conv.norm", "norm-epsilon"),
            "causal": Fault("semantic", "conv.depth", "padding"),
            "gelu": Fault("semantic", "feed2.act", "activation-variant"),
            "distance-reversed": Fault("semantic", "heads", "position"),
            "full-scale": Fault("semantic", "heads", "attention-scale"),
            "unmasked": Fault("semantic", "heads", "mask"),
            "gate-first": Fault("semantic", "conv.glu", "fused-order"),
            "residual-of-norm": Fault("semantic", "conv", "residual"),
            "keras-momentum": Fault(
                "semantic", "conv.batch", "running-statistics", shows_in="training"
            ),
        },
        note="Queries, keys and values fused in the reference alone.",
    )
]
