"""Tensors read as heads otherwise, masks by distance, whatever wrote the attention."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

RNG = np.random.default_rng(11)
SEQUENCE = RNG.normal(size=(3, 6, 8))
HEADS, SIZE = 2, 4


class Attention(nn.Module):
    """Two heads, by views, by einsums with kernels of heads, or by torch's fused attention."""

    def __init__(self, form="views", *, way="right", mask="", fill=-1e9):
        super().__init__()
        self.form, self.way, self.mask, self.fill = form, way, mask, fill
        for name in ("query", "key", "value"):
            setattr(self, name, nn.Parameter(torch.zeros(8, HEADS, SIZE)))
        self.shift = nn.Parameter(torch.zeros(HEADS, SIZE))
        self.last = nn.Parameter(torch.zeros(HEADS, SIZE, 8))

    def head(self, x, name):
        kernel, batch, time = getattr(self, name), *x.shape[:2]
        if self.form == "einsum" and self.way == "right":
            return torch.einsum("btc,chd->bhtd", x, kernel) + self.shift[:, None]
        flat = x @ kernel.reshape(8, -1) + self.shift.reshape(-1)
        if self.way == "features first":
            return flat.view(batch, time, SIZE, HEADS).permute(0, 3, 1, 2)
        if self.way == "as it lies":
            return flat.reshape(batch, HEADS, time, SIZE)
        if self.way == "reversed" and name == "key":
            flat = flat.flip(-1)
        return flat.view(batch, time, HEADS, SIZE).transpose(1, 2)

    def seen(self, time):
        steps = torch.arange(time)
        behind = steps[:, None] - steps
        return {
            "past": behind >= 0,
            "three": (behind >= 0) & (behind < 3),
            "four": (behind >= 0) & (behind < 4),
            "odd": (behind >= 0) & (steps % 2 == 0),
        }[self.mask]

    def forward(self, x):
        q, k, v = (self.head(x, name) for name in ("query", "key", "value"))
        mask = self.seen(x.shape[1]) if self.mask else None
        if self.form == "fused":
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.mT * SIZE**-0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, self.fill)
            mixed = scores.softmax(-1) @ v
        if self.way == "merged":
            return torch.einsum("bhtd,dhc->btc", mixed, self.last.reshape(SIZE, HEADS, 8))
        return torch.einsum("bhtd,hdc->btc", mixed, self.last)


class Net(nn.Module):
    """Something before and behind the attention."""

    def __init__(self, form, **options):
        super().__init__()
        self.stem, self.attention = nn.Linear(8, 8), Attention(form, **options)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return torch.tanh(self.head(self.attention(self.stem(x))))


FORMS = ("views", "einsum", "fused")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["features first", "as it lies", "merged"])
def test_heads_in_another_order(form: str, way: str) -> None:
    found = diagnose_pair(Net(form), Net("views", way=way), SEQUENCE)
    assert (found.cause, found.culprit) == ("head-split", "attention"), found.tried


@pytest.mark.parametrize("form", FORMS)
def test_the_same_heads_written_otherwise_are_no_fault(form: str) -> None:
    assert diagnose_pair(Net(form), Net("views"), SEQUENCE).culprit is None


@pytest.mark.parametrize("form", FORMS)
def test_keys_that_are_reversed_are_no_heads_split_otherwise(form: str) -> None:
    found = diagnose_pair(Net(form), Net("views", way="reversed"), SEQUENCE)
    assert found.culprit == "attention"
    assert found.cause is None, found.evidence


MASKS = {
    "another window": ("three", "four"),
    "no window": ("three", "past"),
    "a mask more": ("", "past"),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("form", ["views", "fused"])
def test_masks_by_distance(form: str, name: str) -> None:
    own, other = MASKS[name]
    found = diagnose_pair(Net("views", mask=own), Net(form, mask=other), SEQUENCE)
    assert (found.cause, found.culprit) == ("mask", "attention"), found.tried


@pytest.mark.parametrize("own", ["", "past", "three"])
def test_a_mask_of_every_other_step_has_no_cause(own: str) -> None:
    found = diagnose_pair(Net("views", mask=own), Net("views", mask="odd"), SEQUENCE)
    assert found.culprit == "attention"
    assert found.cause is None, found.evidence
