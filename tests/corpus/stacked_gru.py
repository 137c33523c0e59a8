"""Two bidirectional GRU layers over packed sequences: torch to Keras Functional."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of

WORDS = 17


class Encoder(nn.Module):
    """Tokens (batch, time), lengths as a mask (batch, time), to scores (batch, classes)."""

    def __init__(self, dim: int = 6, hidden: int = 7, classes: int = 3):
        super().__init__()
        self.embed = nn.Embedding(WORDS, dim)
        self.rnn = nn.GRU(dim, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * hidden)
        self.out = nn.Linear(2 * hidden, classes)

    def forward(self, tokens, mask):
        lengths = mask.sum(1)
        packed = pack_padded_sequence(
            self.embed(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, last = self.rnn(packed)
        both = torch.cat([last[-2], last[-1]], dim=-1)
        return self.out(torch.tanh(self.norm(both)))


def build(
    dim: int = 6,
    hidden: int = 7,
    classes: int = 3,
    *,
    reset_after: bool = True,
    recurrent: str = "sigmoid",
    masked: bool = True,
    epsilon: float = 1e-5,
    tanh: bool = True,
    merge: str = "concat",
    swap: bool = False,
) -> keras.Model:
    tokens = keras.Input((None,), dtype="int32")
    mask = keras.Input((None,), dtype="bool")
    count = ops.sum(ops.cast(mask, "int32"), axis=1, keepdims=True)
    valid = ops.cumsum(ops.ones_like(tokens), axis=1) <= count
    x = layers.Embedding(WORDS, dim, name="embed")(tokens)
    first = layers.Bidirectional(
        layers.GRU(hidden, return_sequences=True, recurrent_activation=recurrent), name="gru1"
    )
    second = layers.Bidirectional(
        layers.GRU(hidden, reset_after=reset_after, recurrent_activation="sigmoid"),
        merge_mode="concat",
        name="gru2",
    )
    x = first(x, mask=valid)
    x = second(x, mask=valid) if masked else second(ops.multiply(x, 1.0))
    if swap:
        x = ops.concatenate([x[:, hidden:], x[:, :hidden]], axis=-1)
    x = layers.LayerNormalization(epsilon=epsilon, name="norm")(x)
    if tanh:
        x = layers.Activation("tanh")(x)
    return keras.Model([tokens, mask], layers.Dense(classes, name="out")(x))


OPTIONS = {
    "reset-before": {"reset_after": False},
    "hard-sigmoid": {"recurrent": "hard_sigmoid"},
    "padding-read": {"masked": False},
    "epsilon": {"epsilon": 1e-3},
    "no-tanh": {"tanh": False},
    "directions-swapped": {"swap": True},
}


def make_reference(dtype: str = "float32") -> Encoder:
    model = Encoder()
    with torch.no_grad():
        for name, value in model.rnn.named_parameters():
            if "bias" in name:
                value.uniform_(-0.5, 0.5)
    return as_trained(model, dtype)


def make_port(dtype: str = "float32", fault: str | None = None) -> keras.Model:
    with keras_in(dtype):
        return build(**OPTIONS[fault] if fault else {})


def copy_weights(reference: Encoder, port: keras.Model) -> None:
    def gates(value):
        reset, update, new = np.split(values_of(value), 3)
        return np.concatenate([update, reset, new])

    for index, name in enumerate(("gru1", "gru2")):
        layer = port.get_layer(name)
        for end, cell in (("", layer.forward_layer), ("_reverse", layer.backward_layer)):
            parts = [
                gates(getattr(reference.rnn, f"{part}_l{index}{end}"))
                for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            bias = np.stack(parts[2:]) if cell.reset_after else parts[2] + parts[3]
            cell.set_weights([parts[0].T, parts[1].T, bias])
    port.get_layer("embed").set_weights([values_of(reference.embed.weight)])
    for name in ("norm", "out"):
        layer = getattr(reference, name)
        port.get_layer(name).set_weights([values_of(layer.weight).T, values_of(layer.bias)])


CASES = [
    PortCase(
        name="stacked_gru",
        reference_framework="torch",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "tokens": Input(("batch", "time"), kind="tokens", high=WORDS),
            "mask": Input(("batch", "time"), kind="mask"),
        },
        faults={
            "reset-before": Fault("semantic", "rnn", "cell-variant"),
            "hard-sigmoid": Fault("semantic", "rnn", "activation-variant"),
            "padding-read": Fault("semantic", "rnn", "mask"),
            "epsilon": Fault("semantic", "norm", "norm-epsilon"),
            "no-tanh": Fault("semantic", "", "activation-place", between=("norm", "out")),
            "directions-swapped": Fault("semantic", "", "channel-order", between=("rnn", "norm")),
        },
    )
]
