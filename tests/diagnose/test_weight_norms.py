"""Weights whose direction and length are parameters of their own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils.parametrizations import weight_norm  # noqa: E402

import pytest_fwcompare as fwc  # noqa: E402

INPUTS = {"x": fwc.TensorSpec(("batch", 4))}
PER_OUTPUT, ALL, PER_INPUT = 1, None, 0


def network():
    torch.manual_seed(1)
    model = nn.Sequential(weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return model


def by_torch(axis, scaled=True, power=0.5):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.v, self.g = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(6, 1))
            self.b, self.tanh, self.head = nn.Parameter(torch.ones(6)), nn.Tanh(), nn.Linear(6, 3)

        def forward(self, x):
            squares = self.v.square()
            total = squares.sum() if axis is None else squares.sum(axis, keepdim=True)
            w = self.v / total**power
            w = w * self.g if scaled else w
            return self.head(self.tanh(nn.functional.linear(x, w, self.b)))

    return Layer, {
        "v": "0.parametrizations.weight.original1",
        "g": "0.parametrizations.weight.original0",
        "b": "0.bias",
        "head.weight": "2.weight",
        "head.bias": "2.bias",
    }


def by_jax(axis, scaled=True, power=0.5):
    shapes = {"v": (6, 4), "g": (6, 1), "b": (6,), "w": (3, 6), "c": (3,)}

    def middle(p, x):
        squares = jnp.square(p["v"])
        total = squares.sum() if axis is None else squares.sum(axis, keepdims=True)
        w = p["v"] / total**power
        w = w * p["g"] if scaled else w
        return jnp.tanh(x @ w.T + p["b"]) @ p["w"].T + p["c"]

    return lambda: (middle, {n: jnp.ones(s) for n, s in shapes.items()}), {
        "v": "0.parametrizations.weight.original1",
        "g": "0.parametrizations.weight.original0",
        "b": "0.bias",
        "w": "2.weight",
        "c": "2.bias",
    }


@pytest.mark.parametrize("port", [by_torch, by_jax])
@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"axis": PER_OUTPUT}, "right"),
        ({"axis": ALL}, "norm-axis"),
        ({"axis": PER_INPUT}, "norm-axis"),
        ({"axis": PER_OUTPUT, "scaled": False}, "norm-affine"),
        ({"axis": ALL, "power": 0.4}, None),
        ({"axis": PER_OUTPUT, "power": 0.4}, None),
    ],
)
def test_over_which_axes_a_weight_is_normalised(port, options, cause) -> None:
    make, weights = port(**options)
    found = fwc.compare(network, make, inputs=INPUTS, weights=weights, examples=4)
    assert found.verdict == ("equivalent" if cause == "right" else "semantic"), found.summary()
    assert found.cause == (None if cause == "right" else cause), found.summary()
    if found.cause:
        assert found.culprit == "0"
