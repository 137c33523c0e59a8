"""Name scopes for the modules of a `tf.Module` while it is traced: operations tell theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

MARK = "fwcompare_module_"
"""Scopes that are ours: the mark and the module's number."""


def submodules(root: Any) -> dict[int, tuple[str, Any]]:
    """Attribute path and module by identity, the root left out; the shortest path counts."""
    found: dict[int, tuple[str, Any]] = {}

    def walk(path: str, value: Any) -> None:
        items: list[tuple[Any, Any]] = []
        if isinstance(value, tf.Module):
            if path and id(value) in found:
                return
            if path:
                found[id(value)] = (path, value)
            ignored: frozenset[str] = getattr(
                type(value), "_TF_MODULE_IGNORED_PROPERTIES", frozenset()
            )
            items = [(k, v) for k, v in vars(value).items() if k not in ignored]
            items = [(k, v) for k, v in items if not k.startswith("_self_")]
        elif isinstance(value, Mapping):
            items = list(value.items())
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))
        for key, item in items:
            if item is not root:
                walk(f"{path}.{key}" if path else str(key), item)

    walk("", root)
    return found


@contextmanager
def marked(root: Any) -> Iterator[dict[str, str]]:
    """Let every submodule's call open a scope; yields the modules' paths by the scopes' names.

    Args:
        root: the module that is traced; itself it opens no scope.
    """
    modules = submodules(root)
    numbers = {identity: number for number, identity in enumerate(modules)}
    kinds = dict.fromkeys(type(module) for _, module in modules.values())
    changed: list[tuple[type, bool, Any]] = []
    try:
        for kind in kinds:
            call = next((vars(c)["__call__"] for c in kind.__mro__ if "__call__" in vars(c)), None)
            if call is None or isinstance(call, tf.types.experimental.PolymorphicFunction):
                continue
            own = "__call__" in vars(kind)
            # Through `vars`: what a descriptor would make of it is not what is put back.
            changed.append((kind, own, vars(kind).get("__call__")))
            kind.__call__ = scoped(call, numbers)
        yield {f"{MARK}{numbers[i]}_": path for i, (path, _) in modules.items()}
    finally:
        for kind, own, call in changed:
            if own:
                kind.__call__ = call
            else:
                del kind.__call__


@contextmanager
def layers_marked(base: type, layers: Iterable[Any]) -> Iterator[dict[str, str]]:
    """Let every call of a layer open a scope of ours; yields the layers' names by the scopes'.

    The scopes that Keras opens are numbered by TensorFlow where a name was used before: "dense_1"
    is the layer of that name, or "dense" for the second time.

    Args:
        base: class whose `__call__` all layers go through.
        layers: those that are told.
    """
    named = {id(layer): str(layer.name) for layer in layers}
    numbers = {identity: number for number, identity in enumerate(named)}
    call = vars(base)["__call__"]
    setattr(base, "__call__", scoped(call, numbers))  # noqa: B010 - mypy forbids the plain form
    try:
        yield {f"{MARK}{numbers[identity]}_": name for identity, name in named.items()}
    finally:
        setattr(base, "__call__", call)  # noqa: B010


def scoped(call: Callable[..., Any], numbers: Mapping[int, int]) -> Callable[..., Any]:
    """A call that runs in the scope of the module it is made on."""

    @functools.wraps(call)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        number = numbers.get(id(self))
        if number is None:
            return call(self, *args, **kwargs)
        with tf.name_scope(f"{MARK}{number}_"):
            return call(self, *args, **kwargs)

    return run
