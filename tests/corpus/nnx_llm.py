"""A language model block with rotary positions, shared keys and SwiGLU: flax nnx to torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, jax_in

WORDS, WIDTH, HEADS, GROUPS, SIZE, INNER = 14, 16, 4, 2, 4, 24


def turned(x, base=100.0):
    """Halves of (batch, time, heads, 4) turned by position."""
    half = x.shape[-1] // 2
    rate = base ** (-jnp.arange(half, dtype=x.dtype) / half)
    angle = jnp.arange(x.shape[1], dtype=x.dtype)[:, None, None] * rate
    a, b = jnp.split(x, 2, -1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nnx.Module):
    """Causal attention with grouped keys over (batch, time, 16)."""

    def __init__(self, dtype, r):
        how = {"use_bias": False, "param_dtype": dtype, "rngs": r}
        self.query = nnx.Linear(WIDTH, HEADS * SIZE, **how)
        self.key = nnx.Linear(WIDTH, GROUPS * SIZE, **how)
        self.value = nnx.Linear(WIDTH, GROUPS * SIZE, **how)
        self.merge = nnx.Linear(HEADS * SIZE, WIDTH, **how)

    def __call__(self, x):
        batch, time, _ = x.shape
        q = turned(self.query(x).reshape(batch, time, HEADS, SIZE))
        k = turned(self.key(x).reshape(batch, time, GROUPS, SIZE))
        v = self.value(x).reshape(batch, time, GROUPS, SIZE)
        k, v = jnp.repeat(k, HEADS // GROUPS, 2), jnp.repeat(v, HEADS // GROUPS, 2)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(SIZE).astype(x.dtype)
        seen = jnp.tril(jnp.ones((time, time), bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, -1e30), -1)
        return self.merge(jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, time, -1))


class Gated(nnx.Module):
    """silu(gate) times up."""

    def __init__(self, dtype, r):
        how = {"use_bias": False, "param_dtype": dtype, "rngs": r}
        self.gate = nnx.Linear(WIDTH, INNER, **how)
        self.up = nnx.Linear(WIDTH, INNER, **how)
        self.down = nnx.Linear(INNER, WIDTH, **how)

    def __call__(self, x):
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """Pre-norm block over (batch, time, 16)."""

    def __init__(self, dtype, r):
        self.norm1 = nnx.RMSNorm(WIDTH, epsilon=1e-5, param_dtype=dtype, rngs=r)
        self.attention = Attention(dtype, r)
        self.norm2 = nnx.RMSNorm(WIDTH, epsilon=1e-5, param_dtype=dtype, rngs=r)
        self.feed = Gated(dtype, r)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Model(nnx.Module):
    """Tokens (batch, time) to scores over 14 tokens, with a tied head."""

    def __init__(self, dtype):
        r = nnx.Rngs(17)
        self.tokens = nnx.Embed(WORDS, WIDTH, param_dtype=dtype, rngs=r)
        self.first = Block(dtype, r)
        self.second = Block(dtype, r)
        self.final = nnx.RMSNorm(WIDTH, epsilon=1e-5, param_dtype=dtype, rngs=r)

    def __call__(self, ids):
        x = self.tokens(ids) * WIDTH**0.5
        return self.tokens.attend(self.final(self.second(self.first(x))))


class Norm(nn.Module):
    def __init__(self, eps=1e-5):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.gain


class Layer(nn.Module):
    """The port's block."""

    def __init__(self, option):
        super().__init__()
        self.option = option
        self.before = Norm(1e-6 if option == "rms-epsilon" else 1e-5)
        self.after = Norm()
        self.q = nn.Linear(WIDTH, HEADS * SIZE, bias=False)
        self.k = nn.Linear(WIDTH, GROUPS * SIZE, bias=False)
        self.v = nn.Linear(WIDTH, GROUPS * SIZE, bias=False)
        self.o = nn.Linear(HEADS * SIZE, WIDTH, bias=False)
        self.w1 = nn.Linear(WIDTH, INNER, bias=False)
        self.w3 = nn.Linear(WIDTH, INNER, bias=False)
        self.w2 = nn.Linear(INNER, WIDTH, bias=False)

    def turn(self, x):
        half = SIZE // 2
        base = 10000.0 if self.option == "rotary-base" else 100.0
        rate = base ** (-torch.arange(half, dtype=x.dtype) / half)
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * rate
        if self.option == "rotary-backwards":
            angle = -angle
        if self.option == "rotary-pairs":
            a, b = x[..., ::2], x[..., 1::2]
        else:
            a, b = x.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        parts = [a * cos - b * sin, a * sin + b * cos]
        return (
            torch.stack(parts, -1).flatten(-2) if "pairs" in self.option else torch.cat(parts, -1)
        )

    def attend(self, x):
        batch, time, _ = x.shape
        q, k, v = (
            f(x).view(batch, time, -1, SIZE).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        q, k = self.turn(q), self.turn(k)
        if self.option == "keys-tiled":
            k, v = k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)
        else:
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        scores = q @ k.mT * (SIZE**-1.0 if self.option == "scaled-by-size" else SIZE**-0.5)
        later = torch.ones(time, time, dtype=torch.bool).triu(1)
        if self.option != "sees-all":
            scores = scores.masked_fill(later, -torch.inf)
        y = scores.softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(batch, time, -1))

    def forward(self, x):
        x = x + self.attend(self.before(x))
        y = self.after(x)
        gate, up = self.w1(y), self.w3(y)
        if self.option == "gate-exchanged":
            gate, up = up, gate
        act = F.gelu if self.option == "gelu-gate" else F.silu
        return (y if self.option == "residual-of-norm" else x) + self.w2(act(gate) * up)


class Port(nn.Module):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.table = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList([Layer(""), Layer(option)])
        self.norm = Norm()

    def forward(self, ids):
        x = self.table(ids) * (1.0 if self.option == "unscaled" else WIDTH**0.5)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x) @ self.table.weight.T


def make_reference(dtype="float32"):
    return Model(jax_in(dtype))


def make_port(dtype="float32", fault=None):
    return Port(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.array(value)))


def copy_weights(reference, port):
    fill(port.table.weight, reference.tokens.embedding[...])
    fill(port.norm.gain, reference.final.scale[...])
    for ours, theirs in zip((reference.first, reference.second), port.layers, strict=True):
        fill(theirs.before.gain, ours.norm1.scale[...])
        fill(theirs.after.gain, ours.norm2.scale[...])
        a, f = ours.attention, ours.feed
        for source, target in (
            (a.query, theirs.q),
            (a.key, theirs.k),
            (a.value, theirs.v),
            (a.merge, theirs.o),
            (f.gate, theirs.w1),
            (f.up, theirs.w3),
            (f.down, theirs.w2),
        ):
            fill(target.weight, np.asarray(source.kernel[...]).T)


CASES = [
    PortCase(
        name="nnx_llm",
        reference_framework="jax",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"ids": Input(("batch", "time"), kind="tokens", high=WORDS)},
        faults={
            "rms-epsilon": Fault("semantic", "second.norm1", "norm-epsilon"),
            "rotary-base": Fault("semantic", "second.attention", "position"),
            "rotary-pairs": Fault("semantic", "second.attention", "position"),
            "keys-tiled": Fault("semantic", "second.attention", "head-split"),
            "scaled-by-size": Fault("semantic", "second.attention", "attention-scale"),
            "sees-all": Fault("semantic", "second.attention", "mask"),
            "gate-exchanged": Fault("semantic", "second.feed", "activation-place"),
            "gelu-gate": Fault("semantic", "second.feed", "activation-variant"),
            "residual-of-norm": Fault("semantic", "second", "residual"),
            "unscaled": Fault("semantic", "", "embedding", between=("tokens", "first.norm1")),
        },
    )
]
