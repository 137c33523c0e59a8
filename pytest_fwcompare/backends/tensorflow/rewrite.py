"""Rewrites a traced function into the same function in float64.

Works on `FunctionDef` messages, so it takes any model that TensorFlow can trace. Function calls
are inlined, which leaves only the bodies of loops and conditionals as functions of their own; then
every narrower float dtype becomes float64, in attributes, lists of attributes, constants and
signatures. Operations without a float64 kernel are replaced beforehand by a function made of
operations that have one (see `replacements`).

In a `FunctionDef` an input reads "argument", "node:output_name:index" or "^node".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2, types_pb2

from pytest_fwcompare.backends.constants import restore

NARROW = frozenset(
    getattr(types_pb2, name)
    for name in dir(types_pb2)
    if name in ("DT_FLOAT", "DT_HALF", "DT_BFLOAT16") or name.startswith("DT_FLOAT8")
)
"""Float dtypes that a shadow lifts to float64."""

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})

RANDOM = frozenset(
    {
        *("RandomUniform", "RandomStandardNormal", "TruncatedNormal"),
        *("StatelessRandomUniform", "StatelessRandomNormal", "StatelessTruncatedNormal"),
        *("StatelessRandomUniformV2", "StatelessRandomNormalV2", "StatelessTruncatedNormalV2"),
        *("StatefulUniform", "StatefulStandardNormalV2", "StatefulTruncatedNormal"),
    }
)
"""Draws that stay in their dtype and are cast afterwards: a float64 draw from the same seed is
another number, and a dropout mask would differ between a side and its shadow."""

DRAWN = "fwcompare_drawn"

_numbers = itertools.count()


class ShadowError(Exception):
    """The model cannot be rewritten or run in float64; the text says what stands in the way."""


@dataclass
class Rewritten:
    """A float64 function.

    Attributes:
        nodes: top-level nodes.
        returns: references of the returned tensors, in order.
        library: functions that loops and conditionals still call.
        rounded: names of constants that are known only to their own precision.
        leaks: "operation node" for each operation that still has a narrower float tensor.
        operations: the original of each replaced node.
        resolve: from a reference of the traced function to the one that took its place.
    """

    nodes: list[Any] = field(default_factory=list)
    returns: list[str] = field(default_factory=list)
    library: dict[str, Any] = field(default_factory=dict)
    rounded: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    operations: dict[str, Any] = field(default_factory=dict)
    resolve: Callable[[str], str] = str


Replacement = Callable[[Any], Any]
"""From a node to the `ConcreteFunction` that takes its place, float64 throughout."""


class Rewriter:
    """Rewrites one traced function and the functions it calls.

    Args:
        library: functions by name.
        replacements: by operation type.
    """

    def __init__(
        self, library: Mapping[str, Any], replacements: Mapping[str, Replacement]
    ) -> None:
        self.library = dict(library)
        self.replacements = replacements
        self.suffix = f"__f64_{next(_numbers)}"
        self.result = Rewritten()

    def rewrite(self, function: Any) -> Rewritten:
        """The float64 form of a `FunctionDef`."""
        expansion = self._expand(function)
        self.result.nodes = expansion.nodes
        self.result.resolve = expansion.resolve
        self.result.returns = [
            expansion.resolve(function.ret[argument.name])
            for argument in function.signature.output_arg
        ]
        return self.result

    def _expand(self, function: Any) -> _Expansion:
        """Inline all calls of a function, then lift what is left."""
        expansion = _Expansion(self)
        bound = {argument.name: argument.name for argument in function.signature.input_arg}
        expansion.add(function.node_def, "", bound, ())
        expansion.finish()
        for node in expansion.nodes:
            self._lift_node(node)
        return expansion

    def _lift_node(self, node: Any) -> None:
        if node.name.endswith(DRAWN):
            return
        if node.op == "Const":
            self._lift_constant(node)
        for value in node.attr.values():
            self._lift_attribute(value)
        if narrow := narrow_parts(node):
            self.result.leaks.append(f"{node.op} {node.name} ({narrow})")

    def _lift_constant(self, node: Any) -> None:
        tensor = node.attr["value"].tensor
        if tensor.dtype == types_pb2.DT_COMPLEX64:
            wide = tf.make_tensor_proto(tf.make_ndarray(tensor), tf.complex128)
            node.attr["value"].tensor.CopyFrom(wide)
        if tensor.dtype not in NARROW:
            return
        value, exact = restore(tf.make_ndarray(tensor))
        if not exact:
            self.result.rounded.append(node.name)
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.float64))

    def _lift_attribute(self, value: attr_value_pb2.AttrValue) -> None:
        kind = value.WhichOneof("value")
        if kind == "type":
            value.type = lifted(value.type)
        elif kind == "list":
            for place, item in enumerate(value.list.type):
                value.list.type[place] = lifted(item)
            for function in value.list.func:
                function.name = self._lift_function(function.name)
        elif kind == "func":
            value.func.name = self._lift_function(value.func.name)

    def _lift_function(self, name: str) -> str:
        """The name of the float64 form of a library function, which is made on first use."""
        if name not in self.library:
            return name
        new = name + self.suffix
        if new in self.result.library:
            return new
        old = self.library[name]
        made = function_pb2.FunctionDef()
        self.result.library[new] = made
        expansion = self._expand(old)
        made.signature.CopyFrom(old.signature)
        made.signature.name = new
        for argument in (*made.signature.input_arg, *made.signature.output_arg):
            argument.type = lifted(argument.type)
            for part in argument.handle_data:
                part.dtype = lifted(part.dtype)
        for key, attributes in old.arg_attr.items():
            made.arg_attr[key].CopyFrom(attributes)
            for value in made.arg_attr[key].attr.values():
                self._lift_attribute(value)
        made.node_def.extend(expansion.nodes)
        for key, reference in old.ret.items():
            made.ret[key] = expansion.resolve(reference)
        for key, place in old.control_ret.items():
            for number, target in enumerate(expansion.control(place)):
                # A call that was inlined stands for several nodes; the first keeps the name, as
                # the signature lists it.
                made.control_ret[key if number == 0 else f"{key}_{number}"] = target
                if number:
                    made.signature.control_output.append(f"{key}_{number}")
        return new


class _Expansion:
    """Nodes of one function with all calls inlined."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self.nodes: list[Any] = []
        self.moved: dict[str, str] = {}
        self.controls: dict[str, list[str]] = {}

    def add(
        self,
        nodes: Iterable[Any],
        prefix: str,
        bound: Mapping[str, str],
        after: tuple[str, ...],
    ) -> None:
        """Add the nodes of a function body.

        Args:
            nodes: of the body.
            prefix: of their new names.
            bound: what stands for each argument of the function.
            after: control inputs of the call, which every node of the body takes over.
        """
        for node in nodes:
            copy = node_def_pb2.NodeDef()
            copy.CopyFrom(node)
            copy.name = prefix + node.name
            # Placement belongs to the graph that was traced, and to its device.
            copy.attr.pop("_class", None)
            copy.device = ""
            del copy.input[:]
            copy.input.extend([*(renamed(i, prefix, bound) for i in node.input), *after])
            callee = self._callee(copy)
            if callee is not None:
                self._inline(copy, callee)
            elif copy.op in RANDOM:
                self._keep_draw(copy)
            else:
                self.nodes.append(copy)

    def _callee(self, node: Any) -> Any:
        if node.op in CALLS:
            if self._needs_compiler(node):
                return None
            return self.rewriter.library.get(node.attr["f"].func.name)
        if node.op in self.rewriter.library:  # a function called by its own name
            return self.rewriter.library[node.op]
        replacement = self.rewriter.replacements.get(node.op)
        if replacement is None:
            return None
        made = replacement(node)
        if made is None:
            return None
        for function in made.graph.as_graph_def().library.function:
            self.rewriter.library.setdefault(function.signature.name, function)
        self.rewriter.result.operations[node.name] = node
        return made.function_def

    def _needs_compiler(self, call: Any) -> bool:
        """Whether a call must stay one: convolutions in groups have gradients in XLA only."""
        if not call.attr["_XlaMustCompile"].b:
            return False
        waiting, seen = [call.attr["f"].func.name], set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.rewriter.library:
                continue
            seen.add(name)
            for node in self.rewriter.library[name].node_def:
                if node.op.startswith("Conv"):
                    return True
                waiting += [v.func.name for v in node.attr.values() if v.HasField("func")]
        return False

    def _inline(self, call: Any, callee: Any) -> None:
        inner = call.name + "/"
        data = [i for i in call.input if not i.startswith("^")]
        after = tuple(i for i in call.input if i.startswith("^"))
        arguments = callee.signature.input_arg
        bound = {argument.name: i for argument, i in zip(arguments, data, strict=True)}
        self.add(callee.node_def, inner, bound, after)
        for place, output in enumerate(callee.signature.output_arg):
            target = renamed(callee.ret[output.name], inner, bound)
            self.moved[f"{call.name}:{self._output_name(call, place, output)}"] = target
        self.controls[call.name] = [inner + node.name for node in callee.node_def]

    def _output_name(self, call: Any, place: int, output: Any) -> str:
        """How the other nodes refer to an output of the call."""
        if call.op in CALLS:
            return f"output:{place}"
        if call.op in self.rewriter.replacements:
            return f"{output_names(call.op)[place]}:0"
        return f"{output.name}:0"

    def _keep_draw(self, node: Any) -> None:
        cast = node_def_pb2.NodeDef(name=node.name, op="Cast")
        source = types_pb2.DT_FLOAT
        for key in ("dtype", "Tout"):
            if key in node.attr:
                source = node.attr[key].type
        node.name += "/" + DRAWN
        self.nodes.append(node)
        if source not in NARROW:
            self.moved[f"{cast.name}:output:0"] = f"{node.name}:output:0"
            self.controls[cast.name] = [node.name]
            return
        # The cast itself must not be lifted, so it carries the mark as well.
        cast.name = f"{cast.name}/lift_{DRAWN}"
        cast.input.append(f"{node.name}:output:0")
        cast.attr["SrcT"].type = source
        cast.attr["DstT"].type = types_pb2.DT_DOUBLE
        original = node.name.removesuffix("/" + DRAWN)
        self.moved[f"{original}:output:0"] = f"{cast.name}:y:0"
        self.controls[original] = [cast.name]
        self.nodes.append(cast)

    def resolve(self, reference: str) -> str:
        """A data reference with inlined calls followed to what they return."""
        while reference in self.moved:
            reference = self.moved[reference]
        return reference

    def control(self, name: str) -> list[str]:
        """The nodes that stand for a node in control references."""
        if name not in self.controls:
            return [name]
        return [leaf for part in self.controls[name] for leaf in self.control(part)]

    def finish(self) -> None:
        """Point all inputs at what is there after inlining."""
        for node in self.nodes:
            data = [self.resolve(i) for i in node.input if not i.startswith("^")]
            after = {
                "^" + leaf: None
                for i in node.input
                if i.startswith("^")
                for leaf in self.control(i[1:])
            }
            after.pop("^" + node.name, None)
            del node.input[:]
            node.input.extend([*data, *after])


def renamed(reference: str, prefix: str, bound: Mapping[str, str]) -> str:
    """A reference inside a function body, seen from where the body was inlined."""
    if reference.startswith("^"):
        name = reference[1:]
        if name in bound:
            # An order after an argument: the argument is there by then.
            return "^" + bound[name].lstrip("^").partition(":")[0]
        return "^" + prefix + name
    if ":" not in reference:
        return bound[reference]
    return prefix + reference


def lifted(kind: int) -> int:
    """float64 for a narrower float dtype, and the complex dtype of its kind."""
    if kind == types_pb2.DT_COMPLEX64:
        return int(types_pb2.DT_COMPLEX128)
    return types_pb2.DT_DOUBLE if kind in NARROW else kind


def output_names(operation: str) -> list[str]:
    """Names of the outputs of an operation type."""
    return [argument.name for argument in definition(operation).output_arg]


def outputs_of(node: Any) -> list[tuple[str, int]]:
    """How a `FunctionDef` refers to each output tensor of a node, and its dtype, in order."""
    known = definition(node.op)
    if known is None:
        raise ShadowError(f"{node.op} {node.name!r} is neither an operation nor a known function")
    found: list[tuple[str, int]] = []
    for argument in known.output_arg:
        if argument.type_list_attr:
            kinds = list(node.attr[argument.type_list_attr].list.type)
        else:
            kind = argument.type or node.attr[argument.type_attr].type
            kinds = [kind] * (node.attr[argument.number_attr].i if argument.number_attr else 1)
        found += [(f"{node.name}:{argument.name}:{place}", k) for place, k in enumerate(kinds)]
    return found


def definition(operation: str) -> Any:
    """The `OpDef` of an operation type; None for a function."""
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(operation)


def narrow_parts(node: Any) -> str:
    """Names of the arguments of a lifted node whose type is fixed to a narrower float."""
    known = definition(node.op)
    if known is None:
        return ""
    return ", ".join(
        f"{argument.name} is {tf.as_dtype(argument.type).name}"
        for argument in (*known.input_arg, *known.output_arg)
        if argument.type in NARROW
    )
