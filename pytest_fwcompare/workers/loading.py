"""Makes a model in a worker from what the parent sent: a name to import, or a saved form."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_fwcompare.errors import ModelError, UsageError

Source = Mapping[str, Any]
"""Plain data: "kind" is "factory" ("module", "name", "file", "root", and "state" with the path of
a torch state dict), "keras" ("path" of a .keras file), "savedmodel" ("path" of its folder) or
"pickle" ("path" of what the parent wrote, "modules" that it needs, each as a factory's)."""


def find(source: Source) -> Callable[[], Any] | None:
    """The factory of a source, its module imported; None for one that needs none.

    Raises:
        ModelError: stage "import".
        UsageError: there is no such file here.
    """
    if source["kind"] != "factory":
        path = Path(source["path"])
        if not path.exists():
            raise UsageError(f"there is no {path} on the worker's host")
        for needed in source.get("modules", ()):
            _imported(needed, needed["module"])
        return None
    module = _imported(source, f"{source['module']}:{source['name']}")
    try:
        made: Any = reduce(getattr, source["name"].split("."), module)
    except AttributeError as error:
        raise _not_imported(f"{source['module']}:{source['name']}", error) from error
    return made  # type: ignore[no-any-return]


def _imported(source: Source, what: str) -> ModuleType:
    try:
        return _module(source)
    except Exception as error:
        raise _not_imported(what, error) from error


def _not_imported(what: str, error: Exception) -> ModelError:
    text = f"{what} cannot be imported in the worker ({type(error).__name__}: {error})"
    return ModelError("model", "import", text)


def make(source: Source) -> Any:
    """The model.

    Raises:
        ModelError: stage "import" or "build".
    """
    factory = find(source)
    what = source.get("name") or source.get("path")
    try:
        if factory is None:
            return _load(source)
        model = factory()
        if source.get("state"):
            from pytest_fwcompare.backends.torch import saved

            saved.fill(model, source["state"])
    except Exception as error:
        raise ModelError(
            "model", "build", f"{what} raised {type(error).__name__}: {error}"
        ) from error
    if model is None:
        raise UsageError(f"the factory {what} returned None; expected a model")
    return model


def _module(source: Source) -> ModuleType:
    """Import by name where the name leads to the same file, else the file itself.

    Test files are often imported by their path under a name that nothing else can import.
    """
    name, file = source["module"], source["file"]
    if name in sys.modules:
        return sys.modules[name]
    if source["root"] and source["root"] not in sys.path:
        sys.path.append(source["root"])
    try:
        found = import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
    else:
        if not file or Path(found.__file__ or "").resolve() == Path(file).resolve():
            return found
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise ImportError(f"no module {name!r}, and no file {file}")
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load(source: Source) -> Any:
    """A saved model; the folder of a SavedModel is adopted as it is."""
    if source["kind"] == "savedmodel":
        return source["path"]
    if source["kind"] == "pickle":
        # The parent's, whose word this process takes for what it imports and calls, too.
        with Path(source["path"]).open("rb") as file:
            return pickle.load(file)
    from pytest_fwcompare.backends.tensorflow import prepare_import

    prepare_import()
    from pytest_fwcompare.backends.keras import saved

    return saved.load(source["path"])
