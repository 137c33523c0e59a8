"""The formula of one call of a layer, and where its parameters are kept in Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_fwcompare import networks as fn
from pytest_fwcompare.errors import NetworkError
from pytest_fwcompare.networks.base import Node
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.weights.transforms import (
    Identity,
    Transform,
)

Stored = tuple[str, tuple[str, ...], Transform]
"""Attribute of the layer that holds a variable, the canonical parameters in it, and how."""


class Undocumented(Exception):
    """No formula is known here for such a layer, or for such a use of it."""


@dataclass(frozen=True)
class Documented:
    """The formula of a layer.

    Attributes:
        network: computes it; its inputs are "x0", "x1", ...
        stored: where its parameters are kept in the Keras layer.
    """

    network: Network
    stored: tuple[Stored, ...]


@dataclass
class Use:
    """One call of a layer, from which its formula is written.

    Attributes:
        kind: name of the Keras class.
        config: of the layer.
        inputs: nodes of its tensors, by position.
        shapes: their shapes, batch included.
        options: what else the call was given, by name.
        stored: filled with where parameters are kept.
    """

    kind: str
    config: Mapping[str, Any]
    inputs: list[Node]
    shapes: list[tuple[int, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)

    @property
    def rank(self) -> int:
        """Axes of the first input, batch included."""
        return len(self.shapes[0])

    def keep(self, layer: str, **places: str | tuple[str, Transform]) -> None:
        """Say where parameters of a described layer are kept: {canonical name: attribute}."""
        for name, place in places.items():
            attribute, transform = (place, Identity()) if isinstance(place, str) else place
            self.stored.append((attribute, (f"{layer}.{name}",), transform))

    def refuse(self, **allowed: Any) -> None:
        """Refuse options that differ from the values for which there is a formula."""
        for option, value in allowed.items():
            if self.config.get(option, value) != value:
                raise Undocumented(f"{option}={self.config[option]!r}")

    def last(self, body: Callable[[Node], Node], first: bool) -> Node:
        """Apply to an input whose features come last, or are brought there and back."""
        (x,) = self.inputs
        if not first:
            return body(x)
        there = (*range(2, self.rank), 1)
        back = (self.rank - 1, *range(1, self.rank - 1))
        return fn.Permute(back)(body(fn.Permute(there)(x)))

    @property
    def features_first(self) -> bool:
        """Whether space comes after features."""
        return bool(self.config.get("data_format") == "channels_first")


Formula = Callable[[Use], Node]

FORMULAS: dict[str, Formula] = {}
"""By the name of the Keras class."""


def documents(*names: str) -> Callable[[Formula], Formula]:
    """Registers a formula for Keras classes."""

    def register(formula: Formula) -> Formula:
        FORMULAS.update(dict.fromkeys(names, formula))
        return formula

    return register


def documented(
    kind: str,
    config: Mapping[str, Any],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[str],
    options: Mapping[str, Any],
) -> Documented:
    """The formula of a call of a layer.

    Args:
        kind: name of the Keras class.
        config: `layer.get_config()`.
        shapes: of its tensors, batch included.
        dtypes: of the same.
        options: what else it was called with, None and False left out.

    Raises:
        Undocumented: with the reason.
    """
    if kind not in FORMULAS:
        raise Undocumented(f"no formula for {kind} is known here")
    if any(not shape for shape in shapes):
        raise Undocumented("an input without axes")
    inputs = [
        fn.Input(f"x{n}", shape[1:], dtype if dtype in ("bool", "int32", "int64") else "float32")
        for n, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    ]
    use = Use(kind, config, inputs, list(shapes), options)
    if kind != "MultiHeadAttention" and options:
        raise Undocumented(f"called with {', '.join(options)}")
    try:
        output = FORMULAS[kind](use)
        network = fn.Graph(inputs, output)
        known = network.parameters()
    except NetworkError as error:
        raise Undocumented(str(error)) from None
    stored = [s for s in use.stored if all(name in known for name in s[1])]
    return Documented(network, tuple(stored))


def activated(node: Node, name: Any, alpha: float | None = None) -> Node:
    """An activation by the name that Keras gives it; `keras.activations` has the formulas."""
    if not isinstance(name, str):
        raise Undocumented("an activation of one's own")
    name = {"swish": "silu", "hard_swish": "hard_silu"}.get(name, name)
    if name == "linear":
        return node
    if name == "softmax":
        return fn.Softmax()(node)
    if name == "log_softmax":
        return fn.LogSoftmax()(node)
    if name == "leaky_relu" and alpha is None:
        alpha = 0.2
    try:
        return fn.Activation(name, alpha)(node)
    except NetworkError as error:
        raise Undocumented(str(error)) from None
