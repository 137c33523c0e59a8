"""A generator of waves with strided and transposed 1-D convolutions: torch to raw TensorFlow."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import torch
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, as_trained, values_of

BANDS, WIDTH = 5, 8


class Snake(nn.Module):
    """x + sin(a x)^2 / a, one a for each channel of (batch, channels, time)."""

    def __init__(self, channels):
        super().__init__()
        self.rate = nn.Parameter(torch.rand(1, channels, 1) + 0.5)

    def forward(self, x):
        return x + torch.sin(self.rate * x) ** 2 / self.rate


class Residual(nn.Module):
    """Dilated convolutions beside the identity."""

    def __init__(self, dilation):
        super().__init__()
        self.snake = Snake(WIDTH)
        self.wide = nn.Conv1d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation)
        self.norm = nn.GroupNorm(2, WIDTH)
        self.mix = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x):
        return x + self.mix(self.norm(self.wide(self.snake(x))))


class Vocoder(nn.Module):
    """Bands (batch, 5, 12) to waves (batch, 1, 24) and levels (batch, 8, 6)."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv1d(BANDS, WIDTH, 5, padding=2, padding_mode="reflect")
        self.slope = nn.PReLU(WIDTH)
        nn.init.uniform_(self.slope.weight, 0.1, 0.4)
        self.up = nn.ConvTranspose1d(WIDTH, WIDTH, 4, stride=2, padding=1)
        self.near = Residual(1)
        self.far = Residual(3)
        self.pool = nn.AvgPool1d(3, stride=4, padding=1)
        self.gate = nn.Conv1d(WIDTH, 2 * WIDTH, 1)
        self.out = nn.Conv1d(WIDTH, 1, 7, padding=3)

    def forward(self, bands):
        x = self.up(self.slope(self.enter(bands)))
        x = self.far(self.near(x))
        levels = self.pool(x)
        x = F.glu(self.gate(x), dim=1)
        return torch.tanh(self.out(x)), levels


class Port(tf.Module):
    """The same over (batch, time, channels)."""

    def __init__(self, dtype, option):
        super().__init__()
        self.option = option
        rng = np.random.default_rng(5)

        def draw(name, *shape):
            return tf.Variable((0.3 * rng.standard_normal(shape)).astype(dtype), name=name)

        self.enter_w, self.enter_b = draw("enter_w", 5, BANDS, WIDTH), draw("enter_b", WIDTH)
        self.alpha = draw("alpha", WIDTH)
        self.up_w, self.up_b = draw("up_w", 4, WIDTH, WIDTH), draw("up_b", WIDTH)
        self.blocks = [
            {
                "rate": draw("rate", WIDTH),
                "wide_w": draw("wide_w", 3, WIDTH, WIDTH),
                "wide_b": draw("wide_b", WIDTH),
                "gain": draw("gain", WIDTH),
                "shift": draw("shift", WIDTH),
                "mix_w": draw("mix_w", 1, WIDTH, WIDTH),
                "mix_b": draw("mix_b", WIDTH),
            }
            for _ in range(2)
        ]
        self.gate_w, self.gate_b = draw("gate_w", 1, WIDTH, 2 * WIDTH), draw("gate_b", 2 * WIDTH)
        self.out_w, self.out_b = draw("out_w", 7, WIDTH, 1), draw("out_b", 1)

    def group(self, p, x, groups, eps):
        batch, time = tf.shape(x)[0], tf.shape(x)[1]
        if self.option == "groups-interleaved":
            y = tf.reshape(x, [batch, time, WIDTH // groups, groups])
            mean, variance = tf.nn.moments(y, [1, 2], keepdims=True)
        else:
            y = tf.reshape(x, [batch, time, groups, WIDTH // groups])
            mean, variance = tf.nn.moments(y, [1, 3], keepdims=True)
        y = tf.reshape((y - mean) * tf.math.rsqrt(variance + eps), [batch, time, WIDTH])
        return y * p["gain"] + p["shift"]

    def block(self, p, x, dilation, option):
        power = tf.sin(p["rate"] * x)
        y = x + (power if option == "sine-not-squared" else power**2) / p["rate"]
        # By way of batches: dilated convolutions have no gradient on the CPU.
        y = tf.nn.convolution(y, p["wide_w"], 1, "SAME", dilations=[dilation]) + p["wide_b"]
        y = self.group(p, y, 2, 1e-3 if option == "group-epsilon" else 1e-5)
        y = tf.nn.conv1d(y, p["mix_w"], 1, "SAME") + p["mix_b"]
        return y if option == "no-residual" else x + y

    def __call__(self, bands):
        option = self.option
        way = "SYMMETRIC" if option == "symmetric" else "REFLECT"
        x = tf.pad(bands, [[0, 0], [2, 2], [0, 0]], way)
        x = tf.nn.conv1d(x, self.enter_w, 1, "VALID") + self.enter_b
        slope = 0.25 if option == "fixed-slope" else self.alpha
        x = tf.where(x > 0, x, slope * x)
        batch, time = tf.shape(x)[0], tf.shape(x)[1]
        kernel = self.up_w[::-1] if option == "kernel-flipped" else self.up_w
        x = tf.nn.conv1d_transpose(x, kernel, [batch, 2 * time, WIDTH], 2, "SAME") + self.up_b
        x = self.block(self.blocks[0], x, 1, "")
        x = self.block(self.blocks[1], x, 2 if option == "dilation" else 3, option)
        pooled = tf.pad(x, [[0, 0], [1, 1], [0, 0]])
        levels = tf.nn.avg_pool1d(pooled, 3, 4, "VALID")
        if option == "border-not-counted":
            count = tf.pad(tf.ones_like(x), [[0, 0], [1, 1], [0, 0]])
            levels = levels / tf.nn.avg_pool1d(count, 3, 4, "VALID")
        a, b = tf.split(tf.nn.conv1d(x, self.gate_w, 1, "SAME") + self.gate_b, 2, -1)
        if option == "gate-exchanged":
            a, b = b, a
        y = tf.nn.conv1d(a * tf.sigmoid(b), self.out_w, 1, "SAME")
        y = y if option == "no-output-bias" else y + self.out_b
        return tf.nn.softsign(y) if option == "softsign" else tf.tanh(y), levels


def make_reference(dtype="float32"):
    return as_trained(Vocoder(), dtype)


def make_port(dtype="float32", fault=None):
    return Port(dtype, fault or "")


def copy_weights(reference, port):
    def conv(variable, bias, module):
        variable.assign(values_of(module.weight).transpose(2, 1, 0))
        bias.assign(values_of(module.bias))

    conv(port.enter_w, port.enter_b, reference.enter)
    conv(port.gate_w, port.gate_b, reference.gate)
    conv(port.out_w, port.out_b, reference.out)
    port.alpha.assign(values_of(reference.slope.weight))
    # conv1d_transpose takes (width, out, in).
    port.up_w.assign(values_of(reference.up.weight).transpose(2, 1, 0))
    port.up_b.assign(values_of(reference.up.bias))
    for p, module in zip(port.blocks, (reference.near, reference.far), strict=True):
        p["rate"].assign(values_of(module.snake.rate).reshape(-1))
        conv(p["wide_w"], p["wide_b"], module.wide)
        conv(p["mix_w"], p["mix_b"], module.mix)
        p["gain"].assign(values_of(module.norm.weight))
        p["shift"].assign(values_of(module.norm.bias))


CASES = [
    PortCase(
        name="vocoder",
        reference_framework="torch",
        port_framework="tensorflow",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"bands": Input(("batch", BANDS, 12), axes="NCT", port_axes="NTC")},
        output_axes=("NCT", "NCT"),
        port_output_axes=("NTC", "NTC"),
        faults={
            "symmetric": Fault("semantic", "enter", "padding-value"),
            "fixed-slope": Fault("semantic", "slope", "activation-parameter"),
            "kernel-flipped": Fault("semantic", "up", "kernel-layout"),
            "sine-not-squared": Fault("semantic", "far.snake", "activation-variant"),
            "dilation": Fault("semantic", "far.wide", "stride-dilation"),
            "group-epsilon": Fault("semantic", "far.norm", "norm-epsilon"),
            "groups-interleaved": Fault("semantic", "near.norm", "norm-axis"),
            "no-residual": Fault("semantic", "far", "residual"),
            "border-not-counted": Fault("semantic", "pool", "pool-count"),
            "gate-exchanged": Fault("semantic", "", "fused-order", between=("gate", "out")),
            "no-output-bias": Fault("semantic", "out", "bias"),
            "softsign": Fault("semantic", "", "activation-variant", between=("out", "")),
        },
    )
]
