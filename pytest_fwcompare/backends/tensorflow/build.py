"""Builds described networks as native `tf.Module`s."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from pytest_fwcompare.backends.base import Built, Placement
from pytest_fwcompare.backends.tensorflow import (  # noqa: F401 (they register their modules)
    layers_norm,
    layers_sequence,
    layers_space,
)
from pytest_fwcompare.backends.tensorflow.layers import MODULES
from pytest_fwcompare.backends.tensorflow.state import device_name
from pytest_fwcompare.formats import format_of
from pytest_fwcompare.networks import Network
from pytest_fwcompare.networks.base import Layer


class NetworkModule(tf.Module):  # type: ignore[misc]
    """A described network: `module(*inputs)`, or by input name, gives what the network returns.

    Each layer is a submodule under its name, each parameter a `tf.Variable` of it. `serve` is
    the same as a `tf.function` with an input signature, for `tf.saved_model.save`.

    Attributes:
        network: the description.
        dtypes: of the inputs, by name.
        modules: attribute that holds a layer's module, by layer name.
        serve: inference with free sizes.
    """

    def __init__(self, network: Network, dtype: str) -> None:
        super().__init__(name=network.name)
        self.network = network
        self.dtypes = {
            name: dtype if spec.dtype.startswith("float") else spec.dtype
            for name, spec in network.inputs.items()
        }
        self.modules: dict[str, str] = {}
        self.serve: Any = None
        for name, layer in network.layers.items():
            attribute = name
            while hasattr(self, attribute):
                attribute += "_"
            module = _module(layer, network.layer_parameters(name), dtype)
            setattr(self, attribute, module)
            self.modules[name] = attribute
        self.serve = tf.function(self.__call__, input_signature=self._signature())

    def module(self, layer_name: str) -> Any:
        """The module of a layer."""
        return getattr(self, self.modules[layer_name])

    def __call__(self, *inputs: Any, training: bool = False, **named: Any) -> Any:
        """Run the network.

        Args:
            inputs: tensors or arrays in the order of the description.
            training: in training mode (dropout, batch statistics).
            named: inputs by name.
        """
        values = dict(zip(self.network.inputs, inputs, strict=False)) | named
        tensors = {
            name: tf.convert_to_tensor(value, None if tf.is_tensor(value) else self.dtypes[name])
            for name, value in values.items()
        }

        def run(
            layer: Layer, layer_name: str, arguments: list[Any], keywords: dict[str, Any]
        ) -> Any:
            with tf.name_scope(layer_name):
                return self.module(layer_name)(*arguments, **keywords, training=training)

        return self.network.pack(self.network.evaluate(run, tensors))

    def _signature(self) -> list[tf.TensorSpec]:
        return [
            tf.TensorSpec(
                [size if isinstance(size, int) else None for size in spec.shape],
                self.dtypes[name],
                name,
            )
            for name, spec in self.network.inputs.items()
        ]


def build(network: Network, dtype: str, device: str) -> Built:
    """Build a described network.

    Args:
        network: the description.
        dtype: of all floating parameters and values, "float32" or "float64".
        device: "cpu", "cuda" or "cuda:N"; where the variables live.
    """
    with tf.device(device_name(device)):
        model = NetworkModule(network, format_of(dtype).stored)
    placements = []
    for name in network.layers:
        specs = network.layer_parameters(name)
        for path, canonical, transform in model.module(name).placements(specs):
            native = f"{model.modules[name]}.{path}"
            placements.append(Placement(native, (f"{name}.{canonical}",), transform))
    return Built(model, tuple(placements))


def _module(layer: Layer, specs: Any, dtype: str) -> Any:
    for kind in type(layer).__mro__:
        if kind in MODULES:
            return MODULES[kind](layer, specs, dtype)
    raise NotImplementedError(f"{layer.label}: the tensorflow backend has no such layer")
