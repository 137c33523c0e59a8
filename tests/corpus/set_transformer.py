"""Sets with inducing points and attention pooling: equinox to torch."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .common import Fault, Input, PortCase, jax_in

FEATURES, WIDTH, HEADS, POINTS, OUT = 4, 8, 2, 3, 3


class Mix(eqx.Module):
    """Queries (n, width) attend to a set (m, width), with a feed-forward step."""

    q: eqx.nn.Linear
    kv: eqx.nn.Linear
    out: eqx.nn.Linear
    feed: eqx.nn.Linear
    norm_in: eqx.nn.LayerNorm
    norm_out: eqx.nn.LayerNorm

    def __init__(self, key, dtype):
        keys = jax.random.split(key, 4)
        self.q = eqx.nn.Linear(WIDTH, WIDTH, key=keys[0], dtype=dtype)
        self.kv = eqx.nn.Linear(WIDTH, 2 * WIDTH, key=keys[1], dtype=dtype)
        self.out = eqx.nn.Linear(WIDTH, WIDTH, key=keys[2], dtype=dtype)
        self.feed = eqx.nn.Linear(WIDTH, WIDTH, key=keys[3], dtype=dtype)
        self.norm_in = eqx.nn.LayerNorm(WIDTH, dtype=dtype)
        self.norm_out = eqx.nn.LayerNorm(WIDTH, dtype=dtype)

    def __call__(self, x, y):
        def heads(t):
            return t.reshape(len(t), HEADS, -1).transpose(1, 0, 2)

        q = heads(jax.vmap(self.q)(x))
        k, v = (heads(t) for t in jnp.split(jax.vmap(self.kv)(y), 2, -1))
        share = jax.nn.softmax(q @ k.transpose(0, 2, 1) / WIDTH**0.5, -1)
        h = (q + share @ v).transpose(1, 0, 2).reshape(len(x), WIDTH)
        h = jax.vmap(self.norm_in)(jax.vmap(self.out)(h))
        return jax.vmap(self.norm_out)(h + jax.nn.relu(jax.vmap(self.feed)(h)))


class SetNet(eqx.Module):
    """A set (members, 4) to scores (3,)."""

    embed: eqx.nn.Linear
    inducing: jax.Array
    gather: Mix
    spread: Mix
    seed: jax.Array
    pool: Mix
    head: eqx.nn.MLP

    def __init__(self, dtype):
        keys = jax.random.split(jax.random.key(1), 7)
        self.embed = eqx.nn.Linear(FEATURES, WIDTH, key=keys[0], dtype=dtype)
        self.inducing = jax.random.normal(keys[1], (POINTS, WIDTH), dtype)
        self.gather, self.spread = Mix(keys[2], dtype), Mix(keys[3], dtype)
        self.seed = jax.random.normal(keys[4], (1, WIDTH), dtype)
        self.pool = Mix(keys[5], dtype)
        self.head = eqx.nn.MLP(
            2 * WIDTH, OUT, 10, 1, activation=jax.nn.softplus, key=keys[6], dtype=dtype
        )

    def __call__(self, x):
        h = jax.vmap(self.embed)(x)
        h = self.spread(h, self.gather(self.inducing, h))
        pooled = self.pool(self.seed, h)[0]
        return self.head(jnp.concatenate([pooled, h.mean(0)]))


class MAB(nn.Module):
    """The port's half."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.ln1 = nn.LayerNorm(WIDTH)
        self.ln0 = nn.LayerNorm(WIDTH, eps=1e-6 if option == "first-epsilon" else 1e-5)
        self.fc_o, self.fc_m = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc_v, self.fc_k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc_q = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, y):
        option = self.option
        q, k, v = self.fc_q(x), self.fc_k(y), self.fc_v(y)
        if option == "heads-strided":
            q, k, v = (t.unflatten(-1, (-1, HEADS)).permute(2, 0, 1) for t in (q, k, v))
        else:
            q, k, v = (torch.stack(t.split(WIDTH // HEADS, -1)) for t in (q, k, v))
        width = WIDTH // HEADS if option == "head-scale" else WIDTH
        score = q @ k.mT / width**0.5
        share = score.softmax(-2 if option == "softmax-over-queries" else -1)
        h = x.unflatten(-1, (HEADS, -1)).transpose(0, 1) if option == "input-kept" else q
        h = h + share @ v
        h = self.ln0(self.fc_m(torch.cat(list(h), -1)))
        step = self.fc_o(h)
        step = torch.relu(step.detach() if option == "detached" else step)
        return self.ln1(h + step)


class Port(nn.Module):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.head2, self.head1 = nn.Linear(10, OUT), nn.Linear(2 * WIDTH, 10)
        self.pma, self.mab1, self.mab0 = MAB(option), MAB(), MAB()
        self.S, self.I = nn.Parameter(torch.randn(1, WIDTH)), nn.Parameter(torch.randn(3, WIDTH))
        self.enter = nn.Linear(FEATURES, WIDTH)

    def forward(self, x):
        h = self.enter(x)
        h = self.mab1(h, self.mab0(self.I, h))
        whole = h.sum(0) if self.option == "summed" else h.mean(0)
        z = self.head1(torch.cat([self.pma(self.S, h)[0], whole]))
        z = F.softplus(z, 2.0) if self.option == "sharper-softplus" else F.softplus(z)
        return self.head2(z)


def make_reference(dtype="float32"):
    model = SetNet(jax_in(dtype))
    arrays, rest = eqx.partition(model, eqx.is_array)
    leaves, tree = jax.tree.flatten(arrays)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    shaken = [
        x + 0.2 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)
    ]
    return eqx.combine(jax.tree.unflatten(tree, shaken), rest)


def make_port(dtype="float32", fault=None):
    torch.manual_seed(6)
    return Port(fault or "").to(getattr(torch, dtype)).eval()


def fill(parameter, value):
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(np.array(value)))


def copy_weights(reference, port):
    def both(theirs, ours):
        fill(theirs.weight, ours.weight)
        fill(theirs.bias, ours.bias)

    both(port.enter, reference.embed)
    both(port.head1, reference.head.layers[0])
    both(port.head2, reference.head.layers[1])
    fill(port.I, reference.inducing)
    fill(port.S, reference.seed)
    for theirs, ours in (
        (port.mab0, reference.gather),
        (port.mab1, reference.spread),
        (port.pma, reference.pool),
    ):
        both(theirs.fc_q, ours.q)
        both(theirs.fc_m, ours.out)
        both(theirs.fc_o, ours.feed)
        both(theirs.ln0, ours.norm_in)
        both(theirs.ln1, ours.norm_out)
        fill(theirs.fc_k.weight, ours.kv.weight[:WIDTH])
        fill(theirs.fc_v.weight, ours.kv.weight[WIDTH:])
        fill(theirs.fc_k.bias, ours.kv.bias[:WIDTH])
        fill(theirs.fc_v.bias, ours.kv.bias[WIDTH:])


CASES = [
    PortCase(
        name="set_transformer",
        reference_framework="jax",
        port_framework="torch",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"x": Input(("members", FEATURES))},
        faults={
            "first-epsilon": Fault("semantic", "pool.norm_in", "norm-epsilon"),
            "heads-strided": Fault("semantic", "pool", "head-split"),
            "head-scale": Fault("semantic", "pool", "attention-scale"),
            "softmax-over-queries": Fault("semantic", "pool", "softmax-axis"),
            "input-kept": Fault("semantic", "pool", "residual"),
            "detached": Fault("semantic", "pool", "gradient-path", shows_in="backward"),
            "summed": Fault("semantic", "", "reduction", between=("spread", "pool")),
            "sharper-softplus": Fault("semantic", "head", "activation-parameter"),
        },
        note="Keys and values fused in the reference; the order of definition is reversed.",
    )
]
