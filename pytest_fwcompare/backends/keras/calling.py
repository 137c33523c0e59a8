"""How a Keras 3 model is called on tensors, whatever its backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras


def is_flat_dict(structure: Any, count: int) -> bool:
    """Whether a model takes its inputs as one dict of `count` tensors."""
    return (
        isinstance(structure, dict)
        and len(structure) == count
        and all(isinstance(value, keras.KerasTensor) for value in structure.values())
    )


def keys_of(structure: Any, names: Sequence[str]) -> list[str]:
    """Keys of a model's dict of inputs, by argument.

    The arguments' names where they are the model's own, else its keys in the order of its
    definition, which flattening would sort.
    """
    return list(names) if set(names) == set(structure) else list(structure)


def bound_call(
    model: Any,
    names: Sequence[str],
    keywords: Sequence[bool],
    tensors: Sequence[Any],
    training: bool,
) -> Callable[[], Any]:
    """A model's call; several inputs of a functional one go in by the structure it was made with.

    Args:
        model: a Keras model or layer.
        names: of the inputs.
        keywords: whether each is passed by its name.
        tensors: their values.
        training: in training mode.
    """
    given = list(zip(names, keywords, tensors, strict=True))
    positional = [tensor for _, keyword, tensor in given if not keyword]
    named = {name: tensor for name, keyword, tensor in given if keyword}
    structure = getattr(model, "_inputs_struct", None)
    if is_flat_dict(structure, len(given)):
        keys = keys_of(structure, names)
        positional, named = [dict(zip(keys, tensors, strict=True))], {}
    elif structure is not None and len(keras.tree.flatten(structure)) == len(given) > 1:
        positional, named = [keras.tree.pack_sequence_as(structure, list(tensors))], {}
    if training:
        # A model whose `call` has no such argument hands it on to the layers inside.
        return partial(model, *positional, training=True, **named)
    # Inference is the plain call that a user makes: training=False would switch off a
    # dropout that was left on inside, which is what such a model gets wrong.
    return partial(model, *positional, **named)
