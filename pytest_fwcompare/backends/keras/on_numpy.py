"""Keras 3 models on the NumPy backend: forward only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import dtypes

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Gradients,
    Parameter,
    Pass,
    Precision,
    Side,
    Stopwatch,
)
from pytest_fwcompare.backends.keras.examinable import Examinable
from pytest_fwcompare.backends.keras.stateless import FLOATS, StatelessModel
from pytest_fwcompare.backends.layer_trees import all_layers
from pytest_fwcompare.backends.loading import check_values
from pytest_fwcompare.errors import FwcompareError, ModelError

Values = dict[str, Array]


class KerasNumpySide(Examinable, Side):
    """A Keras model on the NumPy backend. See `Side`."""

    framework = "keras"

    def __init__(self, model: Any, *, dtype: str, own: bool) -> None:
        self.model, self.dtype, self.mode, self._own = model, dtype, "eager", own
        self.asked_device = "cpu"
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
        self.stateless = StatelessModel(model, dtype)
        self._loaded: dict[Precision, Values] = {"working": {}, "double": {}}
        self._calls = 0

    @property
    def keras_model(self) -> Any:
        """The model, which is run in place."""
        return self.model

    def call_eagerly(self, arguments: Sequence[Argument]) -> None:
        """See `Examinable`."""
        self.forward(arguments, precision="working", gradients=False)

    def prepare(self, arguments: Sequence[Argument]) -> None:
        with self._explained("forward"):
            self.stateless.build(arguments)

    def parameters(self) -> list[Parameter]:
        return [parameter for parameter, _ in self.stateless.parameters.values()]

    def read(self) -> dict[str, Array]:
        return {
            name: np.array(self._loaded["working"].get(name, variable.value))
            for name, (_, variable) in self.stateless.parameters.items()
        }

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        known = self.stateless.parameters
        check_values(self.role, (parameter for parameter, _ in known.values()), values)
        for name, value in values.items():
            parameter, _ = known[name]
            dtype = "float64" if precision == "double" else parameter.dtype
            self._loaded[precision][name] = np.asarray(value).astype(dtype)
        if precision == "working" and self._own:
            self.stateless.write(values)

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
        double = precision == "double"
        with self._explained("shadow" if double else "forward"):
            output, changed = self._call(arguments, precision, training)
            outputs = self._flat(output, double)
        changes = {
            name: np.asarray(changed.get(name, value))
            for name, value in self._values(precision).items()
            if name in self.stateless.parameters
            and not self.stateless.parameters[name][0].trainable
        }
        return KerasNumpyPass(self, outputs, changes)

    def _call(
        self, arguments: Sequence[Argument], precision: Precision, training: bool
    ) -> tuple[Any, dict[str, Any]]:
        ordered = sorted(arguments, key=lambda argument: argument.keyword)
        dtype = "float64" if precision == "double" else self.dtype
        tensors = [
            value.astype(dtype) if (value := np.asarray(a.value)).dtype.kind == "f" else value
            for a in ordered
        ]
        positional = [t for a, t in zip(ordered, tensors, strict=True) if not a.keyword]
        named = {a.name: t for a, t in zip(ordered, tensors, strict=True) if a.keyword}
        self.stateless.expect(arguments)
        values = self._values(precision)
        if not training:
            # Two equal calls must show it if something is random in inference.
            self._calls += 1
            for name in self.stateless.seeds:
                values[name] = values[name] + np.uint32(self._calls)
        with widened(self.model) if precision == "double" else contextlib.nullcontext():
            return self.stateless.call(values, positional, named, training)

    def _values(self, precision: Precision) -> Values:
        """Of all variables, for a pass in that precision."""
        loaded, made = self._loaded[precision], {}
        for name, variable in self.stateless.variables().items():
            value = loaded.get(name, np.asarray(variable.value))
            wide = precision == "double" and value.dtype.kind == "f"
            made[name] = value.astype(np.float64) if wide else value
        return made

    def _flat(self, output: Any, double: bool) -> Values:
        leaves = keras.tree.flatten_with_path(output) if _nested(output) else [((), output)]
        made = {}
        for path, value in leaves:
            name = ".".join(map(str, path)) or "output"
            array = np.asarray(value)
            if double and array.dtype.kind == "f" and array.dtype != np.float64:
                self.leaks[:] = [f"output {name!r} is {array.dtype}"]
                array = array.astype(np.float64)
            made[name] = array
        return made

    @contextlib.contextmanager
    def _explained(self, stage: str) -> Iterator[None]:
        try:
            yield
        except FwcompareError:
            raise
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            raise ModelError(self.role, stage, f"keras raised {words}") from error

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        def forward() -> None:
            self._call(arguments, "working", False)

        return Stopwatch(forward, None)


def _nested(output: Any) -> bool:
    return isinstance(output, (tuple, list, dict))


class KerasNumpyPass(Pass):
    """One forward pass; there is no way back."""

    def __init__(self, side: KerasNumpySide, outputs: Values, changes: Values) -> None:
        self._side, self._changes = side, changes
        self.outputs, self.skipped = outputs, {}

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        raise ModelError(
            self._side.role,
            "backward",
            'Keras on NumPy gives no gradients; compare with checks=("forward",)',
        )

    def buffers(self) -> dict[str, Array]:
        return dict(self._changes)


@contextlib.contextmanager
def widened(model: Any) -> Iterator[None]:
    """All layers compute in float64 for a while; policies and symbolic inputs are put back."""
    floatx = keras.config.floatx()
    policies, inputs, narrowed = [], [], dtypes.BIT64_TO_BIT32_DTYPE["float64"]
    wide = keras.DTypePolicy("float64")
    try:
        keras.config.set_floatx("float64")
        # Off TensorFlow, Keras promotes float64 to float32.
        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
        for layer in all_layers(model):
            policies.append((layer, layer.dtype_policy))
            layer.dtype_policy = wide
            for tensor in getattr(layer, "_inputs", None) or ():
                if tensor.dtype in FLOATS:
                    inputs.append((tensor, tensor.dtype))
                    tensor._dtype = "float64"
        with _wide_helper():
            yield
    finally:
        keras.config.set_floatx(floatx)
        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = narrowed
        for layer, policy in policies:
            layer.dtype_policy = policy
        for tensor, dtype in inputs:
            tensor._dtype = dtype


@contextlib.contextmanager
def _wide_helper() -> Iterator[None]:
    """Keras' NumPy backend has convolutions and pooling done by JAX, which narrows by default."""
    if "jax" not in sys.modules:
        yield
        return
    from pytest_fwcompare.backends.jax.modes import x64

    with x64(True):
        yield
