"""Runs a Keras or TensorFlow network for repro.py. Needs NumPy and TensorFlow only."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import tensorflow as tf


def leaves(value: Any) -> list[Any]:
    """Tensors of a nested result, in order."""
    if isinstance(value, (tf.Tensor, tf.Variable)):
        return [value]
    if hasattr(value, "keys"):
        return [leaf for key in value for leaf in leaves(value[key])]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    return []


def call(source: dict[str, Any], model: Any, positional: Any, keywords: Any, mode: bool) -> Any:
    """Call the network in training or inference mode."""
    if source["kind"] == "exported":
        made = model.call(*positional)
        return [made[name] for name in sorted(made)]
    function = model.call if hasattr(model, "call") else model.__call__
    if "training" in inspect.signature(function).parameters:
        keywords = {**keywords, "training": mode}
    return model(*positional, **keywords)


def run(
    source: dict[str, Any],
    weights: dict[str, np.ndarray],
    arguments: list[tuple[str, np.ndarray, bool]],
    cotangents: dict[str, np.ndarray],
    training: bool,
) -> dict[str, np.ndarray]:
    """Outputs, gradients and buffers by name; a variable's name is its place in `variables`."""
    exported = source["kind"] == "exported"
    model = tf.saved_model.load(source["path"]) if exported else source["factory"]()
    tensors = {name: tf.constant(value) for name, value, _ in arguments}
    positional = [tensors[name] for name, _, keyword in arguments if not keyword]
    keywords = {name: tensors[name] for name, _, keyword in arguments if keyword}
    if not exported:
        call(source, model, positional, keywords, False)  # makes the variables
        for place, value in weights.items():
            variable = model.variables[int(place)]
            variable.assign(tf.cast(tf.constant(value), variable.dtype))
    variables = {str(i): v for i, v in enumerate(() if exported else model.variables)}
    trained = {i: getattr(v, "value", v) for i, v in variables.items() if v.trainable}
    trained = {i: v() if callable(v) else v for i, v in trained.items()}
    floats = {name: t for name, t in tensors.items() if t.dtype.is_floating}
    with tf.GradientTape() as tape:
        tape.watch(list(floats.values()))
        outputs = leaves(call(source, model, positional, keywords, training))
    found = {f"output {i}": value for i, value in enumerate(outputs)}
    chosen = [i for i in range(len(outputs)) if str(i) in cotangents]
    if chosen:
        gradients = tape.gradient(
            [outputs[i] for i in chosen],
            {
                **{f"input {name}": t for name, t in floats.items()},
                **{f"parameter {name}": v for name, v in trained.items()},
            },
            [tf.cast(tf.constant(cotangents[str(i)]), outputs[i].dtype) for i in chosen],
        )
        found.update({n: tf.convert_to_tensor(g) for n, g in gradients.items() if g is not None})
    if training:
        found.update({f"buffer {i}": v for i, v in variables.items() if not v.trainable})
    return {name: np.asarray(value.numpy(), float) for name, value in found.items()}
