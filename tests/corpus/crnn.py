"""Text lines read by convolutions and bidirectional LSTMs: torch to Keras Functional."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of

WIDTH, HIDDEN, LETTERS = 6, 5, 7


class Reader(nn.Module):
    """Lines (batch, 1, 8, width) to log-probabilities (batch, width / 2, 7)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.act = nn.CELU(0.7)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, (3, 1), stride=(2, 1), padding=(1, 0))
        self.norm = nn.InstanceNorm2d(WIDTH, affine=True)
        self.shut = nn.Hardtanh(-1.0, 1.0)
        self.rnn = nn.LSTM(2 * WIDTH, HIDDEN, bidirectional=True, batch_first=True)
        self.out = nn.Linear(2 * HIDDEN, LETTERS)

    def forward(self, x):
        x = self.pool(self.act(self.conv1(x)))
        x = self.shut(self.norm(self.conv2(x)))
        x = x.permute(0, 3, 1, 2).flatten(2)
        x, _ = self.rnn(x)
        return torch.log_softmax(self.out(x), -1)


def build(option):
    lines = keras.Input((8, 12, 1), name="lines")
    x = layers.Conv2D(WIDTH, 3, padding="same", name="a")(lines)
    x = ops.elu(x, 0.7) if option == "elu" else ops.celu(x, 0.7)
    x = layers.AveragePooling2D(2)(x) if option == "mean-pool" else layers.MaxPooling2D(2)(x)
    pads = ((0, 1), (0, 0)) if option == "padding-after" else ((1, 1), (0, 0))
    x = layers.ZeroPadding2D(pads)(x)
    x = layers.Conv2D(WIDTH, (3, 1), (2, 1), name="b")(x)
    eps = 1e-3 if option == "epsilon" else 1e-5
    axes = (1, 2, 3) if option == "layer-norm" else (1, 2)
    mean, variance = ops.mean(x, axes, keepdims=True), ops.var(x, axes, keepdims=True)
    x = (x - mean) / ops.sqrt(variance + eps)
    x = layers.EinsumDense("abcd,d->abcd", (None, None, WIDTH), bias_axes="d", name="affine")(x)
    x = ops.tanh(x) if option == "tanh" else ops.clip(x, -1.0, 1.0)
    order = (0, 2, 1, 3) if option == "rows-first" else (0, 2, 3, 1)
    x = ops.transpose(x, order)
    x = layers.Reshape((6, 2 * WIDTH))(x)
    gate = "hard_sigmoid" if option == "hard-gates" else "sigmoid"
    lstm = layers.LSTM(HIDDEN, return_sequences=True, recurrent_activation=gate, name="rnn")
    mode = "sum" if option == "summed" else "concat"
    x = layers.Bidirectional(lstm, merge_mode=mode, name="both")(x)
    if option == "summed":
        x = ops.concatenate([x, x], -1)
    x = layers.Dense(LETTERS, name="out")(x)
    return keras.Model(lines, ops.log_softmax(x, 1 if option == "over-time" else -1))


def make_reference(dtype="float32"):
    return as_trained(Reader(), dtype)


def make_port(dtype="float32", fault=None):
    with keras_in(dtype):
        return build(fault or "")


def copy_weights(reference, port):
    for name, module in (("a", reference.conv1), ("b", reference.conv2)):
        kernel = values_of(module.weight).transpose(2, 3, 1, 0)
        port.get_layer(name).set_weights([kernel, values_of(module.bias)])
    norm = reference.norm
    port.get_layer("affine").set_weights([values_of(norm.weight), values_of(norm.bias)])
    values = []
    for end in ("", "_reverse"):
        part = {
            n: values_of(getattr(reference.rnn, f"{n}_l0{end}"))
            for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        values += [part["weight_ih"].T, part["weight_hh"].T, part["bias_ih"] + part["bias_hh"]]
    port.get_layer("both").set_weights(values)
    out = reference.out
    port.get_layer("out").set_weights([np.array(values_of(out.weight).T), values_of(out.bias)])


CASES = [
    PortCase(
        name="crnn",
        reference_framework="torch",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"lines": Input(("batch", 1, 8, 12), axes="NCHW", port_axes="NHWC")},
        faults={
            "elu": Fault("semantic", "act", "activation-variant"),
            "mean-pool": Fault("semantic", "pool", "reduction"),
            "padding-after": Fault("semantic", "conv2", "padding"),
            "epsilon": Fault("semantic", "norm", "norm-epsilon"),
            "layer-norm": Fault("semantic", "norm", "norm-axis"),
            "tanh": Fault("semantic", "shut", "activation-variant"),
            "rows-first": Fault("semantic", "", "flatten-order", between=("shut", "rnn")),
            "hard-gates": Fault("semantic", "rnn", "activation-variant"),
            "summed": Fault("semantic", "rnn", "cell-variant"),
            "over-time": Fault("semantic", "", "softmax-axis", between=("out", "")),
        },
    )
]
