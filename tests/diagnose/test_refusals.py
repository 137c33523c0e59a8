"""Faults that no repair describes: the place is named, and no cause is claimed."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

RNG = np.random.default_rng(8)
SEQUENCE = RNG.normal(size=(3, 6, 8))
IMAGE = RNG.normal(size=(2, 4, 9, 8))
TOKENS = RNG.integers(0, 9, (3, 6))


class Net(nn.Module):
    """A stem, the middle that differs, and a head."""

    def __init__(self, middle, stem, head):
        super().__init__()
        self.stem, self.middle, self.head = stem, middle, head

    def forward(self, x):
        return torch.tanh(self.head(self.middle(self.stem(x))))


class Middle(nn.Module):
    """A function of the stem's result, with a few parameters to use."""

    def __init__(self, function, inner=None):
        super().__init__()
        self.function, self.inner = function, inner
        self.norm = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.function(self, x)


def attended(change=lambda scores: scores, weigh=lambda scores: scores.softmax(-1)):
    def function(net, x):
        q, k, v = net.inner(x).chunk(3, -1)
        return weigh(change(q @ k.mT / 8**0.5)) @ v

    return function


def steps(term):
    """A plain recurrent cell written out, with something more in it."""

    def function(net, x):
        h, made = torch.zeros_like(x[:, 0]), []
        for step in range(x.shape[1]):
            h = torch.tanh(net.inner(x[:, step]) + 0.5 * h + term(h))
            made.append(h)
        return torch.stack(made, 1)

    return function


def ramp(size):
    return torch.linspace(0.5, 1.5, size, dtype=torch.float64)


def without_a_tap(net, x):
    weight = net.inner.weight.clone()
    weight[:, :, 1, 0] = 0
    return F.conv2d(x, weight, net.inner.bias, padding=1)


def noisy(weight):
    return weight * (1 + 0.1 * torch.sin(torch.arange(weight.numel())).reshape(weight.shape))


def normed(net, x, by):
    return (x - x.mean(-1, keepdim=True)) / by(x) * net.norm


def deviation(x):
    return torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)


DENSE = {
    "a row of weights": (
        lambda n, x: n.inner(x),
        lambda n, x: F.linear(x, n.inner.weight * ramp(8)[:, None], n.inner.bias),
    ),
    "noise on the weights": (
        lambda n, x: n.inner(x),
        lambda n, x: F.linear(x, noisy(n.inner.weight), n.inner.bias),
    ),
    "a term more": (lambda n, x: n.inner(x), lambda n, x: n.inner(x) + 0.1 * torch.sin(x)),
    "a square in an activation": (lambda n, x: F.gelu(x), lambda n, x: F.gelu(x) + 0.01 * x**2),
    "a shifted gate": (lambda n, x: F.silu(x), lambda n, x: x * torch.sigmoid(x + 0.3)),
    "a wave on relu": (lambda n, x: F.relu(x), lambda n, x: F.relu(x) + 0.05 * torch.cos(x)),
    "a power of tanh": (
        lambda n, x: torch.tanh(x),
        lambda n, x: torch.tanh(x).abs() ** 1.1 * x.sign(),
    ),
    "the median as centre": (
        lambda n, x: F.layer_norm(x, (8,), n.norm),
        lambda n, x: (x - x.median(-1, keepdim=True).values) / deviation(x) * n.norm,
    ),
    "the mean deviation as scale": (
        lambda n, x: F.layer_norm(x, (8,), n.norm),
        lambda n, x: normed(n, x, lambda x: (x - x.mean(-1, keepdim=True)).abs().mean(-1, True)),
    ),
    "another power of the variance": (
        lambda n, x: F.layer_norm(x, (8,), n.norm),
        lambda n, x: normed(n, x, lambda x: deviation(x) ** 0.9),
    ),
    "a gain that is squared": (
        lambda n, x: F.layer_norm(x, (8,), n.norm),
        lambda n, x: F.layer_norm(x, (8,), n.norm**2 * ramp(8)),
    ),
    "one more in the sum of a softmax": (
        lambda n, x: x.softmax(-1),
        lambda n, x: x.exp() / (1 + x.exp().sum(-1, keepdim=True)),
    ),
    "a softmax of ramps": (lambda n, x: x.softmax(-1), lambda n, x: (x * ramp(8)).softmax(-1)),
    "a trimmed mean": (
        lambda n, x: x - x.mean(1, keepdim=True),
        lambda n, x: x - x.sort(1).values[:, 1:-1].mean(1, keepdim=True),
    ),
    "a weighted mean": (
        lambda n, x: x - x.mean(1, keepdim=True),
        lambda n, x: x - (x * ramp(6)[:, None]).mean(1, keepdim=True),
    ),
    "a residual with a product": (
        lambda n, x: x + n.inner(x),
        lambda n, x: x + n.inner(x) + 0.01 * x * n.inner(x),
    ),
    "a residual with a wave": (
        lambda n, x: x + n.inner(x),
        lambda n, x: torch.sin(x) + n.inner(x),
    ),
    "a soft clip": (lambda n, x: x.clamp(-1, 1), lambda n, x: 1.2 * torch.tanh(x / 1.2)),
    "a kink more": (lambda n, x: F.leaky_relu(x, 0.1), lambda n, x: F.leaky_relu(x - 0.2, 0.1)),
}

ATTENTIONS = {
    "a bias by distance": attended(change=lambda s: s - 0.1 * ramp(6)[:, None] * ramp(6)),
    "a scale for each row": attended(change=lambda s: s * ramp(6)[:, None]),
    "weights squared": attended(weigh=lambda s: s.softmax(-1) ** 2),
    "the largest weights alone": attended(
        weigh=lambda s: torch.where(s >= s.topk(2, -1).values[..., -1:], s.softmax(-1), 0.0)
    ),
}

SPACE = {
    "a tap of the kernel": (lambda n, x: n.inner(x), without_a_tap),
    "noise on the kernel": (
        lambda n, x: n.inner(x),
        lambda n, x: F.conv2d(x, noisy(n.inner.weight), n.inner.bias, padding=1),
    ),
    "a vignette": (lambda n, x: n.inner(x), lambda n, x: n.inner(x) * ramp(8)),
    "two pools mixed": (
        lambda n, x: F.max_pool2d(x, 2),
        lambda n, x: 0.7 * F.max_pool2d(x, 2) + 0.3 * F.avg_pool2d(x, 2),
    ),
    "a weighted pool": (
        lambda n, x: F.avg_pool2d(x, 2),
        lambda n, x: F.avg_pool2d(x * ramp(8), 2),
    ),
    "a blurred resize": (
        lambda n, x: F.interpolate(x, scale_factor=2, mode="nearest"),
        lambda n, x: F.avg_pool2d(F.interpolate(x, scale_factor=2, mode="nearest"), 3, 1, 1) * 1.0,
    ),
    "groups of a norm weighted": (
        lambda n, x: F.group_norm(x, 2),
        lambda n, x: F.group_norm(x * ramp(4)[:, None, None], 2),
    ),
}


def refused(found) -> None:
    """The middle is blamed, or what reads it where the port adds something; no word is claimed."""
    assert found.culprit is not None
    assert found.culprit.split(".")[0] in ("middle", "head", ""), found
    assert found.cause is None, (found.cause, found.evidence)
    assert found.tried


@pytest.mark.parametrize("name", DENSE)
def test_faults_in_rows(name: str) -> None:
    right, wrong = DENSE[name]

    def net(function):
        return Net(Middle(function, nn.Linear(8, 8)), nn.Linear(8, 8), nn.Linear(8, 5))

    refused(diagnose_pair(net(right), net(wrong), SEQUENCE))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_faults_in_attention(name: str) -> None:
    def net(function):
        return Net(Middle(function, nn.Linear(8, 24)), nn.Linear(8, 8), nn.Linear(8, 5))

    refused(diagnose_pair(net(attended()), net(ATTENTIONS[name]), SEQUENCE))


@pytest.mark.parametrize("name", SPACE)
def test_faults_in_space(name: str) -> None:
    right, wrong = SPACE[name]

    def net(function):
        inner = nn.Conv2d(4, 4, 3, padding=1)
        return Net(Middle(function, inner), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1))

    refused(diagnose_pair(net(right), net(wrong), IMAGE))


def test_a_cell_with_a_term_more() -> None:
    def net(term):
        return Net(Middle(steps(term), nn.Linear(8, 8)), nn.Linear(8, 8), nn.Linear(8, 5))

    refused(diagnose_pair(net(torch.zeros_like), net(lambda h: 0.1 * h**2), SEQUENCE))


def test_rows_of_two_tokens() -> None:
    def net(function):
        return Net(Middle(function), nn.Embedding(9, 8), nn.Linear(8, 5))

    right = net(lambda n, x: x * n.norm)
    wrong = net(lambda n, x: (x + 0.1 * x.roll(1, 1)) * n.norm)
    refused(diagnose_pair(right, wrong, TOKENS))


def test_a_number_that_meets_one_value_proves_nothing() -> None:
    # One row alone: some factor always takes one number to another.
    def net(function):
        return Net(Middle(function), nn.Linear(8, 1), nn.Linear(1, 1))

    right = net(lambda n, x: x + x.mean())
    wrong = net(lambda n, x: x + torch.sin(x.mean()))
    refused(diagnose_pair(right, wrong, SEQUENCE[:1, :1]))
