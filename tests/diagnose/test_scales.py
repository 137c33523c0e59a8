"""What scales a tensor by hand, and what only looks like another epsilon."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402

VECTORS = np.random.default_rng(8).normal(size=(5, 6))
IMAGES = np.random.default_rng(9).normal(size=(3, 4, 6, 5))


class Net(nn.Module):
    """Two branches, a norm, a scale made of the input, a head."""

    def __init__(self, *, one=True, factor=None, eps=1e-3, last=None):
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(6, 8)
        self.norm, self.scale, self.head = (
            nn.LayerNorm(8, eps=eps),
            nn.Linear(6, 8),
            nn.Linear(8, 4),
        )
        self.one, self.factor, self.last = one, factor, last or (lambda y: y.softmax(-1))

    def forward(self, x):
        y = self.left(x) + torch.sin(self.right(x))
        y = y if self.factor is None else self.factor * y
        scale = 1 + self.scale(x) if self.one else self.scale(x)
        return self.last(self.head(torch.tanh(self.norm(y) * scale)))


class Skipping(nn.Module):
    """A residual: no mean of two tensors that are alike."""

    def __init__(self, factor=None):
        super().__init__()
        self.stem, self.inner = nn.Linear(6, 8), nn.Linear(8, 8)
        self.norm, self.head, self.factor = nn.LayerNorm(8, eps=1e-3), nn.Linear(8, 4), factor

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        x = x + torch.sin(self.inner(x))
        return self.head(torch.tanh(self.norm(x if self.factor is None else self.factor * x)))


@pytest.mark.parametrize(("own", "words"), [(True, "the scale instead"), (False, "1 + scale")])
def test_a_norm_scaled_by_one_more(own, words):
    found = diagnose_pair(Net(one=own), Net(one=not own), VECTORS)
    assert (found.cause, found.culprit) == ("norm-affine", "")
    assert words in found.evidence[0]


def test_a_mean_of_two_tensors_is_no_other_epsilon():
    """The norm of x / 2 with epsilon is that of x with four times epsilon."""
    found = diagnose_pair(Net(), Net(factor=0.5), VECTORS)
    assert (found.cause, found.culprit) == ("reduction", "")
    assert "the mean instead of the sum of two tensors" in found.evidence[0]


def test_an_epsilon_is_still_one():
    found = diagnose_pair(Net(), Net(eps=4e-3), VECTORS)
    assert (found.cause, found.culprit) == ("norm-epsilon", "norm")


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_scale_before_a_norm_is_neither_an_epsilon_nor_a_mean(factor):
    found = diagnose_pair(Skipping(), Skipping(factor), VECTORS)
    assert found.cause not in ("norm-epsilon", "reduction")


def test_sigmoid_and_softmax_taken_for_each_other():
    soft, hard = Net(), Net(last=torch.sigmoid)
    found = diagnose_pair(soft, hard, VECTORS)
    assert found.cause == "activation-variant"
    assert "sigmoid instead of softmax" in found.evidence[0]
    found = diagnose_pair(hard, soft, VECTORS)
    assert found.cause == "activation-variant"
    assert "softmax instead of sigmoid" in found.evidence[0]


def test_a_softmax_with_another_temperature_is_no_sigmoid():
    found = diagnose_pair(Net(), Net(last=lambda y: (2 * y).softmax(-1)), VECTORS)
    assert found.cause == "activation-parameter"


class Depthwise(nn.Module):
    """Channels of a depthwise convolution that first meet a weight behind a mean."""

    def __init__(self, order=None):
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 3)
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4)
        self.head, self.order = nn.Linear(8, 3), order

    def forward(self, x):
        x = self.depthwise(torch.tanh(self.stem(x)))
        x = x if self.order is None else x[:, self.order]
        return torch.tanh(self.head(torch.relu(x).mean((2, 3))))


def test_an_order_of_channels_that_only_shows_behind_a_mean():
    found = diagnose_pair(Depthwise(), Depthwise([0, 2, 4, 6, 1, 3, 5, 7]), IMAGES)
    assert (found.cause, found.culprit) == ("channel-order", "depthwise")


def test_an_order_of_channels_that_nobody_means_is_not_named():
    found = diagnose_pair(Depthwise(), Depthwise([3, 0, 7, 1, 6, 2, 5, 4]), IMAGES)
    assert found.cause is None


class Grid(nn.Module):
    """Cells' corners, or their middles, added to what a layer gives."""

    def __init__(self, offset=0.0):
        super().__init__()
        self.stem, self.head, self.offset = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1), offset

    def forward(self, x):
        y = torch.sigmoid(self.stem(x))
        columns = torch.arange(x.shape[-1], dtype=x.dtype) + self.offset
        return torch.tanh(self.head((y + columns) / x.shape[-1]))


def test_positions_of_middles_instead_of_corners():
    found = diagnose_pair(Grid(), Grid(0.5), IMAGES)
    assert found.cause == "position"
    assert "shifted by +0.5" in found.evidence[0]
