"""Activations made of several functions: powers, waves, soft caps."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

X = 2 * np.random.default_rng(3).normal(size=(4, 8))


class Net(nn.Module):
    """An activation with a rate for each feature between two linear layers."""

    def __init__(self, function):
        super().__init__()
        self.stem, self.head, self.function = nn.Linear(8, 8), nn.Linear(8, 5), function
        self.norm_rate = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return torch.tanh(self.head(self.function(self.stem(x), self.norm_rate.abs() + 0.1)))


def snake(power=2):
    return lambda x, a: x + torch.sin(a * x) ** power / a


def capped(by):
    return lambda x, a: by * torch.tanh(x / by) if by else x


FAULTS = {
    "a sine that is not squared": (snake(), snake(1), "activation-variant", "power 1 of sin"),
    "a sine of another power": (snake(), snake(3), "activation-variant", "power 3 of sin"),
    "a cosine": (
        lambda x, a: x * torch.sin(x),
        lambda x, a: x * torch.cos(x),
        "activation-variant",
        "cos instead of sin",
    ),
    "relu not squared": (
        lambda x, a: F.relu(x) ** 2,
        lambda x, a: F.relu(x),
        "activation-variant",
        "power 1 of relu (reference 2)",
    ),
    "relu squared": (
        lambda x, a: F.relu(x),
        lambda x, a: F.relu(x) ** 2,
        "activation-variant",
        "squared_relu instead of relu",
    ),
    "another cap": (capped(3.0), capped(5.0), "activation-parameter", "cap=5 (reference 3)"),
    "no cap": (capped(3.0), capped(None), "activation-place", "no soft_cap"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_compositions(name: str) -> None:
    right, wrong, cause, words = FAULTS[name]
    found = diagnose_pair(Net(right), Net(wrong), X)
    assert found.cause == cause, found.tried
    assert words in found.evidence[0]


UNEXPLAINED = {
    "a sine and its triple": (
        snake(),
        lambda x, a: x + (torch.sin(a * x) ** 2 + 0.1 * torch.sin(3 * x)) / a,
    ),
    "a power of the rate": (snake(), lambda x, a: x + torch.sin(a**1.3 * x) ** 2 / a),
    "a cap of roots": (capped(3.0), lambda x, a: x / torch.sqrt(1 + (x / 3) ** 2)),
    "relu of a bent line": (lambda x, a: F.relu(x) ** 2, lambda x, a: F.relu(x + 0.1 * x**2) ** 2),
    "a limit by squares": (lambda x, a: x.clamp(-1, 1), lambda x, a: x / (1 + x**2)),
}


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_other_compositions_have_no_cause(name: str) -> None:
    right, wrong = UNEXPLAINED[name]
    found = diagnose_pair(Net(right), Net(wrong), X)
    assert found.culprit is not None
    assert found.cause is None, found.evidence
