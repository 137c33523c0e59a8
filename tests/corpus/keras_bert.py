"""A text encoder of Keras layers with attention, positions and a mask: Keras to torch."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, keras_in

WORDS, WIDTH, HEADS, INNER, LONGEST, OUT = 12, 16, 2, 24, 64, 3


class Embed(layers.Layer):
    """Tokens (batch, time) to scaled embeddings plus positions (batch, time, 16)."""

    def __init__(self, **how):
        super().__init__(**how)
        self.words = layers.Embedding(WORDS, WIDTH, name="words")
        self.places = layers.Embedding(LONGEST, WIDTH, name="places")

    def call(self, tokens):
        return self.words(tokens) * WIDTH**0.5 + self.places(ops.arange(ops.shape(tokens)[1]))


class Block(layers.Layer):
    """Features and their mask to features: attention and a feed-forward part, norms after."""

    def __init__(self, **how):
        super().__init__(**how)
        some = {"bias_initializer": "normal"}
        norm = {"epsilon": 1e-6, "gamma_initializer": "uniform", "beta_initializer": "normal"}
        self.attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name="attention", **some)
        self.norm1 = layers.LayerNormalization(name="norm1", **norm)
        self.grow = layers.Dense(INNER, name="grow", **some)
        self.act = layers.Activation("gelu", name="act")
        self.shrink = layers.Dense(WIDTH, name="shrink", **some)
        self.norm2 = layers.LayerNormalization(name="norm2", **norm)

    def call(self, x, mask):
        keep = mask[:, None, :]
        x = self.norm1(x + self.attention(x, x, attention_mask=keep))
        return self.norm2(x + self.shrink(self.act(self.grow(x))))


class Encoder(keras.Model):
    """Tokens and mask (batch, time) to scores (batch, 3) and features (batch, time, 16)."""

    def __init__(self, **how):
        super().__init__(**how)
        self.embed = Embed(name="embed")
        self.block1 = Block(name="block1")
        self.block2 = Block(name="block2")
        self.head = layers.Dense(OUT, name="head", bias_initializer="normal")

    def call(self, tokens, mask):
        x = self.block2(self.block1(self.embed(tokens), mask), mask)
        weights = ops.cast(mask, x.dtype)[..., None]
        pooled = ops.sum(x * weights, 1) / ops.sum(weights, 1)
        return self.head(ops.tanh(pooled)), x


def make_reference(dtype="float32"):
    keras.utils.set_random_seed(5)
    with keras_in(dtype):
        model = Encoder()
        model(np.zeros((1, 3), "int32"), np.ones((1, 3), bool))
        return model


class Layer(nn.Module):
    """The port's block, with a fused projection."""

    def __init__(self, option):
        super().__init__()
        self.option = option
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.first = nn.LayerNorm(WIDTH, eps=1e-6)
        self.second = nn.LayerNorm(WIDTH, eps=1e-12 if option == "second-epsilon" else 1e-6)
        self.wide = nn.Linear(WIDTH, INNER)
        self.narrow = nn.Linear(INNER, WIDTH)

    def attend(self, x, mask):
        batch, time, _ = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        shape = (batch, time, WIDTH // HEADS, HEADS)
        if self.option != "heads-last":
            shape = (batch, time, HEADS, WIDTH // HEADS)
        order = (0, 3, 1, 2) if self.option == "heads-last" else (0, 2, 1, 3)
        q, k, v = (t.reshape(shape).permute(order) for t in (q, k, v))
        scale = WIDTH**0.5 if self.option == "scaled-by-width" else (WIDTH // HEADS) ** 0.5
        scores = q @ k.transpose(-1, -2) / scale
        if self.option != "unmasked":
            scores = scores.masked_fill(~mask[:, None, None, :], -1e9)
        y = torch.softmax(scores, -1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, time, WIDTH))

    def forward(self, x, mask):
        y = self.first(x + self.attend(x, mask))
        z = self.wide(y)
        z = F.relu(z) if self.option == "relu" else F.gelu(z)
        return self.second((x if self.option == "early-residual" else y) + self.narrow(z))


class Port(nn.Module):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.table = nn.Embedding(WORDS, WIDTH)
        self.where = nn.Embedding(LONGEST, WIDTH)
        self.layers = nn.ModuleList([Layer(""), Layer(option)])
        self.scores = nn.Linear(WIDTH, OUT)

    def forward(self, tokens, mask):
        scale = 1.0 if self.option == "embedding-scale" else WIDTH**0.5
        shift = 1 if self.option == "positions-from-one" else 0
        places = torch.arange(tokens.shape[1]) + shift
        x = self.table(tokens) * scale + self.where(places)
        for layer in self.layers:
            x = layer(x, mask)
        weights = mask[..., None].to(x.dtype)
        pooled = (x * weights).sum(1) / weights.sum(1)
        if self.option == "padding-pooled":
            pooled = x.mean(1)
        return self.scores(pooled if self.option == "no-tanh" else torch.tanh(pooled)), x


def make_port(dtype="float32", fault=None):
    return Port(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.asarray(value)))


def copy_weights(reference, port):
    fill(port.table.weight, reference.embed.words.get_weights()[0])
    fill(port.where.weight, reference.embed.places.get_weights()[0])
    for ours, theirs in zip((reference.block1, reference.block2), port.layers, strict=True):
        held = ours.attention.get_weights()
        kernels = [held[2 * i].reshape(WIDTH, WIDTH).T for i in range(3)]
        fill(theirs.qkv.weight, np.concatenate(kernels))
        fill(theirs.qkv.bias, np.concatenate([held[2 * i + 1].reshape(-1) for i in range(3)]))
        fill(theirs.out.weight, held[6].reshape(WIDTH, WIDTH).T)
        fill(theirs.out.bias, held[7])
        for source, target in (
            (ours.norm1, theirs.first),
            (ours.norm2, theirs.second),
            (ours.grow, theirs.wide),
            (ours.shrink, theirs.narrow),
        ):
            fill(target.weight, source.get_weights()[0].T)
            fill(target.bias, source.get_weights()[1])
    fill(port.scores.weight, reference.head.get_weights()[0].T)
    fill(port.scores.bias, reference.head.get_weights()[1])


CASES = [
    PortCase(
        name="keras_bert",
        reference_framework="keras",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "tokens": Input(("batch", "time"), kind="tokens", high=WORDS),
            "mask": Input(("batch", "time"), kind="mask"),
        },
        faults={
            "second-epsilon": Fault("semantic", "block2.norm2", "norm-epsilon"),
            "heads-last": Fault("semantic", "block2.attention", "head-split"),
            "scaled-by-width": Fault("semantic", "block2.attention", "attention-scale"),
            "unmasked": Fault("semantic", "block2.attention", "mask"),
            "relu": Fault("semantic", "block2.act", "activation-variant"),
            "early-residual": Fault("semantic", "block2", "residual"),
            "embedding-scale": Fault("semantic", "embed", "embedding"),
            "positions-from-one": Fault("semantic", "embed.places", "position"),
            "no-tanh": Fault("semantic", "", "activation-place", between=("block2.norm2", "head")),
            "padding-pooled": Fault("semantic", "", "mask", between=("block2.norm2", "head")),
        },
    )
]
