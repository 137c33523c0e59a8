"""Which cells a mean counts, which edges a graph has, where rows of a table lie."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")
from twofold import PAIRS, diagnose_twofold, each_with_pairs

GENERATOR = np.random.default_rng(5)
X = GENERATOR.normal(size=(3, 5, 8)).astype(np.float32)
SIZES = {
    "stem": (8, 8),
    "gain": (8,),
    "shift": (8,),
    "head": (4, 8),
    "table": (5, 8),
    "token": (1, 1, 8),
    "key": (8, 8),
}
KEPT = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
EDGES = (GENERATOR.random((3, 5, 5)) < 0.4) | np.roll(np.eye(5, dtype=bool), 1, 1)
EDGES &= ~np.eye(5, dtype=bool)


def attended(f, p, y, edges):
    scores = f.linear(y, p["key"]) @ f.swap(y)
    scores = f.where(edges, scores, -np.inf)
    return f.linear(f.softmax(scores) @ y, p["head"])


def graph(loops=True, turned=False, faded=1.0):
    def middle(f, p, x, edges):
        own = f.bools(np.eye(5, dtype=bool))
        edges = f.swap(edges) if turned else edges
        y = f.tanh(f.linear(x, p["stem"]))
        return attended(f, p, y * faded, (edges | own) if loops else edges)

    return middle


def pooled(count):
    def middle(f, p, x, kept):
        y = f.norm(f.linear(x, p["stem"]), p["gain"], p["shift"])
        total = f.where(kept[..., None], y, 0.0).sum(1)
        number = f.array(np.ones(1), y) * count
        if count == 0:
            number = f.where(kept, f.array(np.ones(KEPT.shape), y), 0.0).sum(1)[..., None]
        return f.linear(total / number, p["head"])

    return middle


def placed(step=0, scale=1.0):
    def middle(f, p, x):
        table = f.roll(p["table"], step, (0,)) if step else p["table"]
        y = f.linear(x, p["stem"]) + scale * table
        weights = f.softmax(f.linear(y, p["key"]) @ f.swap(y))
        return f.linear(f.tanh(weights @ y), p["head"])

    return middle


CASES = {
    "edges without self-loops": (graph(), graph(loops=False), "mask", (X, EDGES)),
    "edges turned": (graph(), graph(turned=True), "mask", (X, EDGES)),
    "all steps counted": (pooled(0), pooled(5), "reduction", (X, KEPT)),
    "a count of something else": (pooled(0), pooled(3.7), None, (X, KEPT)),
    "rows rolled by one": (placed(), placed(1), "position", (X,)),
    "rows rolled back by two": (placed(), placed(-2), "position", (X,)),
    "rows rolled and scaled": (placed(), placed(1, 1.37), None, (X,)),
}


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(CASES))
def test_what_it_is_called(name: str, pair) -> None:
    right, wrong, cause, inputs = CASES[name]
    found = diagnose_twofold(right, wrong, pair, SIZES, *inputs)
    assert found.culprit is not None
    assert found.cause == cause, (found.evidence, found.tried)


@pytest.mark.parametrize("pair", PAIRS)
def test_values_that_fade_are_no_missing_edges(pair) -> None:
    found = diagnose_twofold(graph(), graph(faded=0.71), pair, SIZES, X, EDGES)
    assert found.cause != "mask", found.evidence


@pytest.mark.parametrize("pair", [("torch", "torch"), ("torch", "jax")])
def test_the_count_of_what_is_kept_for_all_steps(pair) -> None:
    found = diagnose_twofold(pooled(5), pooled(0), pair, SIZES, X, KEPT)
    assert found.cause == "reduction", (found.evidence, found.tried)
