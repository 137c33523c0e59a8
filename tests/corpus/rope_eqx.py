"""A decoder block with RMS norms, rotary positions, shared keys and SwiGLU: torch to equinox."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import torch
from torch import nn

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

WIDTH, HEADS, GROUPS, SIZE, INNER = 16, 4, 2, 4, 24


class RMSNorm(nn.Module):
    """Rows of (..., width) at unit mean square, in float32 or better."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


class Rotary(nn.Module):
    """Halves of (batch, heads, time, 4) turned by position."""

    def forward(self, x):
        half = x.shape[-1] // 2
        rate = 100.0 ** (-torch.arange(half, dtype=x.dtype) / half)
        angle = torch.arange(x.shape[-2], dtype=x.dtype)[:, None] * rate
        a, b = x[..., :half], x[..., half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Causal attention with two heads of keys for four of queries."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(WIDTH, HEADS * SIZE, bias=False)
        self.key = nn.Linear(WIDTH, GROUPS * SIZE, bias=False)
        self.value = nn.Linear(WIDTH, GROUPS * SIZE, bias=False)
        self.rotary = Rotary()
        self.merge = nn.Linear(HEADS * SIZE, WIDTH, bias=False)

    def forward(self, x):
        batch, time, _ = x.shape

        def heads(y):
            return y.view(batch, time, -1, SIZE).transpose(1, 2)

        q, k = self.rotary(heads(self.query(x))), self.rotary(heads(self.key(x)))
        v = heads(self.value(x))
        k, v = (t.repeat_interleave(HEADS // GROUPS, dim=1) for t in (k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.merge(y.transpose(1, 2).reshape(batch, time, -1))


class SwiGLU(nn.Module):
    """silu(gate) times up."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, INNER, bias=False)
        self.up = nn.Linear(WIDTH, INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Features (batch, time, 16) to the same shape."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(), RMSNorm()
        self.attention = Attention()
        self.mlp = SwiGLU()

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Port(eqx.Module):
    """The same with fused query, key and value and fused gate and up."""

    gains: list[jax.Array]
    qkv: jax.Array
    proj: jax.Array
    gate_up: jax.Array
    down: jax.Array
    option: str = eqx.field(static=True)

    def __init__(self, dtype, option):
        keys = jax.random.split(jax.random.key(2), 4)

        def draw(key, *shape):
            return jax.random.normal(key, shape, dtype) * 0.2

        self.gains = [jnp.ones(WIDTH, dtype), jnp.ones(WIDTH, dtype)]
        self.qkv = draw(keys[0], (HEADS + 2 * GROUPS) * SIZE, WIDTH)
        self.proj = draw(keys[1], HEADS * SIZE, WIDTH)
        self.gate_up = draw(keys[2], WIDTH, 2 * INNER)
        self.down = draw(keys[3], INNER, WIDTH)
        self.option = option

    def norm(self, x, gain):
        eps = 1e-6 if self.option == "rms-epsilon" else 1e-5
        y = x
        if self.option == "bfloat-norm":
            y = x.astype(jnp.bfloat16)
        square = jnp.mean(y * y, -1, keepdims=True).astype(x.dtype)
        return y.astype(x.dtype) * jax.lax.rsqrt(square + eps) * gain

    def turn(self, x):
        """Time and heads: (time, heads, 4)."""
        half = SIZE // 2
        base = 10000.0 if self.option == "rotary-base" else 100.0
        rate = base ** (-jnp.arange(half, dtype=x.dtype) / half)
        angle = jnp.arange(x.shape[0], dtype=x.dtype)[:, None, None] * rate
        if self.option == "rotary-pairs":
            a, b = x[..., ::2], x[..., 1::2]
        else:
            a, b = jnp.split(x, 2, -1)
        turned = [a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)]
        if self.option == "rotary-pairs":
            return jnp.stack(turned, -1).reshape(x.shape)
        return jnp.concatenate(turned, -1)

    def attend(self, x):
        time = x.shape[0]
        fused = (x @ self.qkv.T).reshape(time, -1, SIZE)
        q, k, v = jnp.split(fused, [HEADS, HEADS + GROUPS], 1)
        q, k = self.turn(q), self.turn(k)
        repeat = HEADS // GROUPS
        if self.option == "keys-tiled":
            k, v = jnp.tile(k, (1, repeat, 1)), jnp.tile(v, (1, repeat, 1))
        else:
            k, v = jnp.repeat(k, repeat, 1), jnp.repeat(v, repeat, 1)
        scores = jnp.einsum("thd,shd->hts", q, k) / jnp.sqrt(SIZE).astype(x.dtype)
        scores = jnp.where(jnp.tril(jnp.ones((time, time), bool)), scores, -jnp.inf)
        y = jnp.einsum("hts,shd->thd", jax.nn.softmax(scores, -1), v)
        return y.reshape(time, -1) @ self.proj

    def block(self, x):
        x = x + self.attend(self.norm(x, self.gains[0]))
        gate, up = jnp.split(self.norm(x, self.gains[1]) @ self.gate_up, 2, -1)
        act = jax.nn.gelu if self.option == "gelu-gate" else jax.nn.silu
        return x + (act(gate) * up) @ self.down

    def __call__(self, x):
        return jax.vmap(self.block)(x)


def make_reference(dtype="float32"):
    return as_trained(Block(), dtype)


def make_port(dtype="float32", fault=None):
    return Port(jax_in(dtype), fault or "")


def copy_weights(reference, port):
    def put(name, array):
        object.__setattr__(port, name, jnp.asarray(array))

    a, m = reference.attention, reference.mlp
    fused = torch.cat([a.query.weight, a.key.weight, a.value.weight])
    put("qkv", values_of(fused))
    put("proj", values_of(a.merge.weight).T)
    put("gate_up", values_of(torch.cat([m.gate.weight, m.up.weight])).T)
    put("down", values_of(m.down.weight).T)
    port.gains[:] = [jnp.asarray(values_of(n.weight)) for n in (reference.norm1, reference.norm2)]


CASES = [
    PortCase(
        name="rope_eqx",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"features": Input(("batch", "time", WIDTH))},
        faults={
            "rms-epsilon": Fault("semantic", "norm1", "norm-epsilon"),
            "bfloat-norm": Fault("precision", "norm1", "low-precision"),
            "rotary-base": Fault("semantic", "attention.rotary", "position"),
            "rotary-pairs": Fault("semantic", "attention.rotary", "position"),
            "keys-tiled": Fault("semantic", "attention", "head-split"),
            "gelu-gate": Fault("semantic", "mlp.act", "activation-variant"),
        },
        note="Positions from one would change nothing: rotary attention sees distances only.",
    )
]
