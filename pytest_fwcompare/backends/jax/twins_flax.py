"""flax models as named arrays and a pure function of them."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from pytest_fwcompare.backends.jax.leaves import (
    Values,
    is_float,
    key_text,
    options_of,
    path_name,
)
from pytest_fwcompare.backends.jax.twin import STREAM, Twin, twin_copy

TRAINING_FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
}
"""Keyword arguments by which a linen module is told its mode, with their value in training."""


class NnxTwin(Twin):
    """flax.nnx: `Param` variables are trained, all others are buffers."""

    keeps_modules = True

    def __init__(self, model: Any, original: Any) -> None:
        self.model = model
        self.original = original

    @property
    def ordered(self) -> Any:
        # A clone has its attributes sorted by name.
        return self.original

    def _split(self) -> tuple[Any, list[tuple[str, Any]], Any]:
        graph, state = nnx.split(self.model)
        flat, structure = jax.tree_util.tree_flatten_with_path(state)
        return graph, [(self._name(path), leaf) for path, leaf in flat], structure

    @staticmethod
    def _name(path: Sequence[Any]) -> str:
        if path and isinstance(path[-1], jax.tree_util.GetAttrKey):
            path = path[:-1]  # .value of the variable
        return path_name(path)

    def leaves(self) -> list[tuple[str, Any, bool]]:
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

    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[int, list[str]] = {}
        _name_variables(self.model, "", found, ())
        kept = {name for name, _, _ in self.leaves()}
        ties: dict[str, tuple[str, ...]] = {}
        for names in found.values():
            for name in kept.intersection(names):
                ties[name] = tuple(other for other in names if other != name)
        return ties

    def streams(self) -> set[str]:
        return {
            ".".join(map(str, path))
            for path, variable in nnx.to_flat_state(nnx.state(self.model))
            if issubclass(getattr(variable, "type", type(variable)), nnx.RngState)
        }

    def write(self, values: Mapping[str, Any]) -> None:
        _, flat, structure = self._split()
        leaves = [values.get(name, leaf) for name, leaf in flat]
        nnx.update(self.model, jax.tree_util.tree_unflatten(structure, leaves))

    def bound(self, values: Values) -> Callable[..., Any]:
        graph, flat, structure = self._split()
        leaves = [values.get(name, leaf) for name, leaf in flat]
        model: Callable[..., Any] = nnx.merge(
            graph, jax.tree_util.tree_unflatten(structure, leaves)
        )
        return model

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
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


def _name_variables(
    item: Any, path: str, found: dict[int, list[str]], above: tuple[int, ...]
) -> None:
    """All paths of each variable below an object, by the variable's id."""
    if isinstance(item, nnx.Variable):
        found.setdefault(id(item), []).append(path)
        return
    if id(item) in above:
        return
    children: Any = ()
    if isinstance(item, Mapping):
        children = item.items()
    elif isinstance(item, (list, tuple, nnx.List)):
        children = enumerate(item)
    elif isinstance(item, nnx.Module):
        children = [(k, v) for k, v in vars(item).items() if not k.startswith("_")]
    for key, child in children:
        _name_variables(child, f"{path}.{key}" if path else str(key), found, (*above, id(item)))


class LinenTwin(Twin):
    """flax.linen: (module, variables); the collection "params" is trained, others are buffers."""

    intercepted = True

    def __init__(self, module: Any, variables: Any) -> None:
        self.draws = np.zeros((), np.uint32)
        self.module = module
        self.variables = variables
        self.modules: dict[str, tuple[str, dict[str, Any]]] = {}

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
        held = [
            (name, leaf, collection == "params" and is_float(leaf))
            for name, (collection, _, leaf) in self._named().items()
        ]
        return [*held, (STREAM, self.draws, False)]

    def streams(self) -> set[str]:
        return {STREAM}

    def structure(self) -> Any:
        return jax.tree_util.tree_structure(self.variables)

    def write(self, values: Mapping[str, Any]) -> None:
        self.variables = self._with(values)

    def _with(self, values: Mapping[str, Any]) -> Any:
        leaves = [values.get(name, leaf) for name, (_, _, leaf) in self._named().items()]
        structure = jax.tree_util.tree_structure(self.variables)
        return jax.tree_util.tree_unflatten(structure, leaves)

    def _flags(self, training: bool) -> dict[str, bool]:
        """Arguments that tell the module its mode."""
        known = inspect.signature(type(self.module).__call__).parameters
        return {
            flag: value if training else not value
            for flag, value in TRAINING_FLAGS.items()
            if flag in known
        }

    def bound(self, values: Values) -> Callable[..., Any]:
        return partial(self.module.apply, self._with(values), **self._flags(training=False))

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        if not training:
            return self.bound(values)(*arguments, **keywords), {}
        flags = {**self._flags(training), **keywords}
        variables = self._with(values)
        mutable = [name for name in variables if name != "params"]
        draws = values[STREAM]
        # Whatever a module calls its stream, it falls back to the one of "params".
        rngs = {"params": jax.random.fold_in(jax.random.key(0), draws)}
        output, state = self.module.apply(
            variables, *arguments, mutable=mutable, rngs=rngs, **flags
        )
        merged = LinenTwin(self.module, {**variables, **state})
        after = {
            name: leaf
            for name, (collection, _, leaf) in merged._named().items()
            if collection != "params"
        }
        return output, {**after, STREAM: draws + np.uint32(1)}

    @property
    def ordered(self) -> Any:
        return self.variables.get("params", {})

    def explore(self, run: Callable[[], Any]) -> bool:
        import flax.linen

        def interceptor(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
            module = context.module
            facts = options_of(module)
            self.modules[".".join(module.path)] = (type(module).__name__, facts)
            return call(*arguments, **keywords)

        with flax.linen.intercept_methods(interceptor):
            run()
        return True

    def options(self, layer: str, owner: Any) -> dict[str, Any]:
        return self.modules[layer][1] if layer in self.modules else super().options(layer, owner)

    def kind(self, layer: str, owner: Any) -> str:
        if layer in self.modules:
            return self.modules[layer][0]
        last = layer.rpartition(".")[2] if layer else ""
        if automatic := re.fullmatch(r"([A-Z]\w*?)_\d+", last):
            return automatic[1]
        return super().kind(layer, owner)

    def owner(self, path: str) -> tuple[str, Any]:
        layer = path.rpartition(".")[0]
        found, owner = super().owner(path)
        return (layer, owner) if found == layer else (layer, None)


def flax_twin(kind: str, model: Any, own: bool) -> Twin:
    """A twin of a flax model; the model itself where it need not be preserved."""
    if kind == "nnx":
        return NnxTwin(model if own else nnx.clone(model), model)
    module, variables = model
    variables = dict(variables) if isinstance(variables, Mapping) else variables
    return LinenTwin(module, variables if own else twin_copy(variables))
