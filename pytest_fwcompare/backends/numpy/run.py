"""Runs a described network in NumPy, with or without autograd's boxes, recorded or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from autograd.tracer import getval, isbox

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.backends.numpy import recurrent  # noqa: F401  (registers its layers)
from pytest_fwcompare.backends.numpy.lower import State, Use, compute
from pytest_fwcompare.backends.numpy.primitives import tap
from pytest_fwcompare.backends.numpy.traced import Value
from pytest_fwcompare.networks.base import Layer
from pytest_fwcompare.networks.graph import Network

__all__ = ["Recorder", "State", "evaluate"]


class Recorder:
    """Keeps each step's output, and its gradient once the pass has run backward.

    A step is written down twice, as the operation and as the module that it is.

    Attributes:
        values: outputs in the order of the network's steps.
        arguments: inputs of each step.
        gradients: by the number of the step.
    """

    def __init__(self) -> None:
        self.values: list[Array] = []
        self.arguments: list[tuple[Array, ...]] = []
        self.gradients: dict[int, Array] = {}

    def keep(self, value: Value, inputs: list[Value]) -> Value:
        """Note an output; gives the value to go on with."""
        number = len(self.values)
        self.values.append(np.asarray(getval(value)))
        self.arguments.append(tuple(np.asarray(getval(argument)) for argument in inputs))
        if not isbox(value):
            return value
        return tap(value, lambda gradient: self.gradients.__setitem__(number, gradient))

    def records(self, network: Network) -> list[Recorded]:
        """Two records for each step of the network: operation, then module."""
        places = {step.name: 2 * number for number, step in enumerate(network.nodes)}
        made: list[Recorded] = []
        for number, step in enumerate(network.nodes):
            names = (*step.inputs, *step.keywords.values())
            sources = tuple(places[name] for name in names if name in places)
            owned = network.layer_parameters(step.layer_name)
            for is_module in (False, True):
                made.append(
                    Recorded(
                        index=2 * number + is_module,
                        path=step.layer_name,
                        operation=type(step.layer).__name__,
                        value=self.values[number],
                        inputs=(2 * number,) if is_module else sources,
                        parameters=tuple(f"{step.layer_name}.{name}" for name in owned),
                        attributes=options(step.layer),
                        arguments=self.arguments[number],
                        gradient=self.gradients.get(number),
                        place=f"{step.name}{'/' if is_module else ''}",
                        is_module=is_module,
                    )
                )
        return made


def options(layer: Layer) -> dict[str, Any]:
    """Hyper-parameters of a layer as plain facts."""
    return {
        option.name: getattr(layer, option.name)
        for option in fields(layer)
        if option.name != "name" and not isinstance(getattr(layer, option.name), Layer)
    }


def evaluate(
    network: Network,
    inputs: Mapping[str, Value],
    weights: Mapping[str, Value],
    state: State,
    recorder: Recorder | None = None,
) -> dict[str, Value]:
    """Outputs by name.

    Args:
        network: the description.
        inputs: arrays, or autograd's boxes of them, by name.
        weights: the same by parameter name.
        state: of the pass; filled with new buffers in training mode.
        recorder: keeps the outputs of all steps.

    Raises:
        NetworkError: sizes do not fit a layer.
    """
    owned: dict[str, dict[str, Value]] = {name: {} for name in network.layers}
    for full, value in weights.items():
        layer_name, _, name = full.partition(".")
        owned[layer_name][name] = value

    def function(
        layer: Layer, layer_name: str, values: list[Value], keywords: dict[str, Value]
    ) -> Value:
        use = Use(layer_name, values, keywords, owned[layer_name], state)
        output = compute(layer, use)
        if recorder is None:
            return output
        return recorder.keep(output, [*values, *keywords.values()])

    with np.errstate(all="ignore"):
        return network.evaluate(function, inputs)
