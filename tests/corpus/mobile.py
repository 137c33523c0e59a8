"""Inverted residuals with squeeze and excitation: torch to Keras Functional."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn

from .common import Fault, Input, PortCase, as_trained, keras_in, values_of


class SqueezeExcite(nn.Module):
    """Scales the channels of (batch, c, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)
        self.act, self.gate = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x):
        scale = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.act(self.reduce(scale))))


class InvertedResidual(nn.Module):
    """Images (batch, c_in, h, w) to (batch, c_out, h / stride, w / stride)."""

    def __init__(self, c_in: int, hidden: int, c_out: int, stride: int):
        super().__init__()
        self.expand = nn.Sequential(
            nn.Conv2d(c_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.Hardswish()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.Hardswish(),
        )
        self.se = SqueezeExcite(hidden)
        self.project = nn.Sequential(
            nn.Conv2d(hidden, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
        )
        self.skips = stride == 1 and c_in == c_out

    def forward(self, x):
        y = self.project(self.se(self.depthwise(self.expand(x))))
        return x + y if self.skips else y


class MobileNet(nn.Module):
    """Images (batch, 3, height, width) to class scores (batch, classes)."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.Hardswish()
        )
        self.blocks = nn.ModuleList([InvertedResidual(6, 8, 6, 1), InvertedResidual(6, 12, 8, 2)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(8, classes)

    def forward(self, images):
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(torch.flatten(self.pool(x), 1))


class UnbiasedNorm(layers.BatchNormalization):
    """Batch norm whose running variance is unbiased, as torch keeps it."""

    def call(self, inputs, training=None):
        old = ops.copy(self.moving_variance)
        result = super().call(inputs, training=training)
        if training:
            count = ops.cast(ops.size(inputs) // ops.shape(inputs)[-1], old.dtype)
            added = self.moving_variance - self.momentum * old
            self.moving_variance.assign_add(added / (count - 1))
        return result


def build(
    classes: int = 4,
    *,
    swish: str = "hard_swish",
    gate: str = "hard_sigmoid",
    squeeze=ops.mean,
    same: bool = False,
    epsilon: float = 1e-5,
    skip: bool = True,
    momentum: float = 0.9,
    squeeze_act: str | None = "relu",
) -> keras.Model:
    """Images (batch, height, width, 3) to class scores (batch, classes)."""

    def norm(x, name, epsilon=1e-5, momentum=0.9):
        return UnbiasedNorm(momentum=momentum, epsilon=epsilon, name=f"{name}_bn")(x)

    def strided(layer, x, stride, padding):
        if stride == 2 and not padding:
            x = layers.ZeroPadding2D(1)(x)
        return layer(x)

    def block(x, name, hidden, out, stride, **options):
        y = layers.Conv2D(hidden, 1, use_bias=False, name=f"{name}_expand")(x)
        y = norm(y, f"{name}_expand", options.get("epsilon", 1e-5))
        y = layers.Activation("hard_swish")(y)
        same = stride == 1 or options.get("same")
        depthwise = layers.DepthwiseConv2D(
            3, stride, "same" if same else "valid", use_bias=False, name=f"{name}_dw"
        )
        y = strided(depthwise, y, stride, same)
        y = norm(y, f"{name}_dw", momentum=options.get("momentum", 0.9))
        y = layers.Activation(options.get("swish", "hard_swish"))(y)
        s = options.get("squeeze", ops.mean)(y, axis=(1, 2), keepdims=True)
        act = options.get("squeeze_act", "relu")
        s = layers.Conv2D(hidden // 4, 1, activation=act, name=f"{name}_se_reduce")(s)
        s = layers.Conv2D(hidden, 1, name=f"{name}_se_expand")(s)
        y = y * layers.Activation(options.get("gate", "hard_sigmoid"))(s)
        y = layers.Conv2D(out, 1, use_bias=False, name=f"{name}_project")(y)
        y = norm(y, f"{name}_project")
        return layers.Add()([x, y]) if stride == 1 and options.get("skip", True) else y

    images = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, 2, use_bias=False, name="stem")(layers.ZeroPadding2D(1)(images))
    x = layers.Activation("hard_swish")(norm(x, "stem"))
    x = block(x, "b1", 8, 6, 1, swish=swish, gate=gate, skip=skip, momentum=momentum)
    x = block(
        x, "b2", 12, 8, 2, squeeze=squeeze, same=same, epsilon=epsilon, squeeze_act=squeeze_act
    )
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(classes, name="classifier")(x))


OPTIONS = {
    "swish": {"swish": "silu"},
    "soft-gate": {"gate": "sigmoid"},
    "squeeze-by-sum": {"squeeze": ops.sum},
    "same-padding": {"same": True},
    "keras-epsilon": {"epsilon": 1e-3},
    "no-skip": {"skip": False},
    "momentum": {"momentum": 0.99},
    "no-relu-in-squeeze": {"squeeze_act": None},
}


def make_reference(dtype: str = "float32") -> MobileNet:
    return as_trained(MobileNet(), dtype)


def make_port(dtype: str = "float32", fault: str | None = None) -> keras.Model:
    with keras_in(dtype):
        return build(**OPTIONS[fault] if fault else {})


def copy_weights(reference: MobileNet, port: keras.Model) -> None:
    def conv(name, layer):
        weight = values_of(layer.weight)
        to = port.get_layer(name)
        axes = (2, 3, 0, 1) if layer.groups > 1 else (2, 3, 1, 0)
        biases = [] if layer.bias is None else [values_of(layer.bias)]
        to.set_weights([weight.transpose(axes), *biases])

    def norm(name, layer):
        port.get_layer(f"{name}_bn").set_weights(
            [
                values_of(value)
                for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var)
            ]
        )

    conv("stem", reference.stem[0])
    norm("stem", reference.stem[1])
    for name, block in zip(("b1", "b2"), reference.blocks, strict=True):
        for part, module in (
            ("expand", block.expand),
            ("dw", block.depthwise),
            ("project", block.project),
        ):
            conv(f"{name}_{part}", module[0])
            norm(f"{name}_{part}", module[1])
        conv(f"{name}_se_reduce", block.se.reduce)
        conv(f"{name}_se_expand", block.se.expand)
    head = reference.classifier
    port.get_layer("classifier").set_weights([values_of(head.weight).T, values_of(head.bias)])


CASES = [
    PortCase(
        name="mobile",
        reference_framework="torch",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"images": Input(("batch", 3, "height", "width"), axes="NCHW", port_axes="NHWC")},
        faults={
            "swish": Fault("semantic", "blocks.0.depthwise.2", "activation-variant"),
            "soft-gate": Fault("semantic", "blocks.0.se.gate", "activation-variant"),
            "squeeze-by-sum": Fault("semantic", "blocks.1.se", "reduction"),
            "same-padding": Fault("semantic", "blocks.1.depthwise.0", "padding"),
            "keras-epsilon": Fault("semantic", "blocks.1.expand.1", "norm-epsilon"),
            "no-skip": Fault("semantic", "blocks.0", "residual"),
            "momentum": Fault(
                "semantic", "blocks.0.depthwise.1", "running-statistics", shows_in="training"
            ),
            "no-relu-in-squeeze": Fault("semantic", "blocks.1.se.act", "activation-place"),
        },
    )
]
