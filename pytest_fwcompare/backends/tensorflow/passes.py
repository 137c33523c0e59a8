"""Passes of a TensorFlow side: of the model itself, and of its shadow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_fwcompare.backends.base import Argument, Array, Gradients, Pass, Recorded
from pytest_fwcompare.backends.tensorflow.model import TensorFlowModel
from pytest_fwcompare.backends.tensorflow.record import RecordingShadow
from pytest_fwcompare.backends.tensorflow.state import to_numpy
from pytest_fwcompare.errors import ModelError


class WorkingPass(Pass):
    """A pass of the model itself."""

    def __init__(
        self,
        side: TensorFlowModel,
        tensors: dict[str, Any],
        skipped: dict[str, str],
        tape: Any,
        inputs: dict[str, Any],
        trainable: dict[str, Any],
        left: dict[str, Array],
    ) -> None:
        self.side, self.tensors, self.skipped, self.tape = side, tensors, skipped, tape
        self.inputs, self.trainable, self.left = inputs, trainable, left
        self.outputs = {name: to_numpy(tensor) for name, tensor in tensors.items()}

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        """By the tape of the pass."""
        held: dict[str, Array | None] = {}
        inputs = self.backward_each(cotangents, held.__setitem__)
        return Gradients(inputs, held)

    def backward_each(
        self, cotangents: Mapping[str, Array], take: Callable[[str, Array | None], None]
    ) -> Mapping[str, Array | None]:
        """The tape gives all gradients at once; each is let go when it was handed over."""
        side = self.side
        with side.explained("backward"), side.placed():
            chosen = [name for name in self.outputs if name in cotangents]
            given = [
                tf.cast(tf.constant(cotangents[name]), self.tensors[name].dtype) for name in chosen
            ]
            found = self.tape.gradient(
                [self.tensors[name] for name in chosen],
                [*self.inputs.values(), *self.trainable.values()],
                given,
            )
            self.tape = None
            found.reverse()
            inputs = {name: self._input_gradient(found.pop(), name) for name in self.inputs}
        for name in self.trainable:
            gradient = found.pop()
            with side.explained("backward"), side.placed():
                value = None if gradient is None else to_numpy(tf.convert_to_tensor(gradient))
            del gradient
            take(name, value)
        return inputs

    def _input_gradient(self, gradient: Any, name: str) -> Array:
        tensor = self.inputs[name]
        if gradient is None:
            return np.zeros(tensor.shape, to_numpy(tensor).dtype)
        return to_numpy(tf.convert_to_tensor(gradient))

    def buffers(self) -> dict[str, Array]:
        """What a training pass left in the buffers."""
        return self.left


class DoublePass(Pass):
    """A pass of the shadow."""

    def __init__(
        self,
        side: TensorFlowModel,
        shadow: RecordingShadow,
        found: dict[str, Any],
        left: dict[str, Array],
        gradients: bool,
        arguments: Sequence[Argument],
        record: bool,
    ) -> None:
        self.side, self.shadow, self.found, self.left = side, shadow, found, left
        self.gradients, self.arguments = gradients, arguments
        self.skipped = dict(shadow.trace.skipped)
        self.record = record
        self.outputs = {
            name: to_numpy(found[place]) for name, place in shadow.output_names.items()
        }
        self.kept_gradients: dict[int, Array] = {}

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        """By the backward half of the shadow."""
        self._check_gradients()
        with self.side.explained("backward"):
            values, self.kept_gradients = self.shadow.backward(
                self.found, self.outputs, cotangents
            )
        inputs: dict[str, Array | None] = {
            a.name: values.get(("input", a.name), np.zeros(np.shape(a.value)))
            for a in self.arguments
            if np.asarray(a.value).dtype.kind == "f"
        }
        return Gradients(
            inputs,
            {
                o.parameter.name: values.get(("parameter", o.parameter.name))
                for o in self.side.entries()
                if o.parameter.trainable
            },
        )

    def backward_each(
        self, cotangents: Mapping[str, Array], take: Callable[[str, Array | None], None]
    ) -> Mapping[str, Array | None]:
        """By the backward half of the shadow; each gradient is let go when it was handed over."""
        self._check_gradients()
        missing = {o.parameter.name: None for o in self.side.entries() if o.parameter.trainable}
        inputs: dict[str, Array | None] = {
            a.name: np.zeros(np.shape(a.value))
            for a in self.arguments
            if np.asarray(a.value).dtype.kind == "f"
        }
        with self.side.explained("backward"):
            given, self.kept_gradients = self.shadow.backward_each(
                self.found, self.outputs, cotangents
            )
        for (kind, name), value in given:
            if kind == "input":
                inputs[name] = value
            elif name in missing:
                missing.pop(name)
                take(name, value)
        for name in missing:
            take(name, None)
        return inputs

    def _check_gradients(self) -> None:
        if not self.gradients:
            raise ModelError(self.side.role, "backward", "the pass was made without gradients")

    def buffers(self) -> dict[str, Array]:
        """What a training pass left in the buffers."""
        return self.left

    def recorded(self) -> list[Recorded]:
        """Intermediates of a recorded pass."""
        if not self.record:
            return []
        return self.shadow.recorded(self.found, self.kept_gradients)
