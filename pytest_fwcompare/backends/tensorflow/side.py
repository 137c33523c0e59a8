"""An adopted TensorFlow or Keras model as a side: where its passes go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Pass,
    Precision,
    Stopwatch,
)
from pytest_fwcompare.backends.loading import check_values
from pytest_fwcompare.backends.tensorflow.model import TensorFlowModel
from pytest_fwcompare.backends.tensorflow.shadows import Shadows
from pytest_fwcompare.backends.tensorflow.working import Working


class TensorFlowSide(TensorFlowModel):
    """A model of TensorFlow with what runs it: the model itself, and its float64 shadows."""

    def __init__(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> None:
        super().__init__(model, dtype=dtype, device=device, mode=mode, own=own)
        self.working = Working(self)
        self.shadows = Shadows(self, self.working)

    def close(self) -> None:
        """Put the model back as it was found; the shadows are dropped."""
        super().close()
        self.shadows.close()
        self.working.close()

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        """Set variables of the model, or of its shadow."""
        entries = self.entries()
        check_values(self.role, (entry.parameter for entry in entries), values)
        owned = {entry.parameter.name: entry.variable for entry in entries}
        chosen = {name: owned[name] for name in values}
        if precision == "double" or self.lifts:
            self.shadows.load(values, chosen, precision)
            return
        self._keep(chosen.values())
        for name, value in values.items():
            chosen[name].assign(tf.cast(tf.constant(value), chosen[name].dtype))

    def release(self, precision: Precision) -> None:
        """Let go of the values that were loaded into the shadow."""
        self.shadows.release(precision)

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
        if precision == "double" or self.lifts:
            return self.shadows.forward(arguments, precision, training, gradients, record)
        return self.working.forward(arguments, training, gradients)

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        """Calls in working precision on tensors made beforehand."""
        self.prepare(arguments)
        return self.working.stopwatch(arguments, cotangents)
