"""A plain NumPy function as a side of a comparison: forward always, backward if it can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

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
from pytest_fwcompare.backends.loading import check_values
from pytest_fwcompare.backends.numpy.differentiate import pulled
from pytest_fwcompare.backends.numpy.models import NumpyFunction
from pytest_fwcompare.backends.numpy.side import by_kind, cast, void
from pytest_fwcompare.errors import ModelError

ADVICE = (
    "a NumPy function has gradients only if it is written with autograd.numpy "
    "(import autograd.numpy as np); otherwise compare it with checks=('forward',)"
)


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts, lists and tuples by dotted name; "" for a leaf itself."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        fields = getattr(value, "_fields", range(len(value)))
        items = [(str(key), item) for key, item in zip(fields, value, strict=True)]
    else:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in items:
        found |= flattened(item, f"{prefix}.{key}" if prefix else key)
    return found


def rebuilt(value: Any, leaves: Mapping[str, Any], prefix: str = "") -> Any:
    """The structure of `value` with other leaves."""

    def inner(key: object, item: Any) -> Any:
        return rebuilt(item, leaves, f"{prefix}.{key}" if prefix else str(key))

    if isinstance(value, Mapping):
        return {key: inner(key, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        pairs = zip(value._fields, value, strict=True)
        return type(value)(*(inner(key, item) for key, item in pairs))
    if isinstance(value, (list, tuple)):
        return type(value)(inner(key, item) for key, item in enumerate(value))
    return leaves[prefix]


class FunctionPass(Pass):
    """One pass of a plain function. See `Pass`.

    The function is run again, traced, when `backward` is called, so that one that cannot be
    differentiated can still be compared forward.
    """

    def __init__(
        self,
        side: FunctionSide,
        outputs: dict[str, Array],
        skipped: dict[str, str],
        leaves: dict[str, Array],
        call: Callable[[Mapping[str, Any]], dict[str, Any]],
    ) -> None:
        self.outputs = outputs
        self.skipped = skipped
        self._side = side
        self._leaves = leaves
        self._call = call

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        role = self._side.role
        floats = [name for name, value in self.outputs.items() if value.dtype.kind == "f"]

        def function(values: dict[str, Any]) -> dict[str, Any]:
            made = self._call(values)
            return {name: made[name] for name in floats}

        try:
            traced, pull = pulled(function, self._leaves)
            same = all(
                np.array_equal(traced[name], self.outputs[name], equal_nan=True) for name in floats
            )
        except Exception as error:
            message = f"{ADVICE}. It raised {type(error).__name__}: {error}"
            raise ModelError(role, "backward", message) from error
        if not same:
            raise ModelError(role, "backward", f"{ADVICE}. Traced, it gives other values")
        gradients = pull(cotangents)
        if all(value is None or not np.any(value) for value in gradients.values()) and any(
            map(np.any, cotangents.values())
        ):
            self._check_dependence()
        return by_kind(gradients, self._leaves)

    def _check_dependence(self) -> None:
        """Gradients that are all zero: does the function really not depend on its arguments?"""
        moved = {
            name: value + np.linspace(0.01, 0.02, value.size).reshape(value.shape)
            for name, value in self._leaves.items()
        }
        made = self._call(
            {name: cast(v, str(self._leaves[name].dtype)) for name, v in moved.items()}
        )
        for name, value in self.outputs.items():
            if value.dtype.kind == "f" and not np.array_equal(
                np.asarray(made[name]), value, equal_nan=True
            ):
                raise ModelError(
                    self._side.role,
                    "backward",
                    f"{ADVICE}. Its gradients are all zero, but output {name!r} changes with its "
                    f"inputs",
                )


class FunctionSide(Side):
    """A `NumpyFunction`, adopted. See `Side`."""

    framework = "numpy"

    def __init__(self, model: NumpyFunction, *, dtype: str) -> None:
        self.dtype = dtype
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
        self._structure = model.parameters
        flat = {} if model.parameters is None else flattened(model.parameters)
        self._own = {name: np.array(value) for name, value in flat.items()}
        self._double: dict[str, Array] = {}
        copied = None if model.parameters is None else rebuilt(model.parameters, self._own)
        self.model = NumpyFunction(model.function, copied)

    def parameters(self) -> list[Parameter]:
        return [
            Parameter(
                name=name,
                shape=value.shape,
                dtype=str(value.dtype),
                trainable=True,
                layer=name.rpartition(".")[0],
                role=name.rpartition(".")[2],
            )
            for name, value in self.read().items()
            if value.dtype.kind == "f"
        ]

    def read(self) -> dict[str, Array]:
        if self._structure is None:
            return {}
        return {name: np.array(v) for name, v in flattened(self.model.parameters).items()}

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        held = self.read()
        check_values(self.role, self.parameters(), values)
        for name, value in values.items():
            if precision == "double":
                self._double[name] = np.array(value, np.float64)
            else:
                held[name] = np.array(value, held[name].dtype)
        if precision == "working" and self._structure is not None:
            self.model = NumpyFunction(self.model.function, rebuilt(self._structure, held))

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        dtype = "float64" if precision == "double" else self.dtype
        values = {f"input {given.name}": cast(given.value, dtype) for given in arguments}
        held = self.read() | (self._double if precision == "double" else {})
        values |= {f"parameter {name}": cast(value, dtype) for name, value in held.items()}
        call = self._caller(arguments, values)
        try:
            with np.errstate(all="ignore"):
                outputs, skipped = self._outputs(call({}))
        except ModelError:
            raise
        except Exception as error:
            stage = "shadow" if precision == "double" else "forward"
            message = f"{type(error).__name__}: {error}"
            raise ModelError(self.role, stage, message) from error
        if precision == "double":
            self._find_leaks(outputs)
        leaves = {name: value for name, value in values.items() if value.dtype.kind == "f"}
        return FunctionPass(self, outputs, skipped, leaves, call)

    def _caller(
        self, arguments: Sequence[Argument], held: Mapping[str, Array]
    ) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        def call(values: Mapping[str, Any]) -> dict[str, Any]:
            def value(name: str) -> Any:
                # A copy, since a function may write into its arguments.
                return values[name] if name in values else held[name].copy()

            positional = [value(f"input {a.name}") for a in arguments if not a.keyword]
            named = {a.name: value(f"input {a.name}") for a in arguments if a.keyword}
            if self._structure is not None:
                leaves = {name: value(f"parameter {name}") for name in self._own}
                positional.insert(0, rebuilt(self._structure, leaves))
            made = flattened(self.model.function(*positional, **named))
            return {name or "output": leaf for name, leaf in made.items()}

        return call

    def _outputs(self, made: dict[str, Any]) -> tuple[dict[str, Array], dict[str, str]]:
        outputs, skipped = {}, {}
        for name, value in made.items():
            if isinstance(value, (np.ndarray, np.generic, float, int)) and not (
                np.asarray(value).dtype.hasobject
            ):
                outputs[name] = np.asarray(value)
            else:
                skipped[name] = f"{type(value).__name__}, not an array"
        if not outputs:
            what = ", ".join(f"{name}: {why}" for name, why in skipped.items()) or "nothing"
            raise ModelError(
                self.role, "forward", f"expected an array or several, the function gave {what}"
            )
        return outputs, skipped

    def _find_leaks(self, outputs: Mapping[str, Array]) -> None:
        self.leaks = [
            f"output {name} of the function is {value.dtype}"
            if value.dtype != np.float64
            else f"output {name} of the function was rounded to float32"
            for name, value in outputs.items()
            if value.dtype.kind == "f" and (value.dtype != np.float64 or _narrow(value))
        ]

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        def forward() -> None:
            self.forward(arguments, precision="working", gradients=False)

        def forward_backward() -> None:
            assert cotangents is not None
            void(self.forward(arguments, precision="working").backward(cotangents))

        return Stopwatch(forward, None if cotangents is None else forward_backward)


def _narrow(value: Array) -> bool:
    """True if every number is one of float32 although some have long fractions."""
    finite = value[np.isfinite(value) & (value != 0)]
    if finite.size < 4 or np.any(finite != finite.astype(np.float32)):
        return False
    # Short fractions (small integers, halves) are float32 numbers by right.
    return bool(np.any(finite.astype(np.float32) != finite.astype(np.float16)))
