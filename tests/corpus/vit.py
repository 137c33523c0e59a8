"""Vision transformer with a class token: torch to Keras, attention by EinsumDense."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of


class Layer(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Images (batch, 3, 12, 8) to class scores (batch, classes)."""

    def __init__(self, dim: int = 8, heads: int = 2, depth: int = 2, classes: int = 5):
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 7, dim))
        self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x)[:, 0])


class SelfAttention(layers.Layer):
    """States (batch, time, dim) to the same."""

    def __init__(self, dim, heads, *, scale=None, axis=-1, out_bias=True, **kwargs):
        super().__init__(**kwargs)
        size = dim // heads
        self.scale, self.axis = scale or size**-0.5, axis

        def into(name):
            return layers.EinsumDense(
                "btd,dhk->bhtk", (heads, None, size), bias_axes="hk", name=name
            )

        self.query, self.key, self.value = into("query"), into("key"), into("value")
        self.out = layers.EinsumDense(
            "bhtk,hkd->btd", (None, dim), bias_axes="d" if out_bias else None, name="out"
        )

    def call(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        weights = ops.softmax(ops.einsum("bhtk,bhsk->bhts", q, k) * self.scale, axis=self.axis)
        return self.out(ops.einsum("bhts,bhsk->bhtk", weights, v))


class KerasViT(keras.Model):
    """Images (batch, 12, 8, 3) to class scores (batch, classes)."""

    def __init__(
        self,
        dim=8,
        heads=2,
        depth=2,
        classes=5,
        *,
        columns_first=False,
        token_last=False,
        mean_pool=False,
        approximate=False,
        epsilon=1e-6,
        attention=None,
        second=None,
        twice=False,
    ):
        super().__init__()
        self.columns_first, self.token_last, self.mean_pool = columns_first, token_last, mean_pool
        self.approximate, self.depth, self.twice = approximate, depth, twice
        self.embed = layers.Conv2D(dim, 4, strides=4, name="embed")
        for i in range(depth):
            setattr(self, f"ln_a{i}", layers.LayerNormalization(epsilon=1e-6, name=f"ln_a{i}"))
            options = (second if i else attention) or {}
            setattr(self, f"attn{i}", SelfAttention(dim, heads, name=f"attn{i}", **options))
            norm = layers.LayerNormalization(epsilon=1e-6 if i else epsilon, name=f"ln_b{i}")
            setattr(self, f"ln_b{i}", norm)
            setattr(self, f"wide{i}", layers.Dense(2 * dim, name=f"wide{i}"))
            setattr(self, f"narrow{i}", layers.Dense(dim, name=f"narrow{i}"))
        self.ln = layers.LayerNormalization(epsilon=1e-6, name="ln")
        self.scores = layers.Dense(classes, name="scores")
        self.token = self.add_weight(shape=(1, 1, dim), initializer="zeros", name="token")
        self.places = self.add_weight(shape=(1, 7, dim), initializer="zeros", name="places")
        self(keras.KerasTensor((1, 12, 8, 3), dtype=self.compute_dtype))

    def call(self, images):
        x = self.embed(images)
        if self.columns_first:
            x = ops.transpose(x, (0, 2, 1, 3))
        x = ops.reshape(x, (-1, 6, x.shape[-1]))
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, x.shape[-1]))
        x = ops.concatenate([x, token] if self.token_last else [token, x], axis=1) + self.places
        for i in range(self.depth):
            x = x + getattr(self, f"attn{i}")(getattr(self, f"ln_a{i}")(x))
            y = getattr(self, f"wide{i}")(getattr(self, f"ln_b{i}")(x))
            y = ops.gelu(y, approximate=self.approximate and i == 1)
            y = getattr(self, f"narrow{i}")(y)
            x = y + (getattr(self, f"ln_b{i}")(x) if self.twice and i == 1 else x)
        x = self.ln(x)
        x = ops.mean(x, axis=1) if self.mean_pool else x[:, 6 if self.token_last else 0]
        return self.scores(x)


OPTIONS = {
    "patches-by-column": {"columns_first": True},
    "token-last": {"token_last": True},
    "mean-pool": {"mean_pool": True},
    "tanh-gelu": {"approximate": True},
    "epsilon": {"epsilon": 1e-5},
    "unscaled": {"attention": {"scale": 1.0}},
    "softmax-over-queries": {"second": {"axis": -2}},
    "no-output-bias": {"attention": {"out_bias": False}},
    "residual-after-norm": {"twice": True},
}


def make_reference(dtype: str = "float32") -> ViT:
    model = ViT()
    for layer in model.layers:
        nn.init.uniform_(layer.attn.in_proj_bias, -0.5, 0.5)
        nn.init.uniform_(layer.attn.out_proj.bias, -0.5, 0.5)
    return as_trained(model, dtype)


def make_port(dtype: str = "float32", fault: str | None = None) -> KerasViT:
    with keras_in(dtype):
        return KerasViT(**OPTIONS[fault] if fault else {})


def copy_weights(reference: ViT, port: KerasViT) -> None:
    heads, dim = 2, 8
    port.embed.set_weights(
        [
            values_of(reference.patches.weight).transpose(2, 3, 1, 0),
            values_of(reference.patches.bias),
        ]
    )
    port.token.assign(values_of(reference.cls_token))
    port.places.assign(values_of(reference.pos_embed))
    pairs = [(port.ln, reference.norm), (port.scores, reference.head)]
    for i, layer in enumerate(reference.layers):
        pairs += [
            (getattr(port, f"ln_a{i}"), layer.norm1),
            (getattr(port, f"ln_b{i}"), layer.norm2),
            (getattr(port, f"wide{i}"), layer.mlp[0]),
            (getattr(port, f"narrow{i}"), layer.mlp[2]),
        ]
        to = getattr(port, f"attn{i}")
        weights = values_of(layer.attn.in_proj_weight).reshape(3, dim, dim)
        biases = values_of(layer.attn.in_proj_bias).reshape(3, heads, 1, dim // heads)
        for part, weight, bias in zip((to.query, to.key, to.value), weights, biases, strict=True):
            part.kernel.assign(weight.T.reshape(dim, heads, dim // heads))
            part.bias.assign(bias.reshape(part.bias.shape))
        out = layer.attn.out_proj
        to.out.kernel.assign(values_of(out.weight).T.reshape(heads, dim // heads, dim))
        if to.out.bias is not None:
            to.out.bias.assign(values_of(out.bias))
    for to, layer in pairs:
        to.set_weights([values_of(layer.weight).T, values_of(layer.bias)])


CASES = [
    PortCase(
        name="vit",
        reference_framework="torch",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"images": Input(("batch", 3, 12, 8), axes="NCHW", port_axes="NHWC")},
        faults={
            "patches-by-column": Fault(
                "semantic", "", "flatten-order", between=("patches", "layers.0.norm1")
            ),
            "token-last": Fault("semantic", "", "position", between=("patches", "layers.0.norm1")),
            "mean-pool": Fault("semantic", "", "reduction", between=("norm", "head")),
            "tanh-gelu": Fault("semantic", "layers.1.mlp.1", "activation-variant"),
            "epsilon": Fault("semantic", "layers.0.norm2", "norm-epsilon"),
            "unscaled": Fault("semantic", "layers.0.attn", "attention-scale"),
            "softmax-over-queries": Fault("semantic", "layers.1.attn", "softmax-axis"),
            "no-output-bias": Fault("semantic", "layers.0.attn", "bias"),
            "residual-after-norm": Fault("semantic", "layers.1", "residual"),
        },
    )
]
