"""Passes of a TensorFlow side: of the model itself, and of its shadow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from pytest_fwcompare.backends.base import Argument, Array, Gradients, Pass, Recorded
from pytest_fwcompare.backends.tensorflow.record import RecordingShadow
from pytest_fwcompare.backends.tensorflow.state import to_numpy
from pytest_fwcompare.errors import ModelError

if TYPE_CHECKING:
    from pytest_fwcompare.backends.tensorflow.side import TensorFlowSide


class WorkingPass(Pass):
    """A pass of the model itself."""

    def __init__(
        self,
        side: TensorFlowSide,
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
            arrays = [None if g is None else to_numpy(tf.convert_to_tensor(g)) for g in found]
        self.tape = None
        count = len(self.inputs)
        return Gradients(
            {
                name: np.zeros(tensor.shape, to_numpy(tensor).dtype) if value is None else value
                for (name, tensor), value in zip(self.inputs.items(), arrays[:count], strict=True)
            },
            dict(zip(self.trainable, arrays[count:], strict=True)),
        )

    def buffers(self) -> dict[str, Array]:
        """What a training pass left in the buffers."""
        return self.left


class DoublePass(Pass):
    """A pass of the shadow."""

    def __init__(
        self,
        side: TensorFlowSide,
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
        if not self.gradients:
            raise ModelError(self.side.role, "backward", "the pass was made without gradients")
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

    def buffers(self) -> dict[str, Array]:
        """What a training pass left in the buffers."""
        return self.left

    def recorded(self) -> list[Recorded]:
        """Intermediates of a recorded pass."""
        if not self.record:
            return []
        return self.shadow.recorded(self.found, self.kept_gradients)
