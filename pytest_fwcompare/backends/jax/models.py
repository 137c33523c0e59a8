"""The kinds of JAX models as one thing: named arrays and a pure function of them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import UsageError

Values = dict[str, Any]
"""Arrays by name."""

TRAINING_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
}
"""Keyword arguments by which a linen module is told its mode, with their value in training."""


def dtype_of(value: Any) -> Any:
    """The dtype, extended ones (random keys) included; None for what is no array."""
    return getattr(value, "dtype", None) if isinstance(value, (jax.Array, np.ndarray)) else None


def is_array(value: Any) -> bool:
    """True for JAX and NumPy arrays, traced ones included."""
    return isinstance(value, (jax.Array, np.ndarray))


def is_float(value: Any) -> bool:
    """True for arrays of floating dtype, bfloat16 and float8 included."""
    return is_array(value) and jax.dtypes.issubdtype(value.dtype, np.inexact)


def key_text(key: Any) -> str:
    """One step of a key path as a word: .conv, [0], ['scale']."""
    for attribute in ("name", "idx", "key"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key).strip(".[]'\"")


def key_value(key: Any) -> Any:
    """What one step of a key path is looked up with."""
    return next((getattr(key, a) for a in ("name", "idx", "key") if hasattr(key, a)), None)


def path_name(path: Sequence[Any]) -> str:
    """A key path as a name: .blocks[0].conv.kernel is "blocks.0.conv.kernel"."""
    return ".".join(key_text(key) for key in path) or "params"


def plain(value: Any) -> Any:
    """The value if it is a plain fact (numbers, words, tuples of them), else None."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)) and value:
        items = [plain(item) for item in value]
        return None if any(item is None for item in items) else tuple(items)
    return None


def options_of(owner: Any) -> dict[str, Any]:
    """Plain facts that a layer holds as attributes."""
    names = getattr(type(owner), "__dataclass_fields__", None) or getattr(owner, "__dict__", {})
    facts = {}
    for name in names:
        if not name.startswith("_"):
            with contextlib.suppress(Exception):
                if (fact := plain(getattr(owner, name))) is not None:
                    facts[name] = fact
    return facts


class Twin(ABC):
    """A model that may be changed, its named arrays, and the pure function that runs it.

    Attributes:
        model: the native object.
        started: told the object that is about to be called, at every trace.
    """

    model: Any
    started: Callable[[Any], None] | None = None

    @property
    def root(self) -> Any:
        """The object at which the names of arrays start."""
        return self.model

    @abstractmethod
    def leaves(self) -> list[tuple[str, Any, bool]]:
        """Name, array and whether it is trained, for every array leaf in definition order."""

    @abstractmethod
    def write(self, values: Mapping[str, Any]) -> None:
        """Set arrays of the model by name."""

    @abstractmethod
    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        """Output and the arrays that the call changed, computed from `values` alone."""

    def structure(self) -> Any:
        """What the function depends on besides arrays; another value means: trace again."""
        return None

    def streams(self) -> set[str]:
        """Names of arrays that count draws of random numbers."""
        return set()

    def owner(self, path: str) -> tuple[str, Any]:
        """Path and object of the layer that owns an array, ("", None) where there is none."""
        steps = path.split(".")
        best: tuple[str, Any] = ("", self.root)
        found = self.root
        for place, step in enumerate(steps[:-1]):
            found = child(found, step)
            if found is None:
                break
            if not is_container(found):
                best = (".".join(steps[: place + 1]), found)
        return best

    def parameters(self) -> list[Parameter]:
        """Float arrays in definition order, tied ones once."""
        seen: dict[int, int] = {}
        made: list[Parameter] = []
        for name, value, trainable in self.leaves():
            if not is_float(value):
                continue
            if id(value) in seen:
                first = made[seen[id(value)]]
                made[seen[id(value)]] = dataclasses.replace(first, aliases=(*first.aliases, name))
                continue
            seen[id(value)] = len(made)
            layer, owner = self.owner(name)
            made.append(
                Parameter(
                    name=name,
                    shape=tuple(value.shape),
                    dtype=str(value.dtype),
                    trainable=trainable,
                    layer=layer,
                    kind=self.kind(layer, owner),
                    role=name.rpartition(".")[2],
                    options={} if owner is None else options_of(owner),
                )
            )
        return made

    def kind(self, layer: str, owner: Any) -> str:
        """Class name of a layer."""
        return "" if owner is None or is_container(owner) else type(owner).__name__


def child(owner: Any, step: str) -> Any:
    """An attribute, key or item by its word in a path; None where there is none."""
    if isinstance(owner, Mapping):
        return next((item for key, item in owner.items() if str(key) == step), None)
    if step.isdigit():
        with contextlib.suppress(Exception):
            return owner[int(step)]
    return getattr(owner, step, None)


def is_container(value: Any) -> bool:
    """True for lists, dicts and such, which are no layers."""
    return isinstance(value, (Mapping, list, tuple)) or type(value).__name__ in (
        "List",
        "Dict",
        "State",
    )


class TreeTwin(Twin):
    """A model that is a pytree, or a function with a pytree: equinox modules and pairs."""

    def __init__(self, tree: Any, function: Any = None) -> None:
        self.tree = tree
        self.function = function

    @property
    def model(self) -> Any:
        return self.tree if self.function is None else (self.function, self.tree)

    @property
    def root(self) -> Any:
        return self.tree

    def _flat(self) -> tuple[list[tuple[Any, Any]], Any]:
        flat, structure = jax.tree_util.tree_flatten_with_path(self.tree)
        return flat, structure

    def leaves(self) -> list[tuple[str, Any, bool]]:
        flat, _ = self._flat()
        return [(path_name(path), leaf, is_float(leaf)) for path, leaf in flat if is_array(leaf)]

    def structure(self) -> Any:
        flat, structure = self._flat()
        return structure, [leaf for _, leaf in flat if not is_array(leaf)]

    def write(self, values: Mapping[str, Any]) -> None:
        flat, structure = self._flat()
        stuck = False
        for path, _ in flat:
            name = path_name(path)
            if name in values:
                stuck |= not self._set(path, values[name])
        if stuck:
            # A tuple or a leaf that is the whole tree cannot be changed in place.
            leaves = [values.get(path_name(path), leaf) for path, leaf in flat]
            self.tree = jax.tree_util.tree_unflatten(structure, leaves)

    def _set(self, path: Sequence[Any], value: Any) -> bool:
        """Put one array into its owner in place, so that shared owners stay shared."""
        owner = self.tree
        for key in path[:-1]:
            owner = getattr(owner, key.name) if hasattr(key, "name") else owner[key_value(key)]
        if not path or isinstance(owner, tuple):
            return False
        if hasattr(path[-1], "name"):
            # Equinox modules are frozen dataclasses.
            object.__setattr__(owner, path[-1].name, value)
        else:
            try:
                owner[key_value(path[-1])] = value
            except TypeError:
                return False
        return True

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        flat, structure = self._flat()
        leaves = [values.get(path_name(path), leaf) for path, leaf in flat]
        tree = jax.tree_util.tree_unflatten(structure, leaves)
        if self.started is not None:
            self.started(tree)
        if self.function is None:
            return tree(*arguments, **keywords), {}
        return self.function(tree, *arguments, **keywords), {}


class EquinoxTwin(TreeTwin):
    """equinox.Module: inexact JAX arrays are trained."""

    def leaves(self) -> list[tuple[str, Any, bool]]:
        import equinox

        return [
            (name, leaf, bool(equinox.is_inexact_array(leaf)))
            for name, leaf, _ in super().leaves()
        ]

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        if training:
            raise UsageError(
                "equinox modules keep their state outside of the module, so a step in training "
                "mode cannot be judged; leave 'training' out of checks"
            )
        return super().call(values, arguments, keywords, training)


class NnxTwin(Twin):
    """flax.nnx: `Param` variables are trained, all others are buffers."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def _split(self) -> tuple[Any, list[tuple[str, Any]], Any]:
        from flax import nnx

        graph, state = nnx.split(self.model)
        flat, structure = jax.tree_util.tree_flatten_with_path(state)
        return graph, [(self._name(path), leaf) for path, leaf in flat], structure

    @staticmethod
    def _name(path: Sequence[Any]) -> str:
        if path and isinstance(path[-1], jax.tree_util.GetAttrKey):
            path = path[:-1]  # .value of the variable
        return path_name(path)

    def leaves(self) -> list[tuple[str, Any, bool]]:
        from flax import nnx

        _, flat, _ = self._split()
        trained = {
            ".".join(map(str, path))
            for path, variable in nnx.to_flat_state(nnx.state(self.model))
            if issubclass(getattr(variable, "type", type(variable)), nnx.Param)
        }
        return [(name, leaf, name in trained and is_float(leaf)) for name, leaf in flat]

    def structure(self) -> Any:
        graph, _, structure = self._split()
        return graph, structure

    def streams(self) -> set[str]:
        from flax import nnx

        return {
            ".".join(map(str, path))
            for path, variable in nnx.to_flat_state(nnx.state(self.model))
            if issubclass(getattr(variable, "type", type(variable)), nnx.RngState)
        }

    def write(self, values: Mapping[str, Any]) -> None:
        from flax import nnx

        _, flat, structure = self._split()
        leaves = [values.get(name, leaf) for name, leaf in flat]
        nnx.update(self.model, jax.tree_util.tree_unflatten(structure, leaves))

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        from flax import nnx

        graph, flat, structure = self._split()
        leaves = [values.get(name, leaf) for name, leaf in flat]
        model = nnx.merge(graph, jax.tree_util.tree_unflatten(structure, leaves))
        if training and hasattr(model, "train"):
            model.train()
        if self.started is not None:
            self.started(model)
        output = model(*arguments, **keywords)
        flat_after, _ = jax.tree_util.tree_flatten_with_path(nnx.state(model))
        after = {self._name(path): leaf for path, leaf in flat_after}
        before = dict(zip((name for name, _ in flat), leaves, strict=True))
        return output, {
            name: leaf
            for name, leaf in after.items()
            if name in before and leaf is not before[name]
        }


class LinenTwin(Twin):
    """flax.linen: (module, variables); the collection "params" is trained, others are buffers."""

    def __init__(self, module: Any, variables: Any) -> None:
        self.module = module
        self.variables = variables

    @property
    def model(self) -> Any:
        return (self.module, self.variables)

    @property
    def root(self) -> Any:
        with contextlib.suppress(Exception):
            return self.module.bind(self.variables)
        return self.module

    def _named(self) -> dict[str, tuple[str, Any, Any]]:
        """Collection, key path and leaf by name; the collection is in the name where needed."""
        flat, _ = jax.tree_util.tree_flatten_with_path(self.variables)
        named: dict[str, tuple[str, Any, Any]] = {}
        for path, leaf in flat:
            collection, name = key_text(path[0]), path_name(path[1:])
            named[f"{collection}.{name}" if name in named else name] = (collection, path, leaf)
        return named

    def leaves(self) -> list[tuple[str, Any, bool]]:
        return [
            (name, leaf, collection == "params" and is_float(leaf))
            for name, (collection, _, leaf) in self._named().items()
        ]

    def structure(self) -> Any:
        return jax.tree_util.tree_structure(self.variables)

    def write(self, values: Mapping[str, Any]) -> None:
        self.variables = self._with(values)

    def _with(self, values: Mapping[str, Any]) -> Any:
        leaves = [values.get(name, leaf) for name, (_, _, leaf) in self._named().items()]
        structure = jax.tree_util.tree_structure(self.variables)
        return jax.tree_util.tree_unflatten(structure, leaves)

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        flags = {
            flag: value if training else not value
            for flag, value in TRAINING_FLAGS.items()
            if flag in inspect.signature(type(self.module).__call__).parameters
            and flag not in keywords
        }
        variables = self._with(values)
        if not training:
            return self.module.apply(variables, *arguments, **flags, **keywords), {}
        mutable = [name for name in variables if name != "params"]
        output, state = self.module.apply(
            variables, *arguments, mutable=mutable, **flags, **keywords
        )
        merged = LinenTwin(self.module, {**variables, **state})
        return output, {
            name: leaf
            for name, (collection, _, leaf) in merged._named().items()
            if collection != "params"
        }

    def kind(self, layer: str, owner: Any) -> str:
        found = super().kind(layer, owner)
        last = layer.rpartition(".")[2] if layer else ""
        if automatic := re.fullmatch(r"([A-Z]\w*?)_\d+", last):
            return automatic[1]
        return found

    def owner(self, path: str) -> tuple[str, Any]:
        layer = path.rpartition(".")[0]
        found, owner = super().owner(path)
        return (layer, owner) if found == layer else (layer, None)


class NetworkTwin(Twin):
    """A described network that this package built."""

    STREAM = "random draws"

    def __init__(self, network: Any, own: bool) -> None:
        self.model = network
        if not own:
            self.model = dataclasses.replace(
                network,
                params=copy.deepcopy(network.params),
                buffers=copy.deepcopy(network.buffers),
            )
        self.draws = np.zeros((), np.uint32)

    def leaves(self) -> list[tuple[str, Any, bool]]:
        held = {
            path_name(path): (leaf, trained)
            for tree, trained in ((self.model.params, True), (self.model.buffers, False))
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
        # In the order of the description: trees of JAX are sorted by name.
        ordered = [(name, *held[name]) for name in self.model.network.parameters()]
        return [*ordered, (self.STREAM, self.draws, False)]

    def streams(self) -> set[str]:
        return {self.STREAM}

    def _trees(self, values: Mapping[str, Any]) -> tuple[Any, Any]:
        params, buffers = (
            jax.tree_util.tree_map_with_path(
                lambda path, leaf: values.get(path_name(path), leaf), tree
            )
            for tree in (self.model.params, self.model.buffers)
        )
        return params, buffers

    def write(self, values: Mapping[str, Any]) -> None:
        self.model.params, self.model.buffers = self._trees(values)

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        from pytest_fwcompare.backends.jax.watch import marked

        params, buffers = self._trees(values)
        draws = values[self.STREAM]
        key = jax.random.fold_in(jax.random.key(0), draws) if training else None
        mark = None if self.started is None else marked
        output, after = self.model.run(
            params, buffers, tuple(arguments), keywords, training, key, mark
        )
        if not training:
            return output, {}
        flat, _ = jax.tree_util.tree_flatten_with_path(after)
        return output, {
            **{path_name(path): leaf for path, leaf in flat},
            self.STREAM: draws + np.uint32(1),
        }

    def owner(self, path: str) -> tuple[str, Any]:
        name = path.partition(".")[0]
        return name, self.model.network.layers.get(name)


def twin_of(kind: str, model: Any, own: bool) -> Twin:
    """A twin of a model of that kind; the model itself where it need not be preserved."""
    if kind == "nnx":
        from flax import nnx

        return NnxTwin(model if own else nnx.clone(model))
    if kind == "equinox":
        return EquinoxTwin(model if own else copy.deepcopy(model))
    if kind == "linen":
        module, variables = model
        variables = dict(variables) if isinstance(variables, Mapping) else variables
        return LinenTwin(module, variables if own else copy.deepcopy(variables))
    if kind == "network":
        return NetworkTwin(model, own)
    function, tree = model
    return TreeTwin(tree if own else copy.deepcopy(tree), function)
