"""Builds described networks as functional Keras 3 models."""

from __future__ import annotations

from typing import Any

import keras

from pytest_fwcompare.backends.base import Built, Placement
from pytest_fwcompare.backends.keras import (  # noqa: F401 (they register their layers)
    layers_sequence,
    layers_space,
)
from pytest_fwcompare.backends.keras.layers import MAKERS, Context, Native
from pytest_fwcompare.formats import format_of
from pytest_fwcompare.networks import Network
from pytest_fwcompare.networks.base import Layer


def build(network: Network, dtype: str, device: str) -> Built:
    """Build a described network.

    Args:
        network: the description; its layer names are the Keras layers' names.
        dtype: working dtype; of all floating parameters and values, or the policy of all layers.
        device: "cpu", "cuda" or "cuda:N"; where the variables live.
    """
    kept = format_of(dtype)
    dtype = kept.stored
    with keras.device(keras_device(device)):
        made = _make(network, kept.name if kept.mixed else dtype)
        inputs = {
            name: keras.Input(
                [size if isinstance(size, int) else None for size in spec.shape[1:]],
                dtype=dtype if spec.dtype.startswith("float") else spec.dtype,
                name=name,
            )
            for name, spec in network.inputs.items()
        }

        def run(layer: Layer, layer_name: str, values: list[Any], keywords: dict[str, Any]) -> Any:
            return made[layer_name](values, keywords)

        outputs = network.pack(network.evaluate(run, inputs))
        listed = list(inputs.values())
        model = keras.Model(listed[0] if len(listed) == 1 else listed, outputs, name=network.name)
    placements = tuple(
        Placement(variable.path, tuple(f"{name}.{source}" for source in sources), transform)
        for name, native in made.items()
        for variable, sources, transform in native.stored()
    )
    notices = tuple(notice for native in made.values() for notice in native.notices)
    return Built(model, placements, notices=notices)


def keras_device(device: str) -> Any:
    """What `keras.device` calls "cpu" or "cuda[:N]" on the backend that it has here."""
    on = keras.backend.backend()
    if on == "jax":
        from pytest_fwcompare.backends.jax.devices import device_of

        return device_of(device)
    if on == "tensorflow":
        from pytest_fwcompare.backends.tensorflow.state import device_name

        return device_name(device)
    return device.replace("cuda", "gpu")


def _make(network: Network, dtype: str) -> dict[str, Native]:
    """Unbuilt Keras layers by layer name."""
    taken = {*network.layers, *network.inputs}
    made = {}
    for name, layer in network.layers.items():
        uses = [step for step in network.nodes if step.layer_name == name]
        context = Context(
            name,
            dtype,
            network.layer_parameters(name),
            uses[0].input_shapes,
            frozenset(keyword for step in uses for keyword in step.keywords),
            taken,
        )
        made[name] = _maker(layer)(layer, context)
    return made


def _maker(layer: Layer) -> Any:
    for kind in type(layer).__mro__:
        if kind in MAKERS:
            return MAKERS[kind]
    raise NotImplementedError(f"{layer.label}: the keras backend has no such layer")
