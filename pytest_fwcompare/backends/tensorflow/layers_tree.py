"""Parameters of Keras layer trees on TensorFlow, alike for Keras 3 and the legacy `tf_keras`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pytest_fwcompare.backends.layer_trees import all_layers, weight_facts
from pytest_fwcompare.backends.tensorflow.model import Owned
from pytest_fwcompare.backends.tensorflow.record import Scopes


def layer_owned(
    model: Any, name_of: Callable[[Any], str], variable_of: Callable[[Any], Any]
) -> list[Owned]:
    """Float parameters and buffers of a model, in the order of `model.weights`.

    Args:
        model: a Keras model or layer.
        name_of: name of a weight, e.g. "block0/mix/kernel".
        variable_of: the `tf.Variable` that holds it.
    """

    def dtype_of(variable: Any) -> str | None:
        return str(variable.dtype.name) if variable.dtype.is_floating else None

    return [
        Owned(parameter, variable)
        for parameter, variable in weight_facts(model, name_of, variable_of, dtype_of)
    ]


def told_layers(model: Any) -> list[Any]:
    """The model and those of its layers that count as one.

    Cells and directions are parts of their recurrent layer, as they are in torch.
    """
    inner = {
        id(part)
        for layer in all_layers(model)
        if hasattr(layer, "cell") or hasattr(layer, "backward_layer")
        for part in all_layers(layer)
        if part is not layer
    }
    return [layer for layer in all_layers(model) if id(layer) not in inner]


def layer_scopes(model: Any, opened: Mapping[str, str] | None = None) -> Scopes:
    """Names of the model's layers, and that of the model, which is no part of their paths.

    Args:
        model: a Keras model or layer.
        opened: names of layers by the scopes that were opened for them.
    """
    names = frozenset(str(layer.name) for layer in told_layers(model))
    return Scopes(names, model.name, layers=opened or {})
