"""Losses of one call: taken apart where their parts give the value, repaired part by part."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from pytest_fwcompare.backends.base import Recorded  # noqa: E402
from pytest_fwcompare.diagnose.canonical import canonical  # noqa: E402

RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(4, 8)), RNG.normal(size=(4, 8))
CLASSES = RNG.integers(0, 8, size=4)
ONES = (Y > 0).astype(float)


class Scored(nn.Module):
    """Scores of a linear layer, and a loss of them."""

    def __init__(self, loss):
        super().__init__()
        self.scores, self.loss = nn.Linear(8, 8), loss

    def forward(self, x, y):
        return self.loss(self.scores(x), y)


def written_out(a, b, delta=1.0, scale=1.0):
    far = (a - b).abs()
    return (torch.where(far <= delta, far**2 / 2, delta * (far - delta / 2)) * scale).mean()


def limited(a, b, by):
    p = a.sigmoid().clamp(by, 1 - by)
    return -(b * p.log() + (1 - b) * (1 - p).log()).mean()


FAULTS = {
    "delta, one call": (
        lambda a, b: F.huber_loss(a, b),
        lambda a, b: F.huber_loss(a, b, delta=0.5),
        Y,
        "activation-parameter",
        "delta=0.5 (reference 1)",
    ),
    "delta, written out": (
        lambda a, b: F.huber_loss(a, b),
        lambda a, b: written_out(a, b, 0.3),
        Y,
        "activation-parameter",
        "delta=0.3 (reference 1)",
    ),
    "delta of lines": (
        lambda a, b: written_out(a, b),
        lambda a, b: written_out(a, b, 0.3),
        Y,
        "activation-parameter",
        "delta=0.3 (reference 1)",
    ),
    "beta": (
        lambda a, b: F.smooth_l1_loss(a, b, reduction="none").sum(-1),
        lambda a, b: F.smooth_l1_loss(a, b, reduction="none", beta=0.4).sum(-1),
        Y,
        "activation-parameter",
        "beta=0.4 (reference 1)",
    ),
    "not divided by beta": (
        lambda a, b: F.smooth_l1_loss(a, b, beta=0.5),
        lambda a, b: written_out(a, b, 0.5),
        Y,
        "activation-variant",
        "huber (delta=0.5) instead of smooth_l1",
    ),
    "sum of a mean": (
        lambda a, b: F.mse_loss(a, b),
        lambda a, b: ((a - b) ** 2).sum(),
        Y,
        "reduction",
        "sum instead of mean",
    ),
    "sum over features": (
        lambda a, b: F.mse_loss(a, b),
        lambda a, b: ((a - b) ** 2).sum(-1).mean(),
        Y,
        "reduction",
        "the sum over axes (1,), the mean over the others alone",
    ),
    "mean of a divergence": (
        lambda a, b: F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="batchmean"),
        lambda a, b: F.kl_div(a.log_softmax(-1), b.softmax(-1), reduction="none").mean(),
        Y,
        "reduction",
        "mean instead of sum",
    ),
    "softmax twice": (
        lambda a, b: F.cross_entropy(a, b),
        lambda a, b: F.cross_entropy(a.softmax(-1), b),
        CLASSES,
        "activation-place",
        "softmax over axis 1 applied to its input first",
    ),
    "smoothing": (
        lambda a, b: F.cross_entropy(a, b, label_smoothing=0.2),
        lambda a, b: F.cross_entropy(a, b, label_smoothing=0.1),
        CLASSES,
        "activation-parameter",
        "label smoothing=0.1 (reference 0.2)",
    ),
    "probabilities limited": (
        lambda a, b: F.binary_cross_entropy_with_logits(a, b),
        lambda a, b: limited(a, b, 0.2),
        ONES,
        "clipping",
        "probabilities limited, by=0.2",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_losses(name: str) -> None:
    right, wrong, target, cause, words = FAULTS[name]
    found = diagnose_pair(Scored(right), Scored(wrong), X, target)
    assert found.cause == cause, found.tried
    assert words in found.evidence[0]


@pytest.mark.parametrize("name", FAULTS)
def test_right_losses_have_no_fault(name: str) -> None:
    right, _, target, *_ = FAULTS[name]
    assert diagnose_pair(Scored(right), Scored(right), X, target).culprit is None


UNEXPLAINED = {
    "a root for the slope": (
        lambda a, b: F.huber_loss(a, b, reduction="none").sum(-1),
        lambda a, b: (((a - b) ** 2 + 1).sqrt() - 1).sum(-1),
        Y,
    ),
    "a slope that falls": (
        lambda a, b: F.smooth_l1_loss(a, b, reduction="none").sum(-1),
        lambda a, b: torch.log1p((a - b) ** 2 / 2).sum(-1),
        Y,
    ),
    "smoothing of one class alone": (
        lambda a, b: F.cross_entropy(a, b, reduction="none"),
        lambda a, b: 0.9 * F.cross_entropy(a, b, reduction="none") - 0.1 * a.log_softmax(-1)[:, 0],
        CLASSES,
    ),
    "probabilities pulled to one half": (
        lambda a, b: F.binary_cross_entropy_with_logits(a, b, reduction="none").sum(-1),
        lambda a, b: F.binary_cross_entropy(0.9 * a.sigmoid() + 0.05, b, reduction="none").sum(-1),
        ONES,
    ),
    "a mean of weighted examples": (
        lambda a, b: F.mse_loss(a, b),
        lambda a, b: ((a - b) ** 2 * torch.linspace(0.5, 1.6, 8, dtype=a.dtype)).mean(),
        Y,
    ),
}


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_other_faults_of_losses_have_no_cause(name: str) -> None:
    right, wrong, target = UNEXPLAINED[name]
    found = diagnose_pair(Scored(right), Scored(wrong), X, target)
    assert found.culprit is not None
    assert found.cause is None, found.evidence


def record(value, **attributes):
    return Recorded(
        3, "", "huber_loss", np.asarray(value), (1, 2), (), attributes, (X, Y), place=":huber:0"
    )


def test_a_loss_is_taken_apart_only_where_its_parts_give_its_value() -> None:
    far = np.abs(X - Y)
    value = np.where(far <= 1, far**2 / 2, far - 0.5).mean()
    parts = canonical([record(value, reduction="mean", delta=1.0)])
    assert [part.operation for part in parts] == ["sub", "huber", "mean"]
    assert parts[-1].index == 3
    assert [len(part.inputs) for part in parts] == [2, 1, 1]
    whole = canonical([record(1.5 * value, reduction="mean", delta=1.0)])
    assert [part.operation for part in whole] == ["huber_loss"]
