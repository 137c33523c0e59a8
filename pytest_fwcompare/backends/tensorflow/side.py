"""Runs an adopted TensorFlow or Keras model: working passes, float64 passes, timing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Parameter,
    Pass,
    Precision,
    Side,
    Stopwatch,
)
from pytest_fwcompare.backends.exhausted import is_exhausted, out_of_memory
from pytest_fwcompare.backends.tensorflow.dropout import shared_dropout
from pytest_fwcompare.backends.tensorflow.outputs import flatten
from pytest_fwcompare.backends.tensorflow.passes import DoublePass, WorkingPass
from pytest_fwcompare.backends.tensorflow.record import RecordingShadow, Scopes
from pytest_fwcompare.backends.tensorflow.shadow import trace_model
from pytest_fwcompare.backends.tensorflow.state import (
    device_name,
    empty_guard,
    is_random,
    random_state,
    reason,
    restore_random,
    synchronise,
    to_numpy,
)
from pytest_fwcompare.dropout import current
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.formats import format_of

Call = Callable[[Sequence[Any]], tuple[dict[str, Any], dict[str, str]]]


@dataclass(frozen=True)
class Twin:
    """A variable of the shadow beside the model's, which is held so that its id stays its own."""

    original: Any
    variable: Any


@dataclass
class Owned:
    """A parameter with the variable that holds it."""

    parameter: Parameter
    variable: Any


class TensorFlowSide(Side):
    """A model of TensorFlow, run in place: its state is kept and put back by `close`.

    Subclasses say how a model lists its variables, is called, and what else it holds.
    """

    framework = "tensorflow"

    def __init__(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> None:
        self.model = model
        self.format = format_of(dtype)
        self.dtype = tf.as_dtype(self.format.stored)
        self.device = device_name(device)
        self.mode = mode
        self.own = own
        self.shares_dropout = mode != "compiled"  # what XLA compiles calls nothing back
        self._lifts = False
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
        self._owned: list[Owned] | None = None
        self._doubles: dict[tuple[Precision, int], Twin] = {}
        self._filled: set[tuple[Precision, str]] = set()
        self._shadows: dict[Any, RecordingShadow] = {}
        self._functions: dict[Any, Any] = {}
        self._random = random_state()
        self._kept: dict[int, tuple[Any, Array]] = {}
        if not own:
            self._keep(self.all_variables())

    # What subclasses know -------------------------------------------------------------------

    def list_owned(self) -> list[Owned]:
        """Float variables with names, in definition order."""
        raise NotImplementedError

    def all_variables(self) -> list[Any]:
        """Every variable of the model, counters and seeds included."""
        raise NotImplementedError

    def call(self, arguments: Sequence[Argument], tensors: Sequence[Any], training: bool) -> Any:
        """Call the model on tensors that stand for the arguments."""
        raise NotImplementedError

    def integer(self, argument: Argument) -> tf.DType:
        """The dtype in which an integer input is handed to the model."""
        value = argument.value
        if value.dtype.kind not in "iu" or value.dtype.itemsize < 8:
            return tf.as_dtype(value.dtype)
        limits = np.iinfo(np.int32)
        fits = not value.size or (value.min() >= limits.min and value.max() <= limits.max)
        return tf.int32 if fits else tf.int64

    def autograph(self) -> bool:
        """Whether tracing converts Python conditions on tensors."""
        return True

    def scopes(self) -> Scopes:
        """Names of layers, to tell them from other name scopes of a graph."""
        return Scopes(frozenset(), "")

    def tracing(self) -> AbstractContextManager[None]:
        """Entered while a pass is traced that will be recorded."""
        return nullcontext()

    def traced(self) -> None:
        """Called after a trace, to drop what the model kept of it."""

    # State ----------------------------------------------------------------------------------

    def _keep(self, variables: Iterable[Any]) -> None:
        """Remember the values of variables that were not seen before."""
        for variable in variables:
            if id(variable) not in self._kept:
                self._kept[id(variable)] = variable, np.array(variable.numpy())

    def close(self) -> None:
        """Put every variable and the random state back; the shadows are dropped."""
        if not self.own:
            for variable, value in self._kept.values():
                variable.assign(value)
            restore_random(self._random)
        for shadow in self._shadows.values():
            shadow.close()
        self._shadows.clear()
        self._functions.clear()
        self._doubles.clear()
        self._kept.clear()
        self.traced()

    @contextmanager
    def _unchanged(self) -> Iterator[dict[str, Array]]:
        """Put back what a pass changes; afterwards the mapping holds the buffers it left.

        Random state goes on, so that two passes with dropout differ, and is put back by `close`.
        """
        before = [(v, v.numpy()) for v in self.all_variables() if not is_random(v)]
        left: dict[str, Array] = {}
        try:
            yield left
            left.update(
                {
                    owned.parameter.name: to_numpy(owned.variable)
                    for owned in self.entries()
                    if not owned.parameter.trainable
                }
            )
        finally:
            for variable, value in before:
                variable.assign(value)

    def entries(self) -> list[Owned]:
        """Parameters with their variables, listed once."""
        if not self._owned:
            self._owned = self.list_owned()
            if self._owned:
                self._check_dtype()
                if not self.own:
                    self._keep(self.all_variables())
        return self._owned

    def _check_dtype(self) -> None:
        """A float64 comparison of a float32 model runs a shadow; other differences are errors."""
        assert self._owned is not None
        found = {tf.as_dtype(owned.variable.dtype) for owned in self._owned}
        self._lifts = self.dtype == tf.float64 and tf.float64 not in found
        if not self._lifts and self.dtype not in found:
            names = ", ".join(sorted(kind.name for kind in found))
            raise ModelError(
                self.role,
                "build",
                f"expected parameters in the working dtype {self.dtype.name}, got {names}; make "
                f"the model in {self.dtype.name}, or compare with dtype={names.split(',')[0]!r}",
            )

    def prepare(self, arguments: Sequence[Argument]) -> None:
        """Let a model that makes its variables at its first call make them."""

    def parameters(self) -> list[Parameter]:
        """Float variables in definition order."""
        return [owned.parameter for owned in self.entries()]

    def read(self) -> dict[str, Array]:
        """Current values of the model's own variables."""
        return {owned.parameter.name: to_numpy(owned.variable) for owned in self.entries()}

    def value(self, name: str) -> Array:
        """Current value of one of the model's own variables."""
        return to_numpy(self._entry(name).variable)

    def original(self, name: str) -> Array | None:
        """What a variable held when it was first seen, which is kept to be put back."""
        variable = self._entry(name).variable
        kept = self._kept.get(id(variable))
        if kept is None or kept[1].dtype != self.dtype.as_numpy_dtype:
            return None
        return kept[1]

    def _entry(self, name: str) -> Owned:
        return next(owned for owned in self.entries() if owned.parameter.name == name)

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        """Set variables of the model, or of its shadow."""
        owned = {entry.parameter.name: entry.variable for entry in self.entries()}
        if precision == "working" and not self._lifts:
            self._keep(owned[name] for name in values)
            for name, value in values.items():
                owned[name].assign(tf.cast(tf.constant(value), owned[name].dtype))
            return
        for name, value in values.items():
            twin = self._double(owned[name], precision).variable
            wide = tf.constant(value, tf.float64)
            if wide.shape == twin.shape:
                # What `assign` does, but for a look at the shape of the value before.
                tf.raw_ops.AssignVariableOp(resource=twin.handle, value=wide)
            else:
                twin.assign(wide)
            self._filled.add((precision, name))

    def release(self, precision: Precision) -> None:
        """Let go of the values that were loaded into the shadow; its variables stay, empty."""
        owned = {entry.parameter.name: entry.variable for entry in self.entries()}
        empty = tf.zeros([0], tf.float64)
        for name in [name for at, name in self._filled if at == precision]:
            twin = self._double(owned[name], precision).variable
            tf.raw_ops.AssignVariableOp(resource=twin.handle, value=empty)
            self._filled.remove((precision, name))

    def _double(self, variable: Any, precision: Precision = "double") -> Twin:
        """The stand-in of a variable in the shadow, which starts with the model's value."""
        key = precision, id(variable.handle)
        if key not in self._doubles:
            value = self._kept[id(variable)][1] if id(variable) in self._kept else variable.numpy()
            kind = tf.float64 if variable.dtype.is_floating else variable.dtype
            with tf.init_scope(), tf.device("/CPU:0"):
                # The name tells random state from other integers.
                name = variable.name.partition(":")[0].replace("/", "_")
                twin = tf.Variable(tf.cast(tf.constant(value), kind), dtype=kind, name=name)
            self._doubles[key] = Twin(variable, twin)
        return self._doubles[key]

    # Passes ---------------------------------------------------------------------------------

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        """Run the model itself, or its shadow."""
        self.prepare(arguments)
        if precision == "double" or self._lifts:
            return self._forward_double(arguments, precision, training, gradients, record)
        return self._forward_working(arguments, training, gradients)

    def _program(self, arguments: Sequence[Argument], training: bool) -> Call:
        def call(tensors: Sequence[Any]) -> tuple[dict[str, Any], dict[str, str]]:
            with shared_dropout():
                outputs, skipped = flatten(self.call(arguments, tensors, training))
            if not outputs:
                left = "; ".join(f"{name}: {why}" for name, why in skipped.items())
                raise ModelError(
                    self.role,
                    "forward",
                    f"expected at least one tensor as output, got none ({left or 'nothing'})",
                )
            return outputs, skipped

        return call

    def _compiled(self, arguments: Sequence[Argument], training: bool) -> Call:
        """The call itself in eager mode, else a function of TensorFlow."""
        call = self._program(arguments, training)
        if self.mode == "eager":
            return call
        key = (training, current() is None, tuple((a.name, a.keyword) for a in arguments))
        if key not in self._functions:
            skipped: dict[str, str] = {}

            def program(*tensors: Any) -> dict[str, Any]:
                outputs, left = call(tensors)
                skipped.clear()
                skipped.update(left)
                return {
                    f"{place:04d} {name}": t for place, (name, t) in enumerate(outputs.items())
                }

            compiled = tf.function(
                program, jit_compile=self.mode == "compiled", autograph=self.autograph()
            )
            self._functions[key] = (compiled, skipped)
        compiled, skipped = self._functions[key]

        def run(tensors: Sequence[Any]) -> tuple[dict[str, Any], dict[str, str]]:
            outputs = compiled(*tensors)
            return {name[5:]: outputs[name] for name in sorted(outputs)}, dict(skipped)

        return run

    def tensors(self, arguments: Sequence[Argument], kind: tf.DType | None = None) -> list[Any]:
        """Inputs as tensors, floats in the working dtype or in `kind`."""
        made = []
        for argument in arguments:
            value = np.asarray(argument.value)
            if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
                made.append(tf.cast(tf.constant(value), kind or self.dtype))
            else:
                made.append(tf.constant(value, self.integer(argument)))
        return made

    def _forward_working(
        self, arguments: Sequence[Argument], training: bool, gradients: bool
    ) -> Pass:
        call = self._compiled(arguments, training)
        trainable = {o.parameter.name: o.variable for o in self.entries() if o.parameter.trainable}
        guard: AbstractContextManager[dict[str, Array]] = (
            self._unchanged() if training else empty_guard()
        )
        with guard as left, self.explained("forward"), self.placed():
            tensors = self.tensors(arguments)
            inputs = {
                a.name: t for a, t in zip(arguments, tensors, strict=True) if t.dtype.is_floating
            }
            tape = tf.GradientTape(persistent=False, watch_accessed_variables=False)
            if gradients:
                with tape:
                    tape.watch([*inputs.values(), *(v.handle for v in trainable.values())])
                    outputs, skipped = call(tensors)
            else:
                outputs, skipped = call(tensors)
        return WorkingPass(self, outputs, skipped, tape, inputs, trainable, left)

    @contextmanager
    def eagerly(self) -> Iterator[None]:
        """The call itself instead of a function of it."""
        before, self.mode = self.mode, "eager"
        try:
            yield
        finally:
            self.mode = before

    def _scope(self) -> AbstractContextManager[Any]:
        """The device, unless there is no other: a scope costs every eager operation a little."""
        if self.device == "/CPU:0" and not tf.config.list_logical_devices("GPU"):
            return nullcontext()
        return tf.device(self.device)  # type: ignore[no-any-return]

    @contextmanager
    def placed(self) -> Iterator[None]:
        """On the device, with TF32 only where the working dtype is that."""
        allowed = tf.config.experimental.tensor_float_32_execution_enabled
        allow = tf.config.experimental.enable_tensor_float_32_execution
        before, wanted = allowed(), self.format.name == "tf32"
        if before != wanted:
            allow(wanted)
        try:
            with self._scope():
                yield
            if allowed() != wanted:
                self.note_reduced(f"TF32 switched {'on' if allowed() else 'off'} by the model")
        finally:
            if allowed() != before:
                allow(before)

    @contextmanager
    def explained(self, stage: str) -> Iterator[None]:
        """Turn what the framework raises into a `ModelError`."""
        try:
            with warnings.catch_warnings():
                # Keras and TensorFlow warn of structures and sparse gradients as they go.
                warnings.simplefilter("ignore")
                yield
        except ModelError:
            raise
        except Exception as error:
            if is_exhausted(error):
                framework = self.framework
                raise out_of_memory(self.role, stage, framework, error, self.device) from None
            raise ModelError(self.role, stage, reason(error)) from error

    def _shadow(
        self,
        arguments: Sequence[Argument],
        precision: Precision,
        training: bool,
        gradients: bool,
        record: bool,
    ) -> RecordingShadow:
        kind = tf.float32 if self._lifts else self.dtype
        tensors = self.tensors(arguments, kind)
        specs = {
            a.name: tf.TensorSpec(t.shape, t.dtype, name=f"input_{place}")
            for place, (a, t) in enumerate(zip(arguments, tensors, strict=True))
        }
        key = (
            *((a.name, a.keyword, str(specs[a.name])) for a in arguments),
            *(precision, training, gradients, record, current() is None),
        )
        if key not in self._shadows:
            trainable = {
                o.parameter.name: o.variable for o in self.entries() if o.parameter.trainable
            }
            try:
                with self.tracing() if record else nullcontext():
                    trace = trace_model(
                        self._program(arguments, training),
                        specs,
                        trainable,
                        gradients=gradients,
                        record=record,
                        autograph=self.autograph(),
                    )
            finally:
                self.traced()
            self._shadows[key] = RecordingShadow(
                trace,
                list(specs),
                lambda variable: self._double(variable, precision).variable,
                self._names(),
                self.scopes(),
            )
        return self._shadows[key]

    def _names(self) -> dict[int, str]:
        """Parameter names by the identity of their variable's handle."""
        return {id(o.variable.handle): o.parameter.name for o in self.entries()}

    def _forward_double(
        self,
        arguments: Sequence[Argument],
        precision: Precision,
        training: bool,
        gradients: bool,
        record: bool,
    ) -> Pass:
        with self.explained("record" if record else "shadow"):
            shadow = self._shadow(arguments, precision, training, gradients, record)
            self.leaks = list(shadow.leaks)
            self.rounded_constants = list(shadow.rounded)
            values = self.tensors(arguments, tf.float64)
            twins = [twin.variable for (at, _), twin in self._doubles.items() if at == precision]
            kept = []
            if training and shadow.assigns:
                kept = [(twin, twin.numpy()) for twin in twins if not is_random(twin)]
            try:
                found = shadow.forward(values, backward=gradients, record=record)
                left = self._double_buffers(precision) if training else {}
            finally:
                for twin, value in kept:
                    twin.assign(value)
        return DoublePass(self, shadow, found, left, gradients, arguments, record)

    def _double_buffers(self, precision: Precision) -> dict[str, Array]:
        return {
            o.parameter.name: self._double(o.variable, precision).variable.numpy()
            for o in self.entries()
            if not o.parameter.trainable
        }

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        """Calls in working precision on tensors made beforehand."""
        self.prepare(arguments)
        call = self._compiled(arguments, False)
        trainable = [o.variable for o in self.entries() if o.parameter.trainable]
        with tf.device(self.device):
            tensors = self.tensors(arguments)
            given = {name: tf.constant(value) for name, value in (cotangents or {}).items()}
        watched = [*(t for t in tensors if t.dtype.is_floating)]

        on_gpu = "GPU" in self.device

        def forward() -> None:
            # On a CPU both eager calls and functions return when they are done.
            if self.mode == "eager":
                self.call(arguments, tensors, False)
            else:
                call(tensors)
            if on_gpu:
                tf.test.experimental.sync_devices()

        def forward_backward() -> None:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([*watched, *(v.handle for v in trainable)])
                outputs, _ = call(tensors)
            chosen = [outputs[name] for name in given]
            seeds = [tf.cast(given[name], outputs[name].dtype) for name in given]
            found = tape.gradient(chosen, [*watched, *trainable], seeds)
            synchronise([g for g in found if g is not None])

        return Stopwatch(
            forward,
            forward_backward if cotangents is not None else None,
            settings=self.placed,
        )
