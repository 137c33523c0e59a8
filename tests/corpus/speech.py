"""A spectrogram front end, dilated convolutions and a CTC head: torch to raw TensorFlow."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
import torch
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, as_trained, values_of

FRAME, HOP, BANDS, WIDTH, OUT, LENGTH = 16, 8, 6, 8, 5, 72


def filters():
    """Triangles over the spectrum (9, 6)."""
    edges = np.linspace(0, FRAME // 2, BANDS + 2)
    bins = np.arange(FRAME // 2 + 1)[:, None]
    up = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(up, down))


class Spectrogram(nn.Module):
    """Waves (batch, 72) to log energies (batch, 6, 10)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(FRAME, dtype=torch.float64).float())
        self.register_buffer("filters", torch.tensor(filters()).float())

    def forward(self, wave):
        padded = F.pad(wave[:, None], (HOP, HOP), mode="reflect")[:, 0]
        frames = padded.unfold(1, FRAME, HOP) * self.window
        power = torch.fft.rfft(frames).abs().square()
        return torch.log(power @ self.filters + 1e-5).transpose(1, 2)


class Standardise(nn.Module):
    """Every band of every wave has mean 0 and deviation 1 over time."""

    def forward(self, x):
        centre = x - x.mean(-1, keepdim=True)
        return centre / (x.std(-1, keepdim=True) + 1e-3)


class Residual(nn.Module):
    """A dilated convolution beside its input."""

    def __init__(self, dilation):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=dilation, dilation=dilation)
        self.norm = nn.GroupNorm(2, WIDTH)
        self.act = nn.Hardswish()

    def forward(self, x):
        return x + self.act(self.norm(self.conv(x)))


class Recogniser(nn.Module):
    """Waves to log-probabilities (10, batch, 5), time first as CTC takes them."""

    def __init__(self):
        super().__init__()
        self.front = Spectrogram()
        self.level = Standardise()
        self.enter = nn.Conv1d(BANDS, WIDTH, 1)
        self.body = nn.Sequential(Residual(1), Residual(2))
        self.head = nn.Linear(WIDTH, OUT)

    def forward(self, wave):
        x = self.body(self.enter(self.level(self.front(wave))))
        return F.log_softmax(self.head(x.permute(2, 0, 1)), -1)


class Port(tf.Module):
    """The port, channels last."""

    def __init__(self, dtype, option=""):
        super().__init__()
        self.option, self.dtype = option, dtype
        draw = tf.random.Generator.from_seed(1)

        def variable(*shape):
            return tf.Variable(draw.normal(shape, dtype=dtype))

        self.mel = tf.Variable(tf.constant(filters(), dtype))
        self.hann = tf.Variable(tf.constant(np.hanning(FRAME + 1)[:-1], dtype))
        self.k0, self.c0 = variable(BANDS, WIDTH), variable(WIDTH)
        self.k1, self.c1 = variable(3, WIDTH, WIDTH), variable(WIDTH)
        self.g1, self.s1 = variable(WIDTH), variable(WIDTH)
        self.k2, self.c2 = variable(3, WIDTH, WIDTH), variable(WIDTH)
        self.g2, self.s2 = variable(WIDTH), variable(WIDTH)
        self.k3, self.c3 = variable(WIDTH, OUT), variable(OUT)

    def spectrum(self, wave):
        how = "CONSTANT" if self.option == "padded-with-zeros" else "REFLECT"
        frames = tf.signal.frame(tf.pad(wave, [[0, 0], [HOP, HOP]], how), FRAME, HOP)
        power = tf.abs(tf.signal.rfft(frames * self.hann))
        power = power if self.option == "magnitude" else power**2
        return tf.math.log(tf.matmul(power, self.mel) + 1e-5)

    def standardised(self, x):
        axis = -1 if self.option == "standardised-over-bands" else 1
        centre = x - tf.reduce_mean(x, axis, keepdims=True)
        count = tf.cast(tf.shape(x)[axis], x.dtype) - (0 if self.option == "biased" else 1)
        spread = tf.sqrt(tf.reduce_sum(centre**2, axis, keepdims=True) / count)
        return centre / (spread + 1e-3)

    def block(self, x, dilation, kernel, bias, scale, shift):
        if self.option == "undilated":
            dilation = 1
        y = tf.nn.convolution(x, kernel, 1, "SAME", dilations=[dilation]) + bias
        shape = tf.shape(y)
        groups = 4 if dilation == 2 and self.option == "groups" else 2
        y = tf.reshape(y, [shape[0], shape[1], groups, WIDTH // groups])
        mean, variance = tf.nn.moments(y, [1, 3], keepdims=True)
        y = tf.reshape((y - mean) * tf.math.rsqrt(variance + 1e-5), shape) * scale + shift
        if self.option == "swish":
            return x + tf.nn.silu(y)
        return x + y * tf.nn.relu6(y + 3) / 6

    def __call__(self, wave):
        x = self.standardised(self.spectrum(wave))
        x = tf.matmul(x, self.k0) + self.c0
        x = self.block(x, 1, self.k1, self.c1, self.g1, self.s1)
        x = self.block(x, 2, self.k2, self.c2, self.g2, self.s2)
        y = tf.matmul(tf.transpose(x, [1, 0, 2]), self.k3) + self.c3
        axis = 0 if self.option == "softmax-over-time" else -1
        return tf.nn.log_softmax(y, axis)


def make_reference(dtype="float32"):
    return as_trained(Recogniser(), dtype)


def make_port(dtype="float32", fault=None):
    return Port(getattr(tf, dtype), fault or "")


def copy_weights(reference, port):
    port.k0.assign(values_of(reference.enter.weight)[..., 0].T)
    port.c0.assign(values_of(reference.enter.bias))
    for index, block in enumerate(reference.body, 1):
        getattr(port, f"k{index}").assign(values_of(block.conv.weight).transpose(2, 1, 0))
        getattr(port, f"c{index}").assign(values_of(block.conv.bias))
        getattr(port, f"g{index}").assign(values_of(block.norm.weight))
        getattr(port, f"s{index}").assign(values_of(block.norm.bias))
    port.k3.assign(values_of(reference.head.weight).T)
    port.c3.assign(values_of(reference.head.bias))
    port.mel.assign(values_of(reference.front.filters))
    port.hann.assign(values_of(reference.front.window))


CASES = [
    PortCase(
        name="speech",
        reference_framework="torch",
        port_framework="tensorflow",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"wave": Input(("batch", LENGTH))},
        faults={
            "padded-with-zeros": Fault("semantic", "front", "padding-value"),
            "standardised-over-bands": Fault("semantic", "level", "norm-axis"),
            "biased": Fault("semantic", "level", "reduction"),
            "undilated": Fault("semantic", "body.1.conv", "stride-dilation"),
            "groups": Fault("semantic", "body.1.norm", "norm-axis"),
            "swish": Fault("semantic", "body", "activation-variant"),
            "softmax-over-time": Fault("semantic", "", "softmax-axis", between=("head", "")),
        },
        note="Frames, a Fourier transform and a fixed filter bank before the first weight.",
    )
]
