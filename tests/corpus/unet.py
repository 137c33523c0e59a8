"""U-Net with concatenated skips and instance norms: torch to a subclassed Keras model."""

from __future__ import annotations

import keras
import torch
import torch.nn.functional as F
from keras import layers, ops
from torch import nn

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of


class DoubleConv(nn.Module):
    """Images (batch, c_in, h, w) to (batch, c_out, h, w)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="reflect")
        self.norm = nn.InstanceNorm2d(c_out, affine=True)
        self.act = nn.LeakyReLU(0.1)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class UNet(nn.Module):
    """Images (batch, 2, 12, 12) to class probabilities (batch, classes, 12, 12)."""

    def __init__(self, width: int = 5, classes: int = 3):
        super().__init__()
        self.down1 = DoubleConv(2, width)
        self.down2 = DoubleConv(width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.middle = DoubleConv(2 * width, 3 * width)
        self.up2 = nn.ConvTranspose2d(3 * width, 2 * width, 2, stride=2)
        self.join2 = DoubleConv(4 * width, 2 * width)
        self.join1 = DoubleConv(3 * width, width)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, images):
        first = self.down1(images)
        second = self.down2(self.pool(first))
        x = self.up2(self.middle(self.pool(second)))
        x = self.join2(torch.cat([second, x], dim=1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.join1(torch.cat([first, x], dim=1))
        return torch.softmax(self.classify(x), dim=1)


class ConvNormAct(layers.Layer):
    """Images (batch, h, w, c_in) to (batch, h, w, c_out)."""

    def __init__(self, filters, *, pad="reflect", slope=0.1, epsilon=1e-5, axes=(1, 2), name=None):
        super().__init__(name=name)
        self.pad, self.slope, self.epsilon, self.axes = pad, slope, epsilon, axes
        self.conv = layers.Conv2D(filters, 3, name="conv")
        self.gain = self.add_weight(shape=(filters,), initializer="ones", name="gain")
        self.shift = self.add_weight(shape=(filters,), initializer="zeros", name="shift")

    def call(self, x):
        x = self.conv(ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode=self.pad))
        mean = ops.mean(x, axis=self.axes, keepdims=True)
        var = ops.mean(ops.square(x - mean), axis=self.axes, keepdims=True)
        x = (x - mean) * ops.rsqrt(var + self.epsilon) * self.gain + self.shift
        return ops.maximum(x, self.slope * x)


class KerasUNet(keras.Model):
    """Images (batch, 12, 12, 2) to class probabilities (batch, 12, 12, classes)."""

    def __init__(
        self,
        width: int = 5,
        classes: int = 3,
        *,
        skip_last: bool = False,
        resize: str = "bilinear",
        axis: int = -1,
        down2: dict | None = None,
        middle: dict | None = None,
        join2: dict | None = None,
    ):
        super().__init__()
        self.skip_last, self.resize, self.axis = skip_last, resize, axis
        self.enc1 = ConvNormAct(width, name="enc1")
        self.enc2 = ConvNormAct(2 * width, name="enc2", **down2 or {})
        self.bottom = ConvNormAct(3 * width, name="bottom", **middle or {})
        self.dec2 = layers.Conv2DTranspose(2 * width, 2, strides=2, name="dec2")
        self.merge2 = ConvNormAct(2 * width, name="merge2", **join2 or {})
        self.merge1 = ConvNormAct(width, name="merge1")
        self.head = layers.Conv2D(classes, 1, name="head")
        self.shrink = layers.MaxPooling2D(2)
        self(keras.KerasTensor((1, 12, 12, 2), dtype=self.compute_dtype))

    def call(self, images):
        a = self.enc1(images)
        b = self.enc2(self.shrink(a))
        x = self.dec2(self.bottom(self.shrink(b)))
        x = self.merge2(ops.concatenate([x, b] if self.skip_last else [b, x], axis=-1))
        height, width = x.shape[1], x.shape[2]
        x = ops.image.resize(x, (2 * height, 2 * width), interpolation=self.resize)
        x = self.merge1(ops.concatenate([a, x], axis=-1))
        return ops.softmax(self.head(x), axis=self.axis)


OPTIONS = {
    "skip-behind": {"skip_last": True},
    "nearest-upsampling": {"resize": "nearest"},
    "softmax-over-width": {"axis": 2},
    "zero-padding": {"down2": {"pad": "constant"}},
    "slope": {"middle": {"slope": 0.2}},
    "epsilon": {"join2": {"epsilon": 1e-3}},
    "layer-norm": {"join2": {"axes": (1, 2, 3)}},
}


def make_reference(dtype: str = "float32") -> UNet:
    return as_trained(UNet(), dtype)


def make_port(dtype: str = "float32", fault: str | None = None) -> KerasUNet:
    with keras_in(dtype):
        return KerasUNet(**OPTIONS[fault] if fault else {})


def copy_weights(reference: UNet, port: KerasUNet) -> None:
    blocks = {
        port.enc1: reference.down1,
        port.enc2: reference.down2,
        port.bottom: reference.middle,
        port.merge2: reference.join2,
        port.merge1: reference.join1,
    }
    for to, block in blocks.items():
        to.conv.kernel.assign(values_of(block.conv.weight).transpose(2, 3, 1, 0))
        to.conv.bias.assign(values_of(block.conv.bias))
        to.gain.assign(values_of(block.norm.weight))
        to.shift.assign(values_of(block.norm.bias))
    for to, layer in ((port.dec2, reference.up2), (port.head, reference.classify)):
        to.kernel.assign(values_of(layer.weight).transpose(2, 3, 1, 0))
        to.bias.assign(values_of(layer.bias))


CASES = [
    PortCase(
        name="unet",
        reference_framework="torch",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"images": Input(("batch", 2, 12, 12), axes="NCHW", port_axes="NHWC")},
        faults={
            "skip-behind": Fault(
                "semantic", "", "channel-order", between=("up2", "join2"), note="concat order"
            ),
            "nearest-upsampling": Fault(
                "semantic", "", "resize-alignment", between=("join2", "join1")
            ),
            "softmax-over-width": Fault(
                "semantic", "", "softmax-axis", between=("classify", "classify")
            ),
            "zero-padding": Fault("semantic", "down2.conv", "padding-value"),
            "slope": Fault("semantic", "middle.act", "activation-parameter"),
            "epsilon": Fault("semantic", "join2.norm", "norm-epsilon"),
            "layer-norm": Fault("semantic", "join2.norm", "norm-axis"),
        },
        output_axes=("NCHW",),
        port_output_axes=("NHWC",),
    )
]
