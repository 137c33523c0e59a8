"""Passes that agree forward and differ backward."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402

from pytest_fwcompare.diagnose.locate import Sides  # noqa: E402
from pytest_fwcompare.diagnose.parameter_gradients import explain_parameters  # noqa: E402

X = np.random.default_rng(1).normal(size=(4, 6))
TOKENS = np.array([[0, 2, 3], [1, 0, 2]])


class Skip(nn.Module):
    """f(x) + skip(x) after a stem, with a factor on one of the gradients."""

    def __init__(self, branch=1.0, skip=1.0, both=1.0):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.body = nn.Linear(6, 6)
        self.skip = nn.Identity()
        self.head = nn.Linear(6, 3)
        self.factors = branch, skip, both

    def forward(self, x):
        branch, skip, both = self.factors
        x = scaled(self.stem(x), both)
        y = self.body(scaled(self.norm(x), branch))
        return self.head(torch.tanh(y + scaled(self.skip(x), skip)))


def scaled(x, factor):
    return x if factor == 1.0 else factor * x + (1 - factor) * x.detach()


@pytest.mark.parametrize(
    ("factors", "culprit", "words"),
    [
        ({"branch": 0.5}, "", "multiplied by 0.5"),
        ({"branch": 0.0}, "", "stopped"),
        ({"skip": 0.0}, "skip", "stopped"),
        ({"skip": -2.0}, "skip", "multiplied by -2"),
        ({"both": 0.25}, "", "multiplied by 0.25"),
    ],
)
def test_a_stopped_or_scaled_gradient_is_placed_and_solved_for(factors, culprit, words):
    found = diagnose_pair(Skip(), Skip(**factors), X)
    assert found.backward
    assert (found.culprit, found.cause) == (culprit, "gradient-path"), found
    assert words in found.evidence[0]


def test_equal_gradients_are_no_fault():
    assert diagnose_pair(Skip(), Skip(), X).culprit is None


def test_a_gradient_that_nothing_explains_has_no_cause():
    class Odd(Skip):
        def forward(self, x):
            x = self.stem(x)
            y = self.norm(x)
            odd = y.detach() + (y - y.detach()) * (1 + torch.sin(7 * y.detach()))
            return self.head(torch.tanh(self.body(odd) + x))

    found = diagnose_pair(Skip(), Odd(), X)
    assert found.backward
    assert found.culprit is not None
    assert found.cause is None
    assert found.tried


def test_statistics_held_constant_are_recognised():
    class Held(nn.LayerNorm):
        def forward(self, x):
            mean = x.mean(-1, keepdim=True).detach()
            spread = x.var(-1, keepdim=True, unbiased=False).detach()
            return (x - mean) / torch.sqrt(spread + self.eps) * self.weight + self.bias

    def chain(norm):
        return nn.Sequential(nn.Linear(6, 6), norm, nn.Linear(6, 3))

    found = diagnose_pair(chain(nn.LayerNorm(6)), chain(Held(6)), X)
    assert found.cause == "gradient-path", found
    assert "statistics held constant" in found.evidence[0]


class Words(nn.Module):
    def __init__(self, padding=None, tied=True):
        super().__init__()
        self.table = nn.Embedding(5, 6, padding_idx=padding)
        self.tied = tied

    def forward(self, tokens):
        x = torch.tanh(self.table(tokens))
        weight = self.table.weight if self.tied else self.table.weight.detach()
        return x @ weight.T if self.tied is None else nn.functional.linear(x, weight)


def test_a_padding_row_shows_in_the_table_alone():
    found = diagnose_pair(Words(0, False), Words(None, False), TOKENS)
    assert (found.culprit, found.cause) == ("table", "embedding"), found
    assert "only row 0 of table.weight differs" in found.evidence[0]


def test_a_head_that_is_not_tied_shows_in_the_table_alone():
    found = diagnose_pair(Words(), Words(tied=False), TOKENS)
    assert (found.culprit, found.cause) == ("table", "embedding"), found
    assert "linear of the root" in found.evidence[0]


class Swish(torch.autograd.Function):
    """x * sigmoid(x) with its own gradient, which passes by the product computed inside."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x * torch.sigmoid(x)).clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * gate * (1 + x * (1 - gate))


class Gated(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.activation = activation

    def forward(self, x):
        for layer in self.layers:
            x = x + self.activation(layer(x))
        return x


def test_a_custom_gradient_that_passes_by_inner_tensors_is_no_fault():
    found = diagnose_pair(Gated(nn.functional.silu), Gated(Swish.apply), X)
    assert found.culprit is None, found


def test_a_gradient_stopped_in_front_of_an_activation_is_one():
    found = diagnose_pair(
        Gated(nn.functional.silu), Gated(lambda x: nn.functional.silu(x.detach())), X
    )
    assert found.cause == "gradient-path", found


def test_a_gradient_that_differs_by_rounding_is_not_called_scaled():
    """Weights that were rounded on their way to the port move all gradients by a hair."""
    expected, other = np.random.default_rng(5).normal(size=(2, 3, 4))
    rounded = expected * (1 + 1e-8)
    sides = Sides([], [])
    found = explain_parameters(
        sides, {"a.weight": (expected, rounded), "b.weight": (expected, other)}, []
    )
    assert [(one.culprit, one.cause) for one in found] == [("b", None)]
    (alone,) = explain_parameters(sides, {"a.weight": (expected, rounded)}, [])
    assert (alone.culprit, alone.cause, alone.evidence) == ("a", None, ())
    (scaled,) = explain_parameters(sides, {"a.weight": (expected, 0.5 * expected)}, [])
    assert scaled.cause == "gradient-path"
    assert "multiplied by 0.5" in scaled.evidence[0]
