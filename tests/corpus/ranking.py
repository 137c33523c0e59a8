"""Embeddings of categories, their pairwise products and factorisation: torch to flax nnx."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from .common import Fault, Input, PortCase, as_trained, jax_in, values_of

FIELDS, VALUES, WIDTH, DENSE = 3, 7, 5, 4
PAIRS = (FIELDS + 1) * FIELDS // 2


class Interact(nn.Module):
    """Vectors (batch, 4, width) to the products of all pairs (batch, 6)."""

    def __init__(self):
        super().__init__()
        rows, columns = torch.tril_indices(FIELDS + 1, FIELDS + 1, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    def forward(self, vectors):
        products = vectors @ vectors.transpose(1, 2)
        return products[:, self.rows, self.columns]


class Ranking(nn.Module):
    """Numbers (batch, 4), categories (batch, 3), a list (batch, 5) to probabilities (batch,)."""

    def __init__(self):
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(DENSE, 8), nn.ReLU(), nn.Linear(8, WIDTH), nn.ReLU())
        self.fields = nn.ModuleList([nn.Embedding(VALUES, WIDTH) for _ in range(FIELDS)])
        self.history = nn.EmbeddingBag(VALUES, WIDTH, mode="mean")
        self.interact = Interact()
        self.top = nn.Sequential(
            nn.Linear(PAIRS + WIDTH, 8), nn.BatchNorm1d(8), nn.Sigmoid(), nn.Linear(8, 1)
        )

    def forward(self, numbers, categories, seen):
        dense = self.bottom(numbers)
        vectors = [table(categories[:, i]) for i, table in enumerate(self.fields)]
        vectors[-1] = vectors[-1] + self.history(seen)
        pairs = self.interact(torch.stack([dense, *vectors], 1))
        logits = self.top(torch.cat([dense, pairs], 1))[:, 0]
        summed = torch.stack(vectors).sum(0)
        squares = torch.stack(vectors).square().sum(0)
        return torch.sigmoid(logits + 0.5 * (summed.square() - squares).sum(-1))


class Net(nnx.Module):
    """The port: layers in reverse, tables looked up together."""

    def __init__(self, dtype, option=""):
        r = nnx.Rngs(5)
        how = {"param_dtype": dtype, "rngs": r}
        self.z2 = nnx.Linear(8, 1, **how)
        self.zn = nnx.BatchNorm(
            8, use_running_average=True, param_dtype=dtype, rngs=r,
            epsilon=1e-3 if option == "batch-epsilon" else 1e-5, momentum=0.9,
        )  # fmt: skip
        self.z1 = nnx.Linear(PAIRS + WIDTH, 8, **how)
        self.bag = nnx.Embed(VALUES, WIDTH, **how)
        self.tables = nnx.List([nnx.Embed(VALUES, WIDTH, **how) for _ in range(FIELDS)])
        self.d2, self.d1 = nnx.Linear(8, WIDTH, **how), nnx.Linear(DENSE, 8, **how)
        self.option = option

    def __call__(self, numbers, categories, seen):
        option = self.option
        dense = self.d2(nnx.relu(self.d1(numbers)))
        dense = dense if option == "linear-bottom" else nnx.relu(dense)
        found = jnp.stack([t(categories[:, i]) for i, t in enumerate(self.tables)], 1)
        bag = self.bag(seen)
        bag = bag.sum(1) if option == "summed-bag" else bag.mean(1)
        found = found.at[:, -1].add(bag)
        every = jnp.concatenate([dense[:, None], found], 1)
        products = jnp.einsum("bid,bjd->bij", every, every)
        if option == "upper-triangle":
            rows, columns = np.triu_indices(FIELDS + 1, 1)
        else:
            rows, columns = np.tril_indices(FIELDS + 1, -1)
        parts = [dense, products[:, rows, columns]]
        y = self.zn(self.z1(jnp.concatenate(parts, 1)))
        y = nnx.hard_sigmoid(y) if option == "hard-sigmoid" else nnx.sigmoid(y)
        logits = self.z2(y)[:, 0]
        if option == "cross-detached":
            found = jax.lax.stop_gradient(found)
        cross = found.sum(1) ** 2 - (found**2).sum(1)
        cross = cross.mean(-1) if option == "mean-cross" else cross.sum(-1)
        return nnx.sigmoid(logits + 0.5 * cross)


def make_reference(dtype="float32"):
    return as_trained(Ranking(), dtype)


def make_port(dtype="float32", fault=None):
    return Net(jax_in(dtype), fault or "")


def copy_weights(reference, port):
    def put(param, value):
        param[...] = jnp.asarray(value, param.dtype)

    def linear(theirs, ours):
        put(theirs.kernel, values_of(ours.weight).T)
        put(theirs.bias, values_of(ours.bias))

    linear(port.d1, reference.bottom[0])
    linear(port.d2, reference.bottom[2])
    linear(port.z1, reference.top[0])
    linear(port.z2, reference.top[3])
    norm = reference.top[1]
    put(port.zn.scale, values_of(norm.weight))
    put(port.zn.bias, values_of(norm.bias))
    put(port.zn.mean, values_of(norm.running_mean))
    put(port.zn.var, values_of(norm.running_var))
    put(port.bag.embedding, values_of(reference.history.weight))
    for theirs, ours in zip(port.tables, reference.fields, strict=True):
        put(theirs.embedding, values_of(ours.weight))


CASES = [
    PortCase(
        name="ranking",
        reference_framework="torch",
        port_framework="jax",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={
            "numbers": Input(("batch", DENSE)),
            "categories": Input(("batch", FIELDS), kind="tokens", high=VALUES),
            "seen": Input(("batch", 5), kind="tokens", high=VALUES),
        },
        faults={
            "batch-epsilon": Fault("semantic", "top.1", "norm-epsilon"),
            "linear-bottom": Fault("semantic", "bottom.3", "activation-place"),
            "summed-bag": Fault("semantic", "history", "reduction"),
            "upper-triangle": Fault("semantic", "interact", "flatten-order"),
            "hard-sigmoid": Fault("semantic", "top.2", "activation-variant"),
            "cross-detached": Fault(
                "semantic", "", "gradient-path", shows_in="backward", between=("top", "")
            ),
            "mean-cross": Fault("semantic", "", "reduction", between=("top", "")),
        },
        note="Lists of tables, products of pairs.",
    )
]
