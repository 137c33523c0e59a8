"""Where both sides are evaluated, and what one pass of one side gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pytest_fwcompare.backends.base import Argument, Array, Recorded
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.inputs.examples import Plan
from pytest_fwcompare.sides import Opened


@dataclass
class Point:
    """Where both sides are evaluated: inputs in the reference's axes and the reference's weights.

    Attributes:
        inputs: by name, float ones as float64 values exact in the working dtype.
        weights: by the reference's parameter name; None where each side keeps its own.
        key: names the weights, so that equal ones are not loaded twice.
        cotangents: made when the output shapes are known.
    """

    inputs: dict[str, Array]
    weights: Mapping[str, Array] | None
    key: object
    rng_seed: list[int]
    cotangents: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One pass of one side, in the reference's axis order."""

    outputs: dict[str, Array]
    inputs: dict[str, Array] = field(default_factory=dict)
    parameters: Mapping[str, Array] = field(default_factory=dict)
    buffers: dict[str, Array] = field(default_factory=dict)
    recorded: tuple[Recorded, ...] = ()


def arguments(
    plan: Plan, opened: Opened, role: str, inputs: Mapping[str, Array]
) -> list[Argument]:
    """The inputs of one side in its own axis order.

    Args:
        plan: knows the specs and the order.
        opened: the side.
        role: "reference" or "port".
        inputs: by name, in the reference's axis order.
    """
    made = []
    for name in plan.order:
        spec = plan.layouts.get(name)
        value = inputs[name]
        axes = spec.to_port if spec is not None and role == "port" else None
        if axes is None:
            axes = opened.input_axes.get(name)
        if axes is not None:
            value = np.ascontiguousarray(value.transpose(axes))
        made.append(Argument(name, value, keyword=bool(spec and spec.keyword)))
    return made


def called_with(error: ModelError, given: Sequence[Argument], plan: Plan) -> ModelError:
    """The error with what the side was called with: its own words seldom tell."""
    if error.stage != "forward" or type(error) is not ModelError:
        return error
    kinds = ["float" if each.value.dtype.kind == "f" else each.value.dtype for each in given]
    said = ", ".join(
        f"{each.name} {kind} {each.value.shape}" for each, kind in zip(given, kinds, strict=True)
    )
    swapped = [name for name, spec in plan.layouts.items() if spec.to_port is not None]
    hint = ""
    if error.role == "reference" and swapped:
        hint = f"; shape= and axes= of {' and '.join(map(repr, swapped))} are the reference's"
    text = f"{error.text}\nThe {error.role} was called with {said}{hint}"
    return ModelError(error.role, error.stage, text)
