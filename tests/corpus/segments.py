"""Message passing over a list of edges with pooled readout: torch to equinox."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

NODES, KINDS, WIDTH, OUT = 6, 5, 12, 4


class Message(nn.Module):
    """States (nodes, width) and edges (edges, 2) from, to: to mean messages (nodes, width)."""

    def __init__(self):
        super().__init__()
        self.transform = nn.Linear(WIDTH, WIDTH)
        self.rectify = nn.LeakyReLU(0.1)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, states, edges):
        sent = self.rectify(self.transform(states))[edges[:, 0]]
        total = torch.zeros_like(states).index_add(0, edges[:, 1], sent)
        ones = torch.ones(edges.shape[0], 1, dtype=states.dtype)
        counts = torch.zeros(states.shape[0], 1, dtype=states.dtype).index_add(
            0, edges[:, 1], ones
        )
        return states + self.norm(total / counts.clamp(min=1))


class GraphNet(nn.Module):
    """Kinds (6,), edges (edges, 2): to log-probabilities (4,) and states (6, 12)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(KINDS, WIDTH)
        self.first = Message()
        self.second = Message()
        self.readout = nn.Linear(2 * WIDTH, OUT)

    def forward(self, kinds, edges):
        states = self.second(self.first(self.embed(kinds), edges), edges)
        pooled = torch.cat([states.mean(dim=0), states.amax(dim=0)])
        return torch.log_softmax(self.readout(pooled), dim=-1), states


class Hop(eqx.Module):
    """One round of messages."""

    linear: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    option: str = eqx.field(static=True)

    def __init__(self, key, dtype, option=""):
        self.linear = eqx.nn.Linear(WIDTH, WIDTH, key=key, dtype=dtype)
        eps = 1e-3 if option == "norm-epsilon" else 1e-5
        self.norm = eqx.nn.LayerNorm(WIDTH, eps=eps, dtype=dtype)
        self.option = option

    def __call__(self, h, edges):
        source, target = edges[:, 0], edges[:, 1]
        slope = 0.01 if self.option == "slope" else 0.1
        z = jax.vmap(self.linear)(h)
        if self.option == "half-precision":
            z = z.astype(jnp.float16).astype(h.dtype)
        z = jax.nn.leaky_relu(z, slope)
        if self.option == "gradient-stopped":
            z = jax.lax.stop_gradient(z) * 0.5 + z * 0.5
        total = jax.ops.segment_sum(z[source], target, h.shape[0])
        degree = jax.ops.segment_sum(jnp.ones(len(edges), h.dtype), target, h.shape[0])
        if self.option != "sum-for-mean":
            total = total / jnp.maximum(degree, 1)[:, None]
        if self.option == "residual-of-norm":
            return jax.vmap(self.norm)(h + total)
        return h + jax.vmap(self.norm)(total)


class Net(eqx.Module):
    """Two hops and a readout."""

    table: jax.Array
    hops: list[Hop]
    head: eqx.nn.Linear
    option: str = eqx.field(static=True)

    def __init__(self, dtype, option=""):
        keys = jax.random.split(jax.random.key(0), 4)
        self.table = jax.random.normal(keys[0], (KINDS, WIDTH), dtype)
        self.hops = [Hop(keys[1], dtype), Hop(keys[2], dtype, option)]
        self.head = eqx.nn.Linear(2 * WIDTH, OUT, key=keys[3], dtype=dtype)
        self.option = option

    def __call__(self, kinds, edges):
        h = self.table[kinds]
        for hop in self.hops:
            h = hop(h, edges)
        logits = self.head(jnp.concatenate([h.mean(0), h.max(0)]))
        if self.option == "log-of-softmax":
            e = jnp.exp(logits)
            return jnp.log(e / e.sum()), h
        return jax.nn.log_softmax(logits), h


def make_reference(dtype="float32"):
    return as_trained(GraphNet(), dtype)


def make_port(dtype="float32", fault=None):
    return Net(jax_in(dtype), fault or "")


def copy_weights(reference, port):
    def put(owner, name, tensor):
        object.__setattr__(owner, name, jnp.asarray(values_of(tensor)))

    put(port, "table", reference.embed.weight)
    for theirs, ours in zip(port.hops, (reference.first, reference.second), strict=True):
        for name in ("weight", "bias"):
            put(theirs.linear, name, getattr(ours.transform, name))
            put(theirs.norm, name, getattr(ours.norm, name))
    for name in ("weight", "bias"):
        put(port.head, name, getattr(reference.readout, name))


CASES = [
    PortCase(
        name="segments",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "kinds": Input((NODES,), kind="tokens", high=KINDS),
            "edges": Input(("edges", 2), kind="tokens", high=NODES),
        },
        faults={
            "half-precision": Fault("precision", "second.transform", "low-precision"),
            "sum-for-mean": Fault("semantic", "second", "reduction"),
            "norm-epsilon": Fault("semantic", "second.norm", "norm-epsilon"),
            "slope": Fault("semantic", "second.rectify", "activation-parameter"),
            "gradient-stopped": Fault(
                "semantic", "second.rectify", "gradient-path", shows_in="backward"
            ),
            "residual-of-norm": Fault("semantic", "second", "residual"),
        },
        note="Sums over segments of unknown length; nodes without neighbours.",
    )
]
