"""Constants that nobody computed, windows that are summed, groups that are normalised by place."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402

WORDS = np.random.default_rng(0).normal(size=(3, 7, 6))
IMAGES = np.random.default_rng(1).normal(size=(2, 3, 7, 6))
SQUARES = np.random.default_rng(2).normal(size=(2, 4, 4))


def positions(form: str):
    angles = np.arange(7)[:, None] / 100.0 ** (np.arange(3) / 3)
    if form == "halves":
        return np.concatenate([np.sin(angles), np.cos(angles)], -1)
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(7, 6)
    return 1.3 * table if form == "stretched" else table


class Placed(nn.Module):
    """Positions that NumPy makes are no operation of the network."""

    def __init__(self, form="pairs"):
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.form = form

    def forward(self, x):
        x = self.stem(x) + torch.as_tensor(positions(self.form), dtype=x.dtype)
        return self.head(torch.tanh(self.norm(x)))


class Turned(nn.Module):
    """A transform that begins at the identity, or at another table."""

    def __init__(self, table=None):
        super().__init__()
        self.matrix, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.table = table

    def forward(self, x):
        turn = self.matrix(x)
        if self.table is not None:
            turn = turn + torch.as_tensor(self.table, dtype=x.dtype)
        return self.head(torch.tanh(x @ turn))


class Response(nn.Module):
    """Each channel divided by the power of its neighbours."""

    def __init__(self, form="mean"):
        super().__init__()
        self.stem, self.form = nn.Conv2d(3, 6, 3), form

    def forward(self, x):
        x = torch.relu(self.stem(x))
        if self.form == "mean":
            return nn.functional.local_response_norm(x, 3, alpha=0.5, beta=0.75, k=1.0)
        padded = nn.functional.pad(x**2, (0, 0, 0, 0, 1, 1))
        total = sum(padded[:, start : start + 6] for start in range(3))
        total = torch.sin(total) if self.form == "bent" else total
        return x / (1.0 + 0.5 * total) ** 0.75


class Grouped(nn.Module):
    def __init__(self, form="all"):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6)
        self.head, self.form = nn.Conv2d(6, 2, 1), form

    def forward(self, x):
        x = self.stem(x)
        if self.form == "all":
            return self.head(torch.tanh(self.norm(x)))
        rows = x.permute(0, 2, 3, 1).reshape(-1, 6)
        if self.form == "bent":
            rows = rows + 0.3 * torch.sin(3 * rows)
        normed = self.norm(rows).reshape(2, 5, 4, 6).permute(0, 3, 1, 2)
        return self.head(torch.tanh(normed))


EYE, RAMP = np.eye(4), np.arange(16.0).reshape(4, 4) / 10 + 0.01


@pytest.mark.parametrize(
    ("reference", "port", "inputs", "cause", "words"),
    [
        (Placed(), Placed("halves"), WORDS, "position", "columns in halves instead of pairs"),
        (Placed("halves"), Placed(), WORDS, "position", "columns in pairs instead of halves"),
        (Turned(EYE), Turned(), SQUARES, "residual", "the identity not added"),
        (Response(), Response("sum"), IMAGES, "reduction", "the sum of each window"),
        (Grouped(), Grouped("place"), IMAGES, "norm-axis", "2 groups normalised at each place"),
    ],
)
def test_the_cause_is_proved(reference, port, inputs, cause, words):
    found = diagnose_pair(reference, port, inputs)
    assert found.cause == cause, found
    assert words in found.evidence[0]


@pytest.mark.parametrize(
    ("reference", "port", "inputs", "word"),
    [
        (Placed(), Placed("stretched"), WORDS, "columns"),
        (Turned(RAMP), Turned(), SQUARES, "identity"),
        (Response(), Response("bent"), IMAGES, "the sum of each window"),
        (Grouped(), Grouped("bent"), IMAGES, "at each place"),
    ],
)
def test_a_look_alike_is_not_called_so(reference, port, inputs, word):
    found = diagnose_pair(reference, port, inputs)
    assert found.culprit is not None
    assert not any(word in text for text in found.evidence)
