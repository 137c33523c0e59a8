"""Encoder and decoder with cross attention and a tied head: torch to flax nnx."""

from __future__ import annotations

import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

VOCABULARY, WIDTH, HEADS, LONGEST = 11, 16, 4, 64


class EncoderLayer(nn.Module):
    """Post-norm self attention over (batch, source, 16)."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.grow = nn.Linear(WIDTH, 24)
        self.gelu = nn.GELU()
        self.shrink = nn.Linear(24, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)

    def forward(self, x, mask):
        y, _ = self.attention(x, x, x, key_padding_mask=~mask, need_weights=False)
        x = self.norm1(x + y)
        return self.norm2(x + self.shrink(self.gelu(self.grow(x))))


class DecoderLayer(nn.Module):
    """Pre-norm causal self attention and attention to the source."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.own = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.cross = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.grow = nn.Linear(WIDTH, 24)
        self.relu = nn.ReLU()
        self.shrink = nn.Linear(24, WIDTH)

    def forward(self, x, memory, mask):
        length = x.shape[1]
        later = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
        y = self.norm1(x)
        x = x + self.own(y, y, y, attn_mask=later, need_weights=False)[0]
        y = self.norm2(x)
        x = x + self.cross(y, memory, memory, key_padding_mask=~mask, need_weights=False)[0]
        return x + self.shrink(self.relu(self.grow(self.norm3(x))))


class Translator(nn.Module):
    """Source (batch, source), its mask, target (batch, target) to scores over 11 tokens."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(LONGEST, WIDTH) * 0.3)
        self.encoder = EncoderLayer()
        self.decoder = DecoderLayer()
        self.final = nn.LayerNorm(WIDTH)

    def forward(self, source, mask, target):
        def embed(ids):
            return self.tokens(ids) * WIDTH**0.5 + self.positions[: ids.shape[1]]

        memory = self.encoder(embed(source), mask)
        y = self.final(self.decoder(embed(target), memory, mask))
        return y @ self.tokens.weight.T


class Block(nnx.Module):
    """One layer of either kind."""

    def __init__(self, dtype, r, cross, option):
        how = {"param_dtype": dtype, "rngs": r}
        eps = 1e-6 if option == "encoder-epsilon" and not cross else 1e-5
        count = 3 if cross else 2
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, epsilon=eps, **how) for _ in range(count)])
        attention = {"num_heads": HEADS, "in_features": WIDTH, "decode": False, **how}
        self.self_attention = nnx.MultiHeadAttention(**attention)
        if cross:
            self.source_attention = nnx.MultiHeadAttention(**attention)
        self.up = nnx.Linear(WIDTH, 24, **how)
        self.down = nnx.Linear(24, WIDTH, **how)
        self.option = option

    def feed(self, x, act):
        return self.down(act(self.up(x)))

    def encode(self, x, mask):
        keys = mask[:, None, None, :]
        x = self.norms[0](x + self.self_attention(x, mask=keys))
        approximate = self.option == "gelu-tanh"
        return self.norms[1](x + self.feed(x, lambda z: nnx.gelu(z, approximate=approximate)))

    def decode(self, x, memory, mask):
        n = x.shape[1]
        offset = 1 if self.option == "sees-next" else 0
        causal = jnp.tril(jnp.ones((n, n), bool), offset)[None, None]
        x = x + self.self_attention(self.norms[0](x), mask=causal)
        y = self.norms[1](x)
        keys = None if self.option == "cross-unmasked" else mask[:, None, None, :]
        x = (y if self.option == "residual-of-norm" else x) + self.source_attention(
            y, memory, memory, mask=keys
        )
        return x + self.feed(self.norms[2](x), nnx.relu)


class Net(nnx.Module):
    """The port; its head is the embedding."""

    def __init__(self, dtype, option=""):
        r = nnx.Rngs(3)
        self.embedding = nnx.Embed(VOCABULARY, WIDTH, param_dtype=dtype, rngs=r)
        self.places = nnx.Param(jnp.zeros((LONGEST, WIDTH), dtype))
        self.enc = Block(dtype, r, False, option)
        self.dec = Block(dtype, r, True, option)
        self.last = nnx.LayerNorm(WIDTH, epsilon=1e-5, param_dtype=dtype, rngs=r)
        self.option = option

    def embed(self, ids):
        scale = 1.0 if self.option == "embedding-scale" else WIDTH**0.5
        return self.embedding(ids) * scale + self.places[...][: ids.shape[1]]

    def __call__(self, source, mask, target):
        memory = self.enc.encode(self.embed(source), mask)
        y = self.last(self.dec.decode(self.embed(target), memory, mask))
        return self.embedding.attend(y)


def make_reference(dtype="float32"):
    return as_trained(Translator(), dtype)


def make_port(dtype="float32", fault=None):
    return Net(jax_in(dtype), fault or "")


def put(param, array):
    param[...] = jnp.asarray(array, param.dtype)


def copy_attention(ours, theirs):
    weights = values_of(ours.in_proj_weight).reshape(3, WIDTH, WIDTH)
    biases = values_of(ours.in_proj_bias).reshape(3, HEADS, -1)
    for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        put(getattr(theirs, part).kernel, weight.T.reshape(WIDTH, HEADS, -1))
        put(getattr(theirs, part).bias, bias)
    put(theirs.out.kernel, values_of(ours.out_proj.weight).T.reshape(HEADS, -1, WIDTH))
    put(theirs.out.bias, values_of(ours.out_proj.bias))


def copy_weights(reference, port):
    put(port.embedding.embedding, values_of(reference.tokens.weight))
    put(port.places, values_of(reference.positions))
    for ours, theirs in ((reference.encoder, port.enc), (reference.decoder, port.dec)):
        for source, target in ((ours.grow, theirs.up), (ours.shrink, theirs.down)):
            put(target.kernel, values_of(source.weight).T)
            put(target.bias, values_of(source.bias))
        for index, target in enumerate(theirs.norms, 1):
            source = getattr(ours, f"norm{index}")
            put(target.scale, values_of(source.weight))
            put(target.bias, values_of(source.bias))
    copy_attention(reference.encoder.attention, port.enc.self_attention)
    copy_attention(reference.decoder.own, port.dec.self_attention)
    copy_attention(reference.decoder.cross, port.dec.source_attention)
    put(port.last.scale, values_of(reference.final.weight))
    put(port.last.bias, values_of(reference.final.bias))


CASES = [
    PortCase(
        name="nnx_translator",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "source": Input(("batch", "source"), kind="tokens", high=VOCABULARY),
            "mask": Input(("batch", "source"), kind="mask"),
            "target": Input(("batch", "target"), kind="tokens", high=VOCABULARY),
        },
        faults={
            "encoder-epsilon": Fault("semantic", "encoder", "norm-epsilon", note="in both norms"),
            "gelu-tanh": Fault("semantic", "encoder.gelu", "activation-variant"),
            "sees-next": Fault("semantic", "decoder.own", "mask"),
            "cross-unmasked": Fault("semantic", "decoder.cross", "mask"),
            "residual-of-norm": Fault("semantic", "decoder", "residual"),
            "embedding-scale": Fault("semantic", "", "embedding", between=("tokens", "encoder")),
        },
    )
]
