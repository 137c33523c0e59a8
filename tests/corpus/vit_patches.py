"""Vision transformer of torch's own layers to Keras's attention, patches cut by hand."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of

D, P, N = 8, 3, 6


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(2, D, P, stride=P)
        self.cls = nn.Parameter(torch.randn(1, 1, D) * 0.5)
        self.position = nn.Parameter(torch.randn(1, N + 1, D) * 0.5)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                D, 2, 18, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
            ),
            2,
            norm=nn.LayerNorm(D),
            enable_nested_tensor=False,
        )
        self.head = nn.Linear(D, 4)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.position
        return self.head(self.encoder(x)[:, 0])


class Tokens(layers.Layer):
    def __init__(self, last=False, roll=0, **k):
        super().__init__(**k)
        self.last, self.roll = last, roll

    def build(self, shape):
        self.cls = self.add_weight(shape=(D,), name="cls")
        self.table = self.add_weight(shape=(N + 1, D), name="table")

    def call(self, x):
        c = ops.broadcast_to(self.cls, (ops.shape(x)[0], 1, D))
        t = ops.roll(self.table, self.roll, axis=0) if self.roll else self.table
        if self.last:
            return ops.concatenate([x, c], 1) + t
        return ops.concatenate([c, x], 1) + t


def tanh_gelu(x):
    return keras.activations.gelu(x, approximate=True)


def build(eps=1e-5, gelu="gelu", post=False, pool="cls", column=False, last=False, roll=0):
    i = keras.Input((6, 9, 2))
    h, w = 2, 3
    x = ops.reshape(i, (-1, h, P, w, P, 2))
    x = ops.transpose(x, (0, 3, 1, 2, 4, 5) if column else (0, 1, 3, 2, 4, 5))
    x = layers.Dense(D, name="patch")(ops.reshape(x, (-1, N, P * P * 2)))
    x = Tokens(last, roll, name="tokens")(x)
    for n in range(2):
        e = eps if n == 1 else 1e-5
        y = layers.LayerNormalization(epsilon=e, name=f"ln_{n}a")(x)
        y = layers.MultiHeadAttention(2, D // 2, name=f"mha_{n}")(y, y)
        x = x + y
        y = layers.LayerNormalization(epsilon=1e-5, name=f"ln_{n}b")(x)
        r = y if post and n == 0 else x
        act = tanh_gelu if gelu == "tanh" and n == 0 else "gelu"
        y = layers.Dense(18, activation=act, name=f"up_{n}")(y)
        x = r + layers.Dense(D, name=f"down_{n}")(y)
    x = layers.LayerNormalization(epsilon=1e-5, name="ln")(x)
    x = x[:, -1] if last else x[:, 0] if pool == "cls" else ops.mean(x, axis=1)
    return keras.Model(i, layers.Dense(4, name="logits")(x))


OPTIONS = {
    "layernorm-eps-1e-3": {"eps": 1e-3},
    "gelu-tanh": {"gelu": "tanh"},
    "residual-after-norm": {"post": True},
    "mean-for-class-token": {"pool": "mean"},
    "patches-by-column": {"column": True},
    "class-token-last": {"last": True},
    "positions-rolled": {"roll": 1},
}


def make_reference(dtype="float32"):
    return as_trained(Vit(), dtype)


def make_port(dtype="float32", fault=None):
    with keras_in(dtype):
        return build(**(OPTIONS[fault] if fault else {}))


def copy_weights(reference, port):
    def put(name, *values):
        port.get_layer(name).set_weights(list(values))

    kernel = values_of(reference.patch.weight).transpose(2, 3, 1, 0).reshape(-1, D)
    put("patch", kernel, values_of(reference.patch.bias))
    put("tokens", values_of(reference.cls)[0, 0], values_of(reference.position)[0])
    for n, layer in enumerate(reference.encoder.layers):
        mine = layer.self_attn
        heads = []
        weights = values_of(mine.in_proj_weight).reshape(3, 2, D // 2, D)
        biases = values_of(mine.in_proj_bias).reshape(3, 2, -1)
        for weight, bias in zip(weights, biases, strict=True):
            heads += [weight.transpose(2, 0, 1), bias]
        out = values_of(mine.out_proj.weight).T.reshape(2, D // 2, D)
        put(f"mha_{n}", *heads, out, values_of(mine.out_proj.bias))
        for name, norm in (("a", layer.norm1), ("b", layer.norm2)):
            put(f"ln_{n}{name}", values_of(norm.weight), values_of(norm.bias))
        for name, dense in (("up", layer.linear1), ("down", layer.linear2)):
            put(f"{name}_{n}", values_of(dense.weight).T, values_of(dense.bias))
    put("ln", values_of(reference.encoder.norm.weight), values_of(reference.encoder.norm.bias))
    put("logits", values_of(reference.head.weight).T, values_of(reference.head.bias))


FIRST = ("patch", "encoder.layers.0.norm1")

CASES = [
    PortCase(
        "vit_patches",
        "torch",
        "keras",
        make_reference,
        make_port,
        copy_weights,
        {"image": Input(("batch", 2, 6, 9), axes="NCHW", port_axes="NHWC")},
        {
            "layernorm-eps-1e-3": Fault("semantic", "encoder.layers.1.norm1", "norm-epsilon"),
            "gelu-tanh": Fault("semantic", "encoder.layers.0", "activation-variant"),
            "residual-after-norm": Fault("semantic", "encoder.layers.0", "residual"),
            "mean-for-class-token": Fault(
                "semantic", "", "reduction", between=("encoder.norm", "head")
            ),
            "patches-by-column": Fault("semantic", "", "flatten-order", between=FIRST),
            "class-token-last": Fault("semantic", "", "position", between=FIRST),
            "positions-rolled": Fault("semantic", "", "position", between=FIRST),
        },
    )
]
