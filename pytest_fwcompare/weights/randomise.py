"""Random weights that show what default ones hide: no zero bias, no unit scale, no zero mean.

With default initialisation the bias order of a GRU is invisible (1.5e-7), with random biases it
shows (0.2). Ranges keep networks well conditioned: kernels have rows of about unit length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.weights.conventions import MEAN, SHIFT, VARIANCE, base_kind, role_word
from pytest_fwcompare.weights.recurrent import cell
from pytest_fwcompare.weights.trees import units

Array = np.ndarray

STATISTICS = ("mean", "variance")
"""Roles of buffers that training changes; all other buffers are constants of the network."""


def randomise(
    parameters: Sequence[Parameter],
    current: Mapping[str, Array],
    seed: int,
    *,
    framework: str = "",
) -> dict[str, Array]:
    """Well-conditioned random values for a side, exact in float32.

    Kernels are normal with deviation 1/sqrt(fan in); biases and shifts N(0, 0.3); scales of norms
    U(0.5, 1.5); running means N(0, 0.3), variances U(0.3, 1.5); embeddings N(0, 1), the padding
    row too; scalars their value times U(0.5, 1.5). Buffers that are no running statistics stay.

    Args:
        parameters: of the side; tied ones are listed once.
        current: values by name.
        seed: the same seed gives the same values for the same parameters.
        framework: import name, for the layout of kernels.

    Returns:
        By name, in the dtypes of `current`; every parameter is there.
    """
    draws = Randomiser(parameters, framework=framework)
    return {p.name: draws.draw(p.name, current[p.name], seed) for p in parameters}


class Randomiser:
    """Draws the values that `randomise` gives, one parameter at a time.

    Args:
        parameters: of the side; tied ones are listed once.
        framework: import name, for the layout of kernels.
    """

    def __init__(self, parameters: Sequence[Parameter], *, framework: str = "") -> None:
        self._parameters = {p.name: (place, p) for place, p in enumerate(parameters)}
        self._slots = {s.name: s for unit in units(parameters, framework) for s in unit.slots}

    def draw(self, name: str, current: Array, seed: int) -> Array:
        """Random values of one parameter, in the dtype of its current ones."""
        place, parameter = self._parameters[name]
        slot, value = self._slots[name], np.asarray(current)
        role = role_of(parameter, slot.role)
        if not parameter.trainable and role not in STATISTICS:
            return value
        rng = np.random.default_rng([seed, place])
        drawn = draw(role, parameter, fan_in(slot.form, slot.shape, slot.certain), value, rng)
        return drawn.astype(np.float32, copy=False).astype(value.dtype, copy=False)


def role_of(parameter: Parameter, role: str) -> str:
    """The role, told by words where a layer's convention says nothing."""
    word = role_word(parameter)
    if not parameter.trainable:
        if word in MEAN:
            return "mean"
        if word in VARIANCE or re.search(r"(^|_)(var|variance)$", parameter.role):
            return "variance"
    if cell(base_kind(parameter)) and (word in SHIFT or len(parameter.shape) == 1):
        return "bias"
    return role


def fan_in(form: str, shape: tuple[int, ...], certain: bool) -> float:
    """Number of values that one output of a kernel sums up.

    Args:
        form: "linear", "convolution", "transposed" or "".
        shape: canonical: (out, in, *kernel), or (in, out, *kernel) if transposed.
        certain: whether the layout is documented; else all axes but the longest.
    """
    total = float(math.prod(shape))
    if len(shape) < 2 or not total:
        return 1.0
    if not certain:
        # Either end may be the input: the mean of both keeps products near unit size.
        ends = total / max(shape)
        return max(1.0, math.sqrt(ends * total / min(shape[:2])))
    return max(1.0, total / (shape[1] if form == "transposed" else shape[0]))


LARGE = 1_000_000
"""Values of a parameter that is drawn in float32, in which it is used: half the time and room."""


def normal(rng: np.random.Generator, deviation: float, shape: tuple[int, ...]) -> Array:
    """Normal values around zero."""
    if math.prod(shape) < LARGE:
        return rng.normal(0, deviation, shape)
    drawn = rng.standard_normal(shape, dtype=np.float32)
    drawn *= np.float32(deviation)
    return drawn


def draw(
    role: str, parameter: Parameter, fan: float, value: Array, rng: np.random.Generator
) -> Array:
    """Random values of one parameter for its role."""
    shape = parameter.shape
    if not shape or (value.size == 1 and role == "other"):
        first = float(value.reshape(-1)[0]) if value.size else 0.0
        scale = rng.uniform(0.5, 1.5, shape)
        return np.asarray(first * scale if first else rng.normal(0, 0.3, shape))
    match role:
        case "kernel":
            return normal(rng, 1 / math.sqrt(fan), shape)
        case "embedding":
            return normal(rng, 1.0, shape)
        case "bias" | "mean":
            return rng.normal(0, 0.3, shape)
        case "scale":
            return rng.uniform(0.5, 1.5, shape)
        case "variance":
            return rng.uniform(0.3, 1.5, shape)
        case "slope":
            return rng.uniform(0.05, 0.5, shape)
    if value.size and (value > 0).all() and np.ptp(value) > 0:
        # A positive table may stand for variances or frequencies: keep its sign and size.
        return np.asarray(value * rng.uniform(0.5, 1.5, shape))
    if value.size and (value == 1).all():
        return rng.uniform(0.5, 1.5, shape)
    return rng.normal(0, 0.3, shape)
