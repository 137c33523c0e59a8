"""What runs in a worker though nothing names one: `--fwcompare-isolate`."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_fwcompare.backends.base import Backend
from pytest_fwcompare.backends.registry import owner, present, require
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.sources import source_of

if TYPE_CHECKING:
    from pytest_fwcompare.comparing.request import Request

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"


def backend_of(given: InFramework) -> Backend:
    """The backend of a described network's framework, in a worker where that is asked for.

    Raises:
        FrameworkUnavailable: it cannot be used.
    """
    name, settings = given.framework, pool.current().settings
    isolated = settings.isolate == "framework" and name != "numpy"
    if "@" in name or not (given.apart or isolated or name in settings.specs):
        return require(name)
    from pytest_fwcompare.workers.remote import RemoteBackend

    return present(RemoteBackend(name))


def elsewhere(given: Any, role: str) -> Any:
    """A model or factory as it runs in a worker, if every framework has one; else itself.

    Args:
        given: what was passed as `role`; no described network.
        role: "reference" or "port".

    Raises:
        UsageError: it cannot be made in another process.
    """
    if pool.current().settings.isolate != "framework" or stays_here(given):
        return given
    return _remote(given, role)


def stays_here(given: Any) -> bool:
    """Whether it is NumPy's, a network's, or in a worker already."""
    if isinstance(given, (Network, InFramework)):
        return True
    if "fwcompare_backend" in getattr(given, "__dict__", {}):
        return True
    try:
        return owner(given).name == "numpy"
    except UsageError:
        return False


def _remote(given: Any, role: str) -> Any:
    from pytest_fwcompare.workers.remote import RemoteBackend, RemoteModel

    try:
        framework = owner(given).name
    except UsageError:
        framework = ""
    try:
        source = _saved(given) if framework == "keras" else source_of(given)
    except UsageError as error:
        raise UsageError(
            f"{role}: --fwcompare-isolate=framework runs every model in a worker, but {error}"
        ) from None
    if not framework:
        return model_of_factory(source, role)
    return RemoteModel(RemoteBackend(framework), source)


def model_of_factory(source: dict[str, Any], role: str) -> Any:
    """The model of a factory, which alone knows the framework: it is made in a worker to be asked.

    That worker becomes the framework's own if there is none yet.
    """
    from pytest_fwcompare.workers.remote import RemoteBackend, RemoteModel, make_there

    workers = pool.current()
    key = (source["module"], source["name"])
    if key in workers.frameworks:
        return RemoteModel(RemoteBackend(workers.frameworks[key]), source)
    worker = workers.worker(pool.SCOUT)
    framework, number = make_there(worker, source, role)
    workers.frameworks[key] = framework
    model = RemoteModel(RemoteBackend(framework), source)
    if workers.name_scout(framework):
        model.keep(worker, number)
    return model


def _saved(model: Any) -> dict[str, Any]:
    """A Keras model as a file, which its worker reads.

    Raises:
        UsageError: Keras cannot save it.
    """
    folder = Path(tempfile.mkdtemp(prefix="fwcompare-"))
    pool.current().folders.append(folder)
    path = folder / "model.keras"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras' own
            model.save(path)
    except Exception as error:
        raise UsageError(
            f"the Keras model {getattr(model, 'name', model)!r} cannot be saved to reach one "
            f"({type(error).__name__}: {error}); pass a function that returns it, defined at the "
            f"top of a module"
        ) from None
    return {"kind": "keras", "path": str(path)}


# Crashes -----------------------------------------------------------------------------------------


def guarded(given: Any, role: str, request: Request) -> Any:
    """What to open under `--fwcompare-isolate=crash`: the same, or the same in a worker.

    What is known to crash goes to a worker at once. Anything else that can be made there is run
    once in one, forward and backward; what dies of it stays there, so that the comparison says so.

    Args:
        given: what was passed as `role`.
        role: "reference" or "port".
        request: of the comparison; its first example is what is tried.
    """
    if pool.current().settings.isolate != "crash":
        return given
    from pytest_fwcompare.workers.trial import Candidate, dies

    candidate = Candidate.of(given)
    if candidate is None:
        return given
    if candidate.is_known() or dies(candidate, role, request):
        return candidate.model(role)
    return given


def onednn_is_on() -> bool:
    """Whether TensorFlow in this process computes, or will compute, with oneDNN."""
    if "tensorflow" not in sys.modules:
        # This package switches it off before the import unless the user has spoken.
        return os.environ.get(ONEDNN, "0") != "0"
    from pytest_fwcompare.backends.tensorflow.state import onednn_is_active

    return onednn_is_active()


def strided_point(network: Network) -> str | None:
    """The first convolution of kernel size 1 and a stride above 1; None if there is none."""
    for name, layer in network.layers.items():
        kernel, stride = getattr(layer, "kernel_size", None), getattr(layer, "stride", None)
        if kernel is not None and stride is not None and np.max(kernel) == 1 < np.max(stride):
            return name
    return None


def known_danger(network: Network, framework: str) -> str | None:
    """Why a described network may take the process down; None if nothing is known against it.

    TensorFlow 2.21 with oneDNN corrupts memory in the float32 filter gradient of 1x1 convolutions
    with a stride: glibc's checks say "free(): invalid pointer", or the process dies much later.
    """
    if framework not in ("tensorflow", "keras") or not onednn_is_on():
        return None
    name = strided_point(network)
    return None if name is None else f"{name}: 1x1 with a stride, on TensorFlow with oneDNN"
