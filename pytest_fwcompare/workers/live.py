"""Models that exist already, put down in a file for a worker of this host to take up.

A Keras model is saved by Keras, for any interpreter. Others are pickled, and only for a worker
that this process starts with its own interpreter: it then has the same classes, and trusts this
process as it must anyway, for it runs whatever factory it is told. Nothing is unpickled the other
way.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.sources import place_of, source_of
from pytest_fwcompare.workers.specs import Spec

ADVICE = "pass a function that returns it, defined at the top of a module"


def put_down(model: Any, framework: str) -> dict[str, Any]:
    """What a worker makes the same model of; see `loading`.

    Args:
        model: of any framework, or the folder of a SavedModel.
        framework: whose it is, and the name of the worker.

    Raises:
        UsageError: it cannot be put down, and why.
    """
    if isinstance(model, (str, os.PathLike)):
        return source_of(model)
    if framework == "keras":
        return _saved(model)
    kind, spec = type(model).__name__, pool.current().spec(framework)
    if spec.text != Spec().text:
        raise UsageError(
            f"a {kind} object cannot be sent to another interpreter ({spec}); {ADVICE}, or a "
            f"saved form (SavedModel, or a factory with state= a torch state dict)"
        )
    path = _folder() / "model.pickle"
    try:
        with path.open("wb") as file:
            pickler = Pickler(file)
            pickler.dump(model)
    except Exception as error:  # whatever a class raises that does not want to be pickled
        raise UsageError(
            f"a {kind} object cannot be sent to another process "
            f"({type(error).__name__}: {error}); {ADVICE}"
        ) from None
    return {"kind": "pickle", "path": str(path), "modules": list(pickler.modules.values())}


def _saved(model: Any) -> dict[str, Any]:
    """A Keras model as a file.

    Raises:
        UsageError: Keras cannot save it.
    """
    path = _folder() / "model.keras"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras' own
            model.save(path)
    except Exception as error:
        raise UsageError(
            f"the Keras model {getattr(model, 'name', model)!r} cannot be saved to reach one "
            f"({type(error).__name__}: {error}); {ADVICE}"
        ) from None
    return {"kind": "keras", "path": str(path)}


def _folder() -> Path:
    """A new one that nobody else can read, gone at the end."""
    made = Path(tempfile.mkdtemp(prefix="fwcompare-"))
    pool.current().folders.append(made)
    return made


class Pickler(pickle.Pickler):
    """Notes where the modules are that the other process needs, and names what has a name.

    Attributes:
        modules: where a class or function of each is found, as `sources.place_of` gives it.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.modules: dict[str, Mapping[str, str]] = {}

    def reducer_override(self, thing: Any) -> Any:
        """Called for everything that is no builtin value."""
        module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
        if not isinstance(module, str) or not isinstance(name, str):
            return NotImplemented
        try:
            found: Any = reduce(getattr, name.split("."), sys.modules[module])
        except (KeyError, AttributeError):
            return NotImplemented
        if found is not thing:
            return NotImplemented
        if module not in self.modules:
            self.modules[module] = place_of(module)
        # jax.nn.relu is an object that holds a function of its own name.
        return NotImplemented if isinstance(thing, type) else name
