"""Layers that two libraries cut differently: patches as rows, attention of several widths."""

from __future__ import annotations

from typing import Any

import pytest

import pytest_fwcompare as fwc

torch = pytest.importorskip("torch")
keras = pytest.importorskip("keras")
nn = torch.nn

IMAGES = {"x": fwc.TensorSpec((2, 3, 8, 12), axes="NCHW", port_axes="NHWC")}


class Convolved(nn.Module):
    """Patches of 4 by 4 by a convolution."""

    def __init__(self):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class Unfolded(nn.Module):
    """The same patches as rows, channels first in each."""

    def __init__(self):
        super().__init__()
        self.proj, self.norm = nn.Linear(48, 8), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(self.proj(nn.functional.unfold(x, 4, stride=4).transpose(1, 2)))


class Rows(keras.Model):
    """Patches as rows, channels last in each; `turned` takes rows and columns the wrong way."""

    def __init__(self, turned: bool = False):
        super().__init__()
        self.proj = keras.layers.Dense(8)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5)
        self.turned = turned

    def call(self, x):
        x = keras.ops.reshape(x, (-1, 2, 4, 3, 4, 3))
        x = keras.ops.transpose(x, (0, 1, 3, 4, 2, 5) if self.turned else (0, 1, 3, 2, 4, 5))
        return self.norm(self.proj(keras.ops.reshape(x, (-1, 6, 48))))


class Patches(keras.Model):
    """Patches by a convolution in Keras."""

    def __init__(self):
        super().__init__()
        self.proj = keras.layers.Conv2D(8, 4, strides=4)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5)

    def call(self, x):
        return self.norm(keras.ops.reshape(self.proj(x), (-1, 6, 8)))


@pytest.mark.parametrize(("reference", "port"), [(Convolved, Rows), (Unfolded, Patches)])
def test_patches_by_convolution_and_as_rows(reference, port):
    found = fwc.compare(reference(), port(), inputs=IMAGES, examples=4)
    assert found.passed, found.summary()
    (kernel,) = (row for row in found.weights if row.references == ("proj.weight",))
    assert "cells of a patch one after the other" in kernel.reason


def test_patches_that_are_turned_are_another_function():
    found = fwc.compare(Convolved(), Rows(turned=True), inputs=IMAGES, examples=4)
    assert found.verdict == "semantic"


class Crossed(nn.Module):
    """Attention to keys and values of other widths."""

    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, kdim=6, vdim=5, batch_first=True)

    def forward(self, query, key, value):
        return self.attn(query, key, value, need_weights=False)[0]


def test_attention_of_several_widths():
    class Port(keras.Model):
        def __init__(self):
            super().__init__()
            self.attn = keras.layers.MultiHeadAttention(2, 4, output_shape=8)

        def call(self, query, key, value):
            return self.attn(query, value, key=key)

    sizes = {"query": (2, 3, 8), "key": (2, 4, 6), "value": (2, 4, 5)}
    inputs = {name: fwc.TensorSpec(shape) for name, shape in sizes.items()}
    found = fwc.compare(Crossed(), Port(), inputs=inputs, examples=4)
    assert found.passed, found.summary()
    biases = [row for row in found.weights if row.references == ("attn.in_proj_bias",)]
    assert len(biases) == 3


EPSILON = 1.001e-5  # of keras.applications


class Bottleneck(nn.Module):
    """Named as torchvision's is."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        wide = 4 * width

        def norm(size: int) -> Any:
            return nn.BatchNorm2d(size, eps=EPSILON)

        self.conv1, self.bn1 = nn.Conv2d(given, width, 1, stride), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, wide, 1), norm(wide)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride > 1 or given != wide:
            self.downsample = nn.Sequential(nn.Conv2d(given, wide, 1, stride), norm(wide))

    def forward(self, x):
        made = self.relu(self.bn1(self.conv1(x)))
        made = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(made)))))
        return self.relu(made + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        self.bn1, self.relu = nn.BatchNorm2d(64, eps=EPSILON), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Bottleneck(64, 8, 1), Bottleneck(32, 8, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 16, 2), Bottleneck(64, 16, 1))
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


def test_a_resnet_of_keras_applications_against_the_names_of_torchvision():
    from keras.src.applications import resnet

    def stack(x):
        x = resnet.stack_residual_blocks_v1(x, 8, 2, stride1=1, name="conv2")
        return resnet.stack_residual_blocks_v1(x, 16, 2, name="conv3")

    port = resnet.ResNet(
        stack,
        False,
        True,
        name="small",
        weights=None,
        classes=10,
        input_shape=(32, 32, 3),
        classifier_activation=None,
    )
    spec = fwc.TensorSpec((2, 3, 32, 32), axes="NCHW", port_axes="NHWC")
    found = fwc.compare(ResNet(), port, inputs={"x": spec}, examples=2, explain=False)
    assert found.passed, found.summary()
    assert all(row.port and row.references for row in found.weights)
