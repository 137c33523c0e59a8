"""Layers, nodes and networks: a framework-neutral description of a computation.

Canonical axis order, everywhere: batch first, features (channels) last, space or time between:
(batch, features), (batch, time, features), (batch, height, width, features). Kernels have space
first, then input features, then output features. Every hyper-parameter has one meaning, written
in the docstring of its layer; a backend translates it to what its framework calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

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

    A new layer sets the class attributes and overrides `_infer`, `_parameters` and, where it has
    hyper-parameters, `__post_init__`. Two layers are equal only if they are the same object, so
    that using one twice shares its parameters.

    Attributes:
        name: unique in its network; given by the network from the class where it is empty.
        arity: least and greatest number of inputs; None: any number.
        rank: least and greatest number of axes of each input, batch included; None: any number.
        keyword_inputs: names of optional inputs that are passed by keyword.
        moves_values: True if the layer computes nothing, so that it takes any dtype.
    """

    name: str = field(default="", kw_only=True)

    arity: ClassVar[tuple[int, int | None]] = (1, 1)
    rank: ClassVar[tuple[int, int | None]] = (2, None)
    keyword_inputs: ClassVar[tuple[str, ...]] = ()
    moves_values: ClassVar[bool] = False

    def infer(self, *shapes: Shape) -> Shape:
        """Shape of the output, batch included, from those of the inputs.

        A free size that changes becomes an expression of it: ("batch", "time", 8) through a
        convolution of kernel size 3 gives ("batch", "time - 2", 4).

        Raises:
            NetworkError: what it got and what it wanted.
        """
        least, most = self.arity
        if len(shapes) < least or (most is not None and len(shapes) > most):
            raise self.error(f"expected {_between(least, most, 'input')}, got {len(shapes)}")
        least, most = self.rank
        for shape in shapes:
            if len(shape) < least or (most is not None and len(shape) > most):
                raise self.error(
                    f"expected an input of {_between(least, most, 'axis', 'axes')}, batch "
                    f"included, got {len(shape)} in shape {show(shape)}"
                )
        return self._infer(*shapes)

    def parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        """Parameters and buffers by their name within the layer.

        Raises:
            NetworkError: the input shapes do not fit the layer.
        """
        self.infer(*shapes)
        return self._parameters(*shapes)

    def check_keywords(
        self, shapes: Sequence[Shape], keywords: Mapping[str, tuple[Shape, str]]
    ) -> None:
        """Check shape and dtype of inputs passed by keyword, the shapes of the others given.

        Raises:
            NetworkError: a keyword the layer does not have, or a shape that does not fit.
        """
        for keyword in keywords:
            if keyword not in self.keyword_inputs:
                known = join(self.keyword_inputs) or "none"
                raise self.error(f"unknown keyword input {keyword!r}; it takes: {known}")

    def infer_dtype(self, *dtypes: str) -> str:
        """NumPy name of the output's dtype from those of the inputs.

        Raises:
            NetworkError: the layer cannot compute with such values.
        """
        if self.moves_values:
            if len(set(dtypes)) > 1:
                raise self.error(f"expected inputs of one dtype, got {join(dtypes)}")
            return dtypes[0]
        for dtype in dtypes:
            if not dtype.startswith("float"):
                raise self.error(
                    f"expected an input of floats, got {dtype}; tokens go through an Embedding"
                )
        return dtypes[0]

    def _infer(self, *shapes: Shape) -> Shape:
        """As `infer`, once the number of inputs and their ranks are right."""
        return shapes[0]

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        """As `parameters`, once the shapes are right."""
        return {}

    def __call__(self, *inputs: Node, **keywords: Node) -> Node:
        """Use the layer in a graph; the same layer used twice shares its parameters."""
        for value in (*inputs, *keywords.values()):
            if not isinstance(value, Node):
                raise self.error(
                    f"expected nodes made by Input(...) or by calling a layer, got "
                    f"{type(value).__name__}"
                )
        return Node(self, inputs, keywords)

    @property
    def label(self) -> str:
        """How messages name the layer."""
        kind = type(self).__name__
        return f"{kind} {self.name!r}" if self.name else kind

    def error(self, message: str) -> NetworkError:
        """An error that names the layer, to be raised."""
        return NetworkError(f"{self.label}: {message}")


@dataclass(frozen=True, eq=False)
class Node:
    """A value in a graph: the output of a layer applied to other nodes, or an input.

    `keywords` holds optional inputs by name, such as `mask` of an attention.
    """

    layer: Layer
    inputs: tuple[Node, ...] = ()
    keywords: Mapping[str, Node] = field(default_factory=dict)


def default_name(layer: Layer) -> str:
    """Name from the class: MultiHeadAttention gives "multi_head_attention", Conv2D "conv2d"."""
    function = getattr(layer, "function", None)
    kind = function if isinstance(function, str) else type(layer).__name__
    kind = kind.replace("PReLU", "Prelu")
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", kind).lower()


def renamed(layer: Layer, name: str) -> Layer:
    """The same layer under another name."""
    return replace(layer, name=name)


def join(names: Iterable[Any]) -> str:
    """Names for a message."""
    return ", ".join(map(str, names))


def show(shape: Shape) -> str:
    """A shape for a message: (batch, time, 8)."""
    return f"({join(shape)}{',' if len(shape) == 1 else ''})"


def _between(least: int, most: int | None, one: str, many: str = "") -> str:
    """A number of things for a message: "2 axes", "at least 1 input", "1 to 2 inputs"."""
    many = many or f"{one}s"
    if most is None:
        return f"at least {least} {one if least == 1 else many}"
    if least == most:
        return f"{least} {one if least == 1 else many}"
    return f"{least} to {most} {many}"
