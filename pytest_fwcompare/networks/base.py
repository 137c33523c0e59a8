"""Layers, nodes and networks: a framework-neutral description of a computation.

Canonical axis order, everywhere: batch first, features (channels) last, space or time between:
(batch, features), (batch, time, features), (batch, height, width, features). Kernels have space
first, then input features, then output features. Every hyper-parameter has one meaning, written
in the docstring of its layer; a backend translates it to what its framework calls it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pytest_fwcompare.errors import NetworkError

Size = int | str
"""A size; a string names a free size ("batch", "time")."""

Shape = tuple[Size, ...]


@dataclass(frozen=True)
class ParameterSpec:
    """A parameter of a layer in canonical layout.

    Attributes:
        shape: all sizes known.
        role: what it is to its layer, which decides how it is randomised: "kernel" (rows of unit
            scale), "bias", "scale" (about one), "shift", "table", "slope", "mean", "variance".
        fan_in: number of terms summed for one output value ("kernel" and "table" only).
        trainable: False for buffers.
    """

    shape: tuple[int, ...]
    role: Literal["kernel", "bias", "scale", "shift", "table", "slope", "mean", "variance"]
    fan_in: int = 1
    trainable: bool = True


@dataclass(frozen=True, eq=False)
class Layer:
    """One operation with its hyper-parameters. Call it on nodes to use it in a graph.

    Attributes:
        name: unique in its network; given by the network from the class where it is empty.
    """

    name: str = field(default="", kw_only=True)

    def infer(self, *shapes: Shape) -> Shape:
        """Shape of the output, batch included, from those of the inputs.

        Raises:
            NetworkError: what it got and what it wanted.
        """
        raise NotImplementedError

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        """Parameters and buffers by their name within the layer."""
        return {}

    def __call__(self, *inputs: Node, **keywords: Node) -> Node:
        """Use the layer in a graph; the same layer used twice shares its parameters."""
        for value in (*inputs, *keywords.values()):
            if not isinstance(value, Node):
                raise NetworkError(
                    f"{self.label}: expected nodes made by Input(...) or by calling a layer, got "
                    f"{type(value).__name__}"
                )
        return Node(self, inputs, keywords)

    @property
    def label(self) -> str:
        """How messages name the layer."""
        kind = type(self).__name__
        return f"{kind} {self.name!r}" if self.name else kind


@dataclass(frozen=True, eq=False)
class Node:
    """A value in a graph: the output of a layer applied to other nodes, or an input.

    `keywords` holds optional inputs by name, such as `mask` of an attention.
    """

    layer: Layer
    inputs: tuple[Node, ...] = ()
    keywords: Mapping[str, Node] = field(default_factory=dict)


def default_name(layer: Layer) -> str:
    """Name from the class: MultiHeadAttention gives "multi_head_attention"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(layer).__name__).lower()


def renamed(layer: Layer, name: str) -> Layer:
    """The same layer under another name."""
    return replace(layer, name=name)


def join(names: Sequence[Any]) -> str:
    """Names for a message."""
    return ", ".join(map(str, names))
