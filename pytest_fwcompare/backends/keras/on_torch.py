"""Keras 3 models on the torch backend: run, differentiated and lifted to float64 as torch code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import keras
import torch

from pytest_fwcompare.backends.base import Argument, Array, Pass, Precision, Stopwatch
from pytest_fwcompare.backends.keras.examinable import Examinable
from pytest_fwcompare.backends.keras.portable import without_cudnn
from pytest_fwcompare.backends.keras.stateless import StatelessModel
from pytest_fwcompare.backends.torch.adopt import TorchSide
from pytest_fwcompare.backends.torch.twin import Slot


class Shared:
    """Holds the Keras model, of which the twins of a module need no copies."""

    def __init__(self, stateless: StatelessModel, device: str) -> None:
        self.stateless, self.device = stateless, device
        self.calls = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        return self


class KerasModule(torch.nn.Module):  # type: ignore[misc]
    """A Keras model with its values beside it: parameters and buffers of a torch module.

    The Keras variables keep theirs; a call puts the module's in their place.
    """

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self.shared = shared
        self.fill()

    def fill(self) -> None:
        """Take the values of the Keras variables."""
        stateless = self.shared.stateless
        # Names of variables have slashes and may have dots, which `register_parameter` refuses.
        for name, (parameter, variable) in stateless.parameters.items():
            value = variable.value.detach().clone()
            if parameter.trainable:
                self._parameters[name] = torch.nn.Parameter(value)
            else:
                self._buffers[name] = value
        for name, variable in stateless.others.items():
            self._buffers[name] = variable.value.detach().clone()

    def forward(self, *positional: Any, **named: Any) -> Any:
        """Call the Keras model on the module's values."""
        stateless = self.shared.stateless
        values = {**self._parameters, **self._buffers}
        if not self.training:
            # Two equal calls must show it if something is random in inference.
            self.shared.calls += 1
            for name in stateless.seeds:
                values[name] = values[name] + self.shared.calls
        wide = any(value.dtype is torch.float64 for value in self._parameters.values())
        with keras.device(self.shared.device), without_cudnn() if wide else nullcontext():
            output, changed = stateless.call(values, positional, named, self.training)
        self._buffers.update(
            {name: value.detach() for name, value in changed.items() if name in self._buffers}
        )
        return output


class KerasTorchSide(Examinable, TorchSide):
    """A Keras model on the torch backend. See `Side`."""

    framework = "keras"

    def __init__(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> None:
        self.shared = Shared(StatelessModel(model, dtype), device.replace("cuda", "gpu"))
        self.asked_device = device
        self._keras, self._own, self._axes = model, own, (dtype, device, mode)
        super().__init__(KerasModule(self.shared), dtype=dtype, device=device, mode=mode, own=True)

    @property
    def keras_model(self) -> Any:
        """The model inside the module."""
        return self._keras

    def call_eagerly(self, arguments: Sequence[Argument]) -> None:
        """See `Examinable`."""
        self.forward(arguments, precision="working", gradients=False)

    def prepare(self, arguments: Sequence[Argument]) -> None:
        if self.shared.stateless.is_built:
            return
        with keras.device(self.shared.device):
            self.shared.stateless.build(arguments)
        dtype, device, mode = self._axes
        super().__init__(KerasModule(self.shared), dtype=dtype, device=device, mode=mode, own=True)

    def slots(self, precision: Precision) -> dict[str, Slot]:
        """With what Keras knows of each parameter, which torch does not."""
        found = super().slots(precision)
        facts = self.shared.stateless.parameters
        for name, (parameter, _) in facts.items():
            if found[name].parameter.kind != parameter.kind:
                told = replace(parameter, dtype=found[name].parameter.dtype)
                found[name] = Slot(told, found[name].tensor)
        ordered = {name: found[name] for name in facts}
        self._slots[precision] = ordered
        return ordered

    def twin(self, precision: Precision) -> torch.nn.Module:
        """The module; records name the Keras layers in it."""
        made = super().twin(precision)
        if precision == "double" and id(self._keras) not in self._names:
            self._names = {id(layer): path for path, layer in self.shared.stateless.layer_paths()}
            self._names[id(made)] = ""
        return made

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        super().load(values, precision)
        if precision == "working" and self._own:
            self.shared.stateless.write(values)

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
        self.shared.stateless.expect(arguments)
        return super().forward(
            arguments, precision=precision, training=training, gradients=gradients, record=record
        )

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        self.shared.stateless.expect(arguments)
        return super().stopwatch(arguments, cotangents)
