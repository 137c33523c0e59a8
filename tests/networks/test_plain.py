"""Described networks as plain data: every layer and every shape of graph comes back equal."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pytest

from pytest_fwcompare import networks as fn
from pytest_fwcompare.conformance.cases import CASES
from pytest_fwcompare.errors import NetworkError
from pytest_fwcompare.networks.base import Layer
from pytest_fwcompare.networks.plain import from_plain, layer_from_plain, to_plain


def facts(network: fn.Network) -> object:
    """All that a backend can see of a network."""

    def of(layer: Layer) -> object:
        return type(layer), [
            (each.name, of(value) if isinstance(value, Layer) else repr(value))
            for each in fields(layer)
            for value in [getattr(layer, each.name)]
        ]

    return (
        network.name,
        network.structure,
        {name: repr(spec) for name, spec in network.inputs.items()},
        {name: of(layer) for name, layer in network.layers.items()},
        [
            (s.name, s.layer_name, s.inputs, dict(s.keywords), s.input_shapes, s.shape, s.dtype)
            for s in network.nodes
        ],
        {name: step.name for name, step in network.outputs.items()},
        list(network.parameters().items()),
    )


def builtin(value: object) -> bool:
    if isinstance(value, dict):
        return all(builtin(key) and builtin(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(builtin, value))
    return type(value) in (type(None), bool, int, float, str, np.ndarray)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_of_the_conformance_suite_comes_back(case):
    network = case.network()
    plain = to_plain(network)
    assert builtin(plain)
    assert facts(from_plain(plain)) == facts(network)


def shared() -> fn.Network:
    x, y = fn.Input("x", (8,)), fn.Input("y", (8,))
    dense = fn.Dense(8, name="twice")
    first = dense(x)
    return fn.Graph(
        [x, y], {"b": fn.Add()(first, y), "a": fn.Add()(dense(first), first)}, name="shared"
    )


def test_a_shared_layer_stays_one():
    again = from_plain(to_plain(shared()))
    assert list(again.parameters()) == ["twice.kernel", "twice.bias"]
    assert facts(again) == facts(shared())


@dataclass(frozen=True, eq=False)
class Own(Layer):
    """A layer that is not this package's."""


def test_a_layer_of_others_is_refused_by_name():
    network = fn.Sequential([Own(name="mine")], input_shape=(3,))
    with pytest.raises(NetworkError, match=r"Own 'mine': it is a layer of .*test_plain.*worker"):
        to_plain(network)


@pytest.mark.parametrize("kind", ["Nothing", "Amounts", "__name__"])
def test_what_is_no_layer_is_refused(kind):
    with pytest.raises(NetworkError, match=f"no layer '{kind}'"):
        layer_from_plain({"kind": kind, "fields": {}})
