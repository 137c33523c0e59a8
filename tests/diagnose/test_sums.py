"""A port may add up in another order: what is no culprit once the fault is repaired was none."""

from __future__ import annotations

import numpy as np
import pytest
from pairs import diagnose_pair

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

TOKENS = np.random.default_rng(0).integers(0, 11, (2, 7))


class Words(nn.Module):
    """Three tables added up, as language models begin."""

    def __init__(self, *, other_order=False, first=0):
        super().__init__()
        self.word, self.kind = nn.Embedding(11, 6), nn.Embedding(2, 6)
        self.place, self.norm = nn.Embedding(12, 6), nn.LayerNorm(6)
        self.out = nn.Linear(6, 6)
        self.other_order, self.first = other_order, first

    def forward(self, tokens):
        word, kind = self.word(tokens), self.kind(tokens % 2)
        place = self.place(torch.arange(tokens.shape[1]) + self.first)
        total = word + place + kind if self.other_order else word + kind + place
        return torch.tanh(self.out(self.norm(total)))


@pytest.mark.parametrize("other_order", [False, True])
def test_shifted_positions_are_found_behind_a_sum_of_another_order(other_order):
    found = diagnose_pair(Words(), Words(other_order=other_order, first=1), TOKENS)
    assert (found.culprit, found.cause) == ("place", "position")
    assert "shifted by +1" in found.evidence[0]
    assert found.others == ()


def test_a_right_sum_of_another_order_has_no_culprit():
    assert diagnose_pair(Words(), Words(other_order=True), TOKENS).culprit is None


def test_a_wrong_part_of_a_sum_is_asked_too():
    class Twice(Words):
        def forward(self, tokens):
            word, kind = self.word(tokens), self.kind(tokens % 2)
            total = word + kind + kind + self.place(torch.arange(tokens.shape[1]))
            return torch.tanh(self.out(self.norm(total)))

    found = diagnose_pair(Words(), Twice(), TOKENS)
    assert found.culprit is not None
    assert found.cause in (None, "residual", "embedding")
