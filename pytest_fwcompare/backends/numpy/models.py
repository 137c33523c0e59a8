"""What the NumPy backend takes as a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.networks.graph import Network

Array = np.ndarray

FRAMEWORKS = (
    "torch",
    "tensorflow",
    "keras",
    "tf_keras",
    "jax",
    "jaxlib",
    "flax",
    "equinox",
    "optax",
)
"""Packages whose callables belong to another backend."""


class NumpyNetwork:
    """A described network that computes with NumPy. Call it on arrays.

    Example:
        >>> model = NumpyNetwork(network)
        >>> model(np.zeros((2, 28, 28, 1), np.float32))

    Attributes:
        network: the description.
        weights: parameters and buffers by "layer.parameter", in canonical layout. They may be
            replaced; the dtype of the computation follows from them and the inputs.
        training: batch statistics and dropout in a call; buffers in `weights` are then updated.
        generator: draws what dropout keeps in training mode.
    """

    def __init__(
        self, network: Network, weights: Mapping[str, Array] | None = None, dtype: str = "float32"
    ) -> None:
        """Take the weights given, or well-conditioned random ones.

        Raises:
            UsageError: weights are missing, unknown or of the wrong shape.
        """
        from pytest_fwcompare.networks.random import random_parameters

        self.network = network
        given = random_parameters(network, seed=0) if weights is None else weights
        self.weights = {
            name: np.asarray(value).astype(dtype)
            for name, value in checked(given, network).items()
        }
        self.training = False
        self.generator = np.random.default_rng(0)

    def __call__(self, *inputs: Array, **named: Array) -> Any:
        """Outputs: one array, or a tuple or dict of them, as the network says.

        Raises:
            UsageError: the inputs are not those of the network.
        """
        from pytest_fwcompare.backends.numpy.run import State, evaluate

        values = bound(self.network, inputs, named)
        state = State(self.training, self.generator)
        outputs = evaluate(self.network, values, self.weights, state)
        for name, value in state.buffers.items():
            self.weights[name] = value.astype(self.weights[name].dtype)
        return self.network.pack(outputs)

    def copy(self) -> NumpyNetwork:
        """An independent model with the same weights."""
        twin = NumpyNetwork.__new__(NumpyNetwork)
        twin.network = self.network
        twin.weights = {name: value.copy() for name, value in self.weights.items()}
        twin.training = self.training
        twin.generator = np.random.default_rng(0)
        return twin

    def __repr__(self) -> str:
        return f"<NumpyNetwork of {self.network!r}>"


@dataclass(frozen=True, eq=False)
class NumpyFunction:
    """A plain function on NumPy arrays, as a model.

    Gradients need it to be written with `autograd.numpy` in place of `numpy`; without, only the
    forward pass can be compared.

    Args:
        function: called as function(*inputs), or function(parameters, *inputs) where parameters
            are given. It returns an array, or a tuple, list or dict of them.
        parameters: arrays by name, or dicts, lists and tuples of them.
    """

    function: Callable[..., Any]
    parameters: Any = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise UsageError(f"NumpyFunction: expected a function, got {self.function!r}")

    def __call__(self, *inputs: Array, **named: Array) -> Any:
        """What the function gives."""
        if self.parameters is None:
            return self.function(*inputs, **named)
        return self.function(self.parameters, *inputs, **named)


def is_function(model: object) -> bool:
    """True for a callable that may be a NumPy function of inputs.

    Not for classes, for callables of another framework, and for those that can be called with no
    argument, which are factories.
    """
    if not callable(model) or isinstance(model, type):
        return False
    modules = [kind.__module__ for kind in type(model).__mro__]
    modules.append(getattr(model, "__module__", None) or "")
    if any(module.partition(".")[0] in FRAMEWORKS for module in modules):
        return False
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):
        # Universal functions of older NumPy have no signature, but always an input.
        return type(model).__name__ == "ufunc"
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(p.kind in positional and p.default is p.empty for p in parameters)


def checked(weights: Mapping[str, Array], network: Network) -> dict[str, Array]:
    """The weights in the network's order.

    Raises:
        UsageError: names or shapes differ from those of the network.
    """
    specs = network.parameters()
    missing, unknown = sorted(set(specs) - set(weights)), sorted(set(weights) - set(specs))
    if missing or unknown:
        parts = [
            f"{word}: {', '.join(names)}"
            for word, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise UsageError(f"weights of network {network.name!r}: {'; '.join(parts)}")
    for name, spec in specs.items():
        if np.shape(weights[name]) != spec.shape:
            raise UsageError(
                f"weights of network {network.name!r}: {name} has shape {spec.shape}, got "
                f"{np.shape(weights[name])}"
            )
    return {name: weights[name] for name in specs}


def bound(network: Network, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name, from those by position and by keyword.

    Raises:
        UsageError: too many, unknown or missing ones.
    """
    names = list(network.inputs)
    if len(inputs) > len(names):
        raise UsageError(
            f"network {network.name!r} takes {len(names)} inputs ({', '.join(names)}), got "
            f"{len(inputs)}"
        )
    values = dict(zip(names, inputs, strict=False))
    for name, value in named.items():
        if name not in names or name in values:
            what = "twice" if name in values else "unknown"
            raise UsageError(
                f"network {network.name!r}: input {name!r} is {what}; its inputs are "
                f"{', '.join(names)}"
            )
        values[name] = value
    if missing := [name for name in names if name not in values]:
        raise UsageError(f"network {network.name!r}: input {missing[0]!r} is missing")
    _check_shapes(network, values)
    return values


def _check_shapes(network: Network, values: Mapping[str, Any]) -> None:
    """Known sizes are as described, and free sizes of one name are equal."""
    free: dict[str, tuple[int, str]] = {}
    for name, spec in network.inputs.items():
        got = np.shape(values[name])
        wanted = f"({', '.join(map(str, spec.shape))})"
        if len(got) != len(spec.shape):
            raise UsageError(
                f"network {network.name!r}: input {name!r} has {len(spec.shape)} axes "
                f"{wanted}, got shape {got}"
            )
        for size, obtained in zip(spec.shape, got, strict=True):
            first, where = (
                (size, name) if isinstance(size, int) else free.setdefault(size, (obtained, name))
            )
            if obtained != first:
                raise UsageError(
                    f"network {network.name!r}: input {name!r} has shape {wanted}, got {got}"
                    + (f", but {size} is {first} in input {where!r}" if size != first else "")
                )
