"""A port with several faults: each is looked for with those before it repaired."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare import TensorSpec, compare

torch = pytest.importorskip("torch")

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


def found(**faults):
    return compare(
        reference, lambda: jax_port(**faults), inputs=WORDS, examples=6, checks=("forward",)
    )


def places(comparison) -> list[tuple[str | None, str | None]]:
    """Culprit and cause of all differences, the first included."""
    rows = [comparison, *comparison.further]
    return [(row.culprit, row.cause) for row in rows]


NORM = ("norm", "norm-epsilon")
ACT = ("act", "activation-variant")
SOFTMAX = ("", "softmax-axis")


@pytest.mark.parametrize(
    ("faults", "wanted"),
    [
        ({"epsilon": 1e-3}, [NORM]),
        ({"epsilon": 1e-3, "approximate": True}, [NORM, ACT]),
        ({"approximate": True, "axis": 1}, [ACT, SOFTMAX]),
        ({"epsilon": 1e-3, "approximate": True, "axis": 1}, [NORM, ACT, SOFTMAX]),
    ],
)
def test_every_fault_is_found_and_no_other(faults, wanted):
    comparison = found(**faults)
    assert sorted(places(comparison)) == sorted(wanted)
    assert all(other.evidence for other in comparison.further)


def test_a_right_port_has_none():
    comparison = found()
    assert comparison.verdict == "equivalent"
    assert comparison.further == ()
    assert "also" not in comparison.summary()


def test_the_message_names_all_of_them_with_their_proofs():
    comparison = found(epsilon=1e-3, approximate=True)
    said = " ".join(comparison.summary().split())
    assert "also act of the torch reference" in said
    proof = said[said.index("activation-variant: with") :]
    assert "the difference at gelu of act falls from" in proof


def test_what_follows_an_unproved_fault_is_not_called_another():
    """Everything behind a fault that nothing repairs differs, and is no difference of its own."""

    class Odd(Reference):
        def forward(self, x):
            hidden = self.into(x) + 0.1 * torch.sin(3 * self.into(x)) ** 3
            main = self.out(torch.tanh(self.mid(self.act(self.norm(hidden)))))
            return main.mean(1) + torch.softmax(self.side(x), -1).mean(1)

    def port() -> Odd:
        torch.manual_seed(1)
        return Odd()

    comparison = compare(reference, port, inputs=WORDS, examples=6, checks=("forward",))
    assert comparison.cause is None
    assert comparison.further == ()
    assert np.isfinite(comparison.gap)
