"""Convolutions with a global response norm: torch to raw TensorFlow operations in plain dicts."""

from __future__ import annotations

import tensorflow as tf
import torch
from torch import nn

from .common import Fault, Input, PortCase, as_trained, values_of


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Response(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(n) * 0.5)
        self.beta = nn.Parameter(torch.randn(n) * 0.5)

    def forward(self, x):
        g = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        n = g / (g.mean(dim=1, keepdim=True) + 1e-6)
        return self.gamma[:, None, None] * (x * n) + self.beta[:, None, None] + x


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.dw = nn.Conv2d(n, n, 5, padding=2, groups=n)
        self.norm = ChannelNorm(n, eps=1e-6)
        self.expand = nn.Conv2d(n, 3 * n, 1)
        self.act = nn.GELU()
        self.grn = Response(3 * n)
        self.contract = nn.Conv2d(3 * n, n, 1)
        self.scale = nn.Parameter(torch.rand(n, 1, 1) + 0.2)

    def forward(self, x):
        return x + self.scale * self.contract(
            self.grn(self.act(self.expand(self.norm(self.dw(x)))))
        )


class ConvNext(nn.Module):
    def __init__(self, n=7):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, n, 2, stride=2), ChannelNorm(n))
        self.stages = nn.Sequential(Block(n), Block(n))
        self.final = nn.LayerNorm(n)
        self.head = nn.Linear(n, 3)

    def forward(self, image):
        x = self.stages(self.stem(image))
        return self.head(self.final(x.mean((-2, -1))))


class Net(tf.Module):
    """Images (batch, height, width, 3) to scores (batch, 3)."""

    def __init__(self, dtype, n=7, **o):
        super().__init__()
        self.o, self.n = o, n

        def v(name, *s):
            return tf.Variable(tf.random.normal(s, stddev=0.3, dtype=dtype), name=name)

        self.stem_w, self.stem_b = v("stem_w", 2, 2, 3, n), v("stem_b", n)
        self.stem_g, self.stem_s = v("stem_g", n), v("stem_s", n)
        shapes = {
            "dw": (5, 5, n, 1), "dwb": (n,), "g": (n,), "b": (n,), "w1": (n, 3 * n),
            "b1": (3 * n,), "gg": (3 * n,), "gb": (3 * n,), "w2": (3 * n, n), "b2": (n,),
            "ls": (n,),
        }  # fmt: skip
        self.blocks = [{k: v(f"{k}{i}", *one) for k, one in shapes.items()} for i in range(2)]
        self.fg, self.fb, self.hw, self.hb = v("fg", n), v("fb", n), v("hw", n, 3), v("hb", 3)

    def ln(self, x, g, b, eps, axes=(-1,)):
        m, var = tf.nn.moments(x, axes, keepdims=True)
        return tf.nn.batch_normalization(x, m, var, b, g, eps)

    def block(self, x, p, first):
        o = self.o if first else {}
        w = p["dw"]
        if o.get("flip"):
            w = tf.reverse(w, [0, 1])
        h = tf.nn.depthwise_conv2d(x, w, (1, 1, 1, 1), "SAME") + p["dwb"]
        h = self.ln(
            h, p["g"], p["b"], o.get("eps", 1e-6), (1, 2, 3) if o.get("all_axes") else (-1,)
        )
        h = tf.matmul(h, p["w1"]) + p["b1"]
        exact = 0.5 * h * (1 + tf.math.erf(h / 2.0**0.5))
        h = h * tf.sigmoid(1.702 * h) if o.get("quick") else exact
        g = tf.sqrt(tf.reduce_sum(h * h, (1, 2), keepdims=True))
        g = g / (tf.reduce_mean(g, 1 if o.get("grn_axis") else -1, keepdims=True) + 1e-6)
        y = p["gg"] * (h * g) + p["gb"]
        if not o.get("grn_no_residual"):
            y = y + h
        y = tf.matmul(y, p["w2"]) + p["b2"]
        return (x + y) * p["ls"] if o.get("scale_sum") else x + p["ls"] * y

    def __call__(self, image):
        x = tf.nn.conv2d(image, self.stem_w, 2, "VALID") + self.stem_b
        x = self.ln(x, self.stem_g, self.stem_s, 1e-5)
        for i, p in enumerate(self.blocks):
            x = self.block(x, p, i == 0)
        x = tf.reduce_max(x, (1, 2)) if self.o.get("max") else tf.reduce_mean(x, (1, 2))
        x = self.ln(x, self.fg, self.fb, 1e-5)
        return x @ self.hw + self.hb


OPTIONS = {
    "depthwise-flipped": {"flip": True},
    "norm-all-axes": {"all_axes": True},
    "quick-gelu": {"quick": True},
    "response-mean-axis": {"grn_axis": True},
    "response-without-residual": {"grn_no_residual": True},
    "scaled-after-residual": {"scale_sum": True},
    "max-for-mean": {"max": True},
}


def make_reference(dtype="float32"):
    return as_trained(ConvNext(), dtype)


def make_port(dtype="float32", fault=None):
    return Net(tf.as_dtype(dtype), **(OPTIONS[fault] if fault else {}))


def copy_weights(reference, port):
    def put(target, source, *axes):
        value = values_of(source)
        target.assign(value.transpose(axes).reshape(target.shape) if axes else value.reshape(-1))

    stem, norm = reference.stem
    put(port.stem_w, stem.weight, 2, 3, 1, 0)
    put(port.stem_b, stem.bias)
    put(port.stem_g, norm.weight)
    put(port.stem_s, norm.bias)
    for mine, p in zip(reference.stages, port.blocks, strict=True):
        put(p["dw"], mine.dw.weight, 2, 3, 0, 1)
        for name, matrix in (("w1", mine.expand), ("w2", mine.contract)):
            put(p[name], matrix.weight, 2, 3, 1, 0)
        for name, vector in (
            ("dwb", mine.dw.bias),
            ("g", mine.norm.weight),
            ("b", mine.norm.bias),
            ("b1", mine.expand.bias),
            ("gg", mine.grn.gamma),
            ("gb", mine.grn.beta),
            ("b2", mine.contract.bias),
            ("ls", mine.scale),
        ):
            put(p[name], vector)
    put(port.fg, reference.final.weight)
    put(port.fb, reference.final.bias)
    put(port.hw, reference.head.weight, 1, 0)
    put(port.hb, reference.head.bias)


CASES = [
    PortCase(
        "response_net",
        "torch",
        "tensorflow",
        make_reference,
        make_port,
        copy_weights,
        {"image": Input(("batch", 3, 8, 6), axes="NCHW", port_axes="NHWC")},
        {
            "depthwise-flipped": Fault("semantic", "stages.0.dw", "kernel-layout"),
            "norm-all-axes": Fault("semantic", "stages.0.norm", "norm-axis"),
            "quick-gelu": Fault("semantic", "stages.0.act", "activation-variant"),
            "response-mean-axis": Fault("semantic", "stages.0.grn", "reduction"),
            "response-without-residual": Fault("semantic", "stages.0.grn", "residual"),
            "scaled-after-residual": Fault("semantic", "stages.0", "residual"),
            "max-for-mean": Fault(
                "semantic", "", "reduction", between=("stages.1.contract", "final")
            ),
        },
    )
]
