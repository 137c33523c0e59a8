"""Where an activation is, which functions a formula has, what a sum is of."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("jax")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from twofold import diagnose_twofold, each_with_pairs  # noqa: E402

X = np.random.default_rng(5).normal(size=(3, 5, 8)).astype(np.float32)
SIZES = {
    "stem": (8, 8),
    "left": (8, 8),
    "right": (8, 8),
    "gain": (8,),
    "shift": (8,),
    "head": (4, 8),
    "wide": (4, 16),
}


def branches(f, p, x):
    stem = f.linear(x, p["stem"])
    return f.linear(stem, p["left"]), f.linear(stem, p["right"])


def normed(f, p, x):
    return f.norm(x, p["gain"], p["shift"])


def over_a_norm(f, p, x):
    return f.linear(f.tanh(normed(f, p, f.linear(x, p["stem"]))), p["head"])


def under_a_norm(f, p, x):
    return f.linear(normed(f, p, f.tanh(f.linear(x, p["stem"]))), p["head"])


def over_a_sum(f, p, x):
    left, right = branches(f, p, x)
    return f.linear(f.tanh(left + right), p["head"])


def under_a_sum(f, p, x):
    left, right = branches(f, p, x)
    return f.linear(f.tanh(left) + f.tanh(right), p["head"])


def in_one_summand(f, p, x):
    left, right = branches(f, p, x)
    return f.linear(f.tanh(left) + right, p["head"])


def over_parts(f, p, x):
    return f.linear(f.tanh(f.cat(branches(f, p, x), -1)), p["wide"])


def in_one_part(f, p, x):
    left, right = branches(f, p, x)
    return f.linear(f.cat([f.tanh(left), right], -1), p["wide"])


def over_a_mean(f, p, x):
    return f.linear(f.tanh(f.mean(f.linear(x, p["stem"]), 1)), p["head"])


def under_a_mean(f, p, x):
    return f.linear(f.mean(f.tanh(f.linear(x, p["stem"])), 1), p["head"])


def over_norm_and_mean(f, p, x):
    return f.linear(f.tanh(f.mean(normed(f, p, f.linear(x, p["stem"])), 1)), p["head"])


def under_norm_and_mean(f, p, x):
    return f.linear(f.mean(normed(f, p, f.tanh(f.linear(x, p["stem"]))), 1), p["head"])


MOVED = {
    "before a norm": (over_a_norm, under_a_norm),
    "behind a norm": (under_a_norm, over_a_norm),
    "before a sum": (over_a_sum, under_a_sum),
    "behind a sum": (under_a_sum, over_a_sum),
    "before a sum, once": (over_a_sum, in_one_summand),
    "behind a sum, of one": (in_one_summand, over_a_sum),
    "of all parts": (in_one_part, over_parts),
    "of one part": (over_parts, in_one_part),
    "before a mean": (over_a_mean, under_a_mean),
    "behind a mean": (under_a_mean, over_a_mean),
    "before a norm and a mean": (over_norm_and_mean, under_norm_and_mean),
    "behind a norm and a mean": (under_norm_and_mean, over_norm_and_mean),
}


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(MOVED))
def test_an_activation_at_another_place(name: str, pair) -> None:
    right, wrong = MOVED[name]
    found = diagnose_twofold(right, wrong, pair, SIZES, X)
    assert found.cause == "activation-place", found.tried
    assert "tanh" in found.evidence[0]
    assert not found.others


def another_behind_a_mean(f, p, x):
    y = f.mean(f.linear(x, p["stem"]), 1)
    return f.linear(y / (1.0 + 0.3 * y * y), p["head"])


def steeper_behind_a_norm(f, p, x):
    y = normed(f, p, f.linear(x, p["stem"]))
    return f.linear(f.tanh(1.3 * y) + 0.1 * y, p["head"])


LOOK_ALIKE = {
    "another function behind a mean": (under_a_mean, another_behind_a_mean),
    "another function behind a norm": (under_a_norm, steeper_behind_a_norm),
}


@pytest.mark.parametrize("name", LOOK_ALIKE)
@pytest.mark.parametrize("pair", [("torch", "torch"), ("torch", "jax")])
def test_another_function_there_has_not_moved(name: str, pair) -> None:
    right, wrong = LOOK_ALIKE[name]
    found = diagnose_twofold(right, wrong, pair, SIZES, X)
    assert found.cause is None, found.evidence


def of(function):
    return lambda f, p, x: f.linear(function(f, f.linear(x, p["stem"])), p["head"])


FUNCTIONS = {
    "no root": (lambda f, y: f.sqrt(y * y + 1), lambda f, y: y * y + 1, "activation-variant"),
    "no logarithm": (lambda f, y: f.log(y * y + 1), lambda f, y: y * y + 1, "activation-variant"),
    "no exponential": (lambda f, y: f.exp(y), lambda f, y: y, "activation-variant"),
    "no sign before": (lambda f, y: f.exp(-y), lambda f, y: f.exp(y), "activation-parameter"),
    "not rounded": (lambda f, y: f.round(4 * y), lambda f, y: 4 * y, None),
    "no relu": (lambda f, y: f.relu(y), lambda f, y: y, "activation-place"),
    "a wave for a sine": (lambda f, y: f.sin(y), lambda f, y: y - y**3 / 7, None),
    "a root of another": (lambda f, y: f.sqrt(y * y + 1), lambda f, y: y * y + 1.4 * y, None),
}


@pytest.mark.parametrize(("name", "pair"), each_with_pairs(FUNCTIONS))
def test_what_a_missing_function_is_called(name: str, pair) -> None:
    right, wrong, cause = FUNCTIONS[name]
    found = diagnose_twofold(of(right), of(wrong), pair, SIZES, X)
    assert found.cause == cause, (found.evidence, found.tried)


def summed(shared, wrong):
    def middle(f, p, x):
        stem = f.linear(x, p["stem"]) if shared else x
        left, right = f.linear(stem, p["left"]), f.linear(stem, p["right"])
        return f.linear(left + (left if wrong else right), p["head"])

    return middle


@pytest.mark.parametrize("pair", [("torch", "torch"), ("torch", "jax"), ("jax", "torch")])
def test_a_summand_twice_is_a_residual_only_beside_a_stream(pair) -> None:
    found = diagnose_twofold(summed(True, False), summed(True, True), pair, SIZES, X)
    assert found.cause == "residual"
    assert "one summand twice, the other one not added" in found.evidence[0]
    found = diagnose_twofold(summed(False, False), summed(False, True), pair, SIZES, X)
    assert found.cause is None, found.evidence


class Modules(nn.Module):
    """A norm and an activation as modules; a block's activation is used twice."""

    def __init__(self, early=False, inside=False):
        super().__init__()
        self.stem, self.norm, self.act = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.SELU()
        self.first, self.relu = nn.Linear(8, 8), nn.ReLU()
        self.head, self.early, self.inside = nn.Linear(8, 3), early, inside

    def forward(self, x):
        y = self.stem(x)
        y = self.norm(self.act(y)) if self.early else self.act(self.norm(y))
        z = self.first(self.relu(y))
        return self.head(self.relu(z) + y if self.inside else self.relu(z + y))


def test_a_module_has_moved_and_a_shared_one_is_called_elsewhere() -> None:
    x = np.asarray(X[0])
    found = diagnose_pair(Modules(), Modules(early=True), x)
    assert (found.cause, found.culprit) == ("activation-place", "act")
    found = diagnose_pair(Modules(), Modules(inside=True), x)
    assert (found.cause, found.culprit) == ("activation-place", "")


class Patches(nn.Module):
    """Places of an image as steps that look at each other; read by column."""

    def __init__(self, column=False):
        super().__init__()
        self.stem, self.column = nn.Conv2d(3, 4, 2, stride=2), column
        self.table = nn.Parameter(torch.zeros(6, 4))

    def forward(self, x):
        y = self.stem(x)
        y = (y.transpose(2, 3) if self.column else y).flatten(2).transpose(1, 2) + self.table
        return torch.softmax(y @ y.transpose(1, 2), -1) @ y


def test_places_in_another_order_are_no_heads() -> None:
    x = np.random.default_rng(7).normal(size=(2, 3, 4, 6))
    found = diagnose_pair(Patches(), Patches(column=True), x)
    assert found.cause == "flatten-order", found.evidence


def lengths(axis, divided=True):
    def middle(f, p, x):
        y = f.linear(x, p["stem"])
        size = (y * y).sum(axis, keepdims=True)
        return f.linear(y / f.sqrt(size + 1e-3) if divided else y + f.tanh(size), p["head"])

    return middle


@pytest.mark.parametrize("pair", [("torch", "torch"), ("torch", "jax"), ("jax", "torch")])
def test_squares_that_divide_are_a_norm(pair) -> None:
    found = diagnose_twofold(lengths(-1), lengths(1), pair, SIZES, X)
    assert found.cause == "norm-axis", (found.evidence, found.tried)
    found = diagnose_twofold(lengths(-1, False), lengths(1, False), pair, SIZES, X)
    assert found.cause == "reduction", (found.evidence, found.tried)
