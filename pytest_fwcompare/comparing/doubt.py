"""Whether a side's gradients are the derivatives of its own outputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.running.arrays import Lazy
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Point, Run

STEP = 1e-6
"""Size of a move, relative to the values'."""

DOUBT = 1e-5
"""Relative difference of a derivative from the gradients that rounding does not explain."""

CANCELLED = 1e-3
"""Part of the sum of magnitudes below which a sum is what cancellation has left."""

PARAMETER, INPUT = "gradient of ", "gradient of input "
"""What gradients are called before the names."""


def gradients_in_doubt(pair: Pair, point: Point, run: Run, *, training: bool = False) -> bool:
    """Whether the port's gradients differ from what small moves do to its outputs.

    All inputs and weights are moved at once along a random direction, in float64.

    Args:
        pair: both sides.
        point: where the port ran.
        run: its pass there, with gradients, in float64.
        training: it ran in training mode.
    """
    promised, magnitude = _promised(point, run)
    try:
        up, down = (_reached(pair, point, sign, training) for sign in (1.0, -1.0))
    except ModelError:
        return True  # it is looked at, rather than taken for right
    moved = (up - down) / (2 * STEP)
    scale = max(abs(moved), abs(promised), CANCELLED * magnitude)
    return not abs(moved - promised) <= DOUBT * scale


def _promised(point: Point, run: Run) -> tuple[float, float]:
    """What the gradients say of a move, and the sum of all magnitudes in that."""
    total = magnitude = 0.0
    for title, gradient in (*run.inputs.items(), *run.parameters.items()):
        given = point.inputs if title in run.inputs else point.weights
        name = title.removeprefix(INPUT if title in run.inputs else PARAMETER)
        if given is None or name not in given:
            continue
        value = given[name]
        products = gradient * _direction(name, value)
        total += float(products.sum())
        magnitude += float(np.abs(products).sum())
    return total, magnitude


def _reached(pair: Pair, point: Point, sign: float, training: bool) -> float:
    """What the port's outputs are, times the cotangents, at a moved point."""
    inputs = {
        name: value if value.dtype.kind != "f" else _moved(name, value, sign)
        for name, value in point.inputs.items()
    }
    weights: Mapping[str, Array] | None = None
    if point.weights is not None:
        given, trained = point.weights, pair.reference_parameters

        def moved(name: str) -> Array:
            value = given[name]
            return _moved(name, value, sign) if trained[name].trainable else value

        weights = Lazy(given, moved, keep=False)
    moved_point = Point(inputs, weights, object(), point.rng_seed, point.cotangents)
    made = pair.run("port", moved_point, "double", training=training, backward=False)
    cotangents = point.cotangents
    return sum(float((made.outputs[name] * c).sum()) for name, c in cotangents.items())


def _moved(name: str, value: Array, sign: float) -> Array:
    return np.asarray(value + sign * STEP * _direction(name, value))


def _direction(name: str, value: Array) -> Array:
    """A random move of a tensor: up or down by the size of its values."""
    size = float(np.sqrt(np.mean(np.square(value, dtype=np.float64)))) if value.size else 0.0
    bits = np.unpackbits(np.frombuffer(_rng(name).bytes(-(-value.size // 8)), np.uint8))
    return np.where(bits[: value.size].reshape(value.shape), size or 1.0, -(size or 1.0))


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng([*name.encode()])
