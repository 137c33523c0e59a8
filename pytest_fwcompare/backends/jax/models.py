"""The kinds of JAX models as one thing: named arrays and a pure function of them."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.dropout import current
from pytest_fwcompare.errors import UsageError

Values = dict[str, Any]
"""Arrays by name."""

STREAM = "random draws"
"""How often a model that keeps no random state itself was trained, among its arrays."""


def is_array(value: Any) -> bool:
    """True for JAX and NumPy arrays, traced ones included."""
    return isinstance(value, (jax.Array, np.ndarray))


def is_float(value: Any) -> bool:
    """True for arrays of floating dtype, bfloat16 and float8 included."""
    return is_array(value) and jax.dtypes.issubdtype(value.dtype, np.inexact)


def has_numbers(value: Any) -> bool:
    """False for random keys, which are no numbers."""
    dtype = getattr(value, "dtype", None)
    return dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.extended)


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
        intercepted: True where flax.linen itself tells of every call of a submodule.
        keeps_modules: the modules that compute are attributes of the model.
        started: told the object that is about to be called, at every trace.
    """

    model: Any
    intercepted: ClassVar[bool] = False
    keeps_modules: ClassVar[bool] = False
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

    def bound(self, values: Values) -> Callable[..., Any]:
        """The model with these arrays in their places, called in inference as by its user."""

        def run(*arguments: Any, **keywords: Any) -> Any:
            return self.call(values, arguments, keywords, False)[0]

        return run

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

    def submodules(self, model: Any) -> list[tuple[str, Any]]:
        """Path and object of every callable module within the model."""
        from pytest_fwcompare.backends.jax.watch import submodules

        return submodules(model)

    def aliases(self) -> Mapping[str, tuple[str, ...]]:
        """Other names of the same storage, by name.

        The same array in two places of a tree is no tie in JAX: each place gets its own gradient.
        """
        return {}

    def parameters(self) -> list[Parameter]:
        """Float arrays in definition order, tied ones once."""
        made: list[Parameter] = []
        leaves = [leaf for leaf in self.leaves() if is_float(leaf[1])]
        # JAX sorts dictionaries and attributes by name; their own order says more.
        leaves.sort(key=lambda leaf: definition_place(self.ordered, leaf[0]))
        aliases = self.aliases()
        for name, value, trainable in leaves:
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
                    options=self.options(layer, owner),
                    aliases=aliases.get(name, ()),
                )
            )
        return made

    @property
    def ordered(self) -> Any:
        """The object whose attributes and keys have the order of definition."""
        return self.root

    def explore(self, run: Callable[[], Any]) -> bool:
        """Learn from a call what the model does not tell by itself; False if there is nothing."""
        return False

    def options(self, layer: str, owner: Any) -> dict[str, Any]:
        """Plain facts of a layer."""
        return {} if owner is None else options_of(owner)

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


def definition_place(root: Any, name: str) -> tuple[int, ...]:
    """Where an array stands in the order in which attributes and keys were defined."""
    place = []
    found = root
    for step in name.split("."):
        keys: list[Any] = []
        if isinstance(found, Mapping):
            keys = [str(key) for key in found]
        elif not step.isdigit():
            fields = getattr(type(found), "__dataclass_fields__", None)
            keys = list(fields or vars(found) if hasattr(found, "__dict__") else fields or ())
        if step in keys:
            place.append(keys.index(step))
        else:
            place.append(int(step) if step.isdigit() else len(keys))
        found = None if found is None else child(found, step)
    return tuple(place)


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
        from pytest_fwcompare.backends.jax.watch import marked

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


def twin_copy(tree: Any) -> Any:
    """A copy whose containers and modules may be changed in place.

    JAX arrays cannot be changed, so they are shared: the copy of a large model costs nothing.
    """
    leaves, structure = jax.tree_util.tree_flatten(tree)
    shared = {id(leaf): leaf for leaf in leaves if isinstance(leaf, jax.Array)}
    try:
        return copy.deepcopy(tree, shared)
    except Exception:
        # Something in it cannot be copied (a lock, a generator): containers are made anew.
        fresh = [leaf.copy() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
        return jax.tree_util.tree_unflatten(structure, fresh)


def twin_of(kind: str, model: Any, own: bool) -> Twin:
    """A twin of a model of that kind; the model itself where it need not be preserved."""
    if kind in ("nnx", "linen"):
        from pytest_fwcompare.backends.jax.models_flax import flax_twin

        return flax_twin(kind, model, own)
    if kind == "equinox":
        return EquinoxTwin(model if own else twin_copy(model))
    if kind == "network":
        return NetworkTwin(model, own)
    function, tree = model
    return TreeTwin(tree if own else twin_copy(tree), function)
