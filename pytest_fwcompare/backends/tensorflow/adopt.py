"""Adopts raw TensorFlow models: modules, functions, SavedModels, legacy `tf_keras` models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tensorflow as tf

from pytest_fwcompare.backends.base import Argument, Parameter
from pytest_fwcompare.backends.tensorflow.layers_tree import layer_owned, layer_scopes
from pytest_fwcompare.backends.tensorflow.model import Owned
from pytest_fwcompare.backends.tensorflow.record import Scopes
from pytest_fwcompare.backends.tensorflow.side import TensorFlowSide
from pytest_fwcompare.backends.tensorflow.watch import marked
from pytest_fwcompare.errors import ModelError


def adopt(model: Any, *, dtype: str, device: str, mode: str, own: bool) -> TensorFlowSide:
    """The side for a model of raw TensorFlow.

    Raises:
        ModelError: stage "import", if a SavedModel cannot be loaded.
    """
    kind: type[TensorFlowSide] = ModuleSide
    if isinstance(model, (str, Path)):
        try:
            model = tf.saved_model.load(str(model))
        except Exception as error:
            raise ModelError(
                "side", "import", f"the SavedModel cannot be loaded: {error}"
            ) from error
        own = True
    if any(c.__module__.startswith("tf_keras.") for c in type(model).__mro__):
        kind = LegacyKerasSide
    elif not isinstance(model, tf.Module) and is_function(model):
        kind = FunctionSide
    return kind(model, dtype=dtype, device=device, mode=mode, own=own)


def is_function(model: Any) -> bool:
    """True for `tf.function` and concrete functions."""
    return hasattr(model, "get_concrete_function") or hasattr(model, "structured_input_signature")


def variable_tree(root: Any) -> Iterator[tuple[str, Any, Any]]:
    """Path, variable and owner of every variable that is reached over attributes.

    Goes through modules, mappings, lists and tuples, each object once, depth first in the order
    in which attributes were set. A variable that is reached again comes again.
    """
    seen: set[int] = set()

    def walk(path: str, value: Any, owner: Any) -> Iterator[tuple[str, Any, Any]]:
        if isinstance(value, tf.Variable):
            yield path, value, owner
            return
        if id(value) in seen:
            return
        items: list[tuple[Any, Any]] = []
        if isinstance(value, Mapping):
            items = list(value.items())
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))
        elif isinstance(value, tf.Module) or hasattr(
            value, "_self_unconditional_checkpoint_dependencies"
        ):
            ignored: frozenset[str] = getattr(
                type(value), "_TF_MODULE_IGNORED_PROPERTIES", frozenset()
            )
            attributes = getattr(value, "__dict__", {})
            items = [
                (key, item)
                for key, item in attributes.items()
                if key not in ignored and not key.startswith("_self_")
            ]
            owner = value
        else:
            return
        seen.add(id(value))
        for key, item in items:
            yield from walk(f"{path}.{key}" if path else str(key), item, owner)

    yield from walk("", root, root)


def module_owned(found: Iterator[tuple[str, Any, Any]], others: Sequence[Any]) -> list[Owned]:
    """Parameters from paths; variables that no path reaches go by their own names."""
    paths: dict[int, list[str]] = {}
    variables: dict[int, tuple[Any, Any]] = {}
    for path, variable, owner in found:
        paths.setdefault(id(variable), []).append(path)
        variables.setdefault(id(variable), (variable, owner))
    taken = {path for group in paths.values() for path in group}
    for variable in others:
        if id(variable) not in paths:
            name = unique_name(variable.name.removesuffix(":0"), taken)
            paths[id(variable)] = [name]
            variables[id(variable)] = (variable, None)
    made = []
    for key, (variable, owner) in variables.items():
        if not variable.dtype.is_floating:
            continue
        name, *aliases = paths[key]
        dots = name.replace("/", ".")
        parameter = Parameter(
            name=name,
            shape=tuple(variable.shape),
            dtype=variable.dtype.name,
            trainable=bool(variable.trainable),
            layer=dots.rpartition(".")[0],
            kind="" if owner is None else type(owner).__name__,
            role=dots.rpartition(".")[2],
            options=plain_attributes(owner),
            aliases=tuple(aliases),
        )
        made.append(Owned(parameter, variable))
    return made


def unique_name(name: str, taken: set[str]) -> str:
    """The name, with a number behind it where it is taken; it is taken afterwards."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def plain_attributes(owner: Any) -> dict[str, Any]:
    """Numbers, flags and words that a module holds."""
    return {
        key: value
        for key, value in getattr(owner, "__dict__", {}).items()
        if not key.startswith("_") and isinstance(value, (bool, int, float, str))
    }


def takes_mode(function: Any, training: bool) -> bool:
    """Whether to pass `training`: in training, or where a plain call would lack it."""
    if not accepts(function, "training"):
        return False
    return training or needs_mode(function)


@cache
def needs_mode(function: Any) -> bool:
    """Whether a plain call would lack `training`."""
    return inspect.signature(function).parameters["training"].default is inspect.Parameter.empty


@cache
def accepts(function: Any, keyword: str) -> bool:
    """Whether a callable takes that keyword by name."""
    try:
        return keyword in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def split(
    arguments: Sequence[Argument], tensors: Sequence[Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Tensors that are passed by position, and those passed by name."""
    given = list(zip(arguments, tensors, strict=True))
    return [t for a, t in given if not a.keyword], {a.name: t for a, t in given if a.keyword}


class ModuleSide(TensorFlowSide):
    """A `tf.Module` or a loaded SavedModel."""

    def all_variables(self) -> list[Any]:
        """Those of the module tree, and those that its functions hold."""
        found = {id(v): v for _, v, _ in variable_tree(self.model)}
        listed = getattr(self.model, "variables", ()) or ()
        found.update({id(v): v for v in listed if isinstance(v, tf.Variable)})
        for function in getattr(self.model, "signatures", {}).values():
            found.update({id(v): v for v in function.variables})
        return list(found.values())

    def list_owned(self) -> list[Owned]:
        """By attribute path, e.g. "encoder.down1_filters"."""
        return module_owned(variable_tree(self.model), self.all_variables())

    def prepare(self, arguments: Sequence[Argument]) -> None:
        """A module without variables makes them at its first call."""
        if not self.entries() and not self._prepared and callable(self.model):
            self._prepared = True
            with self.explained("forward"):
                self.call(arguments, self.tensors(arguments), False)
            self._owned = None
            self.entries()

    _prepared = False

    def scopes(self) -> Scopes:
        """Names of the modules, for those that open a name scope."""
        found = [self.model, *getattr(self.model, "submodules", ())]
        names = frozenset(m.name for m in found if getattr(m, "name", None))
        return Scopes(names, "", self._marks)

    _marks: Mapping[str, str] = MappingProxyType({})

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Submodules open scopes of their own."""
        with marked(self.model) as self._marks:
            yield

    def bound(
        self, arguments: Sequence[Argument], tensors: Sequence[Any], training: bool
    ) -> Callable[[], Any]:
        """`training` is passed if the signature takes it."""
        if not callable(self.model):
            return partial(self._signature, arguments, tensors)
        positional, named = split(arguments, tensors)
        if takes_mode(type(self.model).__call__, training):
            named["training"] = training
        return partial(self.model, *positional, **named)

    def _signature(self, arguments: Sequence[Argument], tensors: Sequence[Any]) -> Any:
        """The serving signature of a SavedModel that cannot be called itself."""
        signatures = getattr(self.model, "signatures", {})
        if not signatures:
            raise TypeError(
                f"{type(self.model).__name__} cannot be called and has no signatures; give "
                f"__call__ to the module or a tf.function instead"
            )
        key = "serving_default" if "serving_default" in signatures else next(iter(signatures))
        return call_signature(signatures[key], arguments, tensors)


def call_signature(function: Any, arguments: Sequence[Argument], tensors: Sequence[Any]) -> Any:
    """Call a signature by keywords: by the inputs' names where they fit, else in its order."""
    positional, named = function.structured_input_signature
    names = list(named)
    given = {a.name: t for a, t in zip(arguments, tensors, strict=True)}
    if positional:
        specs = dict(zip(given, positional, strict=False))
        return function(*(tf.cast(t, specs[n].dtype) for n, t in given.items()))
    if set(given) != set(names):
        # Signatures sort their keywords; the order of the traced arguments is that of the graph.
        order = [t.op.name for t in function.inputs if t.op.name in named]
        names = order if len(order) == len(names) else names
        given = dict(zip(names, given.values(), strict=True))
    return function(**{name: tf.cast(t, named[name].dtype) for name, t in given.items()})


class FunctionSide(TensorFlowSide):
    """A `tf.function` or a concrete function; its variables are those it captured."""

    _found: tuple[Any, ...] = ()

    def prepare(self, arguments: Sequence[Argument]) -> None:
        """Trace the function once, which shows the variables it reads."""
        if self._found or not hasattr(self.model, "get_concrete_function"):
            return
        with self.explained("forward"):
            positional, named = split(arguments, self.tensors(arguments))
            concrete = self.model.get_concrete_function(*positional, **named)
        self._found = tuple(concrete.graph.variables)
        self._owned = None
        self.entries()

    def all_variables(self) -> list[Any]:
        """Those that the function reads."""
        if hasattr(self.model, "get_concrete_function"):
            return list(self._found)
        return list(self.model.variables)

    def list_owned(self) -> list[Owned]:
        """By the variables' own names."""
        return module_owned(iter(()), self.all_variables())

    def bound(
        self, arguments: Sequence[Argument], tensors: Sequence[Any], training: bool
    ) -> Callable[[], Any]:
        """Positional, or by the signature of a concrete function."""
        if not hasattr(self.model, "get_concrete_function"):
            return partial(call_signature, self.model, arguments, tensors)
        positional, named = split(arguments, tensors)
        if takes_mode(self.model.python_function, training):
            named["training"] = training
        return partial(self.model, *positional, **named)


class LegacyKerasSide(TensorFlowSide):
    """A model of `tf_keras` (Keras 2), such as the TensorFlow classes of transformers."""

    def all_variables(self) -> list[Any]:
        """All of the model's, seeds of random layers included; none before its first call."""
        try:
            variables = self.model.variables
        except ValueError:  # what Keras 2 raises until the first call has made them
            return []
        return [v for v in variables if isinstance(v, tf.Variable)]

    def list_owned(self) -> list[Owned]:
        """By variable name, e.g. "bert/embeddings/word_embeddings/weight"."""
        return layer_owned(self.model, lambda v: v.name.removesuffix(":0"), lambda v: v)

    def scopes(self) -> Scopes:
        """Names of the model and its layers."""
        return layer_scopes(self.model)

    def autograph(self) -> bool:
        """Keras 2 converts the calls of its layers itself."""
        return False

    def prepare(self, arguments: Sequence[Argument]) -> None:
        """Build a model that has not been called yet."""
        if not self.model.built or not self.all_variables():
            with self.explained("forward"):
                self.call(arguments, self.tensors(arguments), False)
            self._owned = None
            self.entries()

    def bound(
        self, arguments: Sequence[Argument], tensors: Sequence[Any], training: bool
    ) -> Callable[[], Any]:
        """Several inputs of a functional model go in as one list."""
        positional, named = split(arguments, tensors)
        if takes_mode(self.model.call, training):
            named["training"] = training
        if getattr(self.model, "_is_graph_network", False) and len(positional) > 1:
            return partial(self.model, positional, **named)
        return partial(self.model, *positional, **named)
