"""Outputs whose elements change places while their set stays."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402

IMAGE = np.random.default_rng(4).normal(size=(2, 3, 4, 4))


class Rows(nn.Module):
    """Maps (batch, 3, 4, 4) to rows (batch, 16, 5), in one order of cells or another."""

    def __init__(self, how):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.how = how

    def forward(self, x):
        y = self.conv(x)
        if self.how == "columns":
            y = y.transpose(2, 3)
        y = y.permute(0, 2, 3, 1).reshape(len(x), -1, 5)
        if self.how == "mixed":
            y = y.flatten(1)[:, torch.randperm(80, generator=torch.manual_seed(0))].view(-1, 16, 5)
        first, last = y[..., :2].sigmoid(), y[..., 2:4].exp()
        return torch.cat([last, first] if self.how == "parts" else [first, last], -1)


def test_cells_by_columns() -> None:
    found = diagnose_pair(Rows("rows"), Rows("columns"), IMAGE)
    assert (found.culprit, found.cause) == ("", "flatten-order")
    assert "element by element" in found.evidence[0]


def test_parts_joined_the_other_way_round() -> None:
    found = diagnose_pair(Rows("rows"), Rows("parts"), IMAGE)
    assert (found.culprit, found.cause) == ("", "channel-order")


def test_an_order_without_a_name_is_refused() -> None:
    found = diagnose_pair(Rows("rows"), Rows("mixed"), IMAGE)
    assert found.cause is None
    assert found.tried
