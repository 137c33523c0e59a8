"""Parts of transformers as functions of a namespace (see `twofold`), right and wrong."""

from __future__ import annotations

import numpy
import numpy as np

BATCH, TIME, WIDTH, HEADS, GROUPS = 2, 6, 16, 4, 2
SIZE = WIDTH // HEADS
WINDOWS, CELLS = 2, 3
SIDE = WINDOWS * CELLS

SIZES = {
    **dict.fromkeys(("gain0", "shift0", "gain1", "shift1", "scale"), (WIDTH,)),
    **dict.fromkeys(("stem", "wq", "wk", "wv", "wo"), (WIDTH, WIDTH)),
    **dict.fromkeys(("bq", "bk", "bv", "bo", "b2"), (WIDTH,)),
    **dict.fromkeys(("gk", "gv"), (GROUPS * SIZE, WIDTH)),
    "w1": (24, WIDTH),
    "b1": (24,),
    "w2": (WIDTH, 24),
    "head": (5, WIDTH),
    "table": (2 * TIME - 1, HEADS),
    "buckets": (32, HEADS),
    "patch": (WIDTH, 4 * CELLS**2),
}
"""Shapes of all parameters that the functions use."""

RNG = np.random.default_rng(5)
SEQUENCE = RNG.normal(size=(BATCH, TIME, WIDTH))
IMAGE = RNG.normal(size=(BATCH, SIDE, SIDE, WIDTH))
KEPT = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]], bool)


def net(middle):
    """A stem, something, and a head."""

    def run(np, p, x, *more):
        y = middle(np, p, np.linear(x, p["stem"]), *more)
        return np.tanh(np.linear(y, p["head"]))

    return run


def split(np, y, heads):
    """(batch, time, width) as (batch, heads, time, size)."""
    return np.turn(y.reshape(y.shape[0], y.shape[1], heads, -1), 0, 2, 1, 3)


def plain(np, p, q, k, v):
    """Scores as they are."""
    return q @ np.swap(k) * SIZE**-0.5


def attention(scores=plain, turn=None, weigh=None, repeat=None):
    """Four heads, with `scores` of query, key and value, which `turn` moves, put to `weigh`."""

    def run(np, p, x, *more):
        batch, time, _ = x.shape
        q = split(np, np.linear(x, p["wq"], p["bq"]), HEADS)
        if repeat is not None:
            k, v = (split(np, np.linear(x, p[name]), GROUPS) for name in ("gk", "gv"))
            k, v = repeat(np, k), repeat(np, v)
        else:
            k = split(np, np.linear(x, p["wk"], p["bk"]), HEADS)
            v = split(np, np.linear(x, p["wv"], p["bv"]), HEADS)
        if turn is not None:
            q, k, v = turn(np, q, k, v)
        made = scores(np, p, q, k, v)
        made = np.softmax(made) if weigh is None else weigh(np, made, *more)
        y = np.turn(made @ v, 0, 2, 1, 3).reshape(batch, time, WIDTH)
        return np.linear(y, p["wo"], p["bo"])

    return run


def windows(there=(0, 1, 3, 2, 4, 5), back=(0, 1, 3, 2, 4, 5), inner=None):
    """Attention in windows of an image: cut, attended, put together; None: reshaped alone."""

    def run(np, p, x):
        batch = x.shape[0]
        y = x.reshape(batch, WINDOWS, CELLS, WINDOWS, CELLS, WIDTH)
        y = y if there is None else np.turn(y, *there)
        y = y.reshape(batch * WINDOWS**2, CELLS**2, WIDTH)
        y = (inner or attention())(np, p, y)
        y = y.reshape(batch, WINDOWS, WINDOWS, CELLS, CELLS, WIDTH)
        y = y if back is None else np.turn(y, *back)
        return y.reshape(batch, SIDE, SIDE, WIDTH)

    return run


def patches(order=(0, 1, 3, 2, 4, 5)):
    """Patches of an image of four channels as rows, and a linear layer; None: reshaped alone."""

    def run(np, p, x):
        batch = x.shape[0]
        y = x[..., :4].reshape(batch, WINDOWS, CELLS, WINDOWS, CELLS, 4)
        y = y if order is None else np.turn(y, *order)
        y = y.reshape(batch, WINDOWS**2, 4 * CELLS**2)
        return np.linear(y, p["patch"], p["bo"])

    return run


def seen(time, shift=0):
    """Steps that a step sees, those before it and `shift` after it."""
    steps = np.arange(time)
    return steps[None, :] - steps[:, None] <= shift


def masked(causal=None, over="", how="fill", fill=-1e9):
    """A softmax of scores of which some are masked: by steps, and by keys or queries."""

    def weigh(np, scores, *kept):
        keep = np.bools(seen(scores.shape[-1], causal if causal is not None else 99))
        for axis in over.split():
            row = kept[0][:, None, None, :]
            keep = keep & (row if axis == "keys" else np.swap(row))
        one, none = (np.array([[number]], scores) for number in (1.0, 0.0))
        if how == "fill":
            return np.softmax(np.where(keep, scores, fill))
        if how == "add":
            return np.softmax(scores + np.where(keep, none, fill))
        if how == "one minus":
            return np.softmax(scores + (one - np.where(keep, one, 0.0)) * fill)
        if how == "times":
            return np.softmax(scores * np.where(keep, one, 0.0))
        return np.where(keep, np.softmax(scores), 0.0)

    return weigh


def slopes(sizes=None, distance="both", order=None):
    """Scores less a slope for each head times the distance, as ALiBi has it."""
    heads = np.arange(1, HEADS + 1)
    by_head = (2.0 ** (-8 * heads / HEADS) if sizes is None else sizes)[order or heads - 1]

    def scores(names, p, q, k, v):
        made = plain(names, p, q, k, v)
        away = np.arange(TIME)[None, :] - np.arange(TIME)[:, None]
        kinds = {
            "both": -np.abs(away),
            "before": np.minimum(away, 0),
            "more": np.abs(away),
            "squared": -(away**2),
            "roots": -np.sqrt(np.abs(away)),
        }
        steps = names.array(kinds[distance], made)
        return made + names.array(by_head[:, None, None], made) * steps

    return scores


def relative(rows, parameter="table", change=lambda names, table: table):
    """Scores with a row of a parameter added that is looked up for query and key."""

    def scores(names, p, q, k, v):
        looked_up = p[parameter][names.indices(rows)]
        return plain(names, p, q, k, v) + change(names, names.turn(looked_up, 2, 0, 1))

    return scores


def clipped(farthest=TIME - 1, centre=None, sign=1):
    """Rows (queries, keys) of a table by distance, the same from the farthest on."""
    away = sign * (np.arange(TIME)[None, :] - np.arange(TIME)[:, None])
    return np.clip(away, -farthest, farthest) + (farthest if centre is None else centre)


def buckets(count=8, farthest=16, both=True):
    """Rows (queries, keys) by distance: each near one, then ever more together, as T5 has it."""
    away = np.arange(TIME)[None, :] - np.arange(TIME)[:, None]
    count = count // 2 if both else count
    start = (away > 0) * count if both else 0
    far = np.abs(away) if both else -np.minimum(away, 0)
    exact = count // 2
    share = np.log(np.maximum(far, 1) / exact) / np.log(farthest / exact)
    large = np.minimum(exact + (share * (count - exact)).astype(int), count - 1)
    return start + np.where(far < exact, far, large)


def rotary(which="qk", only="qk", neighbours=False, given=False, **options):
    """Features of query and key turned by position, in pairs; `only` what the options are for.

    The tables are computed, or `given` as constants.
    """
    usual = {"part": SIZE, "begin": 0, "base": 1e4, "shift": 0, "way": 1.0, "times": 1.0}

    def tables(np, x, part, base, shift, way, times):
        half = part // 2
        if given:
            steps = way * times * (numpy.arange(TIME) + shift)
            angles = steps[:, None] * base ** (-numpy.arange(half) / half)
            return np.array(numpy.cos(angles), x), np.array(numpy.sin(angles), x)
        steps = (np.arange(TIME, x) + shift) * times
        angles = way * steps[:, None] * base ** (-np.arange(half, x) / half)
        return np.cos(angles), np.sin(angles)

    def turned(np, x, part, begin, **others):
        half = part // 2
        cos, sin = tables(np, x, part, **others)
        inner = x[..., begin : begin + part]
        if neighbours:
            a, b = inner[..., ::2], inner[..., 1::2]
            made = np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(inner.shape)
        else:
            a, b = inner[..., :half], inner[..., half:]
            made = np.cat([a * cos - b * sin, a * sin + b * cos], -1)
        if part == x.shape[-1]:
            return made
        return np.cat([x[..., :begin], made, x[..., begin + part :]], -1)

    def turn(np, q, k, v):
        made = []
        for name, x in zip("qkv", (q, k, v), strict=True):
            own = {**usual, **options} if name in only or name == "v" else usual
            made.append(turned(np, x, **own) if name in which else x)
        return made

    return turn


def block(kind="before", scale=None):
    """Attention and two linear layers, each with a norm and a residual."""

    def run(np, p, x):
        def first(x):
            return np.norm(x, p["gain0"], p["shift0"])

        def second(x):
            return np.norm(x, p["gain1"], p["shift1"])

        def scaled(y):
            by = {None: 1, "learned": p["scale"], "squared": p["scale"] ** 2}.get(scale, scale)
            return y if scale is None else y * by

        def attend(x):
            return scaled(attention()(np, p, x))

        def mix(x):
            inner = np.gelu(np.linear(x, p["w1"], p["b1"]))
            return np.linear(inner, p["w2"], p["b2"])

        if kind == "after":
            x = first(x + attend(x))
            return second(x + mix(x))
        if kind == "behind":
            x = x + first(attend(x))
            return x + second(mix(x))
        if kind == "beside":
            return x + attend(first(x)) + mix(second(x))
        normed = first(x)
        total = (normed if kind == "normed" else x) + attend(normed)
        if kind == "from further back":
            return x + mix(second(total))
        if kind == "bent":
            return total + mix(second(np.tanh(total)))
        if kind == "half after":
            return second(total + mix(second(total)))
        return total + mix(second(total))

    return run
