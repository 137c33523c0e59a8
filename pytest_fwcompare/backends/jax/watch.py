"""Shows in a trace which module ran what: name scopes and marks around calls of submodules."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from pytest_fwcompare.backends.jax.leaves import is_float
from pytest_fwcompare.backends.jax.twin import Twin

SCOPE = re.compile(r"module<([^<>]*)>")
"""A name scope that stands for a module path."""

MARK = "module-output"
"""Start of the name of a marked module output: "module-output|path|class"."""


def scope_path(name_stack: Any) -> str | None:
    """The module path in a name stack: the innermost module's, or the user's own scopes."""
    # A stack has scopes and transforms (vmap, jvp); only scopes have plain names.
    scopes = [e.name for e in getattr(name_stack, "stack", ()) if type(e).__name__ == "Scope"]
    # Equinox puts the class of its own layers there.
    scopes = [scope for scope in scopes if not scope.startswith("eqx.nn.")]
    modules = [found[1] for scope in scopes if (found := SCOPE.fullmatch(scope))]
    return (modules[-1] if modules else ".".join(scopes)) or None


def marked(output: Any, path: str, kind: str) -> Any:
    """The same output, its float arrays marked as those of a module."""
    return jax.tree_util.tree_map(
        lambda leaf: checkpoint_name(leaf, f"{MARK}|{path}|{kind}") if is_float(leaf) else leaf,
        output,
    )


@contextlib.contextmanager
def watched(twin: Twin) -> Iterator[None]:
    """While entered, calls of a twin's submodules are scoped and their outputs marked.

    The classes of the submodules are changed for that while and put back.
    """
    if twin.intercepted:
        with _linen():
            yield
        return
    paths: dict[int, tuple[Any, str]] = {}
    changed: dict[type, Any] = {}

    def started(model: Any) -> None:
        for path, module in twin.submodules(model):
            paths.setdefault(id(module), (module, path))
            for cls in type(module).__mro__:
                if "__call__" in vars(cls):
                    if cls not in changed:
                        changed[cls] = vars(cls)["__call__"]
                        type.__setattr__(cls, "__call__", _scoped(changed[cls], paths))
                    break

    twin.started = started
    try:
        yield
    finally:
        twin.started = None
        for cls, original in changed.items():
            type.__setattr__(cls, "__call__", original)


def _scoped(original: Any, paths: dict[int, tuple[Any, str]]) -> Callable[..., Any]:
    def call(self: Any, /, *arguments: Any, **keywords: Any) -> Any:
        bound = original.__get__(self, type(self))
        _, path = paths.get(id(self), (None, ""))
        if not path:
            return bound(*arguments, **keywords)
        with jax.named_scope(f"module<{path}>"):
            return marked(bound(*arguments, **keywords), path, type(self).__name__)

    return call


@contextlib.contextmanager
def _linen() -> Iterator[None]:
    import flax.linen

    def interceptor(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        path = ".".join(context.module.path)
        if context.method_name != "__call__":
            return call(*arguments, **keywords)
        if not path:
            with jax.named_scope("module<>"):
                return call(*arguments, **keywords)
        with jax.named_scope(f"module<{path}>"):
            return marked(call(*arguments, **keywords), path, type(context.module).__name__)

    with flax.linen.intercept_methods(interceptor):
        yield
