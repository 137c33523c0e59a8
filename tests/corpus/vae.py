"""Variational autoencoder of features with noise as an input: torch to a raw tf.Module."""

from __future__ import annotations

import tensorflow as tf
import torch
import torch.nn.functional as F
from torch import nn

from .common import Fault, Input, PortCase, as_trained, values_of


class VAE(nn.Module):
    """Features (batch, 10), noise (batch, 4) to (scores, mean, spread, divergence)."""

    def __init__(self, features: int = 10, hidden: int = 12, latent: int = 4):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ELU())
        self.mean = nn.Linear(hidden, latent)
        self.spread = nn.Linear(hidden, latent)
        self.decode = nn.Sequential(
            nn.Linear(latent, hidden), nn.Softplus(), nn.Linear(hidden, features)
        )

    def forward(self, features, noise):
        hidden = self.encode(features)
        mean = self.mean(hidden)
        logvar = self.spread(hidden).clamp(-6.0, 4.0)
        sample = mean + torch.exp(0.5 * logvar) * noise
        divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=1)
        scores = F.logsigmoid(self.decode(sample))
        return scores, mean, logvar, divergence


class Affine(tf.Module):
    def __init__(self, inputs, outputs, dtype, name):
        super().__init__(name=name)
        self.kernel = tf.Variable(tf.zeros((inputs, outputs), dtype), name="kernel")
        self.bias = tf.Variable(tf.zeros(outputs, dtype), name="bias")

    def __call__(self, x):
        return x @ self.kernel + self.bias


class TensorFlowVAE(tf.Module):
    """The same in TensorFlow."""

    def __init__(
        self,
        dtype,
        features=10,
        hidden=12,
        latent=4,
        *,
        half=0.5,
        low=-6.0,
        alpha=1.0,
        naive=False,
        mean_divergence=False,
        stop=False,
        naive_softplus=False,
    ):
        super().__init__(name="vae")
        self.half, self.low, self.alpha, self.naive = half, low, alpha, naive
        self.mean_divergence, self.stop, self.naive_softplus = (
            mean_divergence,
            stop,
            naive_softplus,
        )
        self.enc = Affine(features, hidden, dtype, "enc")
        self.scale = tf.Variable(tf.ones(hidden, dtype), name="scale")
        self.offset = tf.Variable(tf.zeros(hidden, dtype), name="offset")
        self.moving_mean = tf.Variable(
            tf.zeros(hidden, dtype), trainable=False, name="moving_mean"
        )
        self.moving_var = tf.Variable(tf.ones(hidden, dtype), trainable=False, name="moving_var")
        self.to_mean = Affine(hidden, latent, dtype, "to_mean")
        self.to_logvar = Affine(hidden, latent, dtype, "to_logvar")
        self.dec = Affine(latent, hidden, dtype, "dec")
        self.out = Affine(hidden, features, dtype, "out")

    def __call__(self, features, noise):
        x = self.enc(features)
        x = tf.nn.batch_normalization(
            x, self.moving_mean, self.moving_var, self.offset, self.scale, 1e-5
        )
        x = tf.where(x > 0, x, self.alpha * tf.math.expm1(tf.minimum(x, 0)))
        mean = self.to_mean(x)
        logvar = tf.clip_by_value(self.to_logvar(x), self.low, 4.0)
        spread = tf.exp(self.half * logvar)
        if self.stop:
            spread = tf.stop_gradient(spread)
        sample = mean + spread * noise
        terms = 0.5 * (tf.square(mean) + tf.exp(logvar) - 1 - logvar)
        reduce = tf.reduce_mean if self.mean_divergence else tf.reduce_sum
        y = self.dec(sample)
        y = tf.math.log(1 + tf.exp(y)) if self.naive_softplus else tf.nn.softplus(y)
        y = self.out(y)
        scores = tf.math.log(tf.sigmoid(y)) if self.naive else tf.math.log_sigmoid(y)
        return scores, mean, logvar, reduce(terms, axis=1)


OPTIONS = {
    "variance-for-deviation": {"half": 1.0},
    "lower-limit": {"low": -4.0},
    "elu-alpha": {"alpha": 0.5},
    "log-of-sigmoid": {"naive": True},
    "mean-divergence": {"mean_divergence": True},
    "spread-stopped": {"stop": True},
    "log-of-exp": {"naive_softplus": True},
}


def make_reference(dtype: str = "float32") -> VAE:
    return as_trained(VAE(), dtype)


def make_port(dtype: str = "float32", fault: str | None = None) -> TensorFlowVAE:
    return TensorFlowVAE(tf.as_dtype(dtype), **OPTIONS[fault] if fault else {})


def copy_weights(reference: VAE, port: TensorFlowVAE) -> None:
    for to, layer in (
        (port.enc, reference.encode[0]),
        (port.to_mean, reference.mean),
        (port.to_logvar, reference.spread),
        (port.dec, reference.decode[0]),
        (port.out, reference.decode[2]),
    ):
        to.kernel.assign(values_of(layer.weight).T)
        to.bias.assign(values_of(layer.bias))
    norm = reference.encode[1]
    port.scale.assign(values_of(norm.weight))
    port.offset.assign(values_of(norm.bias))
    port.moving_mean.assign(values_of(norm.running_mean))
    port.moving_var.assign(values_of(norm.running_var))


CASES = [
    PortCase(
        name="vae",
        reference_framework="torch",
        port_framework="tensorflow",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"features": Input(("batch", 10)), "noise": Input(("batch", 4))},
        faults={
            "variance-for-deviation": Fault(
                "semantic", "", "activation-parameter", between=("spread", "decode.0")
            ),
            "lower-limit": Fault("semantic", "", "clipping", between=("spread", "decode.0")),
            "elu-alpha": Fault("semantic", "encode.2", "activation-parameter"),
            "log-of-sigmoid": Fault("nonfinite", "", "unstable-formula", between=("decode.2", "")),
            "mean-divergence": Fault("semantic", "", "reduction", between=("mean", "")),
            "spread-stopped": Fault(
                "semantic", "", "gradient-path", "backward", between=("spread", "decode.0")
            ),
            "log-of-exp": Fault("nonfinite", "decode.1", "unstable-formula"),
        },
    )
]
