"""Gated dilated causal convolutions over characters: torch to Keras Functional."""

from __future__ import annotations

import keras
import torch
import torch.nn.functional as F
from keras import layers, ops
from torch import nn

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of

WORDS = 21


class GatedBlock(nn.Module):
    """Signals (batch, c, time) to the same, and a skip."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.pad = dilation
        self.conv = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.res = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        both = self.conv(F.pad(x, (self.pad, 0)))
        filters, gates = both.chunk(2, dim=1)
        y = torch.tanh(filters) * torch.sigmoid(gates)
        return x + self.res(y), self.skip(y)


class WaveNet(nn.Module):
    """Characters (batch, time) to scores of the next one (batch, WORDS, time)."""

    def __init__(self, channels: int = 6):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, channels, padding_idx=0)
        self.blocks = nn.ModuleList(GatedBlock(channels, d) for d in (1, 2, 4))
        self.out = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv1d(channels, 8, 1), nn.ReLU(), nn.Conv1d(8, WORDS, 1)
        )

    def forward(self, tokens):
        x = self.embedding(tokens).transpose(1, 2) * 6**0.5
        total = 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.out(total / len(self.blocks))


class Rows(layers.Embedding):
    """An embedding whose first row is not trained."""

    def __init__(self, *args, frozen=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.frozen = frozen

    def call(self, tokens):
        rows = super().call(tokens)
        if not self.frozen:
            return rows
        return ops.where(ops.equal(tokens, 0)[..., None], ops.stop_gradient(rows), rows)


def build(
    channels: int = 6,
    *,
    padding: str = "causal",
    dilations: tuple[int, ...] = (1, 2, 4),
    swapped: bool = False,
    scale: float = 6**0.5,
    slope: float = 0.2,
    skip_before: bool = False,
    frozen: bool = True,
    count: int = 3,
    relu: str | None = "relu",
) -> keras.Model:
    tokens = keras.Input((None,), dtype="int32")
    x = Rows(WORDS, channels, frozen=frozen, name="embedding")(tokens) * scale
    skips = []
    for i, dilation in enumerate(dilations):
        both = layers.Conv1D(
            2 * channels,
            2,
            dilation_rate=dilation,
            padding=padding if i == 1 else "causal",
            name=f"conv{i}",
        )(x)
        first, second = both[..., :channels], both[..., channels:]
        if swapped and i == 0:
            first, second = second, first
        y = ops.tanh(first) * ops.sigmoid(second)
        residual = layers.Conv1D(channels, 1, name=f"res{i}")(y)
        skip = layers.Conv1D(channels, 1, name=f"skip{i}")
        x = layers.Add()([x, residual])
        skips.append(skip(x if skip_before and i == 2 else y))
    x = layers.Add()(skips) / count
    x = layers.LeakyReLU(negative_slope=slope)(x)
    x = layers.Conv1D(8, 1, activation=relu, name="out0")(x)
    return keras.Model(tokens, layers.Conv1D(WORDS, 1, name="out1")(x))


OPTIONS = {
    "same-padding": {"padding": "same"},
    "dilation": {"dilations": (1, 2, 3)},
    "gate-and-filter": {"swapped": True},
    "unscaled": {"scale": 1.0},
    "keras-slope": {"slope": 0.3},
    "skip-of-sum": {"skip_before": True},
    "padding-trained": {"frozen": False},
    "sum-of-skips": {"count": 1},
    "no-relu": {"relu": None},
}


def make_reference(dtype: str = "float32") -> WaveNet:
    return as_trained(WaveNet(), dtype)


def make_port(dtype: str = "float32", fault: str | None = None) -> keras.Model:
    with keras_in(dtype):
        return build(**OPTIONS[fault] if fault else {})


def copy_weights(reference: WaveNet, port: keras.Model) -> None:
    port.get_layer("embedding").set_weights([values_of(reference.embedding.weight)])
    pairs = {"out0": reference.out[1], "out1": reference.out[3]}
    for i, block in enumerate(reference.blocks):
        pairs |= {f"conv{i}": block.conv, f"res{i}": block.res, f"skip{i}": block.skip}
    # The last block's sum reaches no output, so that a functional model leaves its layer out.
    present = {layer.name for layer in port.layers}
    for name, layer in pairs.items():
        if name not in present:
            continue
        weight = values_of(layer.weight).transpose(2, 1, 0)
        port.get_layer(name).set_weights([weight, values_of(layer.bias)])


CASES = [
    PortCase(
        name="wavenet",
        reference_framework="torch",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"tokens": Input(("batch", "time"), kind="tokens", high=WORDS)},
        faults={
            "same-padding": Fault("semantic", "blocks.1", "padding"),
            "dilation": Fault("semantic", "blocks.2.conv", "stride-dilation"),
            "gate-and-filter": Fault("semantic", "blocks.0", "fused-order"),
            "unscaled": Fault("semantic", "", "embedding", between=("embedding", "blocks.0")),
            "keras-slope": Fault("semantic", "out.0", "activation-parameter"),
            "skip-of-sum": Fault("semantic", "blocks.2", "residual"),
            "padding-trained": Fault("semantic", "embedding", "embedding", "backward"),
            "sum-of-skips": Fault("semantic", "", "reduction", between=("blocks.2", "out.0")),
            "no-relu": Fault("semantic", "out.2", "activation-place"),
        },
        output_axes=("NCT",),
        port_output_axes=("NTC",),
    )
]
