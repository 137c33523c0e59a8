"""Two encoders and their contrastive and likelihood losses: a plain JAX function to torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, jax_in

INPUT, WIDTH, OUT = 6, 10, 4


class Function:
    """Pairs of rows (batch, 6) to a matrix of scores (batch, batch) and losses (batch,)."""

    def encode(self, p, x):
        h = x @ p["w1"] + p["b1"]
        mean = h.mean(-1, keepdims=True)
        spread = jnp.var(h, -1, keepdims=True)
        h = (h - mean) / jnp.sqrt(spread + 1e-5) * p["gain"] + p["shift"]
        h = jax.nn.selu(h)
        y = h @ p["w2"] + p["b2"]
        return y / jnp.sqrt(jnp.sum(y * y, -1, keepdims=True) + 1e-6)

    def __call__(self, params, left, right):
        a, b = self.encode(params["left"], left), self.encode(params["right"], right)
        scores = a @ b.T / 0.07
        rows = -jnp.diagonal(jax.nn.log_softmax(scores, -1))
        columns = -jnp.diagonal(jax.nn.log_softmax(scores, 0))
        far = jnp.clip(jnp.sum((a - b) ** 2, -1), 0.1, 2.0)
        return scores, 0.5 * (rows + columns) + far


class Encoder(nn.Module):
    """The port's half."""

    def __init__(self, option):
        super().__init__()
        self.option = option
        self.first = nn.Linear(INPUT, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-3 if option == "norm-epsilon" else 1e-5)
        self.second = nn.Linear(WIDTH, OUT)

    def forward(self, x):
        h = self.first(x)
        if self.option == "unbiased-variance":
            centre = h - h.mean(-1, keepdim=True)
            h = centre / torch.sqrt(h.var(-1, keepdim=True) + 1e-5)
            h = h * self.norm.weight + self.norm.bias
        else:
            h = self.norm(h)
        h = F.elu(h) if self.option == "elu" else F.selu(h)
        y = self.second(h)
        eps = 1e-2 if self.option == "length-epsilon" else 1e-6
        return y / torch.sqrt(y.pow(2).sum(-1, keepdim=True) + eps)


class Port(nn.Module):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.one, self.two = Encoder(""), Encoder(option)

    def forward(self, left, right):
        option = self.option
        a, b = self.one(left), self.two(right)
        scores = a @ b.T / (0.1 if option == "temperature" else 0.07)
        rows = -torch.log_softmax(scores, -1).diagonal()
        columns = -torch.log_softmax(scores, -1 if option == "one-way" else 0).diagonal()
        both = rows + columns if option == "summed" else 0.5 * (rows + columns)
        far = (a - b).pow(2)
        far = far.mean(-1) if option == "mean-distance" else far.sum(-1)
        far = far if option == "unclipped" else far.clamp(0.1, 2.0)
        return scores, both + far


def make_reference(dtype="float32"):
    kind = jax_in(dtype)
    keys = iter(jax.random.split(jax.random.key(3), 20))

    def draw(*shape):
        return jax.random.normal(next(keys), shape, kind) * 0.5

    def half():
        return {
            "w1": draw(INPUT, WIDTH),
            "b1": draw(WIDTH),
            "gain": 1 + draw(WIDTH),
            "shift": draw(WIDTH),
            "w2": draw(WIDTH, OUT),
            "b2": draw(OUT),
        }

    return Function(), {"left": half(), "right": half()}


def make_port(dtype="float32", fault=None):
    return Port(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.array(value)))


def copy_weights(reference, port):
    for name, half in (("left", port.one), ("right", port.two)):
        held = reference[1][name]
        fill(half.first.weight, np.asarray(held["w1"]).T)
        fill(half.first.bias, held["b1"])
        fill(half.norm.weight, held["gain"])
        fill(half.norm.bias, held["shift"])
        fill(half.second.weight, np.asarray(held["w2"]).T)
        fill(half.second.bias, held["b2"])


CASES = [
    PortCase(
        name="jax_contrast",
        reference_framework="jax",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"left": Input(("batch", INPUT)), "right": Input(("batch", INPUT))},
        faults={
            "norm-epsilon": Fault("semantic", "", "norm-epsilon"),
            "unbiased-variance": Fault("semantic", "", "reduction"),
            "elu": Fault("semantic", "", "activation-variant"),
            "length-epsilon": Fault("semantic", "", "norm-epsilon"),
            "temperature": Fault("semantic", "", "activation-parameter"),
            "one-way": Fault("semantic", "", "softmax-axis"),
            "summed": Fault("semantic", "", "reduction"),
            "mean-distance": Fault("semantic", "", "reduction"),
            "unclipped": Fault("semantic", "", "clipping"),
        },
        note="The reference has no submodules.",
    )
]
