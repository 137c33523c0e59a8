"""What runs in a worker though the test names none, as the options say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_fwcompare.backends.base import Backend
from pytest_fwcompare.backends.registry import owner, present, require
from pytest_fwcompare.errors import ModelError, UsageError
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.live import put_down
from pytest_fwcompare.workers.sources import source_of


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
    """A model or factory as it runs in the worker of its framework, where there is to be one.

    Args:
        given: what was passed as `role`; no described network.
        role: "reference" or "port".

    Raises:
        UsageError: it cannot be made in another process.
    """
    if stays_here(given):
        return given
    if pool.current().settings.isolate == "framework":
        return _remote(given, role)
    framework = framework_of(given)
    if framework not in pool.current().settings.specs:
        return given  # or a factory, which is asked by `made_by`
    return _as_asked(put_down, given, framework, role)


def made_by(factory: Any, role: str, call: Callable[[Any, str], Any]) -> Any:
    """What a factory returns, as it runs in the worker that the user named for its framework.

    Args:
        factory: takes no arguments.
        role: "reference" or "port".
        call: calls it in this process, which is how its framework is found out.

    Raises:
        UsageError: it cannot be called in another process.
        ModelError: of `call`.
    """
    workers = pool.current()
    if not workers.settings.specs:
        return call(factory, role)
    key = (getattr(factory, "__module__", ""), getattr(factory, "__qualname__", repr(factory)))
    framework = workers.frameworks.get(key)
    if framework is None:
        try:
            made = call(factory, role)
        except ModelError as error:
            framework = _missing(error.__cause__)
            if framework not in workers.settings.specs:
                raise
        else:
            framework = framework_of(made)
            if framework not in workers.settings.specs:
                return made
    found = _as_asked(lambda given, _: source_of(given), factory, framework, role)
    workers.frameworks[key] = framework
    return found


def framework_of(given: Any) -> str:
    """Whose a model is; "" for what is no model, such as a factory."""
    try:
        return owner(given).name
    except UsageError:
        return ""


def _missing(error: BaseException | None) -> str:
    """The framework that could not be imported here; "" if it is not that."""
    return (error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""


def _as_asked(how: Callable[[Any, str], Any], given: Any, framework: str, role: str) -> Any:
    """A model in the worker of `--fwcompare-worker`."""
    from pytest_fwcompare.workers.remote import RemoteBackend, RemoteModel

    try:
        source = how(given, framework)
    except UsageError as error:
        raise UsageError(
            f"{role}: --fwcompare-worker {framework}=... runs every {framework} model there, but "
            f"{error}. A worker with a tag ({framework}@other=...) runs only what names it"
        ) from None
    return RemoteModel(RemoteBackend(framework), source)


def stays_here(given: Any, *, described: bool = True) -> bool:
    """Whether it is NumPy's, or in a worker already, or a described network.

    Args:
        given: model, factory or network.
        described: False looks for described networks that another framework builds here.
    """
    if isinstance(given, InFramework):
        return described or given.framework == "numpy" or "@" in given.framework
    if isinstance(given, Network) or "fwcompare_backend" in getattr(given, "__dict__", {}):
        return True
    return framework_of(given) == "numpy"


def _remote(given: Any, role: str) -> Any:
    from pytest_fwcompare.workers.remote import RemoteBackend, RemoteModel

    framework = framework_of(given)
    try:
        source = put_down(given, framework) if framework else source_of(given)
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
