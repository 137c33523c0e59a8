"""Trained models are paired by what they hold; what holds the same elsewhere stays unpaired."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.weights.mapping import Link, Mapping
from pytest_fwcompare.weights.transforms import Identity, Transpose
from pytest_fwcompare.weights.values import pair_by_values, rearranged

RNG = np.random.default_rng(0)


def parameters(values: dict[str, np.ndarray], layers: dict[str, str] | None = None) -> list[Any]:
    named = layers or {}
    return [
        Parameter(name, value.shape, "float32", True, layer=named.get(name, ""))
        for name, value in values.items()
    ]


def test_any_order_of_axes_is_found():
    kernel = RNG.standard_normal((3, 3, 2, 4))
    assert rearranged(kernel, kernel.transpose(3, 2, 0, 1)) == Transpose((3, 2, 0, 1))
    assert isinstance(rearranged(kernel, kernel), Identity)
    square = RNG.standard_normal((4, 4))
    assert rearranged(square, square.T) == Transpose((1, 0))
    patches = kernel.transpose(3, 0, 1, 2).reshape(4, 18)
    np.testing.assert_array_equal(rearranged(kernel, patches).apply(kernel), patches)
    assert rearranged(square, square[::-1]) is None


def test_a_wrong_guess_is_replaced_by_what_the_values_say():
    ours = {"first": RNG.standard_normal((4, 4)), "second": RNG.standard_normal((4, 4))}
    theirs = {"a": ours["second"].T.copy(), "b": ours["first"].copy()}
    guess = Mapping(
        (Link("a", ("first",), Identity(), ""), Link("b", ("second",), Identity(), ""))
    )
    found = pair_by_values(guess, parameters(ours), parameters(theirs), ours, theirs)
    assert [(link.port, link.sources, link.transform) for link in found.links] == [
        ("a", ("second",), Transpose((1, 0))),
        ("b", ("first",), Identity()),
    ]


def test_zeros_go_with_the_kernel_of_their_layer():
    kernel = RNG.standard_normal((4, 4))
    ours = {"one.w": kernel, "one.b": np.zeros(4), "two.b": np.zeros(4)}
    theirs = {"x.w": kernel.copy(), "x.b": np.zeros(4), "y.b": np.zeros(4)}
    layers = {name: name.split(".")[0] for name in (*ours, *theirs)}
    guess = Mapping(
        (Link("x.b", ("one.b",), Identity(), ""), Link("y.b", ("two.b",), Identity(), ""))
    )
    sides = parameters(ours, layers), parameters(theirs, layers)
    found = pair_by_values(guess, *sides, ours, theirs)
    assert {link.port: link.sources for link in found.links} == {
        "x.w": ("one.w",),
        "x.b": ("one.b",),
    }
    assert "or not of that one alone" in found.unmatched_port["y.b"]


def test_other_values_are_never_paired():
    ours = {"w": RNG.standard_normal((4, 4))}
    theirs = {"w": ours["w"] * (1 + 1e-4)}
    guess = Mapping((Link("w", ("w",), Identity(), ""),))
    found = pair_by_values(guess, parameters(ours), parameters(theirs), ours, theirs)
    assert found.links == ()
    assert "its values are not those of w" in found.unmatched_port["w"]


def ambiguous(wrong: bool = False) -> tuple[Any, Any]:
    """Square layers in torch, and in JAX under names that say another order."""
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 4) for _ in range(3)]
    model = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])
    tree = {}
    for layer, names in zip(layers, ("zy", "pa", "ck"), strict=True):
        tree[names[0]] = jax.numpy.asarray(layer.weight.detach().numpy().T)
        tree[names[1]] = jax.numpy.asarray(layer.bias.detach().numpy())

    def port(tree, x):
        x = jax.numpy.tanh(x @ tree["z"] + tree["y"])
        hidden = jax.numpy.tanh(x @ tree["p"] + tree["a"])
        if wrong:
            # The value is the same, the gradient of p is not.
            hidden = (
                hidden + 0 * tree["p"].sum() + (tree["p"] - jax.lax.stop_gradient(tree["p"])).sum()
            )
        return hidden @ tree["c"] + tree["k"]

    return model, (port, tree)


@pytest.mark.parametrize("wrong", [False, True])
def test_gradients_are_compared_with_the_given_weights(wrong):
    model, port = ambiguous(wrong)
    found = fwc.compare(
        model, port, inputs={"x": fwc.TensorSpec((3, 4))}, weights="given", examples=4
    )
    rows = {row.name: row.verdict for row in found.tensors}
    for name in ("0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"):
        assert f"gradient of {name}" in rows, found.notices
    assert found.verdict == ("semantic" if wrong else "equivalent"), found.summary()
    assert not wrong or rows["gradient of 2.weight"] == "semantic"
    assert not any("not compared" in text for text in found.notices)
