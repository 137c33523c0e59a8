"""A torch network with a branch, and the same in JAX with faults that are asked for."""

from __future__ import annotations

import torch

from pytest_fwcompare import TensorSpec

WORDS = {"x": TensorSpec(("batch", 5, 6))}


class Reference(torch.nn.Module):
    """A chain with a branch: a norm, an activation, and a sum over the sequence beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.into = torch.nn.Linear(6, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.act = torch.nn.GELU()
        self.mid = torch.nn.Linear(8, 8)
        self.out = torch.nn.Linear(8, 4)
        self.side = torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        main = self.out(torch.tanh(self.mid(self.act(self.norm(self.into(x))))))
        return main.mean(1) + torch.softmax(self.side(x), -1).mean(1)


def jax_port(*, epsilon: float = 1e-5, approximate: bool = False, axis: int = -1):
    """The same in JAX; each argument that is given is a fault."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 4)

    class Port(eqx.Module):
        into: eqx.nn.Linear
        norm: eqx.nn.LayerNorm
        mid: eqx.nn.Linear
        out: eqx.nn.Linear
        side: eqx.nn.Linear

        def __init__(self) -> None:
            self.into = eqx.nn.Linear(6, 8, key=keys[0])
            self.norm = eqx.nn.LayerNorm(8, eps=epsilon)
            self.mid = eqx.nn.Linear(8, 8, key=keys[1])
            self.out = eqx.nn.Linear(8, 4, key=keys[2])
            self.side = eqx.nn.Linear(6, 4, key=keys[3])

        def word(self, x):
            hidden = jax.nn.gelu(self.norm(self.into(x)), approximate=approximate)
            return self.out(jnp.tanh(self.mid(hidden)))

        def __call__(self, x):
            side = jax.nn.softmax(jax.vmap(jax.vmap(self.side))(x), axis=axis)
            return jax.vmap(jax.vmap(self.word))(x).mean(1) + side.mean(1)

    return Port()


def reference() -> Reference:
    torch.manual_seed(0)
    return Reference()


def places(comparison) -> list[tuple[str | None, str | None]]:
    """Culprit and cause of all differences, the first included."""
    rows = [comparison, *comparison.further]
    return [(row.culprit, row.cause) for row in rows]


NORM = ("norm", "norm-epsilon")
ACT = ("act", "activation-variant")
SOFTMAX = ("", "softmax-axis")
