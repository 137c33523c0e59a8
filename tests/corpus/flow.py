"""A normalising flow with log-determinants: torch to a JAX function with a list of arrays."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import torch
from torch import nn

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

WIDTH, HIDDEN, STEPS = 6, 8, 2


class ActNorm(nn.Module):
    """A scale and shift of each feature, and the log-determinant."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(0.3 * torch.randn(WIDTH))
        self.shift = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x):
        return (x + self.shift) * self.log_scale.exp(), self.log_scale.sum()


class Coupling(nn.Module):
    """One half is scaled and shifted as the other says."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(WIDTH // 2, HIDDEN)
        self.act = nn.Softplus()
        self.leave = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x):
        left, right = x.chunk(2, -1)
        raw, shift = self.leave(self.act(self.enter(left))).chunk(2, -1)
        scale = 2 * torch.tanh(raw / 2)
        right = right * scale.exp() + shift
        return torch.cat([left, right], -1), scale.sum(-1)


class Flow(nn.Module):
    """Rows (batch, 6) to latents (batch, 6), log-determinants and log-likelihoods (batch,)."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([ActNorm() for _ in range(STEPS)])
        self.steps = nn.ModuleList([Coupling() for _ in range(STEPS)])

    def forward(self, x):
        total = torch.zeros_like(x[:, 0])
        for norm, step in zip(self.norms, self.steps, strict=True):
            x, log_det = norm(x)
            total = total + log_det
            x, log_det = step(x.flip(-1))
            total = total + log_det
        prior = -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)
        return {"z": x, "log_det": total, "likelihood": prior + total}


class Function:
    """The port: parameters in a flat list, the last layer first."""

    def __init__(self, option):
        self.option = option

    def __call__(self, params, x):
        option, total = self.option, 0.0
        for step in range(STEPS):
            last = step == STEPS - 1
            w2, b2, w1, b1, shift, log_scale = params[6 * (STEPS - 1 - step) :][:6]
            if last and option == "shift-after-scale":
                x = x * jnp.exp(log_scale) + shift
            else:
                x = (x + shift) * jnp.exp(log_scale)
            total = total + jnp.sum(log_scale)
            x = jnp.roll(x, 1, -1) if last and option == "rolled" else x[:, ::-1]
            a, b = jnp.split(x, 2, -1)
            h = a @ w1 + b1
            h = jax.nn.elu(h) if last and option == "elu" else jax.nn.softplus(h)
            raw, move = jnp.split(h @ w2 + b2, 2, -1)
            if last and option == "halves-swapped":
                raw, move = move, raw
            if last and option == "hard-limit":
                s = 2 * jnp.clip(raw / 2, -1, 1)
            else:
                s = raw if last and option == "unlimited" else 2 * jnp.tanh(raw / 2)
            b = b * jnp.exp(s) + move
            if last and option == "determinant-detached":
                s = jax.lax.stop_gradient(s)
            part = jnp.mean(s, -1) if last and option == "mean-log-det" else jnp.sum(s, -1)
            total = total + part
            x = jnp.concatenate([a, b], -1)
        prior = -0.5 * jnp.sum(x**2 + jnp.log(2 * jnp.pi), -1)
        return {"z": x, "log_det": total, "likelihood": prior + total}


def make_reference(dtype="float32"):
    return as_trained(Flow(), dtype)


def make_port(dtype="float32", fault=None):
    kind = jax_in(dtype)
    shapes = [(HIDDEN, WIDTH), (WIDTH,), (WIDTH // 2, HIDDEN), (HIDDEN,), (WIDTH,), (WIDTH,)]
    keys = jax.random.split(jax.random.key(2), 6 * STEPS)
    drawn = zip(keys, shapes * STEPS, strict=True)
    return Function(fault or ""), [jax.random.normal(key, shape, kind) for key, shape in drawn]


def copy_weights(reference, port):
    made = []
    for norm, step in reversed(list(zip(reference.norms, reference.steps, strict=True))):
        made += [values_of(step.leave.weight).T, values_of(step.leave.bias)]
        made += [values_of(step.enter.weight).T, values_of(step.enter.bias)]
        made += [values_of(norm.shift), values_of(norm.log_scale)]
    port[1][:] = [jnp.asarray(value) for value in made]


CASES = [
    PortCase(
        name="flow",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"x": Input(("batch", WIDTH))},
        faults={
            "shift-after-scale": Fault("semantic", "norms.1", "bias"),
            "rolled": Fault("semantic", "", "channel-order", between=("norms.1", "steps.1")),
            "elu": Fault("semantic", "steps.1.act", "activation-variant"),
            "halves-swapped": Fault("semantic", "steps.1", "fused-order"),
            "unlimited": Fault("semantic", "steps.1", "activation-place"),
            "hard-limit": Fault("semantic", "steps.1", "activation-variant"),
            "determinant-detached": Fault(
                "semantic", "steps.1", "gradient-path", shows_in="backward"
            ),
            "mean-log-det": Fault("semantic", "steps.1", "reduction"),
        },
        note="Parameters are numbered from the last layer to the first; outputs have names.",
    )
]
