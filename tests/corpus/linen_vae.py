"""A variational autoencoder of small images, with its likelihood: torch to flax.linen."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import torch
from torch import nn

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

LATENT = 3


class Encoder(nn.Module):
    """Images (batch, 1, 8, 8) to means and log-variances (batch, 3)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=2, dilation=2)
        self.act = nn.ELU()
        self.mean = nn.Linear(8 * 16, LATENT)
        self.spread = nn.Linear(8 * 16, LATENT)

    def forward(self, x):
        y = self.act(self.conv2(self.act(self.conv1(x)))).flatten(1)
        return self.mean(y), self.spread(y).clamp(-1, 1)


class Decoder(nn.Module):
    """Latents (batch, 3) to image logits (batch, 1, 8, 8)."""

    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(LATENT, 6 * 16)
        self.up = nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.LeakyReLU(0.2)
        self.out = nn.Conv2d(4, 1, 3, padding=1, padding_mode="reflect")

    def forward(self, z):
        y = self.lift(z).unflatten(1, (6, 4, 4))
        return self.out(self.act(self.norm(self.up(y))))


class VAE(nn.Module):
    """Images and noise (batch, 3) to logits, mean, log-variance and the bound (batch,)."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()

    def forward(self, images, noise):
        mean, spread = self.encoder(images)
        logits = self.decoder(mean + noise * torch.exp(0.5 * spread))
        target = torch.sigmoid(images)
        likelihood = nn.functional.binary_cross_entropy_with_logits(
            logits, target, reduction="none"
        ).sum((1, 2, 3))
        divergence = 0.5 * (mean**2 + spread.exp() - 1 - spread).sum(-1)
        return logits, mean, spread, likelihood + divergence


class Port(linen.Module):
    """The same in NHWC; the images come as NHWC too."""

    option: str = ""
    kind: str = "float32"

    @linen.compact
    def __call__(self, images, noise):
        dtype = jnp.dtype(self.kind)

        def conv(name, features, **how):
            return linen.Conv(features, (3, 3), param_dtype=dtype, name=name, **how)

        pads = ((1, 1), (1, 1))
        y = conv("enc_a", 6, strides=2, padding=pads)(images)
        y = jax.nn.elu(y, 0.5) if self.option == "elu-alpha" else jax.nn.elu(y)
        dilated = 1 if self.option == "undilated" else 2
        y = conv("enc_b", 8, kernel_dilation=dilated, padding=dilated)(y)
        y = jax.nn.elu(y)
        if self.option != "flatten-nhwc":
            y = y.transpose(0, 3, 1, 2)
        y = y.reshape(y.shape[0], -1)
        mean = linen.Dense(LATENT, param_dtype=dtype, name="mu")(y)
        spread = linen.Dense(LATENT, param_dtype=dtype, name="log_var")(y)
        spread = jnp.clip(spread, *((-0.5, 0.5) if self.option == "clipped-tighter" else (-1, 1)))
        z = mean + noise * jnp.exp(0.5 * spread)
        y = linen.Dense(96, param_dtype=dtype, name="dec_in")(z)
        y = y.reshape(-1, 6, 4, 4).transpose(0, 2, 3, 1)
        # Flax gives the amounts of padding of the dilated input: kernel - 1 - padding.
        y = linen.ConvTranspose(
            4,
            (4, 4),
            strides=(2, 2),
            padding=((2, 2), (2, 2)),
            transpose_kernel=True,
            param_dtype=dtype,
            name="dec_up",
        )(y)
        y = linen.BatchNorm(
            use_running_average=True, epsilon=1e-5, param_dtype=dtype, name="dec_bn"
        )(y)
        y = jax.nn.leaky_relu(y, 0.2)
        way = "edge" if self.option == "edge-padding" else "reflect"
        y = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=way)
        logits = conv("dec_out", 1, padding="VALID")(y)
        target = jax.nn.sigmoid(images)
        loss = jax.nn.softplus(logits) - target * logits
        over = jnp.mean if self.option == "mean-likelihood" else jnp.sum
        bound = over(loss, (1, 2, 3))
        bound += 0.5 * jnp.sum(mean**2 + jnp.exp(spread) - 1 - spread, -1)
        return logits, mean, spread, bound


def make_reference(dtype="float32"):
    return as_trained(VAE(), dtype)


def make_port(dtype="float32", fault=None):
    kind = jax_in(dtype)
    module = Port(fault or "", dtype)
    given = jnp.zeros((1, 8, 8, 1), kind), jnp.zeros((1, LATENT), kind)
    variables = module.init(jax.random.key(0), *given)
    return module, jax.tree.map(lambda x: x.astype(kind), variables)


def copy_weights(reference, port):
    params, stats = port[1]["params"], port[1]["batch_stats"]["dec_bn"]
    encoder, decoder = reference.encoder, reference.decoder

    def put(name, kernel, bias):
        owner = params[name]
        owner["kernel"] = jnp.asarray(kernel)
        owner["bias"] = jnp.asarray(values_of(bias))

    for name, conv in (
        ("enc_a", encoder.conv1),
        ("enc_b", encoder.conv2),
        ("dec_out", decoder.out),
    ):
        put(name, values_of(conv.weight).transpose(2, 3, 1, 0), conv.bias)
    for name, linear in (
        ("mu", encoder.mean),
        ("log_var", encoder.spread),
        ("dec_in", decoder.lift),
    ):
        put(name, values_of(linear.weight).T, linear.bias)
    # transpose_kernel takes (height, width, out, in) and flips, as torch does.
    up = values_of(decoder.up.weight).transpose(2, 3, 1, 0)
    put("dec_up", up, decoder.up.bias)
    params["dec_bn"]["scale"] = jnp.asarray(values_of(decoder.norm.weight))
    params["dec_bn"]["bias"] = jnp.asarray(values_of(decoder.norm.bias))
    stats["mean"] = jnp.asarray(values_of(decoder.norm.running_mean))
    stats["var"] = jnp.asarray(values_of(decoder.norm.running_var))


CASES = [
    PortCase(
        name="linen_vae",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "images": Input(("batch", 1, 8, 8), axes="NCHW", port_axes="NHWC"),
            "noise": Input(("batch", LATENT)),
        },
        output_axes=("NCHW", "NZ", "NZ", "N"),
        port_output_axes=("NHWC", "NZ", "NZ", "N"),
        faults={
            "elu-alpha": Fault("semantic", "encoder.act", "activation-parameter"),
            "undilated": Fault("semantic", "encoder.conv2", "stride-dilation"),
            "flatten-nhwc": Fault("semantic", "encoder", "flatten-order"),
            "clipped-tighter": Fault("semantic", "encoder", "clipping"),
            "edge-padding": Fault("semantic", "decoder.out", "padding-value"),
            "mean-likelihood": Fault("semantic", "", "reduction", between=("decoder", "")),
        },
    )
]
