"""Adopts Keras 3 models: functional, sequential, subclassed, and single layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.tensorflow.layers_tree import all_layers, layer_owned, layer_scopes
from pytest_fwcompare.backends.tensorflow.record import Scopes
from pytest_fwcompare.backends.tensorflow.side import Owned, TensorFlowSide
from pytest_fwcompare.errors import FrameworkUnavailable


def adopt(model: Any, *, dtype: str, device: str, mode: str, own: bool) -> KerasSide:
    """The side for a Keras 3 model.

    Raises:
        FrameworkUnavailable: Keras runs on another backend in this process.
    """
    if (found := keras.backend.backend()) != "tensorflow":
        raise FrameworkUnavailable(
            f"framework 'keras' is adopted on its TensorFlow backend, but this process imported "
            f"Keras on {found!r}; set KERAS_BACKEND=tensorflow before the first import of keras"
        )
    return KerasSide(model, dtype=dtype, device=device, mode=mode, own=own)


def is_flat_dict(structure: Any, count: int) -> bool:
    """Whether a model takes its inputs as one dict of `count` tensors."""
    return (
        isinstance(structure, dict)
        and len(structure) == count
        and all(isinstance(value, keras.KerasTensor) for value in structure.values())
    )


def keys_of(structure: Any, arguments: Sequence[Argument]) -> list[str]:
    """Keys of a model's dict of inputs, by argument.

    The arguments' names where they are the model's own, else its keys in the order of its
    definition, which flattening would sort.
    """
    names = [argument.name for argument in arguments]
    return names if set(names) == set(structure) else list(structure)


class KerasSide(TensorFlowSide):
    """A Keras 3 model, run in place."""

    framework = "keras"

    def all_variables(self) -> list[Any]:
        """Weights, seeds and counters, and the process' own seed if there is one."""
        variables = list(self.model.variables)
        world = keras.src.backend.common.global_state.get_global_attribute("global_seed_generator")
        if world is not None:
            variables.append(world.state)
        return [v.value if isinstance(v, keras.Variable) else v for v in variables]

    def list_owned(self) -> list[Owned]:
        """By path, e.g. "encoder/block0/mix/to_q/kernel"."""
        if not self.model.built:
            return []
        return layer_owned(self.model, lambda v: str(v.path), lambda v: v.value)

    def autograph(self) -> bool:
        """Keras code has no Python conditions on tensors in graphs."""
        return False

    def prepare(self, arguments: Sequence[Argument]) -> None:
        """Build a model that has not been called yet."""
        if self.model.built and self._owned is not None:
            return
        if any(not layer.built for layer in all_layers(self.model)):
            with self.explained("forward"), tf.device(self.device):
                self.call(arguments, self.tensors(arguments), False)
            self._owned = None
        self.entries()

    def traced(self) -> None:
        """Losses that layers added while they were traced belong to a graph that is gone."""
        self.model._clear_losses()

    def tensors(self, arguments: Sequence[Argument], kind: tf.DType | None = None) -> list[Any]:
        """Inputs as tensors, integers as a functional model wants them."""
        made = super().tensors(arguments, kind)
        wanted = self._inputs(arguments)
        if len(wanted) != len(made):
            return made
        return [
            tf.cast(tensor, tensor_like.dtype)
            if not tensor.dtype.is_floating and not tf.as_dtype(tensor_like.dtype).is_floating
            else tensor
            for tensor, tensor_like in zip(made, wanted, strict=True)
        ]

    def _inputs(self, arguments: Sequence[Argument]) -> list[Any]:
        """Symbolic inputs of a functional model, by argument; none for other models."""
        structure = getattr(self.model, "_inputs_struct", None)
        if not isinstance(self.model, keras.models.Model) or structure is None:
            return []
        if is_flat_dict(structure, len(arguments)):
            return [structure[name] for name in keys_of(structure, arguments)]
        return list(keras.tree.flatten(structure))

    def call(self, arguments: Sequence[Argument], tensors: Sequence[Any], training: bool) -> Any:
        """Several inputs of a functional model go in by the structure it was made with."""
        positional = [t for a, t in zip(arguments, tensors, strict=True) if not a.keyword]
        named = {a.name: t for a, t in zip(arguments, tensors, strict=True) if a.keyword}
        structure = getattr(self.model, "_inputs_struct", None)
        if is_flat_dict(structure, len(arguments)):
            keys = keys_of(structure, arguments)
            positional, named = [dict(zip(keys, tensors, strict=True))], {}
        elif structure is not None and len(keras.tree.flatten(structure)) == len(arguments) > 1:
            positional, named = [keras.tree.pack_sequence_as(structure, list(tensors))], {}
        if training:
            # A model whose `call` has no such argument hands it on to the layers inside.
            return self.model(*positional, training=True, **named)
        # Inference is the plain call that a user makes: training=False would switch off a
        # dropout that was left on inside, which is what such a model gets wrong.
        return self.model(*positional, **named)

    def scopes(self) -> Scopes:
        """Names of the model and its layers."""
        return layer_scopes(self.model, self.parameters())
