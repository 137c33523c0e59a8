"""Convolutions with group and instance norms, resized: torch to flax nnx."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of


class Stage(nn.Module):
    """Images (batch, channels, height, width), halved and normed."""

    def __init__(self, channels, out, norm):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 3, stride=2, padding=1)
        self.norm = norm
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class Refiner(nn.Module):
    """Images (batch, 3, 12, 12) to maps (batch, 2, 12, 12)."""

    def __init__(self):
        super().__init__()
        self.down = Stage(3, 8, nn.GroupNorm(4, 8))
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.instance = nn.InstanceNorm2d(16, affine=True)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        y = self.pool(torch.tanh(self.instance(self.depthwise(self.down(x)))))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(y)


class Net(nnx.Module):
    """The same in NHWC."""

    def __init__(self, dtype, option=""):
        r = nnx.Rngs(0)
        pad = "SAME" if option == "padding-same" else ((1, 1), (1, 1))
        how = {"param_dtype": dtype, "rngs": r}
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, padding=pad, **how)
        groups = 2 if option == "groups" else 4
        eps = 1e-6 if option == "default-epsilon" else 1e-5
        self.gn = nnx.GroupNorm(8, num_groups=groups, epsilon=eps, **how)
        self.spread = nnx.Conv(8, 16, (3, 3), feature_group_count=8, padding=1, **how)
        self.scale = nnx.Param(jnp.ones(16, dtype))
        self.offset = nnx.Param(jnp.zeros(16, dtype))
        self.out = nnx.Conv(16, 2, (1, 1), **how)
        self.option = option

    def __call__(self, x):
        y = nnx.silu(self.gn(self.conv(x)))
        y = self.spread(y)
        axes = (1, 2, 3) if self.option == "instance-axes" else (1, 2)
        centred = y - y.mean(axes, keepdims=True)
        spread = jnp.mean(centred * centred, axes, keepdims=True)
        y = jnp.tanh(centred * jax.lax.rsqrt(spread + 1e-5) * self.scale[...] + self.offset[...])
        counted = self.option == "pool-count"
        y = nnx.avg_pool(y, (3, 3), (1, 1), ((1, 1), (1, 1)), count_include_pad=counted)
        b, h, w, c = y.shape
        way = "nearest" if self.option == "nearest" else "bilinear"
        return self.out(jax.image.resize(y, (b, 2 * h, 2 * w, c), way))


def make_reference(dtype="float32"):
    return as_trained(Refiner(), dtype)


def make_port(dtype="float32", fault=None):
    return Net(jax_in(dtype), fault or "")


def copy_weights(reference, port):
    def put(param, array):
        param[...] = jnp.asarray(array, param.dtype)

    for ours, theirs in (
        (reference.down.conv, port.conv),
        (reference.depthwise, port.spread),
        (reference.head, port.out),
    ):
        put(theirs.kernel, values_of(ours.weight).transpose(2, 3, 1, 0))
        put(theirs.bias, values_of(ours.bias))
    put(port.gn.scale, values_of(reference.down.norm.weight))
    put(port.gn.bias, values_of(reference.down.norm.bias))
    put(port.scale, values_of(reference.instance.weight))
    put(port.offset, values_of(reference.instance.bias))


CASES = [
    PortCase(
        name="image_norms",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"image": Input(("batch", 3, 12, 12), axes="NCHW", port_axes="NHWC")},
        output_axes=("NCHW",),
        port_output_axes=("NHWC",),
        faults={
            "padding-same": Fault("semantic", "down.conv", "padding"),
            "groups": Fault("semantic", "down.norm", "norm-axis"),
            "default-epsilon": Fault("semantic", "down.norm", "norm-epsilon"),
            "instance-axes": Fault("semantic", "instance", "norm-axis"),
            "pool-count": Fault("semantic", "pool", "pool-count"),
            "nearest": Fault("semantic", "", "resize-alignment", between=("pool", "head")),
        },
    )
]
