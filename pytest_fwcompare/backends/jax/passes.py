"""One pass of a JAX model, which can be taken back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pytest_fwcompare.backends.base import Array, Gradients, Pass, Precision
from pytest_fwcompare.backends.jax.leaves import Values, is_float
from pytest_fwcompare.backends.jax.model import JaxModel
from pytest_fwcompare.backends.jax.outputs import Outputs
from pytest_fwcompare.backends.jax.widths import to_numpy
from pytest_fwcompare.errors import ModelError


class JaxPass(Pass):
    """One forward pass; `pulled` is its backward function."""

    def __init__(
        self, side: JaxModel, precision: Precision, outputs: Outputs, changed: Values, pulled: Any
    ) -> None:
        self.side, self.precision, self.pulled = side, precision, pulled
        self._structs = [(n, a.shape, a.dtype, is_float(a)) for n, a in outputs.items()]
        self.outputs = {name: to_numpy(array) for name, array in outputs.items()}
        self.skipped = dict(outputs.skipped)
        names = {parameter.name for parameter in side.parameters()}
        self._changed = {name: to_numpy(a) for name, a in changed.items() if name in names}
        self._kept = {p.name for p in side.parameters() if not p.trainable}

    def seeds(self, cotangents: Mapping[str, Array]) -> list[Any]:
        """Cotangents of the float outputs in order, zeros where none is given."""
        return [
            jax.numpy.asarray(np.broadcast_to(np.asarray(cotangents.get(name, 0.0)), shape), dtype)
            for name, shape, dtype, floating in self._structs
            if floating
        ]

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        side = self.side
        if self.pulled is None:
            raise ModelError(
                side.role, "backward", "this pass was made with gradients=False, or taken back"
            )
        with side.errors("backward"), side.context(self.precision):
            trained, floats = side.pull(self.pulled, self.seeds(cotangents), self.precision)
            self.pulled = None
            return Gradients(
                inputs={name: to_numpy(value) for name, value in floats.items()},
                parameters={name: to_numpy(value) for name, value in trained.items()},
            )

    def buffers(self) -> dict[str, Array]:
        if not self._kept:
            return {}
        held = self.side.values(self.precision)
        return {
            name: self._changed[name] if name in self._changed else to_numpy(held[name])
            for name in self._kept
        }
