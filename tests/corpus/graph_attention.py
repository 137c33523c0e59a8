"""Attention over the edges of a graph: torch with scatters to raw TensorFlow segments."""

from __future__ import annotations

import tensorflow as tf
import torch
from torch import nn

from .common import Fault, Input, PortCase, as_trained, values_of

NODES, FEATURES, HEADS, WIDTH, OUT = 7, 5, 3, 4, 6


class Attend(nn.Module):
    """States (nodes, f) and edges (edges, 2) to (nodes, heads, width); every node sees itself."""

    def __init__(self, features):
        super().__init__()
        self.project = nn.Linear(features, HEADS * WIDTH, bias=False)
        self.source = nn.Parameter(torch.randn(HEADS, WIDTH))
        self.target = nn.Parameter(torch.randn(HEADS, WIDTH))
        self.bias = nn.Parameter(torch.randn(HEADS * WIDTH))
        self.slope = nn.LeakyReLU(0.2)

    def forward(self, x, edges):
        own = torch.arange(NODES)
        sender = torch.cat([edges[:, 0], own])
        receiver = torch.cat([edges[:, 1], own])
        h = self.project(x).view(NODES, HEADS, WIDTH)
        left, right = (h * self.source).sum(-1), (h * self.target).sum(-1)
        score = self.slope(left[sender] + right[receiver])
        index = receiver[:, None].expand(-1, HEADS)
        top = torch.full((NODES, HEADS), -torch.inf, dtype=x.dtype)
        top = top.scatter_reduce(0, index, score.detach(), "amax")
        raised = (score - top[receiver]).exp()
        total = torch.zeros(NODES, HEADS, dtype=x.dtype).index_add(0, receiver, raised)
        share = raised / total[receiver]
        message = share[..., None] * h[sender]
        new = torch.zeros_like(h).index_add(0, receiver, message)
        return new.flatten(1) + self.bias


class GAT(nn.Module):
    """Features (7, 5), edges (edges, 2): to scores (7, 6) and a summary (12,)."""

    def __init__(self):
        super().__init__()
        self.first = Attend(FEATURES)
        self.act = nn.ELU()
        self.second = Attend(HEADS * WIDTH)
        self.out = nn.Linear(HEADS * WIDTH, OUT)

    def forward(self, x, edges):
        h = self.act(self.first(x, edges))
        h = h + self.second(h, edges)
        return self.out(h), h.mean(0)


class Layer(tf.Module):
    """The port's attention: one kernel a head."""

    def __init__(self, features, dtype, option=""):
        super().__init__()
        self.option = option
        draw = tf.random.Generator.from_seed(features)

        def variable(*shape):
            return tf.Variable(draw.normal(shape, dtype=dtype))

        self.v1 = variable(HEADS * WIDTH)
        self.v2 = variable(HEADS, WIDTH)
        self.v3 = variable(features, HEADS * WIDTH)
        self.v4 = variable(HEADS, WIDTH)

    def __call__(self, x, edges):
        option = self.option
        own = tf.range(NODES, dtype=edges.dtype)
        sender = tf.concat([edges[:, 0], own], 0)
        receiver = tf.concat([edges[:, 1], own], 0)
        h = tf.matmul(x, self.v3)
        if option == "heads-interleaved":
            h = tf.transpose(tf.reshape(h, [NODES, WIDTH, HEADS]), [0, 2, 1])
        else:
            h = tf.reshape(h, [NODES, HEADS, WIDTH])
        left = tf.einsum("nhw,hw->nh", h, self.v2)
        right = tf.einsum("nhw,hw->nh", h, self.v4)
        score = tf.gather(left, sender) + tf.gather(right, receiver)
        score = tf.nn.leaky_relu(score, 0.01 if option == "slope" else 0.2)
        if option == "softmax-over-all":
            share = tf.nn.softmax(score, axis=0)
        elif option == "softmax-over-heads":
            share = tf.nn.softmax(score, axis=1)
        else:
            top = tf.math.unsorted_segment_max(tf.stop_gradient(score), receiver, NODES)
            raised = tf.exp(score - tf.gather(top, receiver))
            total = tf.math.unsorted_segment_sum(raised, receiver, NODES)
            share = raised / tf.gather(total, receiver)
        if option == "shares-detached":
            share = tf.stop_gradient(share)
        message = share[..., None] * tf.gather(h, sender)
        gather = (
            tf.math.unsorted_segment_mean if option == "mean" else tf.math.unsorted_segment_sum
        )
        new = gather(message, receiver, NODES)
        return tf.reshape(new, [NODES, HEADS * WIDTH]) + self.v1


class Port(tf.Module):
    """The port."""

    def __init__(self, dtype, option=""):
        super().__init__()
        self.b = Layer(HEADS * WIDTH, dtype, option)
        self.a = Layer(FEATURES, dtype)
        draw = tf.random.Generator.from_seed(9)
        self.w = tf.Variable(draw.normal((HEADS * WIDTH, OUT), dtype=dtype))
        self.z = tf.Variable(draw.normal((OUT,), dtype=dtype))
        self.option = option

    def __call__(self, x, edges):
        h = self.a(x, edges)
        h = tf.nn.selu(h) if self.option == "selu" else tf.nn.elu(h)
        y = self.b(h, edges)
        h = y + h
        return tf.matmul(h, self.w) + self.z, tf.reduce_mean(h, 0)


def make_reference(dtype="float32"):
    return as_trained(GAT(), dtype)


def make_port(dtype="float32", fault=None):
    return Port(getattr(tf, dtype), fault or "")


def copy_weights(reference, port):
    for ours, theirs in ((reference.first, port.a), (reference.second, port.b)):
        theirs.v3.assign(values_of(ours.project.weight).T)
        theirs.v2.assign(values_of(ours.source))
        theirs.v4.assign(values_of(ours.target))
        theirs.v1.assign(values_of(ours.bias))
    port.w.assign(values_of(reference.out.weight).T)
    port.z.assign(values_of(reference.out.bias))


CASES = [
    PortCase(
        name="graph_attention",
        reference_framework="torch",
        port_framework="tensorflow",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "x": Input((NODES, FEATURES)),
            "edges": Input(("edges", 2), kind="tokens", high=NODES),
        },
        faults={
            "slope": Fault("semantic", "second.slope", "activation-parameter"),
            "softmax-over-all": Fault("semantic", "second", "softmax-axis"),
            "softmax-over-heads": Fault("semantic", "second", "softmax-axis"),
            "heads-interleaved": Fault("semantic", "second", "head-split"),
            "shares-detached": Fault("semantic", "second", "gradient-path", shows_in="backward"),
            "mean": Fault("semantic", "second", "reduction"),
            "selu": Fault("semantic", "act", "activation-variant"),
        },
        note="A softmax over the edges of each node; variables are v1 to v4.",
    )
]
