"""The float64 shadow of a TensorFlow model: traced once a signature, rewritten, split in two.

Outputs and gradients are traced together in the working dtype, so every gradient is the one that
the model's own framework gives (custom and stopped gradients, loops, nested functions), and the
rewritten graph is float64 in both directions. The graph is then cut where the cotangents enter:
the forward function also returns what the backward one needs.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from pytest_fwcompare.backends.constants import restore
from pytest_fwcompare.backends.tensorflow.replacements import REPLACEMENTS
from pytest_fwcompare.backends.tensorflow.rewrite import (
    Rewriter,
    definition,
    lifted,
    outputs_of,
)

COTANGENT = "fwcompare_cotangent"


@dataclass
class Trace:
    """What tracing a model once gave, before it is rewritten.

    Attributes:
        function: `ConcreteFunction` of [outputs, gradients, kept intermediates].
        outputs: names of the outputs, in order.
        float_outputs: those that have a cotangent, with the name of its placeholder.
        gradients: what each gradient is by: ("input", name) or ("parameter", name).
        kept: operations whose outputs are recorded, as (operation name, output number).
        kept_gradients: places in `kept` that have a gradient.
        skipped: outputs left out, with the reason.
    """

    function: Any = None
    outputs: list[str] = field(default_factory=list)
    float_outputs: dict[str, str] = field(default_factory=dict)
    gradients: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, int]] = field(default_factory=list)
    kept_gradients: list[int] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def trace_model(
    call: Callable[[Sequence[Any]], tuple[dict[str, Any], dict[str, str]]],
    specs: Mapping[str, Any],
    parameters: Mapping[str, Any],
    *,
    gradients: bool,
    record: bool,
    autograph: bool,
) -> Trace:
    """Trace outputs and, if asked for, gradients and intermediates in the working dtype.

    Args:
        call: from input tensors to outputs by name and skipped outputs.
        specs: `tf.TensorSpec` by input name.
        parameters: trainable variables by parameter name.
        gradients: also trace vector-Jacobian products.
        record: also keep every float intermediate and its gradient.
        autograph: convert Python conditions on tensors.
    """
    made = Trace()

    def program(*tensors: Any) -> list[Any]:
        # TensorFlow may trace more than once; the last time counts.
        made.__dict__.update(Trace(function=made.function).__dict__)
        outputs, made.skipped = call(tensors)
        made.outputs = list(outputs)
        graph = tf.compat.v1.get_default_graph()
        kept = forward_tensors(graph, tensors) if record else []
        made.kept = [(tensor.op.name, tensor.value_index) for tensor in kept]
        results = [tf.identity(tensor) for tensor in outputs.values()]
        if gradients:
            results += add_gradients(made, outputs, results, specs, tensors, parameters, kept)
        return results

    function = tf.function(program, autograph=autograph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.function = function.get_concrete_function(*specs.values())
    return made


def forward_tensors(graph: Any, inputs: Sequence[Any]) -> list[Any]:
    """All float tensors computed so far, in the order in which they were made."""
    return [
        tensor
        for operation in graph.get_operations()
        if operation.type not in ("Placeholder", "ReadVariableOp", "NoOp")
        for tensor in operation.outputs
        if tensor.dtype.is_floating
    ]


def add_gradients(
    made: Trace,
    outputs: Mapping[str, Any],
    results: Sequence[Any],
    specs: Mapping[str, Any],
    tensors: Sequence[Any],
    variables: Mapping[str, Any],
    kept: Sequence[Any],
) -> list[Any]:
    """Gradients of sum(outputs * cotangents), noted in `made`; unconnected ones are left out."""
    cotangents, sources = [], []
    for place, ((name, tensor), result) in enumerate(zip(outputs.items(), results, strict=True)):
        if tensor.dtype.is_floating:
            made.float_outputs[name] = f"{COTANGENT}_{place}"
            sources.append(result)
            cotangents.append(
                tf.raw_ops.Placeholder(
                    dtype=tensor.dtype, shape=tensor.shape, name=f"{COTANGENT}_{place}"
                )
            )
    wanted: list[tuple[tuple[str, str], Any]] = [
        (("input", name), tensor)
        for name, tensor in zip(specs, tensors, strict=True)
        if tensor.dtype.is_floating
    ]
    wanted += [(("parameter", name), variable) for name, variable in variables.items()]
    wanted += [(("kept", str(place)), tensor) for place, tensor in enumerate(kept)]
    if not sources or not wanted:
        return []
    found = tf.gradients(sources, [target for _, target in wanted], cotangents)
    results = []
    for (kind, name), gradient in zip((key for key, _ in wanted), found, strict=True):
        if gradient is None:
            continue
        if kind == "kept":
            made.kept_gradients.append(int(name))
        else:
            made.gradients.append((kind, name))
        results.append(tf.identity(tf.convert_to_tensor(gradient)))
    return results


@dataclass
class Piece:
    """A float64 function cut out of the shadow graph, ready to be called."""

    function: Any
    feeds: list[str]
    fetches: list[str]

    def __call__(self, values: Mapping[str, Any]) -> dict[str, Any]:
        with tf.device("/CPU:0"), as_written():
            results = self.function(*(values[name] for name in self.feeds))
        return dict(zip(self.fetches, results, strict=True))


class Shadow:
    """One traced signature in float64.

    Args:
        trace: from `trace_model`.
        inputs: names of the inputs in order.
        double: float64 (or integer) stand-in of a variable of the model.

    Attributes:
        leaks: operations that are not float64.
        rounded: constants known to working precision only.
        assigns: whether a pass changes variables.
    """

    def __init__(self, trace: Trace, inputs: Sequence[str], double: Callable[[Any], Any]) -> None:
        self.trace = trace
        concrete = trace.function
        definition = concrete.function_def
        library = {
            function.signature.name: function
            for function in concrete.graph.as_graph_def().library.function
        }
        rewriter = Rewriter(library, REPLACEMENTS)
        self.rewritten = rewriter.rewrite(definition)
        self.leaks = self.rewritten.leaks
        self.rounded = list(self.rewritten.rounded)
        self._flatten(definition)
        self._bind(concrete, definition, inputs, double)
        self.late = descendants(self.nodes, set(trace.float_outputs.values()))
        count = len(trace.outputs)
        self.output_names = dict(zip(trace.outputs, self.returns[:count], strict=True))
        found = self.returns[count:]
        self.gradient_names = dict(zip(trace.gradients, found, strict=False))
        self.kept_gradient_names = dict(
            zip(trace.kept_gradients, found[len(trace.gradients) :], strict=True)
        )
        self.assigns = any(is_assignment(node) for node in self._all_nodes())
        self._pieces: dict[Any, Piece] = {}
        self._crossing: list[str] | None = None
        from tensorflow.python.eager import context

        # A function that is called by name inside an imported graph is looked up here, and the
        # lowering of a loop follows a null pointer if it is missing.
        self._registry = context.context()
        for function in self.rewritten.library.values():
            self._registry.add_function_def(function)

    def close(self) -> None:
        """Forget the functions that were registered with TensorFlow."""
        self._pieces.clear()
        for name in self.rewritten.library:
            if self._registry.has_function(name):
                self._registry.remove_function(name)
        self.rewritten.library.clear()

    def _all_nodes(self) -> list[Any]:
        inner = [n for f in self.rewritten.library.values() for n in f.node_def]
        return [*self.nodes.values(), *inner]

    def _flatten(self, function: Any) -> None:
        """From the references of a function ("node:name:2") to those of a graph ("node:2")."""
        self.nodes: dict[str, Any] = {}
        self.kinds: dict[str, int] = {}
        flat: dict[str, str] = {}
        for argument in function.signature.input_arg:
            node = node_def_pb2.NodeDef(name=argument.name, op="Placeholder")
            node.attr["dtype"].type = lifted(argument.type)
            self.nodes[argument.name] = node
            flat[argument.name] = f"{argument.name}:0"
            self.kinds[flat[argument.name]] = lifted(argument.type)
        for node in self.rewritten.nodes:
            self.nodes[node.name] = node
            for place, (name, kind) in enumerate(outputs_of(node)):
                flat[name] = f"{node.name}:{place}"
                self.kinds[flat[name]] = kind
        for node in self.rewritten.nodes:
            inputs = [i if i.startswith("^") else flat[i] for i in node.input]
            del node.input[:]
            node.input.extend(inputs)
        self.returns = [flat[name] for name in self.rewritten.returns]
        self.flat = flat

    def _bind(
        self, concrete: Any, definition: Any, inputs: Sequence[str], double: Callable[[Any], Any]
    ) -> None:
        """Find what stands for each argument of the traced function: an input or a capture."""
        arguments = [argument.name for argument in definition.signature.input_arg]
        self.inputs = dict(zip(inputs, arguments[: len(inputs)], strict=True))
        variables = {id(v.handle): v for v in concrete.graph.variables}
        captures = concrete.graph.captures
        self.captured: dict[str, Any] = {}
        self.variables: dict[str, Any] = {}
        for name, (outside, _) in zip(arguments[len(inputs) :], captures, strict=True):
            if outside.dtype == tf.resource and id(outside) in variables:
                self.variables[name] = variables[id(outside)]
                self.captured[name] = double(variables[id(outside)])
            elif outside.dtype.is_floating:
                value, exact = restore(outside.numpy())
                if not exact:
                    self.rounded.append(f"captured tensor {name}")
                self.captured[name] = tf.constant(value, tf.float64)
            else:
                self.captured[name] = outside

    def piece(
        self,
        fetches: Sequence[str],
        feeds: Mapping[str, Any],
        roots: set[str],
        within: set[str],
    ) -> Piece:
        """The function from `feeds` (tensor name to spec) to `fetches`.

        Args:
            fetches: tensor names.
            feeds: specs by tensor name.
            roots: nodes that run for what they do.
            within: nodes that may be taken; orders after other nodes are dropped.
        """
        needed = ancestors(
            self.nodes,
            {name.partition(":")[0] for name in fetches if name not in feeds} | roots,
            set(feeds) | {f"{name}:0" for name in self.captured},
            within,
        )
        graph = graph_pb2.GraphDef()
        graph.versions.producer = tf.version.GRAPH_DEF_VERSION
        graph.library.function.extend(self.rewritten.library.values())
        for name, node in self.nodes.items():
            if name in needed and name not in self.captured:
                copy = graph.node.add()
                copy.CopyFrom(node)
                kept = [i for i in node.input if not i.startswith("^") or i[1:] in needed]
                kept = [i for i in kept if i[1:] not in self.captured or not i.startswith("^")]
                del copy.input[:]
                copy.input.extend(kept)
        used = {key_of(i) for node in graph.node for i in node.input}
        inner = [name for name in fetches if name not in feeds]

        def run(*tensors: Any) -> list[Any]:
            given = dict(zip(feeds, tensors, strict=True))
            here = tf.compat.v1.get_default_graph()
            mapping = {name: tensor for name, tensor in given.items() if name in used}
            for name, outside in self.captured.items():
                if f"{name}:0" in used:
                    mapping[f"{name}:0"] = here.capture(getattr(outside, "handle", outside))
            results = tf.graph_util.import_graph_def(
                graph, input_map=mapping, return_elements=inner, name="shadow"
            )
            found = dict(zip(inner, results, strict=True)) | given
            return [found[name] for name in fetches]

        function = tf.function(run, autograph=False).get_concrete_function(*feeds.values())
        return Piece(function, list(feeds), list(fetches))

    def forward_piece(self, *, backward: bool, record: bool) -> Piece:
        """From the inputs to the outputs and what the backward piece or the record needs."""
        key = ("forward", backward, record)
        if key not in self._pieces:
            fetches = list(self.output_names.values())
            if backward:
                fetches += self.crossing()
            if record:
                fetches += self.record_fetches()
            early = set(self.nodes) - self.late
            roots = {name for name in early if is_stateful(self.nodes[name])}
            self._pieces[key] = self.piece(unique(fetches), self._input_feeds(), roots, early)
        return self._pieces[key]

    def _input_feeds(self) -> dict[str, Any]:
        specs = self.trace.function.structured_input_signature[0]
        return {
            f"{name}:0": tf.TensorSpec(
                spec.shape, tf.float64 if spec.dtype.is_floating else spec.dtype
            )
            for name, spec in zip(self.inputs.values(), specs, strict=True)
        }

    def record_fetches(self) -> list[str]:
        """Names of the recorded tensors; extended by `record`."""
        return []

    def backward_fetches(self) -> list[str]:
        """Names of all gradients."""
        return unique([*self.gradient_names.values(), *self.kept_gradient_names.values()])

    def crossing(self) -> list[str]:
        """Tensors of the forward part that the backward part reads; looked for once."""
        if self._crossing is None:
            self._crossing = self._find_crossing()
        return self._crossing

    def _find_crossing(self) -> list[str]:
        fixed = {f"{name}:0" for name in self.captured}
        wanted = {name.partition(":")[0] for name in self.backward_fetches()}
        needed = ancestors(self.nodes, wanted, set(), self.late)
        read = [key_of(i) for name in needed for i in self.nodes[name].input]
        early = [
            name
            for name in [*read, *self.backward_fetches()]
            if not name.startswith("^") and name.partition(":")[0] not in self.late
        ]
        return [name for name in unique(early) if name not in fixed]

    def backward_piece(self, crossing: Mapping[str, Any], cotangents: Mapping[str, Any]) -> Piece:
        """From kept tensors and cotangents to gradients."""
        if "backward" not in self._pieces:
            feeds = {
                name: tf.TensorSpec(value.shape, value.dtype)
                for name, value in {**crossing, **cotangents}.items()
            }
            self._pieces["backward"] = self.piece(self.backward_fetches(), feeds, set(), self.late)
        return self._pieces["backward"]


@cache
def unoptimised() -> Any:
    """Options of a function call that leave its graph as it was written."""
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.eager import context

    options = config_pb2.ConfigProto(allow_soft_placement=True)
    # Fusing a bias into a grouped convolution makes an operation that no CPU has.
    options.graph_options.rewrite_options.disable_meta_optimizer = True
    return context.FunctionCallOptions(config_proto=options)


@contextmanager
def as_written() -> Iterator[None]:
    """Functions called for the first time in here are not rewritten by TensorFlow's optimisers."""
    from tensorflow.python.eager import context

    here = context.context()
    before = here.function_call_options
    here.function_call_options = unoptimised()
    try:
        yield
    finally:
        here.function_call_options = before


def key_of(reference: str) -> str:
    """A data reference with its output number written out."""
    if reference.startswith("^") or ":" in reference:
        return reference
    return reference + ":0"


def unique(names: Sequence[str]) -> list[str]:
    """Names in order, each once."""
    return list(dict.fromkeys(names))


def descendants(nodes: Mapping[str, Any], start: set[str]) -> set[str]:
    """Nodes whose values depend on those of the start nodes, those included.

    What only waits for others does not: a `tf.function` with a loop lets its results wait for the
    gradients too.
    """
    readers: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for reference in node.input:
            if not reference.startswith("^"):
                readers.setdefault(reference.partition(":")[0], []).append(name)
    found, waiting = set(start), list(start)
    while waiting:
        for reader in readers.get(waiting.pop(), ()):
            if reader not in found:
                found.add(reader)
                waiting.append(reader)
    return found


def ancestors(
    nodes: Mapping[str, Any], start: set[str], stops: set[str], within: set[str]
) -> set[str]:
    """Nodes that the start nodes need, those included.

    Args:
        nodes: by name.
        start: names of the start nodes.
        stops: data references that are not followed.
        within: nodes that may be taken.
    """
    found = start & within
    waiting = list(found)
    while waiting:
        for reference in nodes[waiting.pop()].input:
            name = reference.lstrip("^").partition(":")[0]
            if key_of(reference) not in stops and name in within and name not in found:
                found.add(name)
                waiting.append(name)
    return found


def is_stateful(node: Any) -> bool:
    """Whether a node acts on something outside the graph."""
    known = definition(node.op)
    return bool(known is not None and known.is_stateful and node.op != "Placeholder")


def is_assignment(node: Any) -> bool:
    """Whether a node changes a variable."""
    return re.match(
        r"(Assign\w*Variable|Resource(Scatter|Apply|Strided))", node.op
    ) is not None or (node.op in ("StatelessRandomGetKeyCounter", "RngReadAndSkip", "RngSkip"))
