"""A generator of small images with transposed convolutions: equinox to torch."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, jax_in

LATENT, WIDTH = 5, 8


class Generator(eqx.Module):
    """Latents (batch, 5) to images (batch, 3, 8, 8)."""

    project: eqx.nn.Linear
    norm: eqx.nn.GroupNorm
    up1: eqx.nn.ConvTranspose2d
    up2: eqx.nn.ConvTranspose2d
    smooth: eqx.nn.Conv2d
    colour: eqx.nn.Conv2d

    def __init__(self, dtype):
        keys = jax.random.split(jax.random.key(6), 5)
        how = {"dtype": dtype}
        self.project = eqx.nn.Linear(LATENT, WIDTH * 4, key=keys[0], **how)
        self.norm = eqx.nn.GroupNorm(4, WIDTH, **how)
        self.up1 = eqx.nn.ConvTranspose2d(
            WIDTH, WIDTH, 3, stride=2, padding=1, output_padding=1, key=keys[1], **how
        )
        self.up2 = eqx.nn.ConvTranspose2d(WIDTH, 4, 4, stride=2, padding=1, key=keys[2], **how)
        self.smooth = eqx.nn.Conv2d(4, 8, 3, padding=1, groups=4, key=keys[3], **how)
        self.colour = eqx.nn.Conv2d(8, 3, 1, key=keys[4], **how)

    def one(self, z):
        x = self.project(z).reshape(WIDTH, 2, 2)
        x = jax.nn.leaky_relu(self.norm(x), 0.2)
        x = jax.nn.relu(self.up1(x))
        x = self.smooth(jax.nn.softplus(self.up2(x)))
        return jnp.tanh(self.colour(x))

    def __call__(self, z):
        return jax.vmap(self.one)(z)


class Port(nn.Module):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.fc = nn.Linear(LATENT, WIDTH * 4)
        self.gn = nn.GroupNorm(4, WIDTH, eps=1e-3 if option == "group-epsilon" else 1e-5)
        self.a = nn.ConvTranspose2d(WIDTH, WIDTH, 3, stride=2, padding=1, output_padding=1)
        self.b = nn.ConvTranspose2d(WIDTH, 4, 4, stride=2, padding=1)
        self.c = nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.d = nn.Conv2d(8, 3, 1)

    def forward(self, z):
        option = self.option
        x = self.fc(z)
        if option == "reshaped-nhwc":
            x = x.view(-1, 2, 2, WIDTH).permute(0, 3, 1, 2)
        else:
            x = x.view(-1, WIDTH, 2, 2)
        x = F.leaky_relu(self.gn(x), 0.01 if option == "slope" else 0.2)
        weight = self.a.weight.flip(2, 3) if option == "kernel-unflipped" else self.a.weight
        if option == "cropped-before":
            y = F.conv_transpose2d(x, weight, self.a.bias, stride=2)
            y = y[:, :, :-1, :-1]
        else:
            y = F.conv_transpose2d(x, weight, self.a.bias, stride=2, padding=1, output_padding=1)
        y = self.b(F.relu(y))
        y = self.c(F.softplus(y, beta=2.0) if option == "softplus-beta" else F.softplus(y))
        if option == "channels-interleaved":
            y = y.view(-1, 4, 2, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)
        y = self.d(y)
        return torch.sigmoid(y) if option == "sigmoid" else torch.tanh(y)


def make_reference(dtype="float32"):
    return Generator(jax_in(dtype))


def make_port(dtype="float32", fault=None):
    return Port(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.array(value)).reshape(parameter.shape))


def copy_weights(reference, port):
    fill(port.fc.weight, reference.project.weight)
    fill(port.fc.bias, reference.project.bias)
    fill(port.gn.weight, reference.norm.weight)
    fill(port.gn.bias, reference.norm.bias)
    for ours, theirs in ((reference.up1, port.a), (reference.up2, port.b)):
        # Equinox keeps (out, in, h, w) and does not flip.
        kernel = np.flip(np.asarray(ours.weight), (2, 3)).swapaxes(0, 1)
        fill(theirs.weight, kernel)
        fill(theirs.bias, ours.bias)
    for ours, theirs in ((reference.smooth, port.c), (reference.colour, port.d)):
        fill(theirs.weight, ours.weight)
        fill(theirs.bias, ours.bias)


CASES = [
    PortCase(
        name="eqx_gan",
        reference_framework="jax",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"latent": Input(("batch", LATENT))},
        faults={
            "group-epsilon": Fault("semantic", "norm", "norm-epsilon"),
            "reshaped-nhwc": Fault("semantic", "", "flatten-order", between=("project", "norm")),
            "slope": Fault("semantic", "", "activation-parameter", between=("norm", "up1")),
            "kernel-unflipped": Fault("semantic", "up1", "kernel-layout"),
            "cropped-before": Fault("semantic", "up1", "padding"),
            "softplus-beta": Fault(
                "semantic", "", "activation-parameter", between=("up2", "smooth")
            ),
            "channels-interleaved": Fault("semantic", "smooth", "channel-order"),
            "sigmoid": Fault("semantic", "", "activation-variant", between=("colour", "")),
        },
    )
]
