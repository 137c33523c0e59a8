"""Capsules with routing by agreement: functional Keras with a layer of its own, to torch."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn

from .common import Fault, Input, PortCase, keras_in

KINDS, DIM, OUT, LENGTH = 18, 4, 3, 5


class Routing(layers.Layer):
    """Votes of capsules (batch, kinds, dim) agree on (batch, out, length)."""

    def build(self, shape):
        self.votes = self.add_weight(
            name="votes", shape=(OUT, KINDS, LENGTH, DIM), initializer="glorot_normal"
        )
        self.prior = self.add_weight(name="prior", shape=(OUT, KINDS), initializer="normal")

    def squash(self, s):
        square = ops.sum(s * s, -1, keepdims=True)
        return square / (1.0 + square) * s / ops.sqrt(square + 1e-7)

    def call(self, u):
        votes = ops.einsum("jkld,bkd->bjkl", self.votes, u)
        logits = self.prior[None] + 0.0 * ops.sum(votes, -1)
        for step in range(2):
            share = ops.softmax(logits, axis=1)
            v = self.squash(ops.einsum("bjk,bjkl->bjl", share, votes))
            if step == 0:
                logits = logits + ops.einsum("bjkl,bjl->bjk", votes, v)
        return v


class Squash(layers.Layer):
    """Lengths below one."""

    def call(self, s):
        square = ops.sum(s * s, -1, keepdims=True)
        return square / (1.0 + square) * s / ops.sqrt(square + 1e-7)


def make_reference(dtype="float32"):
    """Images (batch, 9, 9, 2) to lengths (batch, 3), and a reconstruction (batch, 12)."""
    keras.utils.set_random_seed(11)
    with keras_in(dtype):
        image = keras.Input((9, 9, 2), name="image")
        x = layers.Conv2D(
            8, 3, strides=2, padding="same", activation="relu", name="features",
            bias_initializer="normal",
        )(image)  # fmt: skip
        x = layers.Conv2D(8, 3, name="primary", bias_initializer="normal")(x)
        x = layers.Reshape((KINDS, DIM), name="capsules")(x)
        x = Squash(name="squash")(x)
        v = Routing(name="routing")(x)
        length = ops.sqrt(ops.sum(v * v, -1) + 1e-7)
        y = layers.Flatten(name="flat")(v)
        y = layers.Dense(10, name="grow", bias_initializer="normal")(y)
        y = layers.PReLU(name="bend", alpha_initializer="uniform")(y)
        y = layers.Dense(12, activation="sigmoid", name="paint", bias_initializer="normal")(y)
        return keras.Model(image, [length, y])


class CapsNet(nn.Module):
    """The port: parameters in a list, in another order."""

    def __init__(self, option=""):
        super().__init__()
        self.o = option
        self.p = nn.ParameterList(
            [
                torch.randn(12, 10) * 0.3,
                torch.randn(12),
                torch.rand(10),
                torch.randn(10, OUT * LENGTH) * 0.3,
                torch.randn(10),
                torch.randn(OUT, KINDS, LENGTH, DIM) * 0.3,
                torch.randn(OUT, KINDS),
            ]
        )
        self.a = nn.Conv2d(2, 8, 3, stride=2, padding=1)
        self.b = nn.Conv2d(8, 8, 3)

    def squash(self, s):
        square = s.pow(2).sum(-1, keepdim=True)
        return square / (1 + square) * s / (square + 1e-7).sqrt()

    def route(self, u):
        votes = torch.einsum("jkld,bkd->bjkl", self.p[5], u)
        logits = self.p[6].expand(u.shape[0], -1, -1)
        for step in range(2):
            share = logits.softmax(2 if self.o == "softmax-over-inputs" else 1)
            s = (share[..., None] * votes).sum(2)
            s = s / KINDS if self.o == "mean-vote" else s
            v = self.squash(s)
            if step == 0:
                agree = (votes * v[:, :, None]).sum(-1)
                logits = logits + (agree.detach() if self.o == "routing-detached" else agree)
        return v

    def forward(self, image):
        x = self.a(image)
        x = torch.relu(x)
        x = self.b(x)
        if self.o == "second-relu":
            x = torch.relu(x)
        if self.o != "capsules-of-nchw":
            x = x.permute(0, 2, 3, 1)
        u = self.squash(x.reshape(-1, KINDS, DIM))
        v = self.route(u)
        y = nn.functional.linear(v.flatten(1), self.p[3], self.p[4])
        y = torch.relu(y) if self.o == "relu-for-prelu" else nn.functional.prelu(y, self.p[2])
        y = nn.functional.linear(y, self.p[0], self.p[1])
        y = torch.tanh(y) if self.o == "tanh-for-sigmoid" else torch.sigmoid(y)
        return (v.pow(2).sum(-1) + 1e-7).sqrt(), y


def make_port(dtype="float32", fault=None):
    torch.manual_seed(4)
    return CapsNet(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value))


def copy_weights(reference, port):
    def values(name):
        return reference.get_layer(name).get_weights()

    for name, conv in (("features", port.a), ("primary", port.b)):
        kernel, bias = values(name)
        fill(conv.weight, kernel.transpose(3, 2, 0, 1))
        fill(conv.bias, bias)
    for name, weight, bias in (("paint", 0, 1), ("grow", 3, 4)):
        fill(port.p[weight], values(name)[0].T)
        fill(port.p[bias], values(name)[1])
    fill(port.p[2], values("bend")[0])
    fill(port.p[5], values("routing")[0])
    fill(port.p[6], values("routing")[1])


CASES = [
    PortCase(
        name="capsules",
        reference_framework="keras",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"image": Input(("batch", 9, 9, 2), axes="NHWC", port_axes="NCHW")},
        faults={
            "softmax-over-inputs": Fault("semantic", "routing", "softmax-axis"),
            "mean-vote": Fault("semantic", "routing", "reduction"),
            "routing-detached": Fault("semantic", "routing", "gradient-path", shows_in="backward"),
            "capsules-of-nchw": Fault("semantic", "capsules", "flatten-order"),
            "second-relu": Fault("semantic", "primary", "activation-place"),
            "relu-for-prelu": Fault("semantic", "bend", "activation-parameter"),
            "tanh-for-sigmoid": Fault("semantic", "paint", "activation-variant"),
        },
        note="Parameters of the port lie in a list; nothing has a name.",
    )
]
