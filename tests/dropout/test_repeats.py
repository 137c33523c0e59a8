"""A tensor that one side drops more often is told, since no value shows it."""

from __future__ import annotations

import pytest

import pytest_fwcompare as fwc

torch = pytest.importorskip("torch")
nn = torch.nn


class Branches(nn.Module):
    """Two layers on one tensor that is dropped for each, or once for both."""

    def __init__(self, once: bool) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)
        self.drop, self.once = nn.Dropout(0.5), once

    def forward(self, x):
        x = torch.tanh(x)
        first = self.drop(x)
        second = first if self.once else self.drop(x)
        return self.left(first) + self.right(second)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("port", [False, True])
def test_a_mask_used_twice_is_told_from_two_masks(reference: bool, port: bool) -> None:
    torch.manual_seed(0)
    found = fwc.compare(
        Branches(reference),
        Branches(port),
        inputs={"x": fwc.TensorSpec((5, 6), kind="normal")},
        checks=("forward", "backward", "training"),
        examples=2,
        explain=False,
    )
    assert found.verdict == "equivalent", found.summary()
    said = [text for text in found.notices if "drops one tensor" in text]
    if reference == port:
        assert not said
    else:
        ours, theirs = ("once", "twice") if reference else ("twice", "once")
        assert f"(at drop) {ours}, the port {theirs}" in said[0]
        assert "not judged" in said[0]
