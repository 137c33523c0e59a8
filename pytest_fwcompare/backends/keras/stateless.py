"""A Keras 3 model as a function of its variables' values, on any backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from pytest_fwcompare.backends.base import Argument, Parameter
from pytest_fwcompare.backends.keras.calling import bound_call
from pytest_fwcompare.backends.layer_trees import all_layers, weight_facts
from pytest_fwcompare.errors import ModelError

FLOATS = ("float16", "bfloat16", "float32", "float64")


class StatelessModel:
    """The model, its variables by name, and calls that change none of them.

    Args:
        model: a Keras model or layer; it is never changed, except that an unbuilt one is built.
        dtype: working dtype.

    Attributes:
        parameters: float parameters and buffers with their variables, in definition order.
        others: variables that are no floats (counters, random seeds), by name.
        seeds: names of those among them that random numbers are drawn from.
    """

    def __init__(self, model: Any, dtype: str) -> None:
        self.model, self.dtype = model, dtype
        self.parameters: dict[str, tuple[Parameter, Any]] = {}
        self.others: dict[str, Any] = {}
        self.seeds: set[str] = set()
        self._order: tuple[list[str], list[bool]] = ([], [])
        if self.is_built:
            self._list()

    @property
    def is_built(self) -> bool:
        """Whether every layer has its variables."""
        return all(layer.built for layer in all_layers(self.model))

    def _list(self) -> None:
        facts = weight_facts(
            self.model,
            lambda weight: str(weight.path),
            lambda weight: weight,
            lambda weight: dtype if (dtype := str(weight.dtype)) in FLOATS else None,
        )
        self.parameters = {parameter.name: (parameter, held) for parameter, held in facts}
        known = {id(held) for _, held in facts}
        self.others = {
            f"{variable.path} {place}": variable
            for place, variable in enumerate(self.model.variables)
            if id(variable) not in known
        }
        self.seeds = {name for name in self.others if "seed" in name.rpartition("/")[2]}
        dtypes = {parameter.dtype for parameter, _ in facts}
        if dtypes and self.dtype not in dtypes:
            raise ModelError(
                "model",
                "build",
                f"expected parameters in the working dtype {self.dtype}, got "
                f"{', '.join(sorted(dtypes))}; make the model in {self.dtype}, or compare with "
                f"dtype={min(dtypes)!r}",
            )

    def build(self, arguments: Sequence[Argument]) -> bool:
        """Build a model that was not called yet, on real values; True if that was needed."""
        if self.parameters or self.others or self.is_built:
            return False
        values = [
            value.astype(self.dtype) if (value := np.asarray(a.value)).dtype.kind == "f" else value
            for a in arguments
        ]
        self.expect(arguments)
        bound_call(self.model, *self._order, values, False)()
        self._list()
        return True

    def expect(self, arguments: Sequence[Argument]) -> None:
        """Names and kinds of the inputs of the next calls."""
        ordered = sorted(arguments, key=lambda argument: argument.keyword)
        self._order = [a.name for a in ordered], [a.keyword for a in ordered]

    def variables(self) -> dict[str, Any]:
        """All variables by name."""
        return {name: held for name, (_, held) in self.parameters.items()} | self.others

    def call(
        self,
        values: Mapping[str, Any],
        positional: Sequence[Any],
        named: Mapping[str, Any],
        training: bool,
    ) -> tuple[Any, dict[str, Any]]:
        """Output, and the values of the variables that the call changed.

        Args:
            values: of variables, by name; tensors of the backend in any dtype.
            positional: inputs, as `expect` was told of them.
            named: those passed by name.
            training: in training mode.
        """
        variables = self.variables()
        scope = keras.StatelessScope()
        # Its constructor would cast to the variables' dtype, which a shadow must not.
        scope.state_mapping.update({id(variables[name]): value for name, value in values.items()})
        with scope:
            tensors = [*positional, *named.values()]
            output = bound_call(self.model, *self._order, tensors, training)()
        self.model._clear_losses()
        changed = {
            name: now
            for name, variable in variables.items()
            if (now := scope.get_current_value(variable)) is not None
            and now is not values.get(name)
        }
        return output, changed

    def layer_paths(self) -> list[tuple[str, Any]]:
        """Path and object of every layer; "" for the model itself."""
        return [
            ("" if layer is self.model else str(layer.path or layer.name), layer)
            for layer in all_layers(self.model)
        ]

    def write(self, values: Mapping[str, Any]) -> None:
        """Set float variables for good, as far as the model may be changed."""
        for name, value in values.items():
            self.parameters[name][1].assign(value)
