"""Recurrent layers of Keras over series, written out in torch: Keras to torch."""

from __future__ import annotations

import keras
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, keras_in

FEATURES, HIDDEN, OUT = 4, 6, 3


def make_reference(dtype="float32"):
    """Series (batch, time, 4) to forecasts (batch, 3) and states (batch, 6)."""
    keras.utils.set_random_seed(12)
    with keras_in(dtype):
        some = {"bias_initializer": "normal"}
        series = keras.Input((None, FEATURES), name="series")
        x = layers.Conv1D(HIDDEN, 3, padding="causal", name="conv", **some)(series)
        x = layers.Activation("tanh", name="squash")(x)
        x = layers.GRU(HIDDEN, return_sequences=True, name="gru", **some)(x)
        x = layers.Dense(HIDDEN, "relu", name="between", **some)(x)
        x = layers.LSTM(HIDDEN, name="lstm", **some)(x)
        return keras.Model(series, [layers.Dense(OUT, name="head", **some)(x), x])


class Port(nn.Module):
    """The port, step by step."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.conv = nn.Conv1d(FEATURES, HIDDEN, 3)
        self.gx, self.gh = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, 3 * HIDDEN)
        self.mid = nn.Linear(HIDDEN, HIDDEN)
        self.lx = nn.Linear(HIDDEN, 4 * HIDDEN)
        self.lh = nn.Linear(HIDDEN, 4 * HIDDEN, bias=False)
        self.fc = nn.Linear(HIDDEN, OUT)

    def gru(self, h, x):
        gate = F.hardsigmoid if self.option == "hard-gates" else torch.sigmoid
        xz, xr, xn = self.gx(x).chunk(3, -1)
        hz, hr, hn = self.gh(h).chunk(3, -1)
        z, r = gate(xz + hz), gate(xr + hr)
        if self.option == "gates-exchanged":
            z, r = r, z
        if self.option == "reset-before":
            weight, bias = self.gh.weight[2 * HIDDEN :], self.gh.bias[2 * HIDDEN :]
            hn, r = F.linear(r * h, weight, bias), 1.0
        n = torch.tanh(xn + r * hn)
        return z * n + (1 - z) * h if self.option == "complement" else z * h + (1 - z) * n

    def lstm(self, h, c, x):
        i, f, g, o = (self.lx(x) + self.lh(h)).chunk(4, -1)
        f = f + (1.0 if self.option == "forget-bias" else 0.0)
        g = torch.relu(g) if self.option == "relu-cell" else torch.tanh(g)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * g
        return torch.sigmoid(o) * (c if self.option == "state-unsquashed" else torch.tanh(c)), c

    def forward(self, series):
        pads = (1, 1) if self.option == "padding-centred" else (2, 0)
        x = torch.tanh(self.conv(F.pad(series.mT, pads))).mT
        h = series.new_zeros(len(x), HIDDEN)
        if self.option == "starts-at-one":
            h = h + 1
        made = []
        for step in range(x.shape[1]):
            h = self.gru(h, x[:, step])
            made.append(h)
        x = F.relu(self.mid(torch.stack(made, 1)))
        h, c = series.new_zeros(len(x), HIDDEN), series.new_zeros(len(x), HIDDEN)
        steps = range(x.shape[1])
        for step in reversed(steps) if self.option == "read-backwards" else steps:
            h, c = self.lstm(h, c, x[:, step])
        return self.fc(h), h


def make_port(dtype="float32", fault=None):
    return Port(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value))


def copy_weights(reference, port):
    def values(name):
        return reference.get_layer(name).get_weights()

    kernel, bias = values("conv")
    fill(port.conv.weight, kernel.transpose(2, 1, 0))
    fill(port.conv.bias, bias)
    kernel, recurrent, bias = values("gru")
    fill(port.gx.weight, kernel.T)
    fill(port.gx.bias, bias[0])
    fill(port.gh.weight, recurrent.T)
    fill(port.gh.bias, bias[1])
    kernel, recurrent, bias = values("lstm")
    fill(port.lx.weight, kernel.T)
    fill(port.lx.bias, bias)
    fill(port.lh.weight, recurrent.T)
    for name, linear in (("between", port.mid), ("head", port.fc)):
        kernel, bias = values(name)
        fill(linear.weight, kernel.T)
        fill(linear.bias, bias)


CASES = [
    PortCase(
        name="keras_forecast",
        reference_framework="keras",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"series": Input(("batch", "time", FEATURES))},
        faults={
            "hard-gates": Fault("semantic", "gru", "activation-variant"),
            "gates-exchanged": Fault("semantic", "gru", "gate-order"),
            "reset-before": Fault("semantic", "gru", "cell-variant"),
            "complement": Fault("semantic", "gru", "cell-variant"),
            "starts-at-one": Fault("semantic", "gru", "initial-state"),
            "forget-bias": Fault("semantic", "lstm", "bias"),
            "relu-cell": Fault("semantic", "lstm", "activation-variant"),
            "state-unsquashed": Fault("semantic", "lstm", "cell-variant"),
            "read-backwards": Fault("semantic", "lstm", "initial-state"),
            "padding-centred": Fault("semantic", "conv", "padding"),
        },
    )
]
