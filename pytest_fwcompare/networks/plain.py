"""A described network as plain data, and back: how it reaches another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from pytest_fwcompare.errors import NetworkError
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.networks import layers as shipped
from pytest_fwcompare.networks.base import Layer, Node
from pytest_fwcompare.networks.graph import Graph, InputLayer, Network

BUILTIN = (type(None), bool, int, float, str)


def to_plain(network: Network) -> dict[str, Any]:
    """Builtin types and NumPy arrays only; the network that `from_plain` makes of it is equal.

    Raises:
        NetworkError: a layer is none of this package's, or holds something that is no plain value.
    """
    return {
        "name": network.name,
        "structure": network.structure,
        "inputs": {name: _spec_fields(spec) for name, spec in network.inputs.items()},
        "layers": {name: layer_to_plain(layer) for name, layer in network.layers.items()},
        "steps": [
            (step.name, step.layer_name, step.inputs, dict(step.keywords))
            for step in network.nodes
        ],
        "outputs": {name: step.name for name, step in network.outputs.items()},
    }


def from_plain(data: Mapping[str, Any]) -> Network:
    """The network of what `to_plain` made, checked like any other."""
    nodes = {
        name: Node(InputLayer(TensorSpec(**spec), name=name))
        for name, spec in data["inputs"].items()
    }
    inputs = list(nodes.values())
    layers = {name: layer_from_plain(layer) for name, layer in data["layers"].items()}
    for step, layer_name, sources, keywords in data["steps"]:
        given = [nodes[name] for name in sources]
        named = {keyword: nodes[name] for keyword, name in keywords.items()}
        nodes[step] = layers[layer_name](*given, **named)
    outputs = {name: nodes[step] for name, step in data["outputs"].items()}
    listed: Any = outputs if data["structure"] == "dict" else list(outputs.values())
    return Graph(inputs, listed, name=data["name"])


def layer_to_plain(layer: Layer) -> dict[str, Any]:
    """The kind of a layer and its fields.

    Raises:
        NetworkError: see `to_plain`.
    """
    kind = type(layer).__name__
    if getattr(shipped, kind, None) is not type(layer):
        raise layer.error(
            f"it is a layer of {type(layer).__module__}, which a worker does not know; only the "
            f"layers of pytest_fwcompare.networks can be sent to one"
        )
    return {
        "kind": kind,
        "fields": {
            each.name: _field_to_plain(getattr(layer, each.name), layer) for each in fields(layer)
        },
    }


def layer_from_plain(data: Mapping[str, Any]) -> Layer:
    """The layer of what `layer_to_plain` made.

    Raises:
        NetworkError: there is no such kind of layer.
    """
    kind = getattr(shipped, str(data["kind"]), None)
    if not (isinstance(kind, type) and issubclass(kind, Layer)):
        raise NetworkError(f"no layer {data['kind']!r}; is the worker of another version?")
    made: dict[str, Any] = {
        name: layer_from_plain(value) if isinstance(value, Mapping) else value
        for name, value in data["fields"].items()
    }
    layer: Layer = kind(**made)
    return layer


def _field_to_plain(value: Any, layer: Layer) -> Any:
    if isinstance(value, Layer):
        return layer_to_plain(value)
    if isinstance(value, (*BUILTIN, np.ndarray)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, list)):
        return type(value)(_field_to_plain(item, layer) for item in value)
    raise layer.error(f"it holds {value!r}, which cannot be sent to a worker")


def _spec_fields(spec: TensorSpec) -> dict[str, Any]:
    """All but the values: a worker is sent the inputs of each call."""
    return {each.name: getattr(spec, each.name) for each in fields(spec) if each.name != "values"}
