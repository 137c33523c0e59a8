"""Bottlenecks with grouped convolutions and group norms: torch to a raw tf.Module."""

from __future__ import annotations

import tensorflow as tf
from torch import nn

from .common import Fault, Input, PortCase, as_trained, values_of


class Bottleneck(nn.Module):
    """Images (batch, c_in, h, w) to (batch, c_out, h / stride, w / stride)."""

    def __init__(self, c_in: int, width: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 1)
        self.gn1 = nn.GroupNorm(2, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=2)
        self.gn2 = nn.GroupNorm(4, width)
        self.conv3 = nn.Conv2d(width, c_out, 1)
        self.gn3 = nn.GroupNorm(3, c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(c_in, c_out, 1))

    def forward(self, x):
        y = self.relu(self.gn1(self.conv1(x)))
        y = self.relu(self.gn2(self.conv2(y)))
        return self.relu(self.gn3(self.conv3(y)) + self.downsample(x))


class ResNeXt(nn.Module):
    """Images (batch, 3, 8, 12) to class scores (batch, classes)."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = Bottleneck(6, 8, 9, 1)
        self.layer2 = Bottleneck(9, 8, 12, 2)
        self.fc = nn.Linear(12, classes)

    def forward(self, images):
        x = self.layer2(self.layer1(self.maxpool(self.stem(images))))
        return self.fc(x.amax((2, 3)))


class Conv(tf.Module):
    def __init__(self, size, c_in, c_out, dtype, *, groups=1, stride=1, shuffled=False):
        super().__init__()
        self.groups, self.stride, self.shuffled = groups, stride, shuffled
        self.pad = size // 2
        self.kernel = tf.Variable(tf.zeros((size, size, c_in // groups, c_out), dtype))
        self.bias = tf.Variable(tf.zeros(c_out, dtype))

    def __call__(self, x):
        pads = [[0, 0], [self.pad] * 2, [self.pad] * 2, [0, 0]]
        x = tf.pad(x, pads)
        parts, kernels = (tf.split(y, self.groups, axis=-1) for y in (x, self.kernel))
        if self.shuffled:
            parts = [x[..., i :: self.groups] for i in range(self.groups)]
        results = [
            tf.nn.conv2d(part, kernel, self.stride, "VALID")
            for part, kernel in zip(parts, kernels, strict=True)
        ]
        return tf.concat(results, -1) + self.bias


class GroupNorm(tf.Module):
    def __init__(self, groups, channels, dtype, *, epsilon=1e-5, strided=False, affine=True):
        super().__init__()
        self.groups, self.epsilon, self.strided, self.affine = groups, epsilon, strided, affine
        self.scale = tf.Variable(tf.ones(channels, dtype))
        self.offset = tf.Variable(tf.zeros(channels, dtype))

    def __call__(self, x):
        shape = tf.shape(x)
        batch, h, w, c = (shape[0], shape[1], shape[2], x.shape[3])
        split = (
            (c // self.groups, self.groups) if self.strided else (self.groups, c // self.groups)
        )
        y = tf.reshape(x, (batch, h, w, *split))
        axes = (1, 2, 3) if self.strided else (1, 2, 4)
        mean, var = tf.nn.moments(y, axes, keepdims=True)
        y = tf.reshape((y - mean) * tf.math.rsqrt(var + self.epsilon), shape)
        return y * self.scale + self.offset if self.affine else y * self.scale


class Unit(tf.Module):
    def __init__(self, c_in, width, c_out, stride, dtype, *, norm1=None, norm2=None, norm3=None,
                 grouped=None, plain_shortcut=False, relu_first=False, half=False):  # fmt: skip
        super().__init__()
        self.stride, self.plain, self.relu_first = stride, plain_shortcut, relu_first
        self.half = half
        self.a = Conv(1, c_in, width, dtype)
        self.norm_a = GroupNorm(2, width, dtype, **norm1 or {})
        self.b = Conv(3, width, width, dtype, groups=2, stride=stride, **grouped or {})
        self.norm_b = GroupNorm(4, width, dtype, **norm2 or {})
        self.c = Conv(1, width, c_out, dtype)
        self.norm_c = GroupNorm(3, c_out, dtype, **norm3 or {})
        self.short = Conv(1, c_in, c_out, dtype)

    def __call__(self, x):
        y = tf.nn.relu(self.norm_a(self.a(x)))
        if self.half:
            y = tf.cast(tf.cast(y, tf.bfloat16), x.dtype)
        y = tf.nn.relu(self.norm_b(self.b(y)))
        y = self.norm_c(self.c(y))
        if self.plain:
            x = x[:, :: self.stride, :: self.stride]
        else:
            x = tf.nn.avg_pool2d(x, self.stride, self.stride, "VALID")
        x = self.short(x)
        return tf.nn.relu(y) + x if self.relu_first else tf.nn.relu(y + x)


class Network(tf.Module):
    """Images (batch, 8, 12, 3) to class scores (batch, classes)."""

    def __init__(self, dtype, classes=4, *, zero_pool=False, unit1=None, unit2=None, mean=False):
        super().__init__(name="network")
        self.zero_pool, self.mean = zero_pool, mean
        self.stem = Conv(3, 3, 6, dtype)
        self.unit1 = Unit(6, 8, 9, 1, dtype, **unit1 or {})
        self.unit2 = Unit(9, 8, 12, 2, dtype, **unit2 or {})
        self.w = tf.Variable(tf.zeros((12, classes), dtype), name="w")
        self.b = tf.Variable(tf.zeros(classes, dtype), name="b")

    def __call__(self, images):
        x = self.stem(images)
        lowest = 0.0 if self.zero_pool else x.dtype.min
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=lowest)
        x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        x = self.unit2(self.unit1(x))
        pooled = tf.reduce_mean(x, (1, 2)) if self.mean else tf.reduce_max(x, (1, 2))
        return tf.matmul(pooled, self.w) + self.b


OPTIONS = {
    "pool-pads-zeros": {"zero_pool": True},
    "groups-strided": {"unit1": {"norm2": {"strided": True}}},
    "no-shift": {"unit2": {"norm1": {"affine": False}}},
    "epsilon": {"unit2": {"norm3": {"epsilon": 1e-3}}},
    "channels-shuffled": {"unit2": {"grouped": {"shuffled": True}}},
    "plain-shortcut": {"unit2": {"plain_shortcut": True}},
    "relu-before-sum": {"unit1": {"relu_first": True}},
    "bfloat16": {"unit2": {"half": True}},
    "mean-instead-of-max": {"mean": True},
}


def make_reference(dtype: str = "float32") -> ResNeXt:
    return as_trained(ResNeXt(), dtype)


def make_port(dtype: str = "float32", fault: str | None = None) -> Network:
    return Network(tf.as_dtype(dtype), **OPTIONS[fault] if fault else {})


def copy_weights(reference: ResNeXt, port: Network) -> None:
    convs, norms = [(port.stem, reference.stem)], []
    for unit, block in ((port.unit1, reference.layer1), (port.unit2, reference.layer2)):
        convs += [
            (unit.a, block.conv1),
            (unit.b, block.conv2),
            (unit.c, block.conv3),
            (unit.short, block.downsample[1]),
        ]
        norms += [(unit.norm_a, block.gn1), (unit.norm_b, block.gn2), (unit.norm_c, block.gn3)]
    for to, layer in convs:
        to.kernel.assign(values_of(layer.weight).transpose(2, 3, 1, 0))
        to.bias.assign(values_of(layer.bias))
    for to, layer in norms:
        to.scale.assign(values_of(layer.weight))
        to.offset.assign(values_of(layer.bias))
    port.w.assign(values_of(reference.fc.weight).T)
    port.b.assign(values_of(reference.fc.bias))


CASES = [
    PortCase(
        name="resnext",
        reference_framework="torch",
        port_framework="tensorflow",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"images": Input(("batch", 3, 8, 12), axes="NCHW", port_axes="NHWC")},
        faults={
            "pool-pads-zeros": Fault("semantic", "maxpool", "padding-value"),
            "groups-strided": Fault("semantic", "layer1.gn2", "norm-axis"),
            "no-shift": Fault("semantic", "layer2.gn1", "norm-affine"),
            "epsilon": Fault("semantic", "layer2.gn3", "norm-epsilon"),
            "channels-shuffled": Fault("semantic", "layer2.conv2", "channel-order"),
            "plain-shortcut": Fault(
                "semantic", "layer2.downsample.0", "reduction", note="every other cell, no mean"
            ),
            "relu-before-sum": Fault("semantic", "layer1", "activation-place"),
            "bfloat16": Fault(
                "precision", "layer2", "low-precision", note="what enters the grouped convolution"
            ),
            "mean-instead-of-max": Fault("semantic", "", "reduction", between=("layer2", "fc")),
        },
    )
]
