"""Networks of a few hundred values, each written once in the operations of `ops`.

A network is a function of the operations, the parameters by dotted name, and the inputs. Sizes
are told apart by their numbers: 6 features in, 8 within, 5 out, 7 words, 4 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

import pytest_fwcompare as fwc


@dataclass(frozen=True)
class Net:
    """A network.

    Attributes:
        forward: (operations, parameters by name, *inputs) -> output.
        shapes: of the parameters, by dotted name.
        inputs: as `compare` takes them.
        paths: of modules that have no parameters.
    """

    forward: Callable
    shapes: Mapping[str, tuple[int, ...]]
    inputs: Mapping[str, fwc.TensorSpec]
    paths: Sequence[str] = ()


ROWS = {"x": fwc.TensorSpec(("batch", 6))}
STEPS = {"x": fwc.TensorSpec(("batch", 3, 6))}
WORDS = {"words": fwc.TensorSpec(("batch", 6), dtype="int64", kind="tokens", high=7)}
IMAGE = {"image": fwc.TensorSpec(("batch", 8, 6, 3))}


def dense(name, rows, columns):
    return {f"{name}.w": (rows, columns), f"{name}.b": (columns,)}


def norm(name, size):
    return {f"{name}.scale": (size,), f"{name}.shift": (size,)}


def _dense(o, p, name, x):
    return o.run(name, lambda t: o.dense(t, p[f"{name}.w"], p[f"{name}.b"]), x)


def _norm(o, p, name, x):
    def made(t):
        return o.layer_norm(t, p[f"{name}.scale"], p[f"{name}.shift"])

    return o.run(name, made, x)


def mlp(o, p, x):
    x = o.run("act1", o.gelu, _dense(o, p, "first", x))
    y = o.run("act2", o.tanh, _dense(o, p, "second", x))
    y = _norm(o, p, "norm", o.add(x, y))
    return _dense(o, p, "head", y)


def gated(o, p, x):
    x = _dense(o, p, "enter", x)
    gate = o.run("gate", o.sigmoid, _dense(o, p, "gating", x))
    up = o.run("act", o.relu, _dense(o, p, "up", x))
    y = o.add(x, o.multiply(gate, up))
    p_scale = p["rms.scale"]
    y = o.run("rms", lambda t: o.rms_norm(t, p_scale), y)
    return o.run("out", o.softplus, _dense(o, p, "head", y))


def conv(o, p, x):
    def layer(name, x, stride=1):
        return o.run(name, lambda t: o.conv(t, p[f"{name}.w"], p[f"{name}.b"], stride=stride), x)

    def norm(t):
        given = (p[f"norm.{key}"] for key in ("mean", "var", "scale", "shift"))
        mean, var, scale, shift = given
        return o.batch_norm(t, mean, o.square(var), scale, shift)

    x = o.run("act1", o.relu, o.run("norm", norm, layer("c1", x)))
    y = o.run("act2", o.silu, layer("c2", x))
    x = o.add(o.run("max", lambda t: o.pool(t, kind="max"), x), o.run("avg", _average(o), y))
    x = o.run("up", o.upsample, layer("c3", x))
    x = o.run("pool", lambda t: o.mean(t, (1, 2)), x)
    return _dense(o, p, "head", x)


def _average(o):
    return lambda t: o.pool(t, kind="avg")


def image_mlp(o, p, x):
    """Patches by reshape, mixed along places and along channels."""

    def mix(t):
        t = o.transpose(t, (0, 2, 1))
        t = o.gelu(o.dense(t, p["mix.w"], p["mix.b"]))
        return o.transpose(t, (0, 2, 1))

    x = o.reshape(x, (-1, 4, 2, 3, 2, 3))
    x = o.reshape(o.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 12, 12))
    x = _norm(o, p, "norm", _dense(o, p, "embed", x))
    x = o.add(x, o.run("mix", mix, x))
    return o.concat([o.mean(x, 1), o.max(x, 1)], -1)


def attention(o, p, x, heads=2):
    def heads_of(t):
        shape = (-1, t.shape[1], heads, 4)
        return o.transpose(o.reshape(t, shape), (0, 2, 1, 3))

    def attend(t):
        joint = o.dense(t, p["attn.w"], p["attn.b"])
        q, k, v = (heads_of(o.slice(joint, 2, 8 * n, 8 * n + 8)) for n in range(3))
        size = t.shape[1]
        hidden = np.triu(np.ones((size, size), bool), 1)
        made = o.attend(q, k, v, _boolean(o, hidden))
        return o.reshape(o.transpose(made, (0, 2, 1, 3)), (-1, size, 8))

    y = o.run("attn", attend, _norm(o, p, "norm1", x))
    x = o.add(x, _dense(o, p, "proj", y))
    y = o.run("act", o.gelu, _dense(o, p, "up", _norm(o, p, "norm2", x)))
    return o.add(x, _dense(o, p, "down", y))


def _boolean(o, mask):
    if hasattr(o, "_tf"):
        return o._tf.constant(mask)
    return o._torch.from_numpy(mask) if hasattr(o, "_torch") else o._np.asarray(mask)


def transformer(o, p, words):
    x = o.run("embed", lambda w: o.take(p["embed.table"], w), words)
    x = o.add(o.scale(x, 8**0.5), p["positions"])
    x = o.run("block", lambda t: attention(o, _under(p, "block."), t), x)
    return _dense(o, p, "head", o.pick(_norm(o, p, "norm", x), 1, 0))


def _under(p, prefix):
    return {name.removeprefix(prefix): value for name, value in p.items()}


def lstm(o, p, x):
    """Written out: gates i, f, g, o."""

    def cell(xs):
        h = o.constant(np.zeros((1, 8)), xs)
        c = o.constant(np.zeros((1, 8)), xs)
        made = []
        for step in range(3):
            z = o.add(o.dense(o.pick(xs, 1, step), p["cell.w"], p["cell.b"]),
                      o.matmul(h, p["cell.u"]))  # fmt: skip
            i, f, g, out = (o.slice(z, 1, 8 * n, 8 * n + 8) for n in range(4))
            kept = o.multiply(o.sigmoid(f), c)
            c = o.add(kept, o.multiply(o.sigmoid(i), o.tanh(g)))
            h = o.multiply(o.sigmoid(out), o.tanh(c))
            made.append(h)
        return o.stack(made, 1)

    return _dense(o, p, "head", o.run("cell", cell, x))


def gru(o, p, x):
    """Written out: gates z, r and the candidate."""

    def cell(xs):
        h = o.constant(np.zeros((1, 8)), xs)
        for step in range(3):
            a = o.dense(o.pick(xs, 1, step), p["cell.w"], p["cell.b"])
            b = o.dense(h, p["cell.u"], p["cell.c"])
            z = o.sigmoid(o.add(o.slice(a, 1, 0, 8), o.slice(b, 1, 0, 8)))
            r = o.sigmoid(o.add(o.slice(a, 1, 8, 16), o.slice(b, 1, 8, 16)))
            n = o.tanh(o.add(o.slice(a, 1, 16, 24), o.multiply(r, o.slice(b, 1, 16, 24))))
            h = o.add(n, o.multiply(z, o.subtract(h, n)))
        return h

    return _dense(o, p, "head", o.run("cell", cell, x))


def ranking(o, p, x):
    """Products of pairs beside a linear part; sums of squares, logarithms, shares."""
    vectors = o.reshape(_dense(o, p, "enter", x), (-1, 4, 5))
    total = o.square(o.sum(vectors, 1))
    cross = o.scale(o.sum(o.subtract(total, o.sum(o.square(vectors), 1)), -1), 0.5)
    linear = o.pick(_dense(o, p, "linear", x), 1, 0)
    share = o.softmax(_dense(o, p, "share", x), -1)
    entropy = o.negative(o.sum(o.multiply(share, o.log(share)), -1))
    return o.stack([o.sigmoid(o.add(linear, cross)), entropy], 1)


def losses(o, p, x):
    """A contrast of two views by their cosines, and a distance."""

    def unit(t):
        length = o.sqrt(o.offset(o.sum(o.square(t), -1, True), 1e-12))
        return o.divide(t, length)

    left = o.run("unit1", unit, _dense(o, p, "left", x))
    right = o.run("unit2", unit, o.run("act", o.tanh, _dense(o, p, "right", x)))
    cosine = o.sum(o.multiply(left, right), -1)
    apart = o.mean(o.abs(o.subtract(left, right)), -1)
    return o.stack([o.clip(o.scale(cosine, 4.0), -2.0, 2.0), o.exp(o.negative(apart))], 1)


def pooled(o, p, x):
    """Attention pooling of steps in two directions, with a convolution of time written out."""

    def shifted(t):
        before = o.concat([o.slice(t, 1, 2, 3), o.slice(t, 1, 0, 2)], 1)
        after = o.flip(t, 1)
        return o.concat([before, t, after], -1)

    y = o.run("act", o.tanh, _dense(o, p, "mix", o.run("shift", shifted, x)))
    weights = o.softmax(_dense(o, p, "score", y), 1)
    y = o.sum(o.multiply(weights, y), 1)
    return o.multiply(o.sin(_dense(o, p, "left", y)), o.cos(_dense(o, p, "right", y)))


BLOCK = {
    **norm("norm1", 8), "attn.w": (8, 24), "attn.b": (24,), **dense("proj", 8, 8),
    **norm("norm2", 8), **dense("up", 8, 10), **dense("down", 10, 8),
}  # fmt: skip

NETS: dict[str, Net] = {
    "mlp": Net(
        mlp,
        {
            **dense("first", 6, 8), **dense("second", 8, 8), **norm("norm", 8),
            **dense("head", 8, 5),
        },
        ROWS, ("act1", "act2"),
    ),
    "gated": Net(
        gated,
        {
            **dense("enter", 6, 8), **dense("gating", 8, 8), **dense("up", 8, 8),
            "rms.scale": (8,), **dense("head", 8, 5),
        },
        ROWS, ("gate", "act", "out"),
    ),
    "conv": Net(
        conv,
        {
            "c1.w": (3, 3, 3, 4), "c1.b": (4,), "c2.w": (3, 3, 4, 4), "c2.b": (4,),
            "c3.w": (3, 3, 4, 4), "c3.b": (4,), "norm.mean": (4,), "norm.var": (4,),
            **norm("norm", 4), **dense("head", 4, 5),
        },
        IMAGE, ("act1", "act2", "max", "avg", "up", "pool"),
    ),
    "image_mlp": Net(
        image_mlp,
        {**dense("embed", 12, 8), **norm("norm", 8), **dense("mix", 12, 12)},
        IMAGE,
    ),
    "transformer": Net(
        transformer,
        {
            "embed.table": (7, 8), "positions": (6, 8), **norm("norm", 8), **dense("head", 8, 5),
            **{f"block.{name}": shape for name, shape in BLOCK.items()},
        },
        WORDS, ("block.act",),
    ),
    "lstm": Net(
        lstm,
        {"cell.w": (6, 32), "cell.b": (32,), "cell.u": (8, 32), **dense("head", 8, 5)},
        STEPS,
    ),
    "gru": Net(
        gru,
        {
            "cell.w": (6, 24), "cell.b": (24,), "cell.u": (8, 24), "cell.c": (24,),
            **dense("head", 8, 5),
        },
        STEPS,
    ),
    "ranking": Net(
        ranking, {**dense("enter", 6, 20), **dense("linear", 6, 1), **dense("share", 6, 4)}, ROWS
    ),
    "losses": Net(
        losses, {**dense("left", 6, 8), **dense("right", 6, 8)}, ROWS, ("unit1", "unit2", "act")
    ),
    "pooled": Net(
        pooled,
        {
            **dense("mix", 18, 8), **dense("score", 8, 1), **dense("left", 8, 5),
            **dense("right", 8, 5),
        },
        STEPS, ("shift", "act"),
    ),
}  # fmt: skip
