"""One layer of Keras run alone, on whichever backend Keras has in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from pytest_fwcompare.backends.base import Argument, Array, Side
from pytest_fwcompare.backends.keras.examined import Ran
from pytest_fwcompare.backends.keras.formula import wide
from pytest_fwcompare.backends.keras.hair import shakers
from pytest_fwcompare.backends.keras.stateless import FLOATS
from pytest_fwcompare.backends.registry import backend


def packed(structure: Any, tensors: Sequence[Any]) -> Any:
    """Arguments of a call from their plain structure, tensors put in by number."""
    if isinstance(structure, dict) and set(structure) == {"tensor"}:
        return tensors[structure["tensor"]]
    if isinstance(structure, dict) and set(structure) == {"value"}:
        return structure["value"]
    if isinstance(structure, dict) and set(structure) == {"tuple"}:
        return tuple(packed(item, tensors) for item in structure["tuple"])
    if isinstance(structure, dict):
        return {key: packed(item, tensors) for key, item in structure["dict"].items()}
    return [packed(item, tensors) for item in structure]


class Repeated(keras.layers.Layer):  # type: ignore[misc]
    """A layer called as it was called in its model; its only inputs are the tensors of that call.

    Args:
        layer: built.
        structure: of the call.
    """

    def __init__(self, layer: Any, structure: Any) -> None:
        super().__init__(dtype=layer.dtype_policy, autocast=False)
        self.layer, self.structure = layer, [structure]
        self.built = True

    def call(self, *tensors: Any) -> Any:
        """The noted call with these tensors."""
        args, kwargs = packed(self.structure[0], tensors)
        return self.layer(*args, **kwargs)


class Alone:
    """A layer with its weights, ready to be run on tensors. Use as a context manager.

    Args:
        layer: of Keras, built; it is left as it was found.
        structure: of its call.
        weights: values in the order of `layer.weights`.
        dtype: working dtype.
        device: as in `compare`.
    """

    def __init__(
        self, layer: Any, structure: Any, weights: Sequence[Array], dtype: str, device: str
    ) -> None:
        self.side: Side = backend("keras").adopt(
            Repeated(layer, structure), dtype=dtype, device=device, mode="eager", own=False
        )
        self._layer, self._weights = layer, weights
        self.names: dict[str, str] = {}

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *_: object) -> None:
        self.side.close()

    def _load(self, arguments: Sequence[Argument]) -> None:
        self.side.prepare(arguments)
        held: dict[int, int] = {}
        for number, weight in enumerate(self._layer.weights):
            if keras.backend.standardize_dtype(weight.dtype) in FLOATS:
                held.setdefault(id(weight), number)
        parameters = self.side.parameters()
        self.names = {
            parameter.name: f"weight {number}"
            for parameter, number in zip(parameters, held.values(), strict=True)
        }
        values = {
            parameter.name: self._weights[number]
            for parameter, number in zip(parameters, held.values(), strict=True)
        }
        self.side.load(values, "double")
        self.side.load(values, "working")

    def run(self, tensors: Sequence[Array], cotangents: dict[str, Array], *, seed: int = 0) -> Ran:
        """Outputs, and gradients where the backend has any.

        Args:
            tensors: inputs.
            cotangents: by output; filled at random where it is empty.
            seed: of the cotangents.

        Raises:
            FwcompareError: the layer failed.
        """
        arguments = [Argument(f"input {number}", value) for number, value in enumerate(tensors)]
        if not self.names:
            self._load(arguments)
        working = self._outputs(arguments)
        passed = self.side.forward(arguments, precision="double", gradients=has_gradients())
        coarse = bool(self.side.leaks)
        numbered = {name: f"output {number}" for number, name in enumerate(passed.outputs)}
        outputs = {numbered[name]: np.asarray(v) for name, v in passed.outputs.items()}
        if not cotangents:
            cotangents.update(drawn(outputs, seed))
        if not has_gradients():
            return Ran(outputs, {}, working, "it has no gradients", coarse)
        given = {n: cotangents[o] for n, o in numbered.items() if o in cotangents}
        found = passed.backward(given)
        gradients = {name: g for name, g in found.inputs.items() if g is not None}
        gradients |= {
            self.names[name]: g
            for name, g in found.parameters.items()
            if g is not None and name in self.names
        }
        return Ran(outputs, gradients, working, coarse=coarse)

    def _outputs(self, arguments: Sequence[Argument]) -> dict[str, Array]:
        passed = self.side.forward(arguments, precision="working", gradients=False)
        return {f"output {n}": wide(np.asarray(v)) for n, v in enumerate(passed.outputs.values())}

    def near(self, tensors: Sequence[Array], cotangents: dict[str, Array]) -> list[Any]:
        """Gradients at points moved by a hair."""
        if not has_gradients():
            return []
        return [
            self.run([move(tensor) for tensor in tensors], cotangents).gradients
            for move in shakers()
        ]


def has_gradients() -> bool:
    """Whether Keras' backend in this process has any."""
    return bool(keras.backend.backend() != "numpy")


def drawn(outputs: dict[str, Array], seed: int) -> dict[str, Array]:
    """Random cotangents of float outputs, which float32 holds exactly."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, value in outputs.items():
        drawn = rng.standard_normal(value.shape).astype(np.float32)
        if value.dtype.kind == "f":
            made[name] = drawn.astype(np.float64)
    return made
