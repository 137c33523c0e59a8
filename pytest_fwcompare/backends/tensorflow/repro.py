"""What a standalone script needs of a Keras or TensorFlow side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from pytest_fwcompare.backends.base import Argument


def keys(side: Any) -> dict[str, str]:
    """Variables go by their place in the model's `variables`."""
    held = [getattr(variable, "value", variable) for variable in side.model.variables]
    places = {id(v() if callable(v) else v): place for place, v in enumerate(held)}
    direct = {id(variable): place for place, variable in enumerate(side.model.variables)}
    found = {}
    for owned in side.entries():
        place = direct.get(id(owned.variable), places.get(id(owned.variable)))
        if place is not None:
            found[owned.parameter.name] = str(place)
    return found


def export(side: Any, arguments: Sequence[Argument], folder: Path, role: str) -> str:
    """Write the model as a SavedModel with one function `call` for these shapes."""
    tensors = side.tensors(arguments)
    program = side.working.program(arguments, False)
    specs = [tf.TensorSpec(t.shape, t.dtype) for t in tensors]

    def call(*values: Any) -> dict[str, Any]:
        outputs, _ = program(values)
        return {f"{place:04d}": value for place, value in enumerate(outputs.values())}

    holder = tf.Module()
    holder.model = side.all_variables()
    holder.call = tf.function(call, input_signature=specs, autograph=side.autograph())
    tf.saved_model.save(holder, str(folder / f"{role}_saved_model"))
    return f"{role}_saved_model"
