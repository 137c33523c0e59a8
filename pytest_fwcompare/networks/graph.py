"""Networks: layers joined to a graph, checked once, walked by every backend in the same order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pytest_fwcompare.errors import NetworkError, UsageError
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.networks.base import (
    Layer,
    Node,
    ParameterSpec,
    Shape,
    default_name,
    join,
    renamed,
    show,
)

Value = TypeVar("Value")

BATCH = "batch"
"""Name of the first axis of every input."""


@dataclass(frozen=True, eq=False)
class InputLayer(Layer):
    """Stands for a value that comes from outside. Made by `Input`."""

    spec: TensorSpec

    arity = (0, 0)

    def _infer(self, *shapes: Shape) -> Shape:
        return self.spec.shape


def Input(name: str, shape: Sequence[int | str], dtype: str = "float32", **options: Any) -> Node:  # noqa: N802
    """A value that comes from outside.

    Args:
        name: name of the input.
        shape: sizes without the batch: (28, 28, 1), ("time",), ("time", 8). A string is a free
            size, the same for all inputs that use it. A leading "batch" may be written, too.
        dtype: float32, an integer dtype for tokens, or bool for a mask.
        options: further fields of `TensorSpec`: low, high, kind.

    Raises:
        NetworkError: the name or a size is none.
    """
    _check_name("Input", name)
    if isinstance(shape, (str, int)):
        raise NetworkError(
            f"Input {name!r}: expected a tuple of sizes, got {shape!r}; write ({shape!r},)"
        )
    sizes = tuple(shape)
    if BATCH in sizes[1:]:
        raise NetworkError(
            f"Input {name!r}: {BATCH!r} names the first axis only, got shape {show(sizes)}"
        )
    if sizes[:1] != (BATCH,):
        sizes = (BATCH, *sizes)
    for size in sizes:
        if isinstance(size, str) and not size.isidentifier():
            raise NetworkError(
                f"Input {name!r}: the name of a free size is a word, got {size!r} in {show(sizes)}"
            )
    if dtype not in ("float32", "int32", "int64", "bool"):
        raise NetworkError(
            f"Input {name!r}: dtype is float32 (it stands for the working dtype), int32 or int64 "
            f"for tokens, or bool for a mask, got {dtype!r}"
        )
    try:
        return Node(InputLayer(TensorSpec(sizes, dtype, **options), name=name))
    except (UsageError, TypeError) as error:
        raise NetworkError(f"Input {name!r}: {error}") from None


@dataclass(frozen=True, eq=False)
class Step:
    """One use of a layer in a network.

    Attributes:
        name: unique among steps and inputs; the layer's name, numbered from its second use on
            ("dense", "dense:2").
        layer: the layer, under its name in the network.
        layer_name: key of the layer in `Network.layers`.
        inputs: names of the steps or inputs it reads, by position.
        keywords: the same for inputs passed by keyword.
        input_shapes: shapes of `inputs`, batch included.
        shape: shape of the output, batch included.
        dtype: NumPy name of the output's dtype ("float32" stands for the working dtype).
    """

    name: str
    layer: Layer
    layer_name: str
    inputs: tuple[str, ...]
    keywords: Mapping[str, str]
    input_shapes: tuple[Shape, ...]
    shape: Shape
    dtype: str


@dataclass(eq=False, repr=False)
class Network:
    """A checked graph of layers. Made by `Sequential` or `Graph`; not to be changed.

    Attributes:
        name: of the network.
        inputs: by name, in the order in which they are passed; shapes include the batch.
        nodes: uses of layers, each after those it reads.
        outputs: by name, in order.
        layers: by name, each once, in order of first use.
        structure: what a native model returns: "tensor" (one unnamed output, called "output"),
            "tuple" (several unnamed, called "0", "1", ...) or "dict".
    """

    name: str
    inputs: dict[str, TensorSpec]
    nodes: tuple[Step, ...]
    outputs: dict[str, Step]
    layers: dict[str, Layer]
    structure: Literal["tensor", "tuple", "dict"] = "dict"
    _specs: dict[str, dict[str, ParameterSpec]] = field(default_factory=dict)

    def first_use(self, layer_name: str) -> Step:
        """The first step that uses the layer; its input shapes fix the layer's parameters."""
        return next(step for step in self.nodes if step.layer_name == layer_name)

    def layer_parameters(self, layer_name: str) -> dict[str, ParameterSpec]:
        """Parameters and buffers of one layer by their name within it."""
        return dict(self._specs[layer_name])

    def parameters(self) -> dict[str, ParameterSpec]:
        """Parameters and buffers as "layer.parameter", those of a shared layer once."""
        return {
            f"{layer}.{name}": spec
            for layer in self.layers
            for name, spec in self.layer_parameters(layer).items()
        }

    def evaluate(
        self,
        function: Callable[[Layer, str, list[Value], dict[str, Value]], Value],
        inputs: Mapping[str, Value],
    ) -> dict[str, Value]:
        """Walk the graph and give the outputs by name.

        Args:
            function: called as function(layer, layer_name, [input values], {keyword: value}) for
                every step in order; gives the value of the step's output.
            inputs: by name.
        """
        values: dict[str, Value] = {name: inputs[name] for name in self.inputs}
        for step in self.nodes:
            values[step.name] = function(
                step.layer,
                step.layer_name,
                [values[name] for name in step.inputs],
                {keyword: values[name] for keyword, name in step.keywords.items()},
            )
        return {name: values[step.name] for name, step in self.outputs.items()}

    def pack(self, outputs: Mapping[str, Value]) -> Value | tuple[Value, ...] | dict[str, Value]:
        """Outputs by name as a native model returns them, according to `structure`."""
        if self.structure == "tensor":
            return outputs["output"]
        if self.structure == "tuple":
            return tuple(outputs.values())
        return dict(outputs)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.name!r}: {join(self.inputs)} -> {join(self.outputs)}, "
            f"{len(self.layers)} layers>"
        )


class Graph(Network):
    """A network of any form: several inputs and outputs, shared layers, branches.

    Example:
        >>> x = Input("x", (8,))
        >>> hidden = Activation("relu")(Dense(8)(x))
        >>> network = Graph(inputs=[x], outputs={"scores": Dense(3)(Add()(x, hidden))})

    Args:
        inputs: nodes made by `Input`, in the order in which they are passed.
        outputs: nodes by name; or a list of nodes: a single one is called "output", several "0",
            "1", ...
        name: of the network.

    Raises:
        NetworkError: names the layer, what it got and what it wanted.
    """

    def __init__(
        self,
        inputs: Sequence[Node],
        outputs: Mapping[str, Node] | Sequence[Node] | Node,
        *,
        name: str = "network",
    ) -> None:
        _check_name("Graph", name)
        inputs = [inputs] if isinstance(inputs, Node) else list(inputs)
        structure, named = _named_outputs(outputs, name)
        specs = _input_specs(inputs, name)
        order = _sorted(named.values(), name)
        _check_inputs(inputs, order, name)
        builder = _Builder(name, {node: node.layer.name for node in inputs}, specs)
        for node in order:
            if not isinstance(node.layer, InputLayer):
                builder.add(node)
        if not builder.steps:
            raise NetworkError(f"network {name!r}: it has no layers")
        super().__init__(
            name=name,
            inputs=specs,
            nodes=tuple(builder.steps),
            outputs={key: builder.step_of(node, key) for key, node in named.items()},
            layers=builder.layers,
            structure=structure,
            _specs=builder.specs,
        )


class Sequential(Graph):
    """Layers one after the other.

    Args:
        layers: at least one; the same layer may come several times and shares its parameters.
        input_shape: sizes of the input without the batch, as for `Input`.
        input_dtype: dtype of the input, as for `Input`.
        input_name: name of the input.
        name: of the network.
        options: further fields of the input's `TensorSpec`: low, high, kind.

    Raises:
        NetworkError: names the layer, what it got and what it wanted.
    """

    def __init__(
        self,
        layers: Iterable[Layer],
        input_shape: Sequence[int | str] | None = None,
        input_dtype: str = "float32",
        *,
        input_name: str = "x",
        name: str = "network",
        **options: Any,
    ) -> None:
        given: list[Any] = list(layers)
        if not given:
            raise NetworkError(f"network {name!r}: it has no layers")
        if input_shape is None:
            raise NetworkError(
                f"network {name!r}: Sequential needs the shape of its input, without the batch: "
                f"Sequential([...], input_shape=(28, 28, 1))"
            )
        start = value = Input(input_name, input_shape, input_dtype, **options)
        for position, layer in enumerate(given):
            if not isinstance(layer, Layer):
                hint = "; write it with parentheses" if isinstance(layer, type) else ""
                raise NetworkError(
                    f"network {name!r}: expected a layer at position {position}, got "
                    f"{layer!r}{hint}"
                )
            value = layer(value)
        super().__init__([start], [value], name=name)


class _Builder:
    """Adds nodes one by one: names layers, infers shapes, checks shared layers."""

    def __init__(self, name: str, names: dict[Node, str], specs: dict[str, TensorSpec]) -> None:
        self.name = name
        self.names = names
        self.shapes: dict[str, Shape] = {key: spec.shape for key, spec in specs.items()}
        self.dtypes = {key: spec.dtype for key, spec in specs.items()}
        self.layers: dict[str, Layer] = {}
        self.steps: list[Step] = []
        self.layer_names: dict[int, str] = {}
        self.uses: dict[str, int] = {}
        self.specs: dict[str, dict[str, ParameterSpec]] = {}

    def add(self, node: Node) -> None:
        """Add a node whose inputs have been added."""
        layer_name = self._name_layer(node.layer)
        layer = self.layers[layer_name]
        inputs = tuple(self.names[value] for value in node.inputs)
        keywords = {key: self.names[value] for key, value in node.keywords.items()}
        shapes = tuple(self.shapes[name] for name in inputs)
        shape = layer.infer(*shapes)
        layer.check_keywords(
            shapes,
            {key: (self.shapes[name], self.dtypes[name]) for key, name in keywords.items()},
        )
        self._check_shared(layer, layer_name, shapes)
        dtype = layer.infer_dtype(*(self.dtypes[name] for name in inputs))
        self.uses[layer_name] = count = self.uses.get(layer_name, 0) + 1
        step_name = layer_name if count == 1 else f"{layer_name}:{count}"
        self.steps.append(
            Step(step_name, layer, layer_name, inputs, keywords, shapes, shape, dtype)
        )
        self.names[node], self.shapes[step_name], self.dtypes[step_name] = step_name, shape, dtype

    def step_of(self, node: Node, output: str) -> Step:
        """The step that an output is."""
        for step in self.steps:
            if step.name == self.names[node]:
                return step
        raise NetworkError(
            f"network {self.name!r}: output {output!r} is the input {node.layer.name!r} itself; "
            f"an output comes from a layer"
        )

    def _name_layer(self, layer: Layer) -> str:
        if id(layer) in self.layer_names:
            return self.layer_names[id(layer)]
        name = layer.name
        if name:
            _check_name(type(layer).__name__, name)
            if name in self.layers:
                raise NetworkError(
                    f"network {self.name!r}: two layers are called {name!r}: "
                    f"{self.layers[name]!r} and {layer!r}; give one another name, or use one "
                    f"layer object twice to share its parameters"
                )
            if name in self.shapes:
                raise NetworkError(
                    f"network {self.name!r}: {layer.label} has the name of an input; rename one"
                )
        else:
            base = name = default_name(layer)
            number = 1
            while name in self.layers or name in self.shapes:
                number += 1
                name = f"{base}_{number}"
        self.layer_names[id(layer)] = name
        self.layers[name] = renamed(layer, name)
        return name

    def _check_shared(self, layer: Layer, layer_name: str, shapes: tuple[Shape, ...]) -> None:
        specs = layer.parameters(*shapes)
        first = self.specs.setdefault(layer_name, specs)
        for name, spec in specs.items():
            if spec != first[name]:
                raise layer.error(
                    f"used twice with inputs that need different parameters: {name} "
                    f"{show(first[name].shape)} at first, {show(spec.shape)} now, for input "
                    f"{join(map(show, shapes))}; use two layers"
                )


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise NetworkError(
            f"{what}: expected a name of letters, digits and underscores that starts with a "
            f"letter, got {name!r}"
        )


def _named_outputs(
    outputs: Mapping[str, Node] | Sequence[Node] | Node, network: str
) -> tuple[Literal["tensor", "tuple", "dict"], dict[str, Node]]:
    structure: Literal["tensor", "tuple", "dict"]
    if isinstance(outputs, Node):
        structure, named = "tensor", {"output": outputs}
    elif isinstance(outputs, Mapping):
        structure, named = "dict", dict(outputs)
    elif len(outputs) == 1:
        structure, named = "tensor", {"output": outputs[0]}
    else:
        structure, named = "tuple", {str(i): node for i, node in enumerate(outputs)}
    if not named:
        raise NetworkError(f"network {network!r}: it has no outputs")
    for key, node in named.items():
        if structure == "dict":
            _check_name(f"network {network!r}, output", key)
        if not isinstance(node, Node):
            raise NetworkError(
                f"network {network!r}: output {key!r} is not a node but {node!r}; call the layer "
                f"on a node"
            )
    return structure, named


def _input_specs(inputs: Sequence[Node], network: str) -> dict[str, TensorSpec]:
    specs: dict[str, TensorSpec] = {}
    for node in inputs:
        if not isinstance(node, Node) or not isinstance(node.layer, InputLayer):
            what = node.layer.label if isinstance(node, Node) else repr(node)
            raise NetworkError(f"network {network!r}: inputs are made by Input(...), got {what}")
        if node.layer.name in specs:
            raise NetworkError(f"network {network!r}: two inputs are called {node.layer.name!r}")
        specs[node.layer.name] = node.layer.spec
    if not specs:
        raise NetworkError(f"network {network!r}: it has no inputs")
    return specs


def _check_inputs(inputs: Sequence[Node], order: Sequence[Node], network: str) -> None:
    reached = [node for node in order if isinstance(node.layer, InputLayer)]
    for node in reached:
        if node not in inputs:
            raise NetworkError(
                f"network {network!r}: its outputs depend on Input {node.layer.name!r}, which is "
                f"not among its inputs ({join(given.layer.name for given in inputs)})"
            )
    for node in inputs:
        if node not in reached:
            raise NetworkError(
                f"network {network!r}: no output depends on Input {node.layer.name!r}; leave it "
                f"out or connect it"
            )


def _sorted(outputs: Iterable[Node], network: str) -> list[Node]:
    """All nodes that the outputs depend on, each after those it reads."""
    order: list[Node] = []
    state: dict[Node, Literal["open", "done"]] = {}
    # No recursion: a deep network must not meet Python's recursion limit.
    stack = [(node, False) for node in reversed(list(outputs))]
    while stack:
        node, entered = stack.pop()
        if entered:
            state[node] = "done"
            order.append(node)
            continue
        if node in state:
            if state[node] == "open":
                raise NetworkError(
                    f"network {network!r}: {node.layer.label} depends on its own output; a "
                    f"network has no cycles"
                )
            continue
        state[node] = "open"
        stack.append((node, True))
        stack += [(value, False) for value in (*node.inputs, *node.keywords.values())[::-1]]
    return order
