"""Adopts Keras 3 models: functional, sequential, subclassed, and single layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import Any

import keras
import tensorflow as tf

from pytest_fwcompare.backends.base import HYPERPARAMETERS, Argument
from pytest_fwcompare.backends.keras.calling import bound_call, is_flat_dict, keys_of
from pytest_fwcompare.backends.keras.examinable import Examinable
from pytest_fwcompare.backends.keras.portable import without_cudnn
from pytest_fwcompare.backends.layer_trees import all_layers
from pytest_fwcompare.backends.tensorflow.layers_tree import layer_owned, layer_scopes, told_layers
from pytest_fwcompare.backends.tensorflow.model import Owned
from pytest_fwcompare.backends.tensorflow.record import Scopes
from pytest_fwcompare.backends.tensorflow.side import TensorFlowSide
from pytest_fwcompare.backends.tensorflow.state import elsewhere, is_gpu
from pytest_fwcompare.backends.tensorflow.watch import layers_marked


class KerasSide(Examinable, TensorFlowSide):
    """A Keras 3 model, run in place."""

    framework = "keras"

    def __init__(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> None:
        super().__init__(model, dtype=dtype, device=device, mode=mode, own=own)
        self.asked_device = device
        self._policies: list[tuple[Any, Any]] = []
        if self.format.mixed:
            self._mix()

    def _mix(self) -> None:
        """Let layers compute narrowly; those that have a policy of their own keep it."""
        layers = list(all_layers(self.model))
        for layer in [self.model, *(one for one in layers if one is not self.model)]:
            policy = layer.dtype_policy
            if getattr(policy, "name", "") == self.format.stored:
                self._policies.append((layer, policy))
                layer.dtype_policy = self.format.name

    def close(self) -> None:
        """As `TensorFlowSide.close`; the layers get their policies back."""
        for layer, policy in self._policies:
            layer.dtype_policy = policy
        self._policies.clear()
        super().close()

    @property
    def keras_model(self) -> Any:
        """The model, which is run in place."""
        return self.model

    def call_eagerly(self, arguments: Sequence[Argument]) -> None:
        """See `Examinable`."""
        with self.explained("forward"), self.placed():
            self.call(arguments, self.tensors(arguments), False)

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

    def portable(self) -> AbstractContextManager[None]:
        """Without what only a GPU can run."""
        return without_cudnn() if elsewhere() else nullcontext()

    @contextmanager
    def _scope(self) -> Iterator[None]:
        on_cpu = not is_gpu(self.device)
        with super()._scope(), self.portable() if on_cpu else nullcontext():
            yield

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
            names = [argument.name for argument in arguments]
            return [structure[name] for name in keys_of(structure, names)]
        return list(keras.tree.flatten(structure))

    def bound(
        self, arguments: Sequence[Argument], tensors: Sequence[Any], training: bool
    ) -> Callable[[], Any]:
        """Several inputs of a functional model go in by the structure it was made with."""
        names = [a.name for a in arguments]
        keywords = [a.keyword for a in arguments]
        return bound_call(self.model, names, keywords, tensors, training)

    def hyperparameters(self) -> dict[str, float]:
        """Of every layer, by its path."""
        return {
            f"{layer.path or layer.name}.{key}": vars(layer)[key]
            for layer in all_layers(self.model)
            for key in HYPERPARAMETERS
            if type(vars(layer).get(key)) is float
        }

    @contextmanager
    def changed(self, name: str, value: float) -> Iterator[None]:
        """With graphs that are traced anew."""
        path, _, key = name.rpartition(".")
        layer = next(one for one in all_layers(self.model) if path == (one.path or one.name))
        before = getattr(layer, key)
        setattr(layer, key, value)
        try:
            with self.shadows.anew():
                yield
        finally:
            setattr(layer, key, before)

    def scopes(self) -> Scopes:
        """Names of the model and its layers."""
        return layer_scopes(self.model, self._opened)

    _opened: Mapping[str, str] = MappingProxyType({})

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Layers open scopes of their own."""
        with layers_marked(keras.layers.Layer, told_layers(self.model)) as self._opened:
            yield
