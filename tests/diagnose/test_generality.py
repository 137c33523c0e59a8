"""Faults of networks unlike each other: graphs, capsules, sets, flows, encodings of positions."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

RNG = np.random.default_rng(12)
ROWS = RNG.normal(size=(7, 8))
SEQUENCE = RNG.normal(size=(3, 5, 8))
SENDERS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 2, 5, 1, 6])
RECEIVERS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 4, 4, 5, 5, 6])


class Net(nn.Module):
    """A stem, a function of its result with parameters to use, and a head."""

    def __init__(self, middle):
        super().__init__()
        self.stem, self.head = nn.Linear(8, 8), nn.Linear(8, 5)
        self.inner, self.slope = nn.Linear(8, 8), nn.Parameter(torch.ones(8))
        self.table = nn.Parameter(torch.ones(9))
        self.seed = nn.Parameter(torch.ones(3, 8))
        self.middle = middle

    def forward(self, x):
        return torch.tanh(self.head(self.middle(self, self.stem(x))))


def messages(how="sum"):
    def middle(net, x):
        sent = torch.sin(net.inner(x))[SENDERS]
        total = torch.zeros_like(x).index_add(0, RECEIVERS, sent)
        if how == "max":
            index = RECEIVERS[:, None].expand_as(sent)
            total = torch.zeros_like(x).scatter_reduce(0, index, sent, "amax", include_self=False)
        if how == "mean":
            total = total / torch.bincount(RECEIVERS, minlength=7).clamp(min=1)[:, None]
        return total + net.slope

    return middle


def shares(axis=None, temperature=1.0):
    def middle(net, x):
        score = net.inner(x)[SENDERS] / temperature
        if axis is None:
            raised = score.exp()
            total = torch.zeros_like(x).index_add(0, RECEIVERS, raised)
            share = raised / total[RECEIVERS]
        else:
            share = score.softmax(axis)
        return torch.zeros_like(x).index_add(0, RECEIVERS, share * x[SENDERS]) + net.slope

    return middle


def distances(how=""):
    def middle(net, x):
        at = torch.arange(x.shape[1])
        apart = at[:, None] - at if how == "turned" else at - at[:, None]
        score = net.inner(x) @ x.mT + (0.0 if how == "none" else net.table[apart + 4])
        return score.softmax(-1) @ x

    return middle


def pooled(how=""):
    """Learned queries attend to a sequence, in two heads."""

    def middle(net, x):
        def heads(t):
            if how == "strided":
                return t.unflatten(-1, (-1, 2)).movedim(-1, -3)
            return t.unflatten(-1, (2, -1)).transpose(-2, -3)

        q, k = heads(net.inner(net.seed)), heads(x)
        h = (heads(net.seed) if how == "input" else q) + (q @ k.mT / 2).softmax(-1) @ k
        return h.transpose(-2, -3).flatten(-2)

    return middle


def voted(mean=False):
    def middle(net, x):
        votes = torch.einsum("bti,bto->bio", x, torch.sin(net.inner(x)))
        return torch.sin(votes / 5 if mean else votes) + net.slope

    return middle


def bent(how="prelu"):
    def middle(net, x):
        x = net.inner(x)
        if how == "written out":
            return F.relu(x) - net.slope * F.relu(-x)
        return F.relu(x) if how == "relu" else x - x.abs() * net.slope

    return middle


def waved(factor=1.0):
    def middle(net, x):
        angles = net.inner(x) * (2.0 ** torch.arange(8, dtype=x.dtype)) * factor
        return torch.sin(angles) + torch.cos(angles)

    return middle


def turned(how="flip"):
    def middle(net, x):
        x = net.inner(x)
        x = x.flip(-1) if how == "flip" else x.roll(1, -1) if how == "roll" else x
        left, right = x.chunk(2, -1)
        return torch.cat([left, right * torch.sin(left)], -1)

    return middle


def paired(upper=False):
    rows, columns = torch.triu_indices(8, 8, 1) if upper else torch.tril_indices(8, 8, -1)

    def middle(net, x):
        products = x[:, :, None] * net.inner(x)[:, None]
        products = products + products.mT
        return products[:, rows, columns][:, :8] + net.slope

    return middle


def bagged(mode="mean"):
    def middle(net, x):
        indices = torch.arange(21).reshape(7, 3) % 3
        return F.embedding_bag(indices + 0, net.seed, mode=mode) + x

    return middle


FAULTS = {
    "pairs in another order": (ROWS, paired(), paired(True), "flatten-order", "upper triangle"),
    "sum of a bag": (ROWS, bagged(), bagged("sum"), "reduction", "sum instead of mean"),
    "mean of messages": (ROWS, messages(), messages("mean"), "reduction", "mean of each segment"),
    "greatest message": (ROWS, messages(), messages("max"), "reduction", "max of each segment"),
    "softmax over all edges": (ROWS, shares(), shares(0), "softmax-axis", "axis 0"),
    "softmax over features": (ROWS, shares(), shares(1), "softmax-axis", "axis 1"),
    "distances turned": (
        SEQUENCE, distances(), distances("turned"), "position", "the table transposed"
    ),
    "heads of learned queries": (SEQUENCE, pooled(), pooled("strided"), "head-split", "split as"),
    "residual of what was projected": (
        SEQUENCE, pooled(), pooled("input"), "residual", "the input of inner added"
    ),
    "mean of products": (SEQUENCE, voted(), voted(True), "reduction", "instead of sum over 5"),
    "slopes left out": (
        ROWS, bent("written out"), bent("relu"), "activation-parameter", "slope 0"
    ),
    "angles with pi": (ROWS, waved(), waved(np.pi), "position", "multiplied by pi"),
    "features not reversed": (ROWS, turned(), turned(""), "channel-order", "not reversed"),
    "features rolled": (ROWS, turned(), turned("roll"), "channel-order", "rolled by 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(name: str) -> None:
    x, right, wrong, cause, text = FAULTS[name]
    found = diagnose_pair(Net(right), Net(wrong), x)
    assert found.cause == cause, found
    assert text in found.evidence[0]


@pytest.mark.parametrize("name", FAULTS)
def test_the_same_network_has_no_fault(name: str) -> None:
    x, right, *_ = FAULTS[name]
    assert diagnose_pair(Net(right), Net(right), x).culprit is None


ALIKE = {
    "another temperature of shares": (ROWS, shares(), shares(None, 1.3)),
    "other sums of messages": (
        ROWS, messages(), lambda net, x: messages()(net, x) + messages("mean")(net, x)
    ),
    "part of an activation": (ROWS, bent("written out"), bent("half")),
    "another distance": (
        SEQUENCE, distances(), lambda net, x: distances()(net, x + net.seed[:1, None])
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_what_looks_like_them_is_not_given_their_cause(name: str) -> None:
    x, right, wrong = ALIKE[name]
    found = diagnose_pair(Net(right), Net(wrong), x)
    assert found.culprit is not None
    wrongly = ("reduction", "softmax-axis", "position", "head-split", "residual")
    assert found.cause not in wrongly, found
