"""How a model given to `compare` can be made again in another process, or why it cannot."""

from __future__ import annotations

import inspect
import os
import sys
from functools import reduce
from pathlib import Path
from typing import Any

from pytest_fwcompare.errors import UsageError


def source_of(given: Any, state: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Plain data by which a worker makes the model.

    Args:
        given: a factory or class that can be imported by name (or its name, "module:factory"), the
            path of a `.keras` file or of a SavedModel's folder.
        state: path of a torch state dict to load into what the factory returns.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(given, os.PathLike) or (isinstance(given, str) and Path(given).exists()):
        return _saved(Path(given))
    made = _named(given) if isinstance(given, str) else _imported(given)
    if state is not None:
        if not Path(state).is_file():
            raise UsageError(f"there is no state dict {str(state)!r}")
        made["state"] = str(Path(state).resolve())
    return made


def _saved(path: Path) -> dict[str, Any]:
    if path.suffix == ".keras":
        return {"kind": "keras", "path": str(path.resolve())}
    if (path / "saved_model.pb").is_file():
        return {"kind": "savedmodel", "path": str(path.resolve())}
    raise UsageError(
        f"expected a .keras file, the folder of a SavedModel or the name of a factory "
        f'("module:factory"), got the path {str(path)!r}; a torch state dict goes with the '
        f"factory of its module: state={str(path)!r}"
    )


def _named(text: str) -> dict[str, Any]:
    module, _, name = text.partition(":")
    if not module or not name:
        raise UsageError(f'expected a factory by name, "module:factory", got {text!r}')
    return {"kind": "factory", "module": module, "name": name, "file": "", "root": ""}


def _imported(given: Any) -> dict[str, Any]:
    """A function or class as module, name and file."""
    name, module = getattr(given, "__qualname__", ""), getattr(given, "__module__", "")
    kind = type(given).__name__
    if not name or not callable(given) or inspect.ismethod(given):
        raise UsageError(
            f"a {kind} object cannot be sent to another process; pass a function that returns it, "
            f"defined at the top of a module, or a saved form (.keras, SavedModel, or a factory "
            f"with state= a torch state dict)"
        )
    found = sys.modules.get(module)
    try:
        same = reduce(getattr, name.split("."), found) is given
    except AttributeError:
        same = False
    if not same or found is None:
        raise UsageError(
            f"{name} of {module} cannot be imported by that name in another process; define it at "
            f"the top of its module (no lambda, no function inside a function)"
        )
    return {"kind": "factory", "name": name, **place_of(module)}


def place_of(module: str) -> dict[str, str]:
    """Where another process finds an imported module: its file, and the folder of its package."""
    file = getattr(sys.modules[module], "__file__", None) or ""
    path = Path(file).resolve() if file else Path()
    parts = module.split(".")
    stem = [*path.parts[:-1], path.stem]
    in_package = len(parts) > 1 and stem[-len(parts) :] == parts
    root = str(path.parents[len(parts) - 1]) if in_package else ""
    return {"module": module, "file": str(path) if file else "", "root": root}
