"""A detector with a pyramid and three outputs: torch to Keras layers in a subclass."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of

WIDTH, CLASSES = 6, 4


class Stage(nn.Module):
    """Convolution, batch norm, activation: (batch, a, h, w) to (batch, b, h / 2, w / 2)."""

    def __init__(self, a, b):
        super().__init__()
        self.conv = nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(b)
        self.act = nn.Hardswish()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Squeeze(nn.Module):
    """Channels weighted by what they hold on average."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(2 * WIDTH, 3, 1)
        self.up = nn.Conv2d(3, 2 * WIDTH, 1)

    def forward(self, x):
        y = F.adaptive_avg_pool2d(x, 1)
        return x * F.hardsigmoid(self.up(F.relu(self.down(y))))


class Detector(nn.Module):
    """Images (batch, 3, 16, 16) to scores, boxes and a level for each image."""

    def __init__(self):
        super().__init__()
        self.stage1 = Stage(3, WIDTH)
        self.stage2 = Stage(WIDTH, 2 * WIDTH)
        self.squeeze = Squeeze()
        self.lateral = nn.Conv2d(WIDTH, 2 * WIDTH, 1)
        self.smooth = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1, groups=2 * WIDTH)
        self.classes = nn.Conv2d(2 * WIDTH, CLASSES, 1)
        self.boxes = nn.Conv2d(2 * WIDTH, 4, 1)
        self.level = nn.Linear(2 * WIDTH, 1)

    def forward(self, x):
        low = self.stage1(x)
        high = self.squeeze(self.stage2(low))
        merged = self.lateral(low) + F.interpolate(high, scale_factor=2, mode="nearest")
        merged = F.leaky_relu(self.smooth(merged), 0.1)
        batch = x.shape[0]
        scores = self.classes(merged).permute(0, 2, 3, 1).reshape(batch, -1, CLASSES)
        boxes = self.boxes(merged).permute(0, 2, 3, 1).reshape(batch, -1, 4)
        centres, sizes = boxes[..., :2].sigmoid(), boxes[..., 2:].clamp(max=2.0).exp()
        level = self.level(high.amax((2, 3)))
        return scores.softmax(-1), torch.cat([centres, sizes], -1), level.squeeze(-1)


class Port(keras.Model):
    """The port, in NHWC."""

    def __init__(self, option):
        super().__init__()
        self.option = option
        where = "same" if option == "same-padding" else "valid"
        self.c1 = layers.Conv2D(WIDTH, 3, 2, padding="valid", use_bias=False, name="c1")
        self.c2 = layers.Conv2D(2 * WIDTH, 3, 2, padding=where, use_bias=False, name="c2")
        eps = 1e-3 if option == "batch-epsilon" else 1e-5
        self.b1 = layers.BatchNormalization(epsilon=1e-5, name="b1")
        self.b2 = layers.BatchNormalization(epsilon=eps, name="b2")
        self.sq, self.ex = layers.Conv2D(3, 1, name="sq"), layers.Conv2D(2 * WIDTH, 1, name="ex")
        self.lat = layers.Conv2D(2 * WIDTH, 1, name="lat")
        self.dw = layers.DepthwiseConv2D(3, padding="same", name="dw")
        self.cls, self.box = layers.Conv2D(CLASSES, 1, name="cls"), layers.Conv2D(4, 1, name="box")
        self.fc = layers.Dense(1, name="fc")

    def call(self, x):
        option = self.option

        def pad(y):
            return ops.pad(y, [[0, 0], [1, 1], [1, 1], [0, 0]])

        low = ops.hard_silu(self.b1(self.c1(pad(x))))
        y = self.b2(self.c2(low if option == "same-padding" else pad(low)))
        y = ops.silu(y) if option == "swish" else ops.hard_silu(y)
        z = ops.mean(y, (1, 2), keepdims=True)
        z = self.ex(ops.relu(self.sq(z)))
        z = ops.sigmoid(z) if option == "soft-gate" else ops.hard_sigmoid(z)
        high = y + z if option == "added-gate" else y * z
        how = "bilinear" if option == "bilinear" else "nearest"
        size = (2 * high.shape[1], 2 * high.shape[2])
        merged = self.lat(low) + ops.image.resize(high, size, how)
        merged = self.dw(merged)
        merged = ops.leaky_relu(merged, 0.2 if option == "slope" else 0.1)
        batch = ops.shape(x)[0]
        y = self.cls(merged)
        if option == "by-columns":
            y = ops.transpose(y, (0, 2, 1, 3))
        scores = ops.reshape(y, (batch, -1, CLASSES))
        boxes = ops.reshape(self.box(merged), (batch, -1, 4))
        sizes = boxes[..., 2:]
        sizes = sizes if option == "unclipped" else ops.minimum(sizes, 2.0)
        centres = boxes[..., :2]
        centres = ops.tanh(centres) if option == "tanh-centres" else ops.sigmoid(centres)
        parts = [ops.exp(sizes), centres] if option == "sizes-first" else [centres, ops.exp(sizes)]
        pooled = ops.mean(high, (1, 2)) if option == "mean-level" else ops.max(high, (1, 2))
        scores = scores if option == "logits" else ops.softmax(scores, -1)
        return scores, ops.concatenate(parts, -1), self.fc(pooled)[:, 0]


def make_reference(dtype="float32"):
    return as_trained(Detector(), dtype)


def make_port(dtype="float32", fault=None):
    with keras_in(dtype):
        model = Port(fault or "")
        model(keras.ops.zeros((1, 16, 16, 3), dtype))
        return model


def copy_weights(reference, port):
    def conv(layer, module):
        values = [values_of(module.weight).transpose(2, 3, 1, 0)]
        layer.set_weights(
            [*values, *([values_of(module.bias)] if module.bias is not None else [])]
        )

    def norm(layer, module):
        names = ("weight", "bias", "running_mean", "running_var")
        layer.set_weights([values_of(getattr(module, name)) for name in names])

    for layers_, stage in (
        ((port.c1, port.b1), reference.stage1),
        ((port.c2, port.b2), reference.stage2),
    ):
        conv(layers_[0], stage.conv)
        norm(layers_[1], stage.bn)
    conv(port.sq, reference.squeeze.down)
    conv(port.ex, reference.squeeze.up)
    conv(port.lat, reference.lateral)
    conv(port.cls, reference.classes)
    conv(port.box, reference.boxes)
    smooth = reference.smooth
    port.dw.set_weights([values_of(smooth.weight).transpose(2, 3, 0, 1), values_of(smooth.bias)])
    port.fc.set_weights([values_of(reference.level.weight).T, values_of(reference.level.bias)])


CASES = [
    PortCase(
        name="detector",
        reference_framework="torch",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"images": Input(("batch", 3, 16, 16), axes="NCHW", port_axes="NHWC")},
        faults={
            "same-padding": Fault("semantic", "stage2.conv", "padding"),
            "batch-epsilon": Fault("semantic", "stage2.bn", "norm-epsilon"),
            "swish": Fault("semantic", "stage2.act", "activation-variant"),
            "soft-gate": Fault("semantic", "squeeze", "activation-variant"),
            "bilinear": Fault("semantic", "", "resize-alignment", between=("squeeze", "smooth")),
            "slope": Fault("semantic", "", "activation-parameter", between=("smooth", "classes")),
            "by-columns": Fault("semantic", "", "flatten-order", between=("classes", "")),
            "unclipped": Fault("semantic", "", "clipping", between=("boxes", "")),
            "tanh-centres": Fault("semantic", "", "activation-variant", between=("boxes", "")),
            "sizes-first": Fault("semantic", "", "channel-order", between=("boxes", "")),
            "mean-level": Fault("semantic", "", "reduction", between=("squeeze", "level")),
            "logits": Fault("semantic", "", "activation-place", between=("classes", "")),
        },
    )
]
