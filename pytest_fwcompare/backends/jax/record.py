"""Records every equation of a float64 pass: value, inputs, attributes, module, gradient."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import jax
import numpy as np
from jax.extend import core

from pytest_fwcompare.backends.base import Array, Gradients, Recorded
from pytest_fwcompare.backends.jax.leaves import has_numbers, is_float, options_of, plain
from pytest_fwcompare.backends.jax.model import JaxModel
from pytest_fwcompare.backends.jax.outputs import Outputs
from pytest_fwcompare.backends.jax.passes import JaxPass
from pytest_fwcompare.backends.jax.shadow import INLINED, Lift, body, nested, traced
from pytest_fwcompare.backends.jax.twin import submodules
from pytest_fwcompare.backends.jax.watch import MARK, scope_path, watched
from pytest_fwcompare.backends.jax.widths import to_numpy

MOVES = (
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
    "expand_dims",
    "name",
    "reshape",
    "rev",
    "squeeze",
    "transpose",
)
"""Primitives that move values and compute none."""

UNCHANGED = ("convert_element_type", "copy", "copy_p", "name", "optimization_barrier")
"""Primitives whose result is their operand in float64."""

OPENED = 2000
"""Equations of all steps of a loop together up to which each step is recorded, not only what
the loop gives: a cell that somebody wrote is told by its steps."""


@dataclass(frozen=True)
class Source:
    """What a value of the trace comes from.

    Attributes:
        records: drafts it was computed from, through values that were not recorded.
        parameters: parameters it was computed from since.
        record: the draft whose value it is.
        pure: True while it is a parameter or constant that was only moved.
    """

    records: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    record: int | None = None
    pure: bool = True


@dataclass
class Draft:
    """A record in the making; its arrays are places in the lists that the program hands out."""

    path: str
    operation: str
    inputs: tuple[int, ...]
    parameters: tuple[str, ...]
    attributes: dict[str, Any]
    arguments: tuple[tuple[str, int], ...]
    place: str
    shape: tuple[int, ...] = ()
    is_module: bool = False


@dataclass(frozen=True)
class Traced:
    """A value of the trace with its source."""

    value: Any
    source: Source = field(default_factory=Source)


@final
class Recorder(Lift):
    """Evaluates a jaxpr in float64 and keeps what every equation gave.

    Args:
        nudges: for each draft in order, what is added to its value: zeros, by which the gradient
            is taken; None in the first run, which finds the shapes.
        options: plain facts of the modules by path.
    """

    def __init__(
        self, nudges: Sequence[Any] | None, options: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__()
        self.options = options
        self.nudges = nudges
        self.drafts: list[Draft] = []
        self.values: list[Any] = []
        self.extras: list[Any] = []
        self._places: dict[int, int] = {}
        self._held: list[Any] = []
        self._paths: list[str] = [""]
        self._counts: Counter[tuple[str, str]] = Counter()

    def run(self, jaxpr: Any, given: Sequence[Traced]) -> list[Any]:
        """Outputs of the whole jaxpr."""
        return [traced.value for traced in self.walk(jaxpr, given)]

    def input(self, name: str, value: Any) -> Traced:
        """An input of the model, recorded first."""
        return self.add(value, "input", Source(pure=False), (), {"name": name})

    def walk(self, jaxpr: Any, given: Sequence[Traced]) -> list[Traced]:
        """Outputs of a jaxpr with their sources."""
        inner, constants = (jaxpr.jaxpr, jaxpr.consts) if hasattr(jaxpr, "consts") else (jaxpr, ())
        held: dict[Any, Traced] = {}
        for variable, value in zip(inner.constvars, constants, strict=True):
            held[variable] = Traced(self.constant(value, "held by the model's code"))
        held.update(zip(inner.invars, given, strict=True))

        def read(variable: Any) -> Traced:
            if isinstance(variable, core.Literal):
                return Traced(self.constant(variable.val, "in the traced code"))
            return held[variable]

        for equation in inner.eqns:
            self._paths.append(scope_path(equation.source_info.name_stack) or self._paths[-1])
            outputs = self.equation(equation, [read(v) for v in equation.invars])
            self._paths.pop()
            held.update(zip(equation.outvars, outputs, strict=True))
        return [read(variable) for variable in inner.outvars]

    def equation(self, equation: Any, inputs: list[Traced]) -> list[Traced]:
        """Outputs of one equation, recorded."""
        name = equation.primitive.name
        if name in INLINED:
            return self._inlined(equation, inputs)
        if name == "name":
            return [self._named(equation.params["name"], inputs[0])]
        if name == "scan" and 0 < equation.params["length"] <= OPENED / equations(equation):
            return self._steps(equation, inputs)
        outputs = self.step(equation, [traced.value for traced in inputs])
        source = joined(inputs)
        if source.pure and (name in MOVES or not source.parameters) and not counts(name, outputs):
            return [Traced(value, source) for value in outputs]
        if name in UNCHANGED and is_float(outputs[0]) and is_float(inputs[0].value):
            return [Traced(outputs[0], inputs[0].source)]
        operation = function_name(equation) if name.startswith("custom_") else name
        if source.pure and name == "convert_element_type":
            operation = "iota"  # whole numbers, made floating
        facts = attributes(equation.params)
        several = sum(map(is_float, outputs)) > 1
        made = []
        for number, value in enumerate(outputs):
            if is_float(value):
                extra = {"output": number} if several else {}
                made.append(self.add(value, operation, source, inputs, {**facts, **extra}))
            else:
                made.append(Traced(value, Source(source.records, source.parameters, pure=False)))
        return made

    def _inlined(self, equation: Any, inputs: list[Traced]) -> list[Traced]:
        outputs = self.walk(body(equation), inputs)
        name = equation.params.get("name")
        record = outputs[0].source.record if len(outputs) == 1 else None
        if isinstance(name, str) and not name.startswith("_") and record is not None:
            # A function such as gelu or silu, as one: beside the equations within it.
            given = [traced.source.record for traced in inputs]
            if record not in given and self.drafts[record].operation != name:
                self._copy(record, self._paths[-1], name, {})
        return outputs

    def _steps(self, equation: Any, inputs: list[Traced]) -> list[Traced]:
        """Outputs of a loop of known length, recorded step by step.

        Each output is recorded as that of the loop, with the attributes "taken", the number of
        what goes into the loop among its inputs, and "given", among its arguments: what follows
        there are the steps' values that it consists of.
        """
        params, length = equation.params, equation.params["length"]
        consts, carries = params["num_consts"], params["num_carry"]
        fixed, carry = inputs[:consts], inputs[consts : consts + carries]
        rows: list[list[Traced]] = [[] for _ in range(len(equation.outvars) - carries)]
        order = range(length)
        for step in reversed(order) if params["reverse"] else order:
            items = [self._row(one, step) for one in inputs[consts + carries :]]
            made = self.walk(params["jaxpr"], [*fixed, *carry, *items])
            carry = made[:carries]
            for row, item in zip(rows, made[carries:], strict=True):
                row.append(item)
        if params["reverse"]:
            rows = [row[::-1] for row in rows]
        stacked = [(jax.numpy.stack([t.value for t in row]), row) for row in rows]
        facts = {**attributes(params), "given": len(inputs)}
        outputs = []
        for number, (value, steps) in enumerate([*((t.value, [t]) for t in carry), *stacked]):
            taken, source = joined(inputs), joined([*inputs, *steps])
            if not is_float(value):
                outputs.append(
                    Traced(value, Source(source.records, source.parameters, pure=False))
                )
                continue
            own = {**facts, "taken": len(taken.records), "output": number}
            outputs.append(self.add(value, "scan", source, [*inputs, *steps], own))
        return outputs

    def _row(self, traced: Traced, step: int) -> Traced:
        """What a step reads of a sequence (length, ...)."""
        value, source = traced.value[step], traced.source
        if source.pure or not is_float(value):
            return Traced(value, Source(source.records, source.parameters, pure=source.pure))
        return self.add(value, "select", source, [traced], {"axis": 0, "start": step})

    def _named(self, name: str, traced: Traced) -> Traced:
        mark, *facts = name.split("|")
        if mark == MARK and traced.source.record is not None:
            self._copy(traced.source.record, facts[0], facts[1], self.options.get(facts[0], {}))
        return traced

    def _copy(self, record: int, path: str, operation: str, facts: Mapping[str, Any]) -> None:
        """The same value once more, as that of a whole module or function."""
        self.add(
            self.values[record], operation, Source((record,), (), record), (), facts, path=path
        )

    def add(
        self,
        value: Any,
        operation: str,
        source: Source,
        inputs: Sequence[Traced],
        facts: Mapping[str, Any],
        path: str | None = None,
    ) -> Traced:
        """Keep a value; hand it on with its nudge added."""
        number = len(self.drafts)
        is_module = path is not None
        path = self._paths[-1] if path is None else path
        count = self._counts[path, operation]
        self._counts[path, operation] += 1
        self.drafts.append(
            Draft(
                path=path,
                operation=operation,
                inputs=source.records,
                parameters=source.parameters,
                attributes=dict(facts),
                arguments=tuple(self._argument(traced) for traced in inputs),
                place=f"{path}:{operation}:{count}",
                shape=tuple(value.shape),
                is_module=is_module,
            )
        )
        if self.nudges is not None and not is_module:
            value = value + self.nudges[number]
        self.values.append(value)
        return Traced(value, Source((number,), (), number, pure=False))

    def _argument(self, traced: Traced) -> tuple[str, int]:
        """Where an argument's array will be found: among the values or among the extras."""
        if traced.source.record is not None:
            return "value", traced.source.record
        if id(traced.value) not in self._places:
            self._places[id(traced.value)] = len(self.extras)
            self.extras.append(traced.value)
            self._held.append(traced.value)
        return "extra", self._places[id(traced.value)]


def equations(equation: Any) -> int:
    """Equations of a loop's step, those of calls within it counted."""
    return sum(1 + equations(e) for inner in nested(equation) for e in inner.eqns)


def counts(name: str, outputs: Sequence[Any]) -> bool:
    """Whether constants are computed that a port may compute otherwise: positions, angles, rates.

    A single number is no more than an attribute, and what is only moved is recorded where it is
    used.
    """
    if not is_float(outputs[0]) or outputs[0].size < 2:
        return False
    return name not in MOVES or name == "convert_element_type"


def joined(inputs: Sequence[Traced]) -> Source:
    """The source of what is computed from several values."""
    sources = [traced.source for traced in inputs]
    return Source(
        records=tuple(dict.fromkeys(r for s in sources for r in s.records)),
        parameters=tuple(dict.fromkeys(p for s in sources for p in s.parameters)),
        pure=all(source.pure for source in sources),
    )


def function_name(equation: Any) -> str:
    """Name of the function that defines its own derivative: "relu", "logaddexp"."""
    inner = equation.params.get("call_jaxpr")
    info = getattr(getattr(inner, "jaxpr", inner), "debug_info", None)
    text = str(getattr(info, "func_src_info", "") or "").split(" ")[0]
    return text or str(equation.primitive.name)


def attributes(params: Mapping[str, Any]) -> dict[str, Any]:
    """Plain parameters of an equation."""
    facts = {}
    for name, value in params.items():
        fact = str(value) if isinstance(value, enum.Enum) else plain(value)
        if fact is None and isinstance(value, tuple):
            fact = numbers(value)
        if fact is not None and name not in ("name", "weak_type", "keep_unused", "inline"):
            facts[name] = fact
    return facts


def numbers(value: Any) -> Any:
    """Nested tuples of whole numbers, empty ones too, as the axes of products are; else None."""
    if isinstance(value, tuple):
        items = [numbers(item) for item in value]
        return None if any(item is None for item in items) else tuple(items)
    return int(value) if isinstance(value, (int, np.integer)) else None


class RecordedPass(JaxPass):
    """A float64 pass with its intermediates."""

    _records: list[Recorded]

    def recorded(self) -> list[Recorded]:
        return self._records

    def keep(
        self, drafts: Sequence[Draft], values: Sequence[Any], extras: Sequence[Any], pull: Any
    ) -> None:
        """Turn what the program handed out into records."""
        arrays = {
            "value": [to_numpy(value) for value in values],
            "extra": [to_numpy(v) if has_numbers(v) else np.zeros(0) for v in extras],
        }
        for number, draft in enumerate(drafts):
            if draft.is_module:
                arrays["value"][number] = arrays["value"][draft.inputs[0]]
        self._pull = pull
        self._drafts = list(drafts)
        self._arrays = arrays
        self._records = self._made([None] * len(drafts))

    def _made(self, gradients: Sequence[Array | None]) -> list[Recorded]:
        return [
            Recorded(
                index=number,
                path=draft.path,
                operation=draft.operation,
                value=self._arrays["value"][number],
                inputs=draft.inputs,
                parameters=draft.parameters,
                attributes=draft.attributes,
                arguments=tuple(self._arrays[kind][i] for kind, i in draft.arguments),
                gradient=gradients[draft.inputs[0] if draft.is_module else number],
                place=draft.place,
                is_module=draft.is_module,
            )
            for number, draft in enumerate(self._drafts)
        ]

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        side = self.side
        with side.errors("backward"), side.context("double"):
            trained, floats, nudges = side.pull(self._pull, self.seeds(cotangents), "double")
            self._records = self._made([to_numpy(nudge) for nudge in nudges])
            return Gradients(
                inputs={name: to_numpy(value) for name, value in floats.items()},
                parameters={name: to_numpy(value) for name, value in trained.items()},
            )


def record_pass(side: JaxModel, given: Sequence[Any], recording: Recording) -> RecordedPass:
    """Run a side in float64 and record its equations. Called within its double context.

    Args:
        side: whose pass it is.
        given: what `side.given` makes of the arguments.
        recording: made for such arguments.
    """
    trained, floats, fixed, call = given
    pull, (outputs, changed, values, extras) = recording.program(
        trained, floats, recording.nudges, fixed, call
    )
    assert isinstance(outputs, Outputs)
    recorder = recording.recorders[-1]
    made = RecordedPass(side, "double", outputs, changed, pull)
    made.keep(recorder.drafts, values, extras, pull)
    side.lift.leaks.update(recorder.leaks)
    side.lift.rounded.update(recorder.rounded)
    return made


class Recording:
    """A program that hands out the values of all equations of a side, for one set of shapes.

    Attributes:
        program: (trained, float inputs, nudges, other values, rest of the call) to the backward
            pass and (outputs, changed values, values of the drafts, further values).
        nudges: zeros that are added to the drafts' values, so that their gradients come out.
        recorders: one for each time that it was traced; the last has the drafts.
    """

    def __init__(self, side: JaxModel, given: Sequence[Any], training: bool) -> None:
        trained, floats, fixed, call = given

        def function(trained: Any, floats: Any, fixed: Any, call: Any) -> Any:
            return side.function(training)({**fixed, **trained}, *call.filled(floats))

        with watched(side.twin):
            self._lift = Lift()
            self._traced = traced(function, self._lift, *given)
        known = {path: options_of(module) for path, module in submodules(side.twin.root)}
        self._options = {p.layer: dict(p.options) for p in side.parameters()} | known
        self.recorders: list[Recorder] = []
        jax.eval_shape(lambda *a: self._run(*a)[0], trained, floats, None, fixed, call)
        self.nudges = [
            jax.numpy.zeros(() if draft.is_module else draft.shape, np.float64)
            for draft in self.recorders[-1].drafts
        ]
        self.program = side.quickly(self._differentiated)

    def _run(self, trained: Any, floats: Any, nudges: Any, fixed: Any, call: Any) -> Any:
        recorder = Recorder(nudges, self._options)
        recorder.as_written = self._lift.as_written
        self.recorders.append(recorder)
        given = [Traced(value, Source((), (name,))) for name, value in sorted(trained.items())]
        # Leaves in the order of the trace: dictionaries are sorted by their keys.
        given += [recorder.input(name, value) for name, value in sorted(floats.items())]
        given += [
            Traced(v, Source((), (name,)) if is_float(v) else Source())
            for name, v in sorted(fixed.items())
        ]
        given += [Traced(leaf, Source(pure=False)) for leaf in jax.tree_util.tree_leaves(call)]
        jaxpr, structure = self._traced
        leaves = recorder.run(jaxpr, given)
        return jax.tree_util.tree_unflatten(structure, leaves), recorder

    def _differentiated(
        self, trained: Any, floats: Any, nudges: Any, fixed: Any, call: Any
    ) -> Any:
        def pure(trained: Any, floats: Any, nudges: Any) -> Any:
            (outputs, changed), recorder = self._run(trained, floats, nudges, fixed, call)
            return [a for a in outputs.arrays if is_float(a)], (
                outputs,
                changed,
                recorder.values,
                recorder.extras,
            )

        _, pull, facts = jax.vjp(pure, trained, floats, nudges, has_aux=True)
        return pull, facts
