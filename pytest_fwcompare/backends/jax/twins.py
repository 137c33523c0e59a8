"""The kinds of JAX models: trees with a function, equinox modules, described networks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from pytest_fwcompare.backends.jax.leaves import Values, is_array, is_float, key_value, path_name
from pytest_fwcompare.backends.jax.twin import STREAM, Twin, twin_copy
from pytest_fwcompare.backends.jax.watch import marked
from pytest_fwcompare.dropout import current
from pytest_fwcompare.errors import UsageError


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

    def bound(self, values: Values) -> Callable[..., Any]:
        flat, structure = self._flat()
        leaves = [values.get(path_name(path), leaf) for path, leaf in flat]
        tree = jax.tree_util.tree_unflatten(structure, leaves)
        if self.started is not None:
            self.started(tree)
        return tree if self.function is None else partial(self.function, tree)

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        return self.bound(values)(*arguments, **keywords), {}


class EquinoxTwin(TreeTwin):
    """equinox.Module: inexact JAX arrays are trained."""

    keeps_modules = True

    def __init__(self, tree: Any, function: Any = None) -> None:
        super().__init__(tree, function)
        self.draws = np.zeros((), np.uint32)

    def _modal(self) -> str:
        """Class of a layer whose state in training comes from outside of the module."""
        import equinox

        within = equinox.nn.Dropout if current() is not None else ()
        found = jax.tree_util.tree_leaves(self.tree, is_leaf=lambda n: hasattr(n, "inference"))
        outside = (n for n in found if hasattr(n, "inference") and not isinstance(n, within))
        return next((type(n).__name__ for n in outside), "")

    def leaves(self) -> list[tuple[str, Any, bool]]:
        import equinox

        held = [
            (name, leaf, bool(equinox.is_inexact_array(leaf)))
            for name, leaf, _ in super().leaves()
        ]
        return [*held, (STREAM, self.draws, False)]

    def streams(self) -> set[str]:
        return {STREAM}

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        if training and (modal := self._modal()):
            raise UsageError(
                f"{modal} of equinox takes keys or state from outside of the module, so a step in "
                f"training mode cannot be judged; leave 'training' out of checks"
            )
        if not training:
            return super().call(values, arguments, keywords, training)
        import equinox

        if "key" in inspect.signature(type(self.tree).__call__).parameters:
            drawn = jax.random.fold_in(jax.random.key(0), values[STREAM])
            keywords = {"key": drawn, **keywords}
        given, self.tree = self.tree, equinox.nn.inference_mode(self.tree, value=False)
        try:
            output, changed = super().call(values, arguments, keywords, training)
        finally:
            self.tree = given
        return output, {**changed, STREAM: values[STREAM] + np.uint32(1)}


class NetworkTwin(Twin):
    """A described network that this package built."""

    def __init__(self, network: Any, own: bool) -> None:
        self.model = network
        if not own:
            self.model = dataclasses.replace(
                network,
                params=twin_copy(network.params),
                buffers=twin_copy(network.buffers),
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
        return [*ordered, (STREAM, self.draws, False)]

    def streams(self) -> set[str]:
        return {STREAM}

    def _trees(self, values: Mapping[str, Any]) -> tuple[Any, Any]:
        params, buffers = (
            jax.tree_util.tree_map_with_path(
                lambda path, leaf: values.get(path_name(path), leaf), tree
            )
            for tree in (self.model.params, self.model.buffers)
        )
        return params, buffers

    def bound(self, values: Values) -> Callable[..., Any]:
        params, buffers = self._trees(values)
        return partial(self.model.apply, params, buffers=buffers)

    def write(self, values: Mapping[str, Any]) -> None:
        self.model.params, self.model.buffers = self._trees(values)

    def call(
        self, values: Values, arguments: Sequence[Any], keywords: Values, training: bool
    ) -> tuple[Any, Values]:
        params, buffers = self._trees(values)
        draws = values[STREAM]
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
            STREAM: draws + np.uint32(1),
        }

    @property
    def ordered(self) -> Any:
        order: dict[str, Any] = {}
        for name in self.model.network.parameters():
            found = order
            for step in name.split("."):
                found = found.setdefault(step, {})
        return order

    def owner(self, path: str) -> tuple[str, Any]:
        name = path.partition(".")[0]
        return name, self.model.network.layers.get(name)


def twin_of(kind: str, model: Any, own: bool) -> Twin:
    """A twin of a model of that kind; the model itself where it need not be preserved."""
    if kind in ("nnx", "linen"):
        from pytest_fwcompare.backends.jax.twins_flax import flax_twin

        return flax_twin(kind, model, own)
    if kind == "equinox":
        return EquinoxTwin(model if own else twin_copy(model))
    if kind == "network":
        return NetworkTwin(model, own)
    function, tree = model
    return TreeTwin(tree if own else twin_copy(tree), function)
