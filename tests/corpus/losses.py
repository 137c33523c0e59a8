"""A classifier with several losses as outputs: torch to a plain JAX function."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import torch
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

INPUT, WIDTH, CLASSES = 6, 9, 4


class Losses(nn.Module):
    """Rows (batch, 6) and targets (batch, 4) to losses of each row."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(INPUT, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.act = nn.Softplus(beta=2.0)
        self.second = nn.Linear(WIDTH, CLASSES)

    def forward(self, rows, wanted):
        scores = self.second(self.act(self.norm(self.first(rows))))
        share = torch.sigmoid(wanted)
        binary = F.binary_cross_entropy_with_logits(scores, share, reduction="none").mean(-1)
        huber = F.smooth_l1_loss(scores, wanted, reduction="none", beta=0.5).sum(-1)
        logs = F.log_softmax(scores, -1)
        target = F.softmax(wanted / 2.0, -1)
        soft = 0.9 * target + 0.1 / CLASSES
        cross = -(soft * logs).sum(-1)
        divergence = (target * ((target + 1e-6).log() - logs)).sum(-1)
        alike = F.cosine_similarity(scores, wanted, dim=-1)
        margin = (0.3 - alike).clamp(min=0.0)
        return binary, huber, cross, divergence, margin


class Function:
    """The port."""

    def __init__(self, option):
        self.option = option

    def __call__(self, p, rows, wanted):
        option = self.option
        x = rows @ p["w1"] + p["b1"]
        eps = 1e-3 if option == "batch-epsilon" else 1e-5
        x = (x - p["mean"]) * jax.lax.rsqrt(p["var"] + eps) * p["gain"] + p["shift"]
        beta = 1.0 if option == "softplus-beta" else 2.0
        x = jax.nn.softplus(beta * x) / beta
        scores = x @ p["w2"] + p["b2"]
        share = jax.nn.sigmoid(wanted)
        binary = jax.nn.softplus(scores) - share * scores
        binary = binary.sum(-1) if option == "binary-summed" else binary.mean(-1)
        far = jnp.abs(scores - wanted)
        at = 1.0 if option == "huber-at-one" else 0.5
        huber = jnp.where(far < at, 0.5 * far**2 / at, far - 0.5 * at).sum(-1)
        if option == "squared":
            huber = (0.5 * far**2).sum(-1)
        logs = jax.nn.log_softmax(scores, -1)
        warmth = 1.0 if option == "temperature" else 2.0
        target = jax.nn.softmax(wanted / warmth, -1)
        smooth = 0.2 if option == "smoothing" else 0.1
        soft = (1 - smooth) * target + smooth / CLASSES
        cross = -(soft * logs).sum(-1)
        divergence = target * (jnp.log(target + 1e-6) - logs)
        divergence = divergence.mean(-1) if option == "divergence-mean" else divergence.sum(-1)
        dot = (scores * wanted).sum(-1)
        lengths = jnp.sqrt((scores**2).sum(-1)) * jnp.sqrt((wanted**2).sum(-1))
        alike = dot if option == "dot-product" else dot / jnp.maximum(lengths, 1e-8)
        margin = 0.3 - alike
        margin = margin if option == "no-hinge" else jnp.maximum(margin, 0.0)
        return binary, huber, cross, divergence, margin


def make_reference(dtype="float32"):
    return as_trained(Losses(), dtype)


def make_port(dtype="float32", fault=None):
    kind = jax_in(dtype)
    keys = iter(jax.random.split(jax.random.key(8), 20))
    shapes = {"w1": (INPUT, WIDTH), "b1": (WIDTH,), "w2": (WIDTH, CLASSES), "b2": (CLASSES,)}
    shapes |= dict.fromkeys(("gain", "shift", "mean", "var"), (WIDTH,))
    params = {n: jnp.abs(jax.random.normal(next(keys), s, kind)) for n, s in shapes.items()}
    return Function(fault or ""), params


def copy_weights(reference, port):
    norm, p = reference.norm, port[1]
    for name, value in {
        "w1": reference.first.weight.T,
        "b1": reference.first.bias,
        "w2": reference.second.weight.T,
        "b2": reference.second.bias,
        "gain": norm.weight,
        "shift": norm.bias,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }.items():
        p[name] = jnp.asarray(values_of(value))


CASES = [
    PortCase(
        name="losses",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"rows": Input(("batch", INPUT)), "wanted": Input(("batch", CLASSES))},
        faults={
            "batch-epsilon": Fault("semantic", "norm", "norm-epsilon"),
            "softplus-beta": Fault("semantic", "act", "activation-parameter"),
            "binary-summed": Fault("semantic", "", "reduction", between=("second", "")),
            "huber-at-one": Fault("semantic", "", "activation-parameter", between=("second", "")),
            "temperature": Fault("semantic", "", "activation-parameter", between=("", "")),
            "divergence-mean": Fault("semantic", "", "reduction", between=("second", "")),
            "no-hinge": Fault("semantic", "", "clipping", between=("second", "")),
        },
    )
]
