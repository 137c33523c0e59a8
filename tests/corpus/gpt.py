"""Decoder with fused projections, causal mask and tied head: torch to a raw tf.Module."""

from __future__ import annotations

import math

import tensorflow as tf
import torch
import torch.nn.functional as F
from torch import nn

from .common import Fault, Input, PortCase, as_trained, values_of

WORDS, LONGEST = 19, 64


class CausalAttention(nn.Module):
    """States (batch, time, dim) to (batch, time, dim)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(dim, 3 * dim)
        self.c_proj = nn.Linear(dim, dim)

    def forward(self, x):
        batch, time, dim = x.shape
        q, k, v = (
            part.view(batch, time, self.heads, dim // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(dim, dim=2)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(dim // self.heads)
        later = torch.ones(time, time, dtype=torch.bool, device=x.device).triu(1)
        weights = F.softmax(scores.masked_fill(later, float("-inf")), dim=-1)
        return self.c_proj((weights @ v).transpose(1, 2).reshape(batch, time, dim))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = CausalAttention(dim, heads)
        self.ln_2 = nn.LayerNorm(dim)
        self.c_fc = nn.Linear(dim, 4 * dim)
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(4 * dim, dim)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(self.gelu(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    """Tokens (batch, time) to scores of the next one (batch, time, WORDS)."""

    def __init__(self, dim: int = 12, heads: int = 3, depth: int = 2):
        super().__init__()
        self.wte = nn.Embedding(WORDS, dim)
        self.wpe = nn.Embedding(LONGEST, dim)
        self.h = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(dim)
        self.lm_head = nn.Linear(dim, WORDS, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class Affine(tf.Module):
    def __init__(self, inputs, outputs, dtype, name):
        super().__init__(name=name)
        self.w = tf.Variable(tf.random.normal((inputs, outputs), stddev=0.1, dtype=dtype))
        self.b = tf.Variable(tf.zeros(outputs, dtype))

    def __call__(self, x):
        return tf.einsum("...i,io->...o", x, self.w) + self.b


class Norm(tf.Module):
    def __init__(self, dim, dtype, name, epsilon=1e-5, one_pass=False):
        super().__init__(name=name)
        self.epsilon, self.one_pass = epsilon, one_pass
        self.gamma = tf.Variable(tf.ones(dim, dtype))
        self.beta = tf.Variable(tf.zeros(dim, dtype))

    def __call__(self, x):
        mean = tf.reduce_mean(x, -1, keepdims=True)
        if self.one_pass:
            shifted = x + 1000.0
            var = tf.reduce_mean(shifted * shifted, -1, keepdims=True)
            var = tf.abs(var - tf.reduce_mean(shifted, -1, keepdims=True) ** 2)
        else:
            var = tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True)
        return (x - mean) / tf.sqrt(var + self.epsilon) * self.gamma + self.beta


class Decoder(tf.Module):
    """Tokens (batch, time) to scores (batch, time, WORDS)."""

    def __init__(
        self,
        dtype,
        dim=12,
        heads=3,
        depth=2,
        *,
        order=(0, 1, 2),
        scale_dim=None,
        diagonal=0,
        untied=False,
        first_position=0,
        half=False,
        one_pass=False,
        stop=False,
        heads_last=False,
        epsilon=1e-5,
    ):
        super().__init__(name="decoder")
        self.dim, self.heads, self.order = dim, heads, order
        self.scale_dim, self.diagonal, self.untied = scale_dim or dim // heads, diagonal, untied
        self.first_position, self.half, self.stop = first_position, half, stop
        self.heads_last = heads_last
        self.tokens = tf.Variable(tf.random.normal((WORDS, dim), dtype=dtype), name="tokens")
        self.places = tf.Variable(tf.random.normal((LONGEST, dim), dtype=dtype), name="places")
        self.blocks = [
            {
                "norm_a": Norm(dim, dtype, "norm_a"),
                "qkv": Affine(dim, 3 * dim, dtype, "qkv"),
                "merge": Affine(dim, dim, dtype, "merge"),
                "norm_b": Norm(dim, dtype, "norm_b", epsilon if i else 1e-5),
                "wide": Affine(dim, 4 * dim, dtype, "wide"),
                "narrow": Affine(4 * dim, dim, dtype, "narrow"),
            }
            for i in range(depth)
        ]
        self.last_norm = Norm(dim, dtype, "last_norm", one_pass=one_pass)

    def attend(self, block, x, first):
        batch, time, _ = tf.unstack(tf.shape(x))
        size = self.dim // self.heads
        parts = tf.split(block["qkv"](x), 3, axis=-1)
        order = self.order if first else (0, 1, 2)

        def split(part):
            if self.heads_last and first:
                part = tf.reshape(part, (batch, time, size, self.heads))
                return tf.transpose(part, (0, 3, 1, 2))
            part = tf.reshape(part, (batch, time, self.heads, size))
            return tf.transpose(part, (0, 2, 1, 3))

        q, k, v = (split(parts[i]) for i in order)
        scores = tf.matmul(q, k, transpose_b=True) / math.sqrt(
            self.scale_dim if not first else size
        )
        seen = tf.linalg.band_part(tf.ones((time, time), tf.bool), -1, self.diagonal)
        if first and self.half:
            scores = tf.cast(tf.cast(scores, tf.float16), x.dtype)
        if not first and self.stop:
            scores = tf.stop_gradient(scores)
        weights = tf.nn.softmax(tf.where(seen, scores, tf.cast(-math.inf, x.dtype)))
        mixed = tf.transpose(tf.matmul(weights, v), (0, 2, 1, 3))
        return block["merge"](tf.reshape(mixed, (batch, time, self.dim)))

    def __call__(self, tokens):
        time = tf.shape(tokens)[1]
        start = self.first_position
        x = tf.gather(self.tokens, tokens) + self.places[start : start + time]
        for index, block in enumerate(self.blocks):
            x = x + self.attend(block, block["norm_a"](x), index == 0)
            wide = block["wide"](block["norm_b"](x))
            cubic = 0.044715 * wide * wide * wide
            wide = 0.5 * wide * (1 + tf.tanh(math.sqrt(2 / math.pi) * (wide + cubic)))
            x = x + block["narrow"](wide)
        table = tf.stop_gradient(self.tokens) if self.untied else self.tokens
        return tf.matmul(self.last_norm(x), table, transpose_b=True)


OPTIONS = {
    "keys-first": {"order": (1, 0, 2)},
    "scaled-by-dim": {"scale_dim": 12},
    "sees-next": {"diagonal": 1},
    "head-not-trained": {"untied": True},
    "positions-from-one": {"first_position": 1},
    "float16-scores": {"half": True},
    "one-pass-variance": {"one_pass": True},
    "scores-stopped": {"stop": True},
    "heads-last": {"heads_last": True},
    "epsilon": {"epsilon": 1e-6},
}


def make_reference(dtype: str = "float32") -> GPT:
    return as_trained(GPT(), dtype)


def make_port(dtype: str = "float32", fault: str | None = None) -> Decoder:
    return Decoder(tf.as_dtype(dtype), **OPTIONS[fault] if fault else {})


def copy_weights(reference: GPT, port: Decoder) -> None:
    port.tokens.assign(values_of(reference.wte.weight))
    port.places.assign(values_of(reference.wpe.weight))
    pairs = [(port.last_norm, reference.ln_f)]
    for to, block in zip(port.blocks, reference.h, strict=True):
        pairs += [
            (to["norm_a"], block.ln_1),
            (to["qkv"], block.attn.c_attn),
            (to["merge"], block.attn.c_proj),
            (to["norm_b"], block.ln_2),
            (to["wide"], block.c_fc),
            (to["narrow"], block.c_proj),
        ]
    for to, layer in pairs:
        scale, shift = (to.gamma, to.beta) if isinstance(to, Norm) else (to.w, to.b)
        scale.assign(values_of(layer.weight).T)
        shift.assign(values_of(layer.bias))


CASES = [
    PortCase(
        name="gpt",
        reference_framework="torch",
        port_framework="tensorflow",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"tokens": Input(("batch", "time"), kind="tokens", high=WORDS)},
        faults={
            "keys-first": Fault("semantic", "h.0.attn", "fused-order"),
            "scaled-by-dim": Fault("semantic", "h.1.attn", "attention-scale"),
            "sees-next": Fault("semantic", "h.0.attn", "mask", note="in all blocks"),
            "head-not-trained": Fault("semantic", "wte", "embedding", "backward"),
            "positions-from-one": Fault("semantic", "wpe", "position"),
            "float16-scores": Fault("precision", "h.0.attn", "low-precision"),
            "one-pass-variance": Fault("precision", "ln_f", "unstable-formula"),
            "scores-stopped": Fault("semantic", "h.1.attn", "gradient-path", "backward"),
            "heads-last": Fault("semantic", "h.0.attn", "head-split"),
            "epsilon": Fault("semantic", "h.1.ln_2", "norm-epsilon"),
        },
    )
]
