"""Builds described networks as pure functions with a tree of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from pytest_fwcompare.backends.base import Built, Placement
from pytest_fwcompare.backends.jax import layers_sequence, layers_space  # noqa: F401 (register)
from pytest_fwcompare.backends.jax.layers import Use, Value, compute
from pytest_fwcompare.backends.jax.modes import x64
from pytest_fwcompare.formats import format_of
from pytest_fwcompare.networks import Network, ParameterSpec
from pytest_fwcompare.networks.base import Layer
from pytest_fwcompare.weights.transforms import Identity

Tree = dict[str, Any]
"""Nested dictionaries of arrays: {layer: {parameter: array}}."""


@dataclass
class JaxNetwork:
    """A described network: `network(*inputs)`, or `network.apply(params, *inputs)` to train it.

    Attributes:
        network: the description.
        params: {layer: {parameter: array}}, features last, as in the description.
        buffers: running statistics, in the same form.

    Example:
        >>> gradient = jax.grad(lambda params: loss(network.apply(params, images)))(network.params)
    """

    network: Network
    params: Tree
    buffers: Tree = field(default_factory=dict)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the network in inference mode with its own parameters."""
        return self.apply(self.params, *inputs, **named)

    def apply(
        self,
        params: Tree,
        *inputs: Any,
        buffers: Tree | None = None,
        training: bool = False,
        key: Any = None,
        **named: Any,
    ) -> Any:
        """Run the network, a pure function of all its arguments.

        Args:
            params: as `self.params`.
            inputs: arrays in the order of the description.
            buffers: as `self.buffers`, which is the default.
            training: in training mode (dropout, batch statistics).
            key: random key for dropout.
            named: inputs by name.

        Returns:
            What the description returns; in training mode, that and the new buffers.
        """
        held = self.buffers if buffers is None else buffers
        output, changed = self.run(params, held, inputs, named, training, key)
        return (output, changed) if training else output

    def run(
        self,
        params: Tree,
        buffers: Tree,
        inputs: tuple[Any, ...],
        named: Mapping[str, Any],
        training: bool,
        key: Any,
        mark: Callable[[Value, str, str], Value] | None = None,
    ) -> tuple[Any, Tree]:
        """As `apply`; `mark` is given the output of every layer with its name and class."""
        values = dict(zip(self.network.inputs, inputs, strict=False)) | dict(named)
        arrays = {name: jnp.asarray(value) for name, value in values.items()}
        changed = {name: dict(tree) for name, tree in buffers.items()}
        uses = 0

        def step(layer: Layer, name: str, given: list[Value], keywords: dict[str, Value]) -> Value:
            nonlocal uses
            uses += 1
            own = {**params.get(name, {}), **changed.get(name, {})}
            use = Use(given, keywords, own, training)
            if key is not None:
                use.key = jax.random.fold_in(key, uses)
            with jax.named_scope(name):
                output = compute(layer, use)
                if mark is not None:
                    output = mark(output, name, type(layer).__name__)
            changed.setdefault(name, {}).update(use.changed)
            return output

        outputs = self.network.evaluate(step, arrays)
        return self.network.pack(outputs), {name: tree for name, tree in changed.items() if tree}


def build(network: Network, dtype: str, device: Any) -> Built:
    """Build a described network.

    Args:
        network: the description.
        dtype: of all floating parameters.
        device: the jax.Device where they live.
    """
    dtype = format_of(dtype).stored
    params: Tree = {}
    buffers: Tree = {}
    generator = np.random.default_rng(0)
    specs = network.parameters()
    with x64(np.dtype(jnp.dtype(dtype)).itemsize == 8), jax.default_device(device):
        for name, spec in specs.items():
            *path, last = name.split(".")
            tree = params if spec.trainable else buffers
            for word in path:
                tree = tree.setdefault(word, {})
            tree[last] = jnp.asarray(initial(spec, generator), dtype)
    placements = tuple(Placement(name, (name,), Identity()) for name in specs)
    return Built(JaxNetwork(network, params, buffers), placements)


def initial(spec: ParameterSpec, generator: np.random.Generator) -> np.ndarray:
    """Starting value of a parameter, float64: normal of variance 1 / fan_in for kernels."""
    if spec.role in ("kernel", "table"):
        deviation = spec.fan_in**-0.5 if spec.role == "kernel" else 1.0
        return generator.normal(0.0, deviation, spec.shape)
    return np.full(spec.shape, {"scale": 1.0, "variance": 1.0, "slope": 0.25}.get(spec.role, 0.0))
