"""A mixture of experts, two for each token: torch to a JAX function with fused weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

WIDTH, INNER, EXPERTS, OUT = 6, 9, 4, 3


class Expert(nn.Module):
    """A gated feed-forward net."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, INNER)
        self.up = nn.Linear(WIDTH, INNER)
        self.act = nn.SiLU()
        self.down = nn.Linear(INNER, WIDTH)

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


class Mixture(nn.Module):
    """Tokens (batch, width): the two likeliest of four experts, weighed anew."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList([Expert() for _ in range(EXPERTS)])

    def forward(self, x):
        y = self.norm(x)
        chance = self.router(y).softmax(-1)
        top, index = chance.topk(2, -1)
        share = torch.zeros_like(chance).scatter(-1, index, top / top.sum(-1, keepdim=True))
        every = torch.stack([expert(y) for expert in self.experts], 1)
        return x + (share[..., None] * every).sum(1), chance


class Net(nn.Module):
    """Tokens (batch, 6) to scores (batch, 3), chances (batch, 4), balance (4,)."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(WIDTH, WIDTH)
        self.mixture = Mixture()
        self.leave = nn.Linear(WIDTH, OUT)

    def forward(self, x):
        y, chance = self.mixture(self.enter(x))
        return {"scores": self.leave(y), "chance": chance, "balance": chance.mean(0) * EXPERTS}


class Function:
    """The port."""

    def __init__(self, option):
        self.option = option

    def expert(self, p, y):
        gate, up = jnp.split(y @ p["w13"] + p["b13"], 2, -1)
        gate = jax.nn.gelu(gate) if self.option == "gelu" else jax.nn.silu(gate)
        return (gate * up) @ p["w2"] + p["b2"]

    def __call__(self, p, x):
        option = self.option
        x = x @ p["in_w"] + p["in_b"]
        mean, eps = x.mean(-1, keepdims=True), 1e-6 if option == "norm-epsilon" else 1e-5
        y = (x - mean) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps)
        y = y * p["scale"] + p["offset"]
        logits = y @ p["route"]
        chance = jax.nn.softmax(logits, 0 if option == "softmax-over-tokens" else -1)
        top, index = jax.lax.top_k(chance, 2)
        if option != "not-weighed-anew":
            top = top / top.sum(-1, keepdims=True)
        if option == "router-detached":
            top = jax.lax.stop_gradient(top)
        share = (jax.nn.one_hot(index, EXPERTS, dtype=x.dtype) * top[..., None]).sum(1)
        every = [self.expert(e, y) for e in p["experts"]]
        z = (jnp.stack(every, 1) * share[..., None]).sum(1)
        x = (y if option == "residual-of-norm" else x) + z
        balance = chance.sum(0) if option == "summed-balance" else chance.mean(0)
        return {
            "scores": x @ p["out_w"] + p["out_b"],
            "chance": chance,
            "balance": balance * EXPERTS,
        }


def make_reference(dtype="float32"):
    return as_trained(Net(), dtype)


def make_port(dtype="float32", fault=None):
    kind = jax_in(dtype)
    keys = iter(jax.random.split(jax.random.key(3), 40))

    def draw(*shape):
        return jax.random.normal(next(keys), shape, kind)

    expert = {"w13": (WIDTH, 2 * INNER), "b13": (2 * INNER,), "w2": (INNER, WIDTH), "b2": (WIDTH,)}
    outer = {
        "in_w": (WIDTH, WIDTH),
        "in_b": (WIDTH,),
        "scale": (WIDTH,),
        "offset": (WIDTH,),
        "route": (WIDTH, EXPERTS),
        "out_w": (WIDTH, OUT),
        "out_b": (OUT,),
    }
    drawn = {name: draw(*shape) for name, shape in outer.items()}
    drawn["experts"] = [
        {name: draw(*shape) for name, shape in expert.items()} for _ in range(EXPERTS)
    ]
    return Function(fault or ""), drawn


def copy_weights(reference, port):
    mixture = reference.mixture
    made = {
        "in_w": values_of(reference.enter.weight).T,
        "in_b": values_of(reference.enter.bias),
        "scale": values_of(mixture.norm.weight),
        "offset": values_of(mixture.norm.bias),
        "route": values_of(mixture.router.weight).T,
        "out_w": values_of(reference.leave.weight).T,
        "out_b": values_of(reference.leave.bias),
    }
    for name, value in made.items():
        port[1][name] = jnp.asarray(value)
    for theirs, ours in zip(port[1]["experts"], mixture.experts, strict=True):
        for kind, short in (("weight", "w"), ("bias", "b")):
            parts = [values_of(getattr(layer, kind)).T for layer in (ours.gate, ours.up)]
            theirs[short + "13"] = jnp.asarray(np.concatenate(parts, -1))
            theirs[short + "2"] = jnp.asarray(values_of(getattr(ours.down, kind)).T)


CASES = [
    PortCase(
        name="experts",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"x": Input(("batch", WIDTH))},
        faults={
            "norm-epsilon": Fault("semantic", "mixture.norm", "norm-epsilon"),
            "softmax-over-tokens": Fault("semantic", "mixture", "softmax-axis"),
            "not-weighed-anew": Fault("semantic", "mixture", "reduction"),
            "router-detached": Fault("semantic", "mixture", "gradient-path", shows_in="backward"),
            "gelu": Fault("semantic", "mixture.experts", "activation-variant"),
            "residual-of-norm": Fault("semantic", "mixture", "residual"),
            "summed-balance": Fault("semantic", "", "reduction", between=("mixture", "leave")),
        },
        note="Two products of each expert fused.",
    )
]
