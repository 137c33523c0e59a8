"""Gradients and buffers of either side by the reference's names, in the reference's layout."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pytest_fwcompare.backends.base import Array, Gradients
from pytest_fwcompare.inputs.examples import Plan
from pytest_fwcompare.points import Point
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.supply import Supply


def input_gradients(
    plan: Plan, role: str, opened: Opened, gradients: Gradients, point: Point
) -> dict[str, Array]:
    """Gradients of a side's inputs, in the reference's axes."""
    made = {}
    for name, value in gradients.inputs.items():
        spec = plan.layouts.get(name)
        axes = spec.to_port if spec is not None and role == "port" else None
        if axes is None:
            axes = opened.input_axes.get(name)
        if value is None:
            value = np.zeros(point.inputs[name].shape)
        elif axes is not None:
            value = value.transpose(np.argsort(axes))
        made[f"gradient of input {name}"] = value
    return made


def parameter_gradients(supply: Supply, role: str, gradients: Gradients) -> dict[str, Array]:
    """Gradients of a side's parameters as those of the reference's parameters."""
    shapes = supply.shapes()
    if role == "reference":
        return {
            f"gradient of {name}": np.zeros(shapes[name]) if value is None else value
            for name, value in gradients.parameters.items()
        }
    if supply.mapping is None:
        return {}
    made = {}
    for name, entries in supply.mapping.pull_back(gradients.parameters, shapes).items():
        for links, value in entries:
            note = f" (in the port's {', '.join(links)})" if len(entries) > 1 else ""
            made[f"gradient of {name}{note}"] = np.zeros(shapes[name]) if value is None else value
    return made


def buffers(supply: Supply, role: str, found: Mapping[str, Array]) -> dict[str, Array]:
    """Buffers of a side as those of the reference."""
    names = [n for n, p in supply.reference_parameters.items() if not p.trainable]
    if role == "reference":
        return {f"buffer {name}": found[name] for name in names if name in found}
    if supply.mapping is None or not found:
        return {}
    pulled = supply.mapping.pull_back(dict(found), supply.shapes())
    made = {}
    for name in names:
        for _, value in pulled.get(name, [])[:1]:
            if value is not None:
                made[f"buffer {name}"] = value
    return made
