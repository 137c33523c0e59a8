"""Llama-like decoder: rotary positions, grouped queries, RMS norms, gated MLP; torch to Keras."""

from __future__ import annotations

import keras
import numpy as np
import torch
import torch.nn.functional as F
from keras import layers, ops
from torch import nn

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of

WORDS, LONGEST = 23, 64


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate(x, cos, sin):
    """Turns halves of the last axis of (batch, heads, time, size)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, groups: int):
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, dim // heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, groups * self.size, bias=False)
        self.v_proj = nn.Linear(dim, groups * self.size, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x, cos, sin):
        batch, time, dim = x.shape
        q = self.q_proj(x).view(batch, time, self.heads, self.size).transpose(1, 2)
        k = self.k_proj(x).view(batch, time, self.groups, self.size).transpose(1, 2)
        v = self.v_proj(x).view(batch, time, self.groups, self.size).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k = k.repeat_interleave(self.heads // self.groups, dim=1)
        v = v.repeat_interleave(self.heads // self.groups, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, time, dim))


class MLP(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, dim: int, heads: int, groups: int, hidden: int):
        super().__init__()
        self.input_norm, self.post_norm = RMSNorm(dim), RMSNorm(dim)
        self.attn = Attention(dim, heads, groups)
        self.mlp = MLP(dim, hidden)

    def forward(self, x, cos, sin):
        x = x + self.attn(self.input_norm(x), cos, sin)
        return x + self.mlp(self.post_norm(x))


class Llama(nn.Module):
    """Tokens (batch, time) to scores (batch, time, WORDS)."""

    def __init__(self, dim=16, heads=4, groups=2, hidden=20, depth=2):
        super().__init__()
        self.embed = nn.Embedding(WORDS, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, groups, hidden) for _ in range(depth))
        self.norm = RMSNorm(dim)
        self.head = nn.Linear(dim, WORDS, bias=False)
        size = dim // heads
        angles = torch.outer(
            torch.arange(LONGEST, dtype=torch.float64),
            10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size),
        )
        angles = torch.cat([angles, angles], dim=-1)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, tokens):
        time = tokens.shape[1]
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos[:time], self.sin[:time])
        return self.head(self.norm(x))


class KerasRMSNorm(layers.Layer):
    def __init__(self, epsilon=1e-6, centred=False, stop=False, **kwargs):
        super().__init__(**kwargs)
        self.epsilon, self.centred, self.stop = epsilon, centred, stop

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x):
        if self.centred:
            x = x - ops.mean(x, axis=-1, keepdims=True)
        power = ops.mean(ops.square(x), axis=-1, keepdims=True)
        if self.stop:
            power = ops.stop_gradient(power)
        return x / ops.sqrt(power + self.epsilon) * self.scale


class KerasLlama(keras.Model):
    """Tokens (batch, time) to scores (batch, time, WORDS)."""

    def __init__(
        self,
        dim=16,
        heads=4,
        groups=2,
        hidden=20,
        depth=2,
        *,
        interleaved=False,
        base=10000.0,
        tiled=False,
        gate_on_up=False,
        input_norm=None,
        post_norm=None,
        final_norm=None,
        noncausal=False,
    ):
        super().__init__()
        self.heads, self.groups, self.size, self.depth = heads, groups, dim // heads, depth
        self.interleaved, self.tiled, self.gate_on_up = interleaved, tiled, gate_on_up
        self.noncausal = noncausal
        half = np.arange(0, self.size, 2) / self.size
        angles = np.arange(LONGEST)[:, None] * base**-half
        angles = np.concatenate([angles, angles], axis=-1)
        if interleaved:
            angles = np.repeat(angles[:, : self.size // 2], 2, axis=-1)
        # Rounded as the reference keeps them.
        self.cos = np.cos(angles).astype("float32").astype(self.compute_dtype)
        self.sin = np.sin(angles).astype("float32").astype(self.compute_dtype)
        self.embed = layers.Embedding(WORDS, dim, name="embed")
        self.blocks = []
        for i in range(depth):
            first = input_norm if i else None
            second = post_norm if not i else None
            block = {
                "norm1": KerasRMSNorm(name=f"norm1_{i}", **first or {}),
                "norm2": KerasRMSNorm(name=f"norm2_{i}", **second or {}),
            }
            for name, width in (
                ("wq", dim),
                ("wk", groups * self.size),
                ("wv", groups * self.size),
                ("wo", dim),
                ("w1", hidden),
                ("w3", hidden),
                ("w2", dim),
            ):
                block[name] = layers.Dense(width, use_bias=False, name=f"{name}_{i}")
            self.blocks.append(block)
        self.final = KerasRMSNorm(name="final", **final_norm or {})
        self.scores = layers.Dense(WORDS, use_bias=False, name="scores")
        self(np.zeros((1, 3), "int32"))

    def turn(self, x, time):
        cos, sin = self.cos[None, None], self.sin[None, None]
        cos, sin = ops.convert_to_tensor(cos)[:, :, :time], ops.convert_to_tensor(sin)[:, :, :time]
        if self.interleaved:
            pairs = ops.reshape(x, (*ops.shape(x)[:-1], self.size // 2, 2))
            turned = ops.stack([-pairs[..., 1], pairs[..., 0]], axis=-1)
            turned = ops.reshape(turned, ops.shape(x))
        else:
            half = self.size // 2
            turned = ops.concatenate([-x[..., half:], x[..., :half]], axis=-1)
        return x * cos + turned * sin

    def attend(self, block, x, last):
        batch, time = ops.shape(x)[0], ops.shape(x)[1]

        def split(y, heads):
            return ops.transpose(ops.reshape(y, (batch, time, heads, self.size)), (0, 2, 1, 3))

        q = self.turn(split(block["wq"](x), self.heads), time)
        k = self.turn(split(block["wk"](x), self.groups), time)
        v = split(block["wv"](x), self.groups)
        times = self.heads // self.groups
        if self.tiled:
            k, v = (ops.tile(y, (1, times, 1, 1)) for y in (k, v))
        else:
            k, v = (ops.repeat(y, times, axis=1) for y in (k, v))
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / np.sqrt(self.size)
        steps = ops.arange(time)
        seen = steps[None, :] <= steps[:, None]
        if not (self.noncausal and last):
            scores = ops.where(seen, scores, ops.cast(-np.inf, scores.dtype))
        y = ops.matmul(ops.softmax(scores, axis=-1), v)
        return block["wo"](ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (batch, time, -1)))

    def call(self, tokens):
        x = self.embed(tokens)
        for i, block in enumerate(self.blocks):
            x = x + self.attend(block, block["norm1"](x), i == self.depth - 1)
            y = block["norm2"](x)
            gate, up = block["w1"](y), block["w3"](y)
            if self.gate_on_up and i == 1:
                gate, up = up, gate
            x = x + block["w2"](ops.silu(gate) * up)
        return self.scores(self.final(x))


OPTIONS = {
    "interleaved-rotation": {"interleaved": True},
    "rotation-base": {"base": 1000.0},
    "groups-tiled": {"tiled": True},
    "gate-on-up": {"gate_on_up": True},
    "epsilon": {"input_norm": {"epsilon": 1e-5}},
    "centred-norm": {"post_norm": {"centred": True}},
    "power-stopped": {"final_norm": {"stop": True}},
    "not-causal": {"noncausal": True},
}


def make_reference(dtype: str = "float32") -> Llama:
    return as_trained(Llama(), dtype)


def make_port(dtype: str = "float32", fault: str | None = None) -> KerasLlama:
    with keras_in(dtype):
        return KerasLlama(**OPTIONS[fault] if fault else {})


def copy_weights(reference: Llama, port: KerasLlama) -> None:
    port.embed.set_weights([values_of(reference.embed.weight)])
    pairs = [(port.scores, reference.head)]
    norms = [(port.final, reference.norm)]
    for block, layer in zip(port.blocks, reference.layers, strict=True):
        norms += [(block["norm1"], layer.input_norm), (block["norm2"], layer.post_norm)]
        pairs += [
            (block["wq"], layer.attn.q_proj),
            (block["wk"], layer.attn.k_proj),
            (block["wv"], layer.attn.v_proj),
            (block["wo"], layer.attn.o_proj),
            (block["w1"], layer.mlp.gate_proj),
            (block["w3"], layer.mlp.up_proj),
            (block["w2"], layer.mlp.down_proj),
        ]
    for to, layer in pairs:
        to.set_weights([values_of(layer.weight).T])
    for to, layer in norms:
        to.scale.assign(values_of(layer.weight))


CASES = [
    PortCase(
        name="llama",
        reference_framework="torch",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"tokens": Input(("batch", "time"), kind="tokens", high=WORDS)},
        faults={
            "interleaved-rotation": Fault("semantic", "layers.0.attn", "position"),
            "rotation-base": Fault(
                "semantic", "", "position", between=("embed", "layers.0.attn"), note="the tables"
            ),
            "groups-tiled": Fault("semantic", "layers.0.attn", "head-split"),
            "gate-on-up": Fault("semantic", "layers.1.mlp", "activation-place"),
            "epsilon": Fault("semantic", "layers.1.input_norm", "norm-epsilon"),
            "centred-norm": Fault("semantic", "layers.0.post_norm", "norm-axis"),
            "power-stopped": Fault("semantic", "norm", "gradient-path", "backward"),
            "not-causal": Fault("semantic", "layers.1.attn", "mask"),
        },
    )
]
