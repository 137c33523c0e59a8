"""Keras 3 models on the JAX backend: a pure function of their variables, as any JAX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np

from pytest_fwcompare.backends.base import Argument, Array, Parameter, Pass, Precision, Stopwatch
from pytest_fwcompare.backends.jax.adopt import JaxSide
from pytest_fwcompare.backends.jax.devices import device_of, is_cpu
from pytest_fwcompare.backends.jax.leaves import Values
from pytest_fwcompare.backends.jax.twin import Twin
from pytest_fwcompare.backends.keras.examinable import Examinable
from pytest_fwcompare.backends.keras.portable import without_cudnn
from pytest_fwcompare.backends.keras.stateless import StatelessModel


class KerasTwin(Twin):
    """The arrays of a Keras model by the names of its variables."""

    def __init__(self, stateless: StatelessModel, own: bool, on_cpu: bool) -> None:
        self.stateless, self._own, self._on_cpu = stateless, own, on_cpu
        self.model = stateless.model
        self._written: Values = {}

    def leaves(self) -> list[tuple[str, Any, bool]]:
        made = [
            (name, self._written.get(name, variable.value), parameter.trainable)
            for name, (parameter, variable) in self.stateless.parameters.items()
        ]
        return made + [(name, v.value, False) for name, v in self.stateless.others.items()]

    def parameters(self) -> list[Parameter]:
        return [parameter for parameter, _ in self.stateless.parameters.values()]

    def streams(self) -> set[str]:
        return self.stateless.seeds

    def write(self, values: Mapping[str, Any]) -> None:
        self._written.update(values)
        if self._own:
            self.stateless.write(values)

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        if self.started is not None:
            self.started(self.model)
        known = self.stateless.variables()
        given = {name: value for name, value in values.items() if name in known}
        wide = any(value.dtype == np.float64 for value in given.values())
        with without_cudnn() if wide or self._on_cpu else nullcontext():
            return self.stateless.call(given, arguments, keywords, training)

    def submodules(self, model: Any) -> list[tuple[str, Any]]:
        return self.stateless.layer_paths()


class KerasJaxSide(Examinable, JaxSide):
    """A Keras model on the JAX backend. See `Side`."""

    framework = "keras"

    def __init__(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> None:
        self.asked_device = device
        self.stateless = StatelessModel(model, dtype)
        super().__init__(
            KerasTwin(self.stateless, own, is_cpu(device_of(device))),
            dtype=dtype,
            device=device_of(device),
            mode=mode,
        )

    @property
    def keras_model(self) -> Any:
        """The model of which the twin has the arrays."""
        return self.stateless.model

    def call_eagerly(self, arguments: Sequence[Argument]) -> None:
        """Not traced, whatever the mode: only values can be noted."""
        self.prepare(arguments)
        self.stateless.expect(arguments)
        with self.errors("forward"), self.context("working"):
            trained, floats, others, call = self.given(arguments, "working")
            self.function(False)({**others, **trained}, *call.filled(floats))

    def prepare(self, arguments: Sequence[Argument]) -> None:
        with self.errors("forward"), self.context("working"), keras.device(self.device):
            if self.stateless.build(arguments):
                self._adopt()

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        self.prepare(arguments)
        self.stateless.expect(arguments)
        return super().forward(
            arguments, precision=precision, training=training, gradients=gradients, record=record
        )

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        self.stateless.expect(arguments)
        return super().stopwatch(arguments, cotangents)
