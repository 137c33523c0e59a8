"""Networks written in JAX and TensorFlow first, rewritten in torch."""

from __future__ import annotations

import jax
import numpy as np
import tensorflow as tf
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, jax_in

CHANNELS, OUT = 6, 3


class Residual(nnx.Module):
    """Signals (batch, time, 6) to the same shape."""

    def __init__(self, dtype, r):
        how = {"param_dtype": dtype, "rngs": r}
        self.conv = nnx.Conv(CHANNELS, CHANNELS, (3,), padding="SAME", **how)
        self.norm = nnx.RMSNorm(CHANNELS, **how)
        self.project = nnx.Linear(CHANNELS, 2 * CHANNELS, **how)

    def __call__(self, x):
        return x + nnx.glu(self.project(self.norm(self.conv(x))))


class Signal(nnx.Module):
    """Signals (batch, time, 6) to scores (batch, 3)."""

    def __init__(self, dtype):
        r = nnx.Rngs(7)
        self.first = Residual(dtype, r)
        self.second = Residual(dtype, r)
        self.head = nnx.Linear(CHANNELS, OUT, param_dtype=dtype, rngs=r)

    def __call__(self, x):
        y = self.second(self.first(x))
        return self.head(jax.nn.gelu(y.mean(1)))


class TorchResidual(nn.Module):
    """The port's half."""

    def __init__(self, option):
        super().__init__()
        self.option = option
        self.c = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(CHANNELS))
        self.p = nn.Linear(CHANNELS, 2 * CHANNELS)

    def forward(self, x):
        y = self.c(x.transpose(1, 2)).transpose(1, 2)
        eps = 1e-5 if self.option == "rms-epsilon" else 1e-6
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps) * self.gain
        a, b = self.p(y).chunk(2, -1)
        if self.option == "glu-halves":
            a, b = b, a
        return (y if self.option == "residual-of-norm" else x) + a * torch.sigmoid(b)


class TorchSignal(nn.Module):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.one, self.two = TorchResidual(""), TorchResidual(option)
        self.fc = nn.Linear(CHANNELS, OUT)

    def forward(self, x):
        y = self.two(self.one(x))
        y = y.sum(1) if self.option == "sum-for-mean" else y.mean(1)
        # jax.nn.gelu is the tanh formula unless told otherwise.
        way = "none" if self.option == "gelu-erf" else "tanh"
        return self.fc(F.gelu(y, approximate=way))


def make_signal(dtype="float32"):
    return Signal(jax_in(dtype))


def make_port_signal(dtype="float32", fault=None):
    return TorchSignal(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.array(value)))


def copy_signal(reference, port):
    for ours, theirs in ((reference.first, port.one), (reference.second, port.two)):
        fill(theirs.c.weight, np.asarray(ours.conv.kernel[...]).transpose(2, 1, 0))
        fill(theirs.c.bias, ours.conv.bias[...])
        fill(theirs.gain, ours.norm.scale[...])
        fill(theirs.p.weight, np.asarray(ours.project.kernel[...]).T)
        fill(theirs.p.bias, ours.project.bias[...])
    fill(port.fc.weight, np.asarray(reference.head.kernel[...]).T)
    fill(port.fc.bias, reference.head.bias[...])


class Upsampler(tf.Module):
    """Maps (batch, 4, 4, 3) to images (batch, 8, 8, 2) and their mean (batch, 2)."""

    def __init__(self, dtype):
        super().__init__()
        rng = np.random.default_rng(11)

        def variable(name, *shape):
            return tf.Variable(rng.standard_normal(shape).astype(dtype) * 0.4, name=name)

        self.up_kernel = variable("up_kernel", 4, 4, 5, 3)
        self.up_bias = variable("up_bias", 5)
        self.scale = variable("scale", 5)
        self.offset = variable("offset", 5)
        self.mix_kernel = variable("mix_kernel", 3, 3, 5, 2)
        self.mix_bias = variable("mix_bias", 2)

    def __call__(self, x):
        batch = tf.shape(x)[0]
        y = tf.nn.conv2d_transpose(x, self.up_kernel, [batch, 8, 8, 5], 2, "SAME") + self.up_bias
        mean, variance = tf.nn.moments(y, [1, 2], keepdims=True)
        y = tf.nn.batch_normalization(y, mean, variance, self.offset, self.scale, 1e-3)
        y = tf.nn.relu6(y)
        y = tf.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
        y = tf.nn.conv2d(y, self.mix_kernel, 1, "VALID") + self.mix_bias
        return y, tf.reduce_logsumexp(y, [1, 2])


class TorchUpsampler(nn.Module):
    """The port, in NCHW."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.up = nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1)
        eps = 1e-5 if option == "epsilon-of-torch" else 1e-3
        self.norm = nn.InstanceNorm2d(5, eps=eps, affine=True)
        self.mix = nn.Conv2d(5, 2, 3)

    def forward(self, x):
        y = self.norm(self.up(x))
        y = F.relu6(y)
        # Symmetric padding by one is what torch calls replicate.
        way = "reflect" if self.option == "reflect" else "replicate"
        y = self.mix(F.pad(y, (1, 1, 1, 1), mode=way))
        if self.option == "log-of-mean":
            return y, y.exp().mean((2, 3)).log()
        if self.option == "half-precision":
            y = y.half().to(x.dtype)
        return y, torch.logsumexp(y, (2, 3))


def make_upsampler(dtype="float32"):
    return Upsampler(dtype)


def make_port_upsampler(dtype="float32", fault=None):
    return TorchUpsampler(fault or "").to(getattr(torch, dtype)).eval()


def copy_upsampler(reference, port):
    fill(port.up.weight, reference.up_kernel.numpy().transpose(3, 2, 0, 1))
    fill(port.up.bias, reference.up_bias.numpy())
    fill(port.norm.weight, reference.scale.numpy())
    fill(port.norm.bias, reference.offset.numpy())
    fill(port.mix.weight, reference.mix_kernel.numpy().transpose(3, 2, 0, 1))
    fill(port.mix.bias, reference.mix_bias.numpy())


CASES = [
    PortCase(
        name="jax_signal",
        reference_framework="jax",
        port_framework="torch",
        make_reference=make_signal,
        make_port=make_port_signal,
        copy_weights=copy_signal,
        inputs={"signal": Input(("batch", "time", CHANNELS))},
        faults={
            "rms-epsilon": Fault("semantic", "second.norm", "norm-epsilon"),
            "glu-halves": Fault("semantic", "second", "fused-order"),
            "residual-of-norm": Fault("semantic", "second", "residual"),
            "sum-for-mean": Fault("semantic", "", "reduction", between=("second", "head")),
            "gelu-erf": Fault("semantic", "", "activation-variant", between=("second", "head")),
        },
    ),
    PortCase(
        name="tf_upsampler",
        reference_framework="tensorflow",
        port_framework="torch",
        make_reference=make_upsampler,
        make_port=make_port_upsampler,
        copy_weights=copy_upsampler,
        inputs={"maps": Input(("batch", 4, 4, 3), axes="NHWC", port_axes="NCHW")},
        output_axes=("NHWC", "NC"),
        port_output_axes=("NCHW", "NC"),
        faults={
            "epsilon-of-torch": Fault("semantic", "", "norm-epsilon"),
            "reflect": Fault("semantic", "", "padding-value"),
            "log-of-mean": Fault("semantic", "", "reduction"),
            "half-precision": Fault("precision", "", "low-precision"),
        },
        note="The reference has no submodules.",
    ),
]
