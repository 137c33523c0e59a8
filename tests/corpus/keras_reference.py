"""A bidirectional text tagger and a depthwise image net in Keras, rewritten in torch."""

from __future__ import annotations

import keras
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, keras_in

WORDS, WIDTH, HIDDEN, TAGS = 13, 6, 5, 4


def make_tagger(dtype="float32"):
    """Tokens (batch, time) to log-probabilities (batch, time, 4)."""
    keras.utils.set_random_seed(3)
    with keras_in(dtype):
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        x = layers.Embedding(WORDS, WIDTH, name="embed")(tokens)
        x = layers.Bidirectional(
            layers.LSTM(HIDDEN, return_sequences=True, bias_initializer="normal"), name="context"
        )(x)
        x = layers.LayerNormalization(name="norm", gamma_initializer="uniform")(x)
        x = layers.Dense(8, "gelu", name="hidden", bias_initializer="normal")(x)
        x = layers.Dense(TAGS, name="scores")(x)
        return keras.Model(tokens, layers.Softmax(name="probabilities")(x))


class Tagger(nn.Module):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.table = nn.Embedding(WORDS, WIDTH)
        self.rnn = nn.LSTM(WIDTH, HIDDEN, batch_first=True, bidirectional=True)
        # Keras' default is 1e-3.
        eps = 1e-5 if option == "epsilon-of-torch" else 1e-3
        self.ln = nn.LayerNorm(2 * HIDDEN, eps=eps)
        self.lift = nn.Linear(2 * HIDDEN, 8)
        self.readout = nn.Linear(8, TAGS)

    def forward(self, tokens):
        y, _ = self.rnn(self.table(tokens))
        if self.option == "backward-not-reversed":
            half = y[..., HIDDEN:].flip(1)
            y = torch.cat([y[..., :HIDDEN], half], -1)
        y = self.ln(y)
        way = "tanh" if self.option == "gelu-tanh" else "none"
        y = F.gelu(self.lift(y), approximate=way)
        if self.option == "softmax-over-time":
            return torch.softmax(self.readout(y), 1)
        y = self.readout(y.detach() if self.option == "detached" else y)
        return torch.softmax(y, -1)


def make_port_tagger(dtype="float32", fault=None):
    return Tagger(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value))


def copy_tagger(reference, port):
    get = reference.get_layer
    fill(port.table.weight, get("embed").get_weights()[0])
    values = get("context").get_weights()
    for suffix, (kernel, recurrent, bias) in (("", values[:3]), ("_reverse", values[3:])):
        fill(getattr(port.rnn, f"weight_ih_l0{suffix}"), kernel.T)
        fill(getattr(port.rnn, f"weight_hh_l0{suffix}"), recurrent.T)
        fill(getattr(port.rnn, f"bias_ih_l0{suffix}"), bias)
        fill(getattr(port.rnn, f"bias_hh_l0{suffix}"), 0 * bias)
    fill(port.ln.weight, get("norm").get_weights()[0])
    fill(port.ln.bias, get("norm").get_weights()[1])
    for name, linear in (("hidden", port.lift), ("scores", port.readout)):
        kernel, bias = get(name).get_weights()
        fill(linear.weight, kernel.T)
        fill(linear.bias, bias)


def make_imager(dtype="float32"):
    """Images (batch, 8, 8, 3) to scores (batch, 4) and a map (batch, 4, 4, 8)."""
    keras.utils.set_random_seed(4)
    with keras_in(dtype):
        image = keras.Input((8, 8, 3), name="image")
        x = layers.Conv2D(6, 3, strides=2, padding="same", name="stem", activation="relu")(image)
        x = layers.DepthwiseConv2D(
            3, depth_multiplier=2, padding="same", name="spread", bias_initializer="normal"
        )(x)
        x = layers.BatchNormalization(
            name="norm",
            beta_initializer="normal",
            moving_mean_initializer="normal",
            moving_variance_initializer=keras.initializers.RandomUniform(0.5, 1.5),
        )(x)
        x = layers.LeakyReLU(name="leaky")(x)
        y = layers.Conv2D(8, 1, name="mix")(x)
        z = layers.Flatten(name="flat")(layers.AveragePooling2D(2, name="pool")(y))
        return keras.Model(image, [layers.Dense(4, name="head")(z), y])


class Imager(nn.Module):
    """The port, in NCHW."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=int(option == "padding-both"))
        self.depth = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.bn = nn.BatchNorm2d(12, eps=1e-5 if option == "batch-epsilon" else 1e-3)
        self.point = nn.Conv2d(12, 8, 1)
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        if self.option != "padding-both":
            x = F.pad(x, (0, 1, 0, 1))  # "same" at an even size and stride 2
        y = self.bn(self.depth(torch.relu(self.first(x))))
        y = self.point(F.leaky_relu(y, 0.01 if self.option == "slope-of-torch" else 0.3))
        pool = F.max_pool2d if self.option == "max-pool" else F.avg_pool2d
        z = pool(y, 2)
        if self.option != "flatten-nchw":
            z = z.permute(0, 2, 3, 1)
        return self.fc(z.flatten(1)), y


def make_port_imager(dtype="float32", fault=None):
    return Imager(fault or "").to(getattr(torch, dtype)).eval()


def copy_imager(reference, port):
    def values(name):
        return reference.get_layer(name).get_weights()

    for name, conv in (("stem", port.first), ("mix", port.point)):
        kernel, bias = values(name)
        fill(conv.weight, kernel.transpose(3, 2, 0, 1))
        fill(conv.bias, bias)
    kernel, bias = values("spread")
    fill(port.depth.weight, kernel.transpose(2, 3, 0, 1).reshape(12, 1, 3, 3))
    fill(port.depth.bias, bias)
    for tensor, value in zip(
        (port.bn.weight, port.bn.bias, port.bn.running_mean, port.bn.running_var),
        values("norm"),
        strict=True,
    ):
        fill(tensor, value)
    kernel, bias = values("head")
    fill(port.fc.weight, kernel.T)
    fill(port.fc.bias, bias)


CASES = [
    PortCase(
        name="keras_tagger",
        reference_framework="keras",
        port_framework="torch",
        make_reference=make_tagger,
        make_port=make_port_tagger,
        copy_weights=copy_tagger,
        inputs={"tokens": Input(("batch", "time"), kind="tokens", high=WORDS)},
        faults={
            "epsilon-of-torch": Fault("semantic", "norm", "norm-epsilon"),
            "backward-not-reversed": Fault("semantic", "context", "initial-state"),
            "gelu-tanh": Fault("semantic", "hidden", "activation-variant"),
            "softmax-over-time": Fault("semantic", "probabilities", "softmax-axis"),
            "detached": Fault("semantic", "hidden", "gradient-path", shows_in="backward"),
        },
    ),
    PortCase(
        name="keras_imager",
        reference_framework="keras",
        port_framework="torch",
        make_reference=make_imager,
        make_port=make_port_imager,
        copy_weights=copy_imager,
        inputs={"image": Input(("batch", 8, 8, 3), axes="NHWC", port_axes="NCHW")},
        output_axes=("NK", "NHWC"),
        port_output_axes=("NK", "NCHW"),
        faults={
            "padding-both": Fault("semantic", "stem", "padding"),
            "batch-epsilon": Fault("semantic", "norm", "norm-epsilon"),
            "slope-of-torch": Fault("semantic", "leaky", "activation-parameter"),
            "max-pool": Fault("semantic", "pool", "reduction"),
            "flatten-nchw": Fault("semantic", "flat", "flatten-order"),
        },
    ),
]
