"""A two-layer GRU over noisy series, by hand with lax.scan: torch to a function with params."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from torch import nn

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

FEATURES, HIDDEN, OUT = 5, 7, 3


class Forecaster(nn.Module):
    """Series (batch, time, 5) to means (batch, 3) and log-likelihood scales (batch, 3)."""

    def __init__(self):
        super().__init__()
        self.normalise = nn.LayerNorm(FEATURES)
        self.recurrent = nn.GRU(FEATURES, HIDDEN, num_layers=2, batch_first=True)
        self.mean = nn.Linear(HIDDEN, OUT)
        self.scale = nn.Linear(HIDDEN, OUT)
        self.positive = nn.Softplus()

    def forward(self, series):
        states, _ = self.recurrent(self.normalise(series))
        last = states[:, -1]
        return self.mean(last), self.positive(self.scale(last)) + 1e-3


class Forward:
    """The port's function; `option` is the fault."""

    def __init__(self, option):
        self.option = option

    def cell(self, p, h, x):
        xr, xz, xn = jnp.split(x @ p["wx"] + p["bx"], 3, -1)
        hr, hz, hn = jnp.split(h @ p["wh"] + p["bh"], 3, -1)
        r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        if self.option == "reset-before":
            n = jnp.tanh(xn + (r * h) @ p["wh"][:, -HIDDEN:] + p["bh"][-HIDDEN:])
        else:
            n = jnp.tanh(xn + r * hn)
        if self.option == "update-complement":
            z = 1 - z
        return (1 - z) * n + z * h

    def layer(self, p, xs):
        fill = 0.1 if self.option == "initial-ones" else 0.0
        start = jnp.full((xs.shape[0], HIDDEN), fill, xs.dtype)

        def step(h, x):
            if self.option == "truncated-gradient":
                h = jax.lax.stop_gradient(h)
            h = self.cell(p, h, x)
            return h, h

        _, hs = jax.lax.scan(step, start, xs.swapaxes(0, 1))
        return hs.swapaxes(0, 1)

    def __call__(self, params, series):
        x = series - series.mean(-1, keepdims=True)
        x = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)
        x = x * params["norm"]["g"] + params["norm"]["b"]
        for p in params["cells"]:
            x = self.layer(p, x)
        last = x[:, -1]
        raw = last @ params["scale"]["w"] + params["scale"]["b"]
        sharpness = 2.0 if self.option == "sharper-softplus" else 1.0
        spread = jax.nn.softplus(sharpness * raw) / sharpness + 1e-3
        return last @ params["mean"]["w"] + params["mean"]["b"], spread


def make_reference(dtype="float32"):
    return as_trained(Forecaster(), dtype)


def make_port(dtype="float32", fault=None):
    kind = jax_in(dtype)
    keys = iter(jax.random.split(jax.random.key(1), 20))

    def draw(*shape):
        return jax.random.normal(next(keys), shape, kind) * 0.3

    cells = [
        {
            "wx": draw(n, 3 * HIDDEN),
            "wh": draw(HIDDEN, 3 * HIDDEN),
            "bx": draw(3 * HIDDEN),
            "bh": draw(3 * HIDDEN),
        }
        for n in (FEATURES, HIDDEN)
    ]
    params = {
        "norm": {"g": jnp.ones(FEATURES, kind), "b": jnp.zeros(FEATURES, kind)},
        "cells": cells,
        "mean": {"w": draw(HIDDEN, OUT), "b": draw(OUT)},
        "scale": {"w": draw(HIDDEN, OUT), "b": draw(OUT)},
    }
    return Forward(fault or ""), params


def copy_weights(reference, port):
    params = port[1]

    def put(owner, name, array):
        owner[name] = jnp.asarray(array)

    put(params["norm"], "g", values_of(reference.normalise.weight))
    put(params["norm"], "b", values_of(reference.normalise.bias))
    for index, cell in enumerate(params["cells"]):
        held = {
            name: values_of(getattr(reference.recurrent, f"{name}_l{index}"))
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        put(cell, "wx", held["weight_ih"].T)
        put(cell, "wh", held["weight_hh"].T)
        put(cell, "bx", held["bias_ih"])
        put(cell, "bh", held["bias_hh"])
    for name in ("mean", "scale"):
        linear = getattr(reference, name)
        put(params[name], "w", values_of(linear.weight).T)
        put(params[name], "b", values_of(linear.bias))


CASES = [
    PortCase(
        name="scan_gru",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"series": Input(("batch", "time", FEATURES))},
        faults={
            "reset-before": Fault("semantic", "recurrent", "cell-variant"),
            "update-complement": Fault("semantic", "recurrent", "cell-variant"),
            "sharper-softplus": Fault("semantic", "positive", "activation-parameter"),
            "initial-ones": Fault("semantic", "recurrent", "initial-state"),
            "truncated-gradient": Fault(
                "semantic", "recurrent", "gradient-path", shows_in="backward"
            ),
        },
    )
]
