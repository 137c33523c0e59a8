"""Parameters of Keras layer trees, alike for Keras 3 on any backend and the legacy `tf_keras`.

Imports no framework: what is read of a layer is Keras', whatever it computes with.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_fwcompare.backends.base import Parameter

PLAIN = (bool, int, float, str)


def all_layers(model: Any) -> Iterator[Any]:
    """The model and all layers in it, each once, parents first."""
    seen: set[int] = set()
    for layer in model._flatten_layers(recursive=True, include_self=True):
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer


def own_weights(layer: Any) -> list[tuple[Any, bool]]:
    """Variables that belong to the layer itself, and whether each is a parameter.

    A layer that the user froze keeps its kernels in the list of trainable variables, so frozen
    kernels and buffers can be told apart.
    """
    found: dict[int, tuple[Any, bool]] = {}
    for attribute, parameter in (
        ("_trainable_variables", True),
        ("_trainable_weights", True),
        ("_non_trainable_variables", False),
        ("_non_trainable_weights", False),
    ):
        for variable in getattr(layer, attribute, None) or ():
            found.setdefault(id(variable), (variable, parameter))
    return list(found.values())


@contextmanager
def reading() -> Iterator[None]:
    """While a configuration is read: Keras warns of a lambda in it as if it were to be saved."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def options_of(layer: Any) -> dict[str, Any]:
    """Plain scalars, and short tuples of them, of the layer's configuration."""
    try:
        with reading():
            config = layer.get_config()
    except Exception:  # a subclassed layer may not have one
        config = {}
    made = {
        key: tuple(value) if isinstance(value, (list, tuple)) else value
        for key, value in config.items()
        if isinstance(value, PLAIN)
        or (isinstance(value, (list, tuple)) and all(isinstance(v, PLAIN) for v in value))
    }
    for key, value in vars(layer).items():
        if not key.startswith("_") and isinstance(value, PLAIN):
            made.setdefault(key, value)
    return {key: value for key, value in made.items() if key not in ("name", "built")}


def weight_facts(
    model: Any,
    name_of: Callable[[Any], str],
    holder_of: Callable[[Any], Any],
    dtype_of: Callable[[Any], str | None],
) -> list[tuple[Parameter, Any]]:
    """Float parameters and buffers of a model in the order of `model.weights`, with their holders.

    Args:
        model: a Keras model or layer.
        name_of: name of a weight, e.g. "block0/mix/kernel".
        holder_of: what holds a weight's values; those of tied weights are the same.
        dtype_of: NumPy name of a holder's dtype; None if it is no float.
    """
    owners: dict[int, tuple[Any, bool]] = {}
    for layer in all_layers(model):
        for weight, trained in own_weights(layer):
            owners.setdefault(id(weight), (layer, trained))
    taken: dict[str, int] = {}
    made: list[tuple[Parameter, Any]] = []
    seen: set[int] = set()
    for weight in model.weights:
        holder = holder_of(weight)
        dtype = dtype_of(holder)
        if id(holder) in seen or dtype is None:
            continue
        seen.add(id(holder))
        layer, is_parameter = owners.get(id(weight), (None, bool(weight.trainable)))
        name = name_of(weight)
        taken[name] = taken.get(name, 0) + 1
        path, _, role = name.rpartition("/")
        options = {} if layer is None else options_of(layer)
        if is_parameter and not weight.trainable:
            options["frozen"] = True
        parameter = Parameter(
            name=name if taken[name] == 1 else f"{name}_{taken[name]}",
            shape=tuple(holder.shape),
            dtype=dtype,
            trainable=is_parameter,
            layer=path,
            kind="" if layer is None else type(layer).__name__,
            role=role,
            options=options,
        )
        made.append((parameter, holder))
    return made
