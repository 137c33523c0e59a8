"""Optax transformations over parameters of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.jax.modes import x64
from pytest_fwcompare.backends.optimizers import Stepper, explained
from pytest_fwcompare.errors import UsageError

FORMS = (
    "an optax transformation (anything with init and update), e.g. optax.adam(1e-3), or a "
    "function that returns one"
)


class OptimizerStepper(Stepper):
    """An optax gradient transformation.

    Its settings are inside its functions and cannot be read, so `rule` gives None. A learning
    rate can be set from outside only through `optax.inject_hyperparams`.
    """

    def __init__(self, given: Any, values: Mapping[str, Array], *, dtype: str, role: str) -> None:
        self.role, self.dtype = role, dtype
        with x64(dtype == "float64"):
            if not hasattr(given, "update") and callable(given):
                given = given()
            if not (hasattr(given, "init") and hasattr(given, "update")):
                raise UsageError(
                    f"optimizer: the {role} is a jax model; expected {FORMS}; got {given!r}"
                )
            self.transformation = given
            self.state = given.init(self._tree(values))

    def _tree(self, values: Mapping[str, Array]) -> dict[str, Any]:
        return {name: jax.numpy.asarray(value, self.dtype) for name, value in values.items()}

    def step(
        self,
        gradients: Mapping[str, Array],
        values: Mapping[str, Array],
        learning_rate: float | None = None,
    ) -> dict[str, Array]:
        with x64(self.dtype == "float64"):
            if learning_rate is not None:
                self._set_rate(learning_rate)
            before = self._tree(values)
            given = self._tree({n: gradients.get(n, np.zeros(v.shape)) for n, v in values.items()})
            updates, self.state = explained(
                self.role,
                "optimizer",
                lambda: self.transformation.update(given, self.state, before),
            )
            return {
                name: np.asarray(value + updates[name].astype(value.dtype))
                for name, value in before.items()
            }

    def _set_rate(self, value: float) -> None:
        held = getattr(self.state, "hyperparams", None)
        if held is None or "learning_rate" not in held:
            raise UsageError(
                f"learning_rate_schedule: the {self.role}'s optax transformation keeps its "
                f"learning rate inside; make it with optax.inject_hyperparams("
                f"optax.adam)(learning_rate=...), or hand the schedule to optax itself"
            )
        held["learning_rate"] = jax.numpy.asarray(value, self.dtype)
