"""Gradients of Keras and TensorFlow losses by the outputs of a network."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.keras.optimizers import floats


def gradients(loss: Any, outputs: Sequence[Array], targets: Sequence[Array]) -> list[Array]:
    """Gradient of the loss by each output, float64.

    Losses of Keras are called as Keras does, with the targets first; a loss without reduction is
    averaged, as `Model.fit` does.
    """
    first = isinstance(loss, keras.losses.Loss) or _takes_targets_first(loss)
    if isinstance(loss, keras.losses.Loss):
        loss = copy.copy(loss)
        # It casts what it is given to its own dtype.
        object.__setattr__(loss, "_dtype", "float64")
    with floats("float64"), tf.GradientTape() as tape:
        tensors = [tf.constant(value, tf.float64) for value in outputs]
        tape.watch(tensors)
        others = [
            tf.constant(np.asarray(v, np.float64) if np.asarray(v).dtype.kind == "f" else v)
            for v in targets
        ]
        value = tf.reduce_mean(loss(*others, *tensors) if first else loss(*tensors, *others))
    found = tape.gradient(value, tensors)
    return [
        np.zeros(tensor.shape) if gradient is None else np.asarray(gradient, np.float64)
        for tensor, gradient in zip(tensors, found, strict=True)
    ]


def _takes_targets_first(loss: Any) -> bool:
    try:
        names = list(inspect.signature(loss).parameters)
    except (TypeError, ValueError):
        return False
    return names[:1] == ["y_true"]
