"""Float64 shadows of a TensorFlow side: rewritten graphs over float64 variables of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import tensorflow as tf

from pytest_fwcompare.backends.base import Argument, Array, Pass, Precision
from pytest_fwcompare.backends.tensorflow.model import TensorFlowModel
from pytest_fwcompare.backends.tensorflow.passes import DoublePass
from pytest_fwcompare.backends.tensorflow.record import RecordingShadow
from pytest_fwcompare.backends.tensorflow.shadow import trace_model
from pytest_fwcompare.backends.tensorflow.state import is_random
from pytest_fwcompare.backends.tensorflow.working import Working
from pytest_fwcompare.dropout import current


@dataclass(frozen=True)
class Twin:
    """A variable of the shadow beside the model's, which is held so that its id stays its own."""

    original: Any
    variable: Any


@final
class Shadows:
    """The shadows of one side, one for each shape of the inputs, and the variables they share.

    A float32 model that is compared in float64 has a second set, whose passes stand for the
    working ones.
    """

    def __init__(self, side: TensorFlowModel, working: Working) -> None:
        self._side, self._working = side, working
        self._twins: dict[tuple[Precision, int], Twin] = {}
        self._filled: dict[tuple[Precision, str], Twin] = {}
        self._traced: dict[Any, RecordingShadow] = {}

    def close(self) -> None:
        """Let go of graphs and variables."""
        self._drop(self._traced)
        self._twins.clear()
        self._filled.clear()

    @contextmanager
    def anew(self) -> Iterator[None]:
        """Trace all graphs anew, as one keeps the numbers that it was traced with."""
        before, self._traced = self._traced, {}
        try:
            yield
        finally:
            self._drop(self._traced)
            self._traced = before

    @staticmethod
    def _drop(traced: dict[Any, RecordingShadow]) -> None:
        for shadow in traced.values():
            shadow.close()
        traced.clear()

    # Variables ------------------------------------------------------------------------------

    def load(
        self, values: Mapping[str, Array], owned: Mapping[str, Any], precision: Precision
    ) -> None:
        """Set the twins of the model's variables, both by parameter name."""
        for name, value in values.items():
            held = self.twin(owned[name], precision)
            wide = tf.constant(value, tf.float64)
            if wide.shape == held.variable.shape:
                # What `assign` does, but for a look at the shape of the value before.
                tf.raw_ops.AssignVariableOp(resource=held.variable.handle, value=wide)
            else:
                held.variable.assign(wide)
            self._filled[precision, name] = held

    def release(self, precision: Precision) -> None:
        """Let go of the values that were loaded; the variables stay, empty."""
        empty = tf.zeros([0], tf.float64)
        for key in [key for key in self._filled if key[0] == precision]:
            held = self._filled.pop(key)
            tf.raw_ops.AssignVariableOp(resource=held.variable.handle, value=empty)

    def twin(self, variable: Any, precision: Precision) -> Twin:
        """The stand-in of a variable, which starts with the value that the model came with."""
        key = precision, id(variable.handle)
        if key not in self._twins:
            value = self._side.first_value(variable)
            value = variable.numpy() if value is None else value
            kind = tf.float64 if variable.dtype.is_floating else variable.dtype
            with tf.init_scope(), tf.device("/CPU:0"):
                # The name tells random state from other integers.
                name = variable.name.partition(":")[0].replace("/", "_")
                made = tf.Variable(tf.cast(tf.constant(value), kind), dtype=kind, name=name)
            self._twins[key] = Twin(variable, made)
        return self._twins[key]

    # Passes ---------------------------------------------------------------------------------

    def forward(
        self,
        arguments: Sequence[Argument],
        precision: Precision,
        training: bool,
        gradients: bool,
        record: bool,
    ) -> Pass:
        """One pass in float64; what it changed of the twins is put back."""
        side = self._side
        with side.explained("record" if record else "shadow"):
            shadow = self._shadow(arguments, precision, training, gradients, record)
            side.leaks = list(shadow.leaks)
            side.rounded_constants = list(shadow.rounded)
            values = side.tensors(arguments, tf.float64)
            twins = [held.variable for (at, _), held in self._twins.items() if at == precision]
            kept = []
            if training and shadow.assigns:
                kept = [(twin, twin.numpy()) for twin in twins if not is_random(twin)]
            try:
                found = shadow.forward(values, backward=gradients, record=record)
                left = self._buffers(precision) if training else {}
            finally:
                for twin, value in kept:
                    twin.assign(value)
        return DoublePass(side, shadow, found, left, gradients, arguments, record)

    def _buffers(self, precision: Precision) -> dict[str, Array]:
        return {
            o.parameter.name: self.twin(o.variable, precision).variable.numpy()
            for o in self._side.entries()
            if not o.parameter.trainable
        }

    def _shadow(
        self,
        arguments: Sequence[Argument],
        precision: Precision,
        training: bool,
        gradients: bool,
        record: bool,
    ) -> RecordingShadow:
        """The graph for inputs of these shapes, traced when they are met for the first time."""
        side = self._side
        kind = tf.float32 if side.lifts else side.dtype
        tensors = side.tensors(arguments, kind)
        specs = {
            a.name: tf.TensorSpec(t.shape, t.dtype, name=f"input_{place}")
            for place, (a, t) in enumerate(zip(arguments, tensors, strict=True))
        }
        key = (
            *((a.name, a.keyword, str(specs[a.name])) for a in arguments),
            *(precision, training, gradients, record, current() is None),
        )
        if key not in self._traced:
            owned = [(o.parameter, o.variable) for o in side.entries()]
            try:
                with side.portable(), side.tracing() if record else nullcontext():
                    trace = trace_model(
                        self._working.program(arguments, training),
                        specs,
                        {parameter.name: v for parameter, v in owned if parameter.trainable},
                        gradients=gradients,
                        record=record,
                        autograph=side.autograph(),
                    )
            finally:
                side.traced()
            self._traced[key] = RecordingShadow(
                trace,
                list(specs),
                lambda variable: self.twin(variable, precision).variable,
                {id(variable.handle): parameter.name for parameter, variable in owned},
                side.scopes(),
            )
        return self._traced[key]
