"""Gradients of JAX losses by the outputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.jax.modes import x64


def gradients(loss: Any, outputs: Sequence[Array], targets: Sequence[Array]) -> list[Array]:
    """Gradient of loss(*outputs, *targets) by each output, float64."""
    with x64(True):
        values = tuple(jax.numpy.asarray(value, "float64") for value in outputs)
        others = [jax.numpy.asarray(value) for value in targets]
        found = jax.grad(lambda given: loss(*given, *others))(values)
        return [np.asarray(value) for value in found]
