"""Intermediates of a float64 shadow, with the layers they belong to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.backends.tensorflow.rewrite import CALLS, definition, outputs_of
from pytest_fwcompare.backends.tensorflow.shadow import Shadow, Trace, key_of, unique

SILENT = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike", "VariableShape"})
"""Operations through which no value of their input flows."""

UNREADABLE = frozenset(kind.as_datatype_enum for kind in (tf.resource, tf.variant, tf.string))
"""Dtypes of tensors that have no numbers."""

DULL = frozenset({"use_cudnn_on_gpu", "grad_a", "grad_b"})
"""Attributes that tell nothing of what is computed."""

SMALL = 64
"""Constant inputs of at most so many integers, or one float, are told as attributes."""


@dataclass(frozen=True)
class Scopes:
    """Names by which the layers of a model are told from other name scopes of its graph.

    Attributes:
        names: of the model and all its layers.
        root: of the model, which paths leave out.
        marks: paths of modules by the names of scopes that were opened for them.
        layers: names of layers by the names of scopes that were opened for them; where there are
            any, no other scope tells one.
    """

    names: frozenset[str]
    root: str
    marks: Mapping[str, str] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """Layer path of an operation, "" for the model itself.

        TensorFlow numbers a scope that is opened again: "encoder_1/mix_2/MatMul" is the
        operation MatMul of the layer "encoder/mix".
        """
        found: list[str] = []
        marked = ""
        if layers := self._told(name):
            return self.within("/".join(layers))
        for scope in name.split("/")[:-1]:
            plain = scope if scope in self.names else re.sub(r"_\d+$", "", scope)
            # A layer may open a scope of its own name in its own.
            if plain in self.names and found[-1:] != [plain]:
                found.append(plain)
            marked = self.marks.get(scope, self.marks.get(plain, marked))
        return marked or self.within("/".join(found))

    def _told(self, name: str) -> list[str]:
        """Names of the layers whose scopes of ours an operation is in."""
        found: list[str] = []
        for scope in name.split("/")[:-1]:
            # Numbered where the layer is called again.
            layer = self.layers.get(scope, self.layers.get(re.sub(r"_\d+$", "", scope)))
            if layer is not None and found[-1:] != [layer]:
                found.append(layer)
        return found

    def within(self, path: str) -> str:
        """A layer path without the model's own name."""
        first, _, rest = path.partition("/")
        return rest if first == self.root else path


class RecordingShadow(Shadow):
    """A shadow that can be run, and can hand out what it computed on the way.

    Args:
        trace: from `trace_model`.
        inputs: names of the inputs in order.
        double: stand-in of a variable of the model.
        names: parameter names by the identity of their variable's handle.
        scopes: tells layers.
    """

    def __init__(
        self,
        trace: Trace,
        inputs: Sequence[str],
        double: Callable[[Any], Any],
        names: Mapping[int, str],
        scopes: Scopes,
    ) -> None:
        super().__init__(trace, inputs, double)
        self.scopes = scopes
        self.parameter_names = {
            argument: names[id(variable.handle)]
            for argument, variable in self.variables.items()
            if id(variable.handle) in names
        }
        self.replaced = frozenset(self.rewritten.operations)
        self.kept_names = self._keep_names()

    def forward(self, values: Sequence[Any], *, backward: bool, record: bool) -> dict[str, Any]:
        """All fetched tensors of the forward half, by tensor name."""
        piece = self.forward_piece(backward=backward, record=record)
        return piece(dict(zip(piece.feeds, values, strict=True)))

    def backward(
        self, found: Mapping[str, Any], outputs: Mapping[str, Array], cotangents: Mapping[str, Any]
    ) -> tuple[dict[tuple[str, str], Array], dict[int, Array]]:
        """Gradients by ("input" or "parameter", name), and of the kept tensors by place."""
        results = self._take_back(found, outputs, cotangents)
        arrays = {key: results[name].numpy() for key, name in self.gradient_names.items()}
        kept = {key: results[name].numpy() for key, name in self.kept_gradient_names.items()}
        return arrays, kept

    def backward_each(
        self, found: Mapping[str, Any], outputs: Mapping[str, Array], cotangents: Mapping[str, Any]
    ) -> tuple[Iterator[tuple[tuple[str, str], Array]], dict[int, Array]]:
        """Gradients as `backward` gives them, each let go before the next is asked for.

        Those of kept tensors, which are small beside those of parameters, come all at once.
        """
        results = self._take_back(found, outputs, cotangents)
        kept = {key: results[name].numpy() for key, name in self.kept_gradient_names.items()}
        return self._handed_over(results), kept

    def _handed_over(self, results: dict[str, Any]) -> Iterator[tuple[tuple[str, str], Array]]:
        wanted: dict[str, list[tuple[str, str]]] = {}
        for key, name in self.gradient_names.items():
            wanted.setdefault(name, []).append(key)
        for name, keys in wanted.items():
            value = results.pop(name).numpy()
            for key in keys:
                yield key, value

    def _take_back(
        self, found: Mapping[str, Any], outputs: Mapping[str, Array], cotangents: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run the backward half: tensors by name."""
        crossing = {name: found[name] for name in self.crossing()}
        given = {
            f"{place}:0": tf.constant(
                cotangents[name] if name in cotangents else np.zeros(outputs[name].shape),
                tf.float64,
            )
            for name, place in self.trace.float_outputs.items()
        }
        piece = self.backward_piece(crossing, given)
        return piece({**crossing, **given})

    def _keep_names(self) -> dict[str, int | None]:
        """Tensors to record in order of execution, with their place in `Trace.kept`.

        What a function computed that the model calls has no place, and no gradient.
        """
        graph = self.trace.function.graph
        made: dict[str, int | None] = {}
        for place, (name, number) in enumerate(self.trace.kept):
            node = graph.get_operation_by_name(name).node_def
            if node.op in CALLS and number == 0:
                made.update(dict.fromkeys(self._inside(name)))
            flat = self.flat.get(self.rewritten.resolve(outputs_of(node)[number][0]))
            if flat is not None and not self._is_scalar_constant(flat):
                made[flat] = place
        return made

    def _inside(self, call: str) -> list[str]:
        """Float tensors of the body of an inlined call, in an order in which they can be run."""
        inner = [n for n in self.nodes if n.startswith(f"{call}/") and n not in self.late]
        ready: dict[str, None] = {}
        waiting = inner[::-1]
        members = set(inner)
        while waiting:
            name = waiting[-1]
            sources = [i.lstrip("^").partition(":")[0] for i in self.nodes[name].input]
            missing = [i for i in sources if i in members and i not in ready]
            if name in ready or not missing:
                ready[waiting.pop()] = None
            else:
                waiting += missing
        return [
            key
            for name in ready
            if self.nodes[name].op != "ReadVariableOp"
            for key in (f"{name}:{i}" for i in range(len(outputs_of(self.nodes[name]))))
            if self.kinds[key] == tf.float64.as_datatype_enum and not self._is_scalar_constant(key)
        ]

    def _is_scalar_constant(self, name: str) -> bool:
        node = self.nodes[name.partition(":")[0]]
        return node.op == "Const" and not node.attr["value"].tensor.tensor_shape.dim

    def record_fetches(self) -> list[str]:
        """Inputs, all kept tensors and what their operations read."""
        names = [f"{argument}:0" for argument in self.inputs.values()]
        for name in self.kept_names:
            names += [name, *self._direct(name)]
        fixed = {f"{name}:0" for name in self.captured}
        return [n for n in unique(names) if n not in fixed and self.kinds[n] not in UNREADABLE]

    def _direct(self, name: str) -> list[str]:
        """Data inputs of the operation that made a tensor, seen past replacements."""
        producer = name.partition(":")[0]
        original = self._replaced(producer)
        if original is None:
            return [key_of(i) for i in self.nodes[producer].input if not i.startswith("^")]
        return [
            self.flat[self.rewritten.resolve(i)]
            for i in original.input
            if not i.startswith("^") and self.rewritten.resolve(i) in self.flat
        ]

    def _replaced(self, node: str) -> Any:
        """The operation that a node inside a replacement stands for."""
        parts = node.split("/")
        names = ("/".join(parts[:count]) for count in range(1, len(parts)))
        return next((self.rewritten.operations[n] for n in names if n in self.replaced), None)

    def recorded(self, found: Mapping[str, Any], gradients: Mapping[int, Array]) -> list[Recorded]:
        """Inputs and kept tensors of a pass, in order of execution."""
        index: dict[str, int] = {}
        values = {name: np.asarray(tensor) for name, tensor in found.items() if is_plain(tensor)}
        made: list[Recorded] = []
        for name, argument in self.inputs.items():
            key = f"{argument}:0"
            index[key] = len(made)
            value = np.asarray(values[key], np.float64)
            attributes = {"name": name}
            made.append(
                Recorded(len(made), "", "input", value, attributes=attributes, place=f":{name}")
            )
        for name, place in self.kept_names.items():
            if name not in index and name in values:
                index[name] = len(made)
                gradient = None if place is None else gradients.get(place)
                made.append(self._one(len(made), name, index, values, gradient))
        return made

    def _one(
        self,
        number: int,
        name: str,
        index: Mapping[str, int],
        values: Mapping[str, Array],
        gradient: Array | None,
    ) -> Recorded:
        producer = name.partition(":")[0]
        original = self._replaced(producer)
        node = self.nodes[producer] if original is None else original
        meant = self._compiled_convolution(node) or node
        direct = self._direct(name)
        sources, parameters = self._sources(direct, index)
        place = node.name if name.endswith(":0") else f"{node.name}:{name.partition(':')[2]}"
        path = self.scopes.path(node.name)
        return Recorded(
            index=number,
            path=path or self.scopes.within(owner_path(parameters)),
            operation=meant.op,
            value=np.asarray(values[name], np.float64),
            inputs=tuple(sources),
            parameters=tuple(parameters),
            attributes=self._attributes(meant, direct, values),
            arguments=tuple(
                values[i] if i in values else self._parameter_value(i)
                for i in direct
                if i in values or i.partition(":")[0] in self.parameter_names
            ),
            gradient=gradient,
            place=place,
        )

    def _compiled_convolution(self, node: Any) -> Any:
        """The convolution that a call for the compiler consists of; None for other nodes."""
        if node.op not in CALLS or node.attr["f"].func.name not in self.rewritten.library:
            return None
        body = self.rewritten.library[node.attr["f"].func.name].node_def
        found = [inner for inner in body if inner.op.startswith("Conv")]
        return found[0] if len(found) == 1 else None

    def _parameter_value(self, name: str) -> Array:
        """Values of a parameter that an operation reads by its handle (a lookup)."""
        return np.asarray(self.captured[name.partition(":")[0]].numpy())

    def _sources(
        self, direct: Iterable[str], index: Mapping[str, int]
    ) -> tuple[list[int], list[str]]:
        """Recorded tensors and parameters that inputs come from, past what is not recorded."""
        sources: dict[int, None] = {}
        parameters: dict[str, None] = {}
        waiting, seen = list(direct), set()
        while waiting:
            name = waiting.pop(0)
            producer = name.partition(":")[0]
            if name in seen:
                continue
            seen.add(name)
            if name in index:
                sources[index[name]] = None
            elif producer in self.parameter_names:
                parameters[self.parameter_names[producer]] = None
            elif producer in self.nodes and self.nodes[producer].op not in SILENT:
                waiting += [key_of(i) for i in self.nodes[producer].input if not i.startswith("^")]
        return sorted(sources), list(parameters)

    def _attributes(
        self, node: Any, direct: Sequence[str], values: Mapping[str, Array]
    ) -> dict[str, Any]:
        """Plain attributes of a node, and its small constant inputs by their names."""
        made = {
            key: plain
            for key, value in node.attr.items()
            if not key.startswith("_")
            and key not in DULL
            and (plain := plain_attribute(value)) is not None
        }
        known = definition(node.op)
        arguments = [] if known is None else [a.name for a in known.input_arg]
        for position, name in enumerate(direct):
            source = self.nodes.get(name.partition(":")[0])
            if source is None or source.op != "Const" or name not in values:
                continue
            value = values[name]
            if value.size <= (1 if value.dtype.kind == "f" else SMALL):
                key = arguments[position] if position < len(arguments) else f"input_{position}"
                made.setdefault(key, value.tolist() if value.ndim == 0 else tuple(value.tolist()))
        return made


def is_plain(tensor: Any) -> bool:
    """Whether a tensor has numbers."""
    return bool(tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool)


def owner_path(parameters: Sequence[str]) -> str:
    """Path of what owns the parameters that an operation reads; "" for none or several."""
    owners = {re.sub(r"[/.]?[^/.]*$", "", name) for name in parameters}
    return owners.pop() if len(owners) == 1 else ""


def plain_attribute(value: Any) -> Any:
    """An attribute as a number, flag, word or tuple; None for types, shapes and functions."""
    kind = value.WhichOneof("value")
    if kind in ("i", "f", "b"):
        return getattr(value, kind)
    if kind == "s":
        return value.s.decode(errors="replace")
    if kind == "list":
        for part in ("i", "f", "b"):
            if items := getattr(value.list, part):
                return tuple(items)
        if value.list.s:
            return tuple(item.decode(errors="replace") for item in value.list.s)
    return None
