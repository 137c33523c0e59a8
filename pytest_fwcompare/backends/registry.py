"""Finds backends by name. Each is an import string that is resolved when it is first used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from pytest_fwcompare.backends.base import Backend
from pytest_fwcompare.errors import FrameworkUnavailable, UsageError

ENTRY_POINT_GROUP = "pytest_fwcompare.backends"

SHIPPED = {
    "torch": "pytest_fwcompare.backends.torch:TorchBackend",
    "tensorflow": "pytest_fwcompare.backends.tensorflow:TensorFlowBackend",
    "keras": "pytest_fwcompare.backends.keras:KerasBackend",
    "jax": "pytest_fwcompare.backends.jax:JaxBackend",
    "numpy": "pytest_fwcompare.backends.numpy:NumpyBackend",
}
"""In the order in which they may be imported together: torch before tensorflow."""

IN_A_WORKER = "pytest_fwcompare.workers.remote:RemoteBackend"
"""Stands for a framework that runs in another process; it is made with the name."""


@cache
def import_strings() -> dict[str, str]:
    """All backends, shipped ones first; a shipped name cannot be taken by a plugin."""
    strings = dict(SHIPPED)
    for point in entry_points(group=ENTRY_POINT_GROUP):
        strings.setdefault(point.name, point.value)
    return strings


KNOWN_AS = {
    "pytorch": "torch", "tf": "tensorflow", "tf2": "tensorflow", "flax": "jax", "equinox": "jax",
    "linen": "jax", "nnx": "jax", "np": "numpy", "keras3": "keras", "tf_keras": "tensorflow",
}  # fmt: skip
"""Names that people give to frameworks, with the import name that is used here."""


@cache
def backend(name: str) -> Backend:
    """The backend of that name, whether or not its framework is installed.

    A tag after the name ("torch@old", "keras@jax") is that of a worker.

    Raises:
        UsageError: no backend has that name.
    """
    strings = import_strings()
    if "@" in name:
        return _made(IN_A_WORKER, name)
    if name not in strings:
        meant = KNOWN_AS.get(name.lower(), "")
        hint = f"did you mean {meant!r}? The" if meant in strings else "the"
        raise UsageError(
            f"no framework {name!r}; {hint} frameworks are {', '.join(strings)}. Another one "
            f"needs a backend registered under the entry point group {ENTRY_POINT_GROUP!r}"
        )
    return _made(strings[name])


def _made(string: str, *arguments: str) -> Backend:
    """The backend that an import string names."""
    module, _, attribute = string.partition(":")
    made = getattr(import_module(module), attribute)(*arguments)
    assert isinstance(made, Backend)
    return made


def placed(name: str) -> Backend:
    """As `backend`; in a worker where `--fwcompare-worker` has one of that very name."""
    pool = sys.modules.get("pytest_fwcompare.workers.pool")
    if pool is None or "@" in name or name not in pool.current().settings.specs:
        return backend(name)
    return _made(IN_A_WORKER, name)


def require(name: str) -> Backend:
    """The backend of that name, its framework installed.

    Raises:
        FrameworkUnavailable: with the reason and what to install.
    """
    return present(placed(name))


def present(found: Backend) -> Backend:
    """The same backend, its framework installed.

    Raises:
        FrameworkUnavailable: with the reason and what to install.
    """
    if reason := found.unavailable():
        raise FrameworkUnavailable(f"framework {found.name!r} was asked for, but {reason}")
    return found


def available() -> dict[str, str | None]:
    """Every framework's name with the reason why it cannot be used here, or None."""
    return {name: backend(name).unavailable() for name in import_strings()}


def imported_backends() -> Iterator[Backend]:
    """Backends whose framework this process has imported."""
    for name in import_strings():
        found = backend(name)
        if all(sys.modules.get(module) is not None for module in found.imports):
            yield found


def owner(model: object) -> Backend:
    """The backend that takes `model` as it is; a model that knows its own has it as an attribute.

    Raises:
        UsageError: no backend knows such an object.
    """
    own = getattr(model, "__dict__", {}).get("fwcompare_backend")
    if isinstance(own, Backend):
        return own
    for name in import_strings():
        candidate = backend(name)
        if candidate.owns(model):
            return candidate
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    hint = ""
    if kind.partition(".")[0] in ("torch", "tensorflow", "keras", "jax") and (
        kind.partition(".")[0] in sys.modules
    ):
        hint = " It belongs to a known framework, but it is not a model."
    raise UsageError(
        f"expected a model (torch.nn.Module, keras.Model, tf.Module, flax or equinox module, "
        f"(function, params), NumPy callable), a factory that returns one, or a Network; got "
        f"{kind}.{hint}"
    )
