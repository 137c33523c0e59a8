"""Faults of blocks: norms placed otherwise, lengths, shuffles, resizing, packed sequences."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from pairs import diagnose_pair  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

RNG = np.random.default_rng(12)
SEQUENCE = RNG.normal(size=(3, 6, 8))
IMAGE = RNG.normal(size=(2, 4, 9, 8))
TOKENS = RNG.integers(1, 7, size=(3, 6))
TOKENS[0, 3:] = TOKENS[1, 5:] = 0


class Block(nn.Module):
    """A residual block whose norm comes first or last."""

    def __init__(self, place):
        super().__init__()
        self.stem, self.head, self.norm = nn.Linear(8, 8), nn.Linear(8, 5), nn.LayerNorm(8)
        self.inner, self.outer, self.place = nn.Linear(8, 8), nn.Linear(8, 8), place

    def block(self, x):
        def sublayer(x):
            return self.outer(F.gelu(self.inner(x)))

        if self.place == "first":
            return x + sublayer(self.norm(x))
        if self.place == "last":
            return self.norm(x + sublayer(x))
        return self.norm(x) * 0.5 + sublayer(torch.sin(x))

    def forward(self, x):
        return torch.tanh(self.head(self.block(self.stem(x))))


@pytest.mark.parametrize(("right", "wrong"), [("first", "last"), ("last", "first")])
def test_a_norm_before_or_after_its_sublayer(right: str, wrong: str) -> None:
    found = diagnose_pair(Block(right), Block(wrong), SEQUENCE)
    assert found.cause == "residual", found.tried
    assert "normalised instead of" in found.evidence[0]


@pytest.mark.parametrize("right", ["first", "last"])
def test_another_block_has_no_cause(right: str) -> None:
    assert diagnose_pair(Block(right), Block("elsewhere"), SEQUENCE).cause is None


class Net(nn.Module):
    """A function between two layers."""

    def __init__(self, function, stem, head):
        super().__init__()
        self.function, self.stem, self.head = function, stem, head

    def forward(self, x):
        return torch.tanh(self.head(self.function(self.stem(x))))


def dense(function):
    return Net(function, nn.Linear(8, 8), nn.Linear(8, 5))


def space(function):
    return Net(function, nn.Conv2d(4, 6, 3), nn.Conv2d(6, 3, 1))


def patched(function):
    return Net(function, nn.Conv2d(4, 4, 1), nn.Linear(16, 5))


def shuffled(groups):
    def function(x):
        split = x.unflatten(1, (groups, 6 // groups))
        return split.transpose(1, 2).flatten(1, 2)

    return function


def resized(**options):
    return lambda x: F.interpolate(x, size=(4, 3), mode="bilinear", **options)


def unit(way, by=1e-2):
    return lambda x: x / way((x * x).sum(-1, keepdim=True), by)


FAULTS = {
    "a norm of other axes": (
        dense,
        lambda x: F.normalize(x, dim=-1),
        lambda x: F.normalize(x, dim=1),
        SEQUENCE,
        "norm-axis",
    ),
    "a length with an epsilon": (
        dense,
        lambda x: F.normalize(x, dim=-1),
        unit(lambda s, by: torch.sqrt(s + by)),
        SEQUENCE,
        "norm-epsilon",
    ),
    "an epsilon after the root": (
        dense,
        lambda x: x / x.norm(dim=-1, keepdim=True),
        unit(lambda s, by: torch.sqrt(s) + by),
        SEQUENCE,
        "norm-epsilon",
    ),
    "a sum of squares": (
        dense,
        lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5),
        lambda x: x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-5),
        SEQUENCE,
        "reduction",
    ),
    "other groups of a shuffle": (space, shuffled(2), shuffled(3), IMAGE, "channel-order"),
    "no shuffle": (space, shuffled(2), lambda x: x * 1.0, IMAGE, "channel-order"),
    "antialiased": (space, resized(), resized(antialias=True), IMAGE, "resize-alignment"),
    "not antialiased": (space, resized(antialias=True), resized(), IMAGE, "resize-alignment"),
    "patches with channels last": (
        patched,
        lambda x: F.unfold(x, 2, stride=2).mT,
        lambda x: F.unfold(x, 2, stride=2).mT.unflatten(-1, (4, 4)).mT.flatten(-2),
        IMAGE[:, :, :8],
        "flatten-order",
    ),
    "limits": (dense, lambda x: x * 1.0, lambda x: x.clamp(-1, 1), SEQUENCE, "clipping"),
    # None of these rules gives what the port does.
    "a length of absolute values": (
        dense,
        lambda x: F.normalize(x, dim=-1),
        lambda x: x / x.abs().sum(-1, keepdim=True) ** 0.9,
        SEQUENCE,
        None,
    ),
    "an epsilon by position": (
        dense,
        lambda x: F.normalize(x, dim=-1),
        lambda x: (
            x / torch.sqrt((x * x).sum(-1, keepdim=True) + 0.01 * torch.arange(6.0)[:, None])
        ),
        SEQUENCE,
        None,
    ),
    "channels in an order of their own": (
        space,
        shuffled(2),
        lambda x: x[:, [2, 0, 1, 5, 3, 4]],
        IMAGE,
        None,
    ),
    "a blurred image": (
        space,
        resized(),
        lambda x: F.interpolate(F.avg_pool2d(x, 3, 1, 1), size=(4, 3), mode="bilinear"),
        IMAGE,
        None,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_between_two_layers(name: str) -> None:
    wrapped, right, wrong, inputs, cause = FAULTS[name]
    found = diagnose_pair(wrapped(right), wrapped(wrong), inputs)
    assert found.culprit is not None
    assert found.cause == cause, (found.evidence, found.tried)


class Packed(nn.Module):
    """Two bidirectional layers over sequences of several lengths."""

    def __init__(self, unpacked=(), bent=False):
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 8), nn.Linear(8, 5)
        options = {"batch_first": True, "bidirectional": True}
        self.first, self.second = nn.GRU(8, 4, **options), nn.GRU(8, 4, **options)
        self.unpacked, self.bent = unpacked, bent

    def run(self, name, x, lengths):
        layer = getattr(self, name)
        if name in self.unpacked:
            return layer(torch.roll(x, 1, 1) if self.bent else x)[0]
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        made, _ = layer(packed)
        return nn.utils.rnn.pad_packed_sequence(made, True, total_length=x.shape[1])[0]

    def forward(self, tokens):
        keep = tokens != 0
        x, lengths = self.embedding(tokens), keep.sum(1)
        x = self.run("second", self.run("first", x, lengths), lengths) * keep[..., None]
        return torch.tanh(self.head(x.sum(1)))


@pytest.mark.parametrize("layer", ["first", "second"])
def test_a_layer_that_does_not_skip_what_is_beyond_a_sequence(layer: str) -> None:
    found = diagnose_pair(Packed(), Packed((layer,)), TOKENS)
    assert (found.cause, found.culprit) == ("mask", layer), found.tried
    assert "beyond the end of a sequence not skipped" in found.evidence[0]
    bent = diagnose_pair(Packed(), Packed((layer,), bent=True), TOKENS)
    assert (bent.cause, bent.culprit) == (None, layer), bent.evidence
