"""A small segmentation net with group norms and two ways up: Keras Functional to torch."""

from __future__ import annotations

import keras
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, keras_in

WIDTH, CLASSES = 6, 3


def make_reference(dtype="float32"):
    """Images (batch, 8, 8, 2) to class probabilities (batch, 8, 8, 3) and features (batch, 6)."""
    keras.utils.set_random_seed(21)
    with keras_in(dtype):
        some = {"bias_initializer": "normal"}
        image = keras.Input((8, 8, 2), name="image")
        first = layers.Conv2D(WIDTH, 3, padding="same", name="first", **some)(image)
        first = layers.GroupNormalization(
            2, name="norm", gamma_initializer="uniform", beta_initializer="normal"
        )(first)
        first = layers.Activation("silu", name="act")(first)
        low = layers.Conv2D(2 * WIDTH, 3, strides=2, padding="same", name="down", **some)(first)
        low = layers.ELU(name="elu")(low)
        low = layers.SeparableConv2D(2 * WIDTH, 3, padding="same", name="middle", **some)(low)
        up = layers.Conv2DTranspose(WIDTH, 4, 2, padding="same", name="up", **some)(low)
        wide = layers.UpSampling2D(2, interpolation="bilinear", name="resize")(low)
        both = layers.Concatenate(name="join")([first, up, wide])
        scores = layers.Conv2D(CLASSES, 1, name="classify", **some)(both)
        pooled = layers.GlobalAveragePooling2D(name="pool")(first)
        return keras.Model(image, [layers.Softmax(name="classes")(scores), pooled])


class Net(nn.Module):
    """The port, in NCHW."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.enter = nn.Conv2d(2, WIDTH, 3, padding=1)
        eps = 1e-5 if option == "group-epsilon" else 1e-3
        self.gn = nn.GroupNorm(3 if option == "three-groups" else 2, WIDTH, eps=eps)
        self.lower = nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2)
        self.depth = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1, groups=2 * WIDTH, bias=False)
        self.point = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 1)
        self.lift = nn.ConvTranspose2d(2 * WIDTH, WIDTH, 4, stride=2, padding=1)
        self.last = nn.Conv2d(4 * WIDTH, CLASSES, 1)

    def forward(self, x):
        option = self.option
        one = self.gn(self.enter(x))
        one = F.hardswish(one) if option == "hard-swish" else F.silu(one)
        pads = (1, 0, 1, 0) if option == "padding-before" else (0, 1, 0, 1)
        y = self.lower(F.pad(one, pads))
        y = F.elu(y, alpha=0.5) if option == "elu-alpha" else F.elu(y)
        y = self.point(self.depth(y))
        wide = F.interpolate(
            y, scale_factor=2, mode="bilinear", align_corners=option == "aligned-corners"
        )
        up = self.lift(y)
        parts = [up, one, wide] if option == "skip-last" else [one, up, wide]
        scores = self.last(torch.cat(parts, 1))
        pooled = one.amax((2, 3)) if option == "max-pooled" else one.mean((2, 3))
        return torch.softmax(scores, 2 if option == "softmax-over-rows" else 1), pooled


def make_port(dtype="float32", fault=None):
    return Net(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value))


def copy_weights(reference, port):
    def values(name):
        return reference.get_layer(name).get_weights()

    for name, conv in (("first", port.enter), ("down", port.lower), ("classify", port.last)):
        kernel, bias = values(name)
        fill(conv.weight, kernel.transpose(3, 2, 0, 1))
        fill(conv.bias, bias)
    fill(port.gn.weight, values("norm")[0])
    fill(port.gn.bias, values("norm")[1])
    depth, point, bias = values("middle")
    fill(port.depth.weight, depth.transpose(2, 3, 0, 1))
    fill(port.point.weight, point.transpose(3, 2, 0, 1))
    fill(port.point.bias, bias)
    kernel, bias = values("up")
    fill(port.lift.weight, kernel.transpose(3, 2, 0, 1))
    fill(port.lift.bias, bias)


CASES = [
    PortCase(
        name="keras_unet",
        reference_framework="keras",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"image": Input(("batch", 8, 8, 2), axes="NHWC", port_axes="NCHW")},
        output_axes=("NHWC", "NC"),
        port_output_axes=("NCHW", "NC"),
        faults={
            "group-epsilon": Fault("semantic", "norm", "norm-epsilon"),
            "three-groups": Fault("semantic", "norm", "norm-axis"),
            "hard-swish": Fault("semantic", "act", "activation-variant"),
            "padding-before": Fault("semantic", "down", "padding"),
            "elu-alpha": Fault("semantic", "elu", "activation-parameter"),
            "aligned-corners": Fault("semantic", "resize", "resize-alignment"),
            "skip-last": Fault("semantic", "join", "channel-order"),
            "max-pooled": Fault("semantic", "pool", "reduction"),
            "softmax-over-rows": Fault("semantic", "classes", "softmax-axis"),
        },
    )
]
