"""A JAX model of any kind as one thing: named arrays and a pure function of them."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.backends.jax.leaves import Values, is_float, options_of

STREAM = "random draws"
"""How often a model that keeps no random state itself was trained, among its arrays."""

PARTS = ("Module", "List", "Dict", "Sequential")
"""Classes of flax and equinox that are modules or hold some."""


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


def submodules(model: Any) -> list[tuple[str, Any]]:
    """Path and object of every callable module within a model, each object once."""
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", model)]
    while waiting:
        path, item = waiting.pop()
        if id(item) in seen:
            continue
        children = _children(item)
        if children is None:
            continue
        seen.add(id(item))
        if callable(item):
            found.append((path, item))
        waiting += [(f"{path}.{k}" if path else str(k), v) for k, v in reversed(children)]
    return found


def _children(item: Any) -> list[tuple[Any, Any]] | None:
    """Named parts of a module or container; None for anything else."""
    if isinstance(item, dict):
        return list(item.items())
    if isinstance(item, (list, tuple)):
        return list(enumerate(item))
    kinds = {(base.__module__.partition(".")[0], base.__name__) for base in type(item).__mro__}
    if not kinds & {(library, kind) for library in ("flax", "equinox") for kind in PARTS}:
        return None
    if type(item).__name__ == "List":
        return list(enumerate(item))
    fields = getattr(type(item), "__dataclass_fields__", None) or getattr(item, "__dict__", {})
    return [(k, getattr(item, k, None)) for k in fields if not k.startswith("_")]


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
