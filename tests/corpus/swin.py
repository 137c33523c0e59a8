"""Attention in shifted windows with relative positions, and patches merged: torch to JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import torch
from torch import nn

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

SIZE, WINDOW, WIDTH, HEADS, CLASSES = 8, 4, 8, 2, 5


def relative(window: int = WINDOW) -> torch.Tensor:
    """For each pair of places of a window, the row of the table of biases."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij")).flatten(1)
    apart = grid[:, :, None] - grid[:, None, :] + window - 1
    return apart[0] * (2 * window - 1) + apart[1]


class WindowAttention(nn.Module):
    """Windows (count, 16, 8) to the same shape."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, HEADS))
        self.register_buffer("places", relative(), persistent=False)

    def forward(self, x):
        count, cells, _ = x.shape
        qkv = self.qkv(x).reshape(count, cells, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * (WIDTH // HEADS) ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self.table[self.places].permute(2, 0, 1)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(count, cells, WIDTH)
        return self.proj(y)


class Block(nn.Module):
    """Maps (batch, 8, 8, 8) to the same shape."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = WindowAttention()
        self.norm2 = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, 2 * WIDTH)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        n = SIZE // WINDOW
        y = y.reshape(-1, n, WINDOW, n, WINDOW, WIDTH).permute(0, 1, 3, 2, 4, 5)
        y = self.attn(y.reshape(-1, WINDOW * WINDOW, WIDTH))
        y = y.reshape(-1, n, n, WINDOW, WINDOW, WIDTH).permute(0, 1, 3, 2, 4, 5)
        y = torch.roll(y.reshape(x.shape), (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


class Merge(nn.Module):
    """Four neighbours joined: (batch, 8, 8, 8) to (batch, 4, 4, 16)."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4 * WIDTH)
        self.reduce = nn.Linear(4 * WIDTH, 2 * WIDTH, bias=False)

    def forward(self, x):
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduce(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    """Images (batch, 3, 16, 16) to scores (batch, 5)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.block1 = Block(0)
        self.block2 = Block(2)
        self.merge = Merge()
        self.norm = nn.LayerNorm(2 * WIDTH)
        self.head = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        x = self.merge(self.block2(self.block1(x)))
        return self.head(self.norm(x).mean((1, 2)))


class Forward:
    """The port."""

    def __init__(self, option):
        self.option = option

    def norm(self, p, x, eps=1e-5):
        mean = x.mean(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(x.var(-1, keepdims=True) + eps) * p["g"] + p["b"]

    def attend(self, p, x, option):
        count, cells, _ = x.shape
        y = x @ p["qkv"]["w"] + p["qkv"]["b"]
        shape = (3, HEADS, WIDTH // HEADS)
        if option == "heads-before-parts":
            shape = (HEADS, 3, WIDTH // HEADS)
        y = y.reshape(count, cells, *shape)
        y = y.transpose(0, 1, 3, 2, 4) if option == "heads-before-parts" else y
        q, k, v = (y[:, :, part].transpose(0, 2, 1, 3) for part in range(3))
        scale = WIDTH**-0.5 if option == "scaled-by-width" else (WIDTH // HEADS) ** -0.5
        scores = jnp.einsum("nhqd,nhkd->nhqk", q * scale, k)
        bias = p["table"][relative().numpy()].transpose(2, 0, 1)
        if option == "bias-transposed":
            bias = bias.transpose(0, 2, 1)
        scores = scores if option == "no-bias-table" else scores + bias
        y = jnp.einsum("nhqk,nhkd->nqhd", jax.nn.softmax(scores, -1), v)
        return y.reshape(x.shape) @ p["proj"]["w"] + p["proj"]["b"]

    def block(self, p, x, shift, option):
        y = jnp.roll(self.norm(p["norm1"], x), (-shift, -shift), (1, 2))
        n = SIZE // WINDOW
        y = y.reshape(-1, n, WINDOW, n, WINDOW, WIDTH)
        if option != "windows-as-rows":
            y = y.transpose(0, 1, 3, 2, 4, 5)
        y = self.attend(p["attn"], y.reshape(-1, WINDOW * WINDOW, WIDTH), option)
        y = y.reshape(-1, n, n, WINDOW, WINDOW, WIDTH)
        if option != "windows-as-rows":
            y = y.transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(x.shape)
        if option != "not-shifted-back":
            y = jnp.roll(y, (shift, shift), (1, 2))
        x = x + y
        y = self.norm(p["norm2"], x, 1e-6 if option == "epsilon" else 1e-5)
        y = y @ p["fc1"]["w"] + p["fc1"]["b"]
        y = jax.nn.gelu(y, approximate=option == "gelu-tanh")
        return x + y @ p["fc2"]["w"] + p["fc2"]["b"]

    def __call__(self, params, x):
        p, option = params, self.option
        x = jax.lax.conv_general_dilated(
            x, p["embed"]["w"], (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = self.block(p["block1"], x + p["embed"]["b"], 0, "")
        x = self.block(p["block2"], x, 2, option)
        rows = [(i, j) for j in (0, 1) for i in (0, 1)]
        if option == "merged-by-rows":
            rows = [(i, j) for i in (0, 1) for j in (0, 1)]
        x = jnp.concatenate([x[:, i::2, j::2] for i, j in rows], -1)
        x = self.norm(p["merge"]["norm"], x) @ p["merge"]["reduce"]
        x = self.norm(p["norm"], x)
        x = x.max((1, 2)) if option == "max-pooled" else x.mean((1, 2))
        return x @ p["head"]["w"] + p["head"]["b"]


def make_reference(dtype="float32"):
    return as_trained(Swin(), dtype)


def make_port(dtype="float32", fault=None):
    kind = jax_in(dtype)
    keys = iter(jax.random.split(jax.random.key(2), 99))

    def draw(*shape):
        return jax.random.normal(next(keys), shape, kind) * 0.3

    def linear(a, b):
        return {"w": draw(a, b), "b": draw(b)}

    def norm(a):
        return {"g": draw(a), "b": draw(a)}

    def block():
        return {
            "norm1": norm(WIDTH),
            "norm2": norm(WIDTH),
            "attn": {
                "qkv": linear(WIDTH, 3 * WIDTH),
                "proj": linear(WIDTH, WIDTH),
                "table": draw((2 * WINDOW - 1) ** 2, HEADS),
            },
            "fc1": linear(WIDTH, 2 * WIDTH),
            "fc2": linear(2 * WIDTH, WIDTH),
        }

    params = {
        "embed": {"w": draw(2, 2, 3, WIDTH), "b": draw(WIDTH)},
        "block1": block(),
        "block2": block(),
        "merge": {"norm": norm(4 * WIDTH), "reduce": draw(4 * WIDTH, 2 * WIDTH)},
        "norm": norm(2 * WIDTH),
        "head": linear(2 * WIDTH, CLASSES),
    }
    return Forward(fault or ""), params


def copy_weights(reference, port):
    params = port[1]

    def linear(owner, module):
        owner["w"] = jnp.asarray(values_of(module.weight).T)
        owner["b"] = jnp.asarray(values_of(module.bias))

    def norm(owner, module):
        owner["g"] = jnp.asarray(values_of(module.weight))
        owner["b"] = jnp.asarray(values_of(module.bias))

    weight = values_of(reference.embed.weight).transpose(2, 3, 1, 0)
    params["embed"]["w"] = jnp.asarray(weight)
    params["embed"]["b"] = jnp.asarray(values_of(reference.embed.bias))
    for name in ("block1", "block2"):
        owner, module = params[name], getattr(reference, name)
        norm(owner["norm1"], module.norm1)
        norm(owner["norm2"], module.norm2)
        linear(owner["fc1"], module.fc1)
        linear(owner["fc2"], module.fc2)
        linear(owner["attn"]["qkv"], module.attn.qkv)
        linear(owner["attn"]["proj"], module.attn.proj)
        owner["attn"]["table"] = jnp.asarray(values_of(module.attn.table))
    norm(params["merge"]["norm"], reference.merge.norm)
    params["merge"]["reduce"] = jnp.asarray(values_of(reference.merge.reduce.weight).T)
    norm(params["norm"], reference.norm)
    linear(params["head"], reference.head)


CASES = [
    PortCase(
        name="swin",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"images": Input(("batch", 3, 16, 16), axes="NCHW", port_axes="NHWC")},
        faults={
            "heads-before-parts": Fault("semantic", "block2.attn", "fused-order"),
            "scaled-by-width": Fault("semantic", "block2.attn", "attention-scale"),
            "bias-transposed": Fault("semantic", "block2.attn", "position"),
            "no-bias-table": Fault("semantic", "block2.attn", "position"),
            "not-shifted-back": Fault("semantic", "block2", "position"),
            "windows-as-rows": Fault("semantic", "block2", "flatten-order"),
            "epsilon": Fault("semantic", "block2.norm2", "norm-epsilon"),
            "gelu-tanh": Fault("semantic", "block2.act", "activation-variant"),
            "merged-by-rows": Fault("semantic", "merge", "channel-order"),
            "max-pooled": Fault("semantic", "", "reduction", between=("norm", "head")),
        },
    )
]
