"""A framework in a worker, with the face of one in this process, and the models in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, final

from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Backend, Built
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.randomness import SEED
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.process import Task, Worker
from pytest_fwcompare.workers.side import RemoteSide
from pytest_fwcompare.workers.sources import source_of
from pytest_fwcompare.workers.specs import parse_name


@final
class RemoteModel:
    """A model in a worker, or what one is to be made of there.

    Args:
        backend: of the worker.
        source: plain data that names it, see `loading`; None for one that is there already.
        number: by which the worker knows it.
    """

    def __init__(
        self, backend: RemoteBackend, source: Mapping[str, Any] | None, number: int | None = None
    ) -> None:
        self.fwcompare_backend = backend
        self.source, self.number = source, number
        self.network: Network | None = None
        self.framework = backend.framework
        self.worker: Worker | None = None

    def made(self, role: str) -> tuple[Worker, int]:
        """The worker and the model's number there; made anew if the worker has died."""
        backend = self.fwcompare_backend
        worker = backend.start(role, frameworks=False)
        if self.number is None or worker is not self.worker:
            if self.source is None:
                raise UsageError(f"{role}: the worker that held this {backend.name} model is gone")
            self.framework, number = make_there(worker, self.source, role)
            self.keep(worker, number)
        assert self.number is not None
        return worker, self.number

    def keep(self, worker: Worker, number: int) -> None:
        """Remember where it is, and let it go there once nobody needs it here."""
        self.worker, self.number = worker, number
        worker.drop_when_gone(self, number)

    def __repr__(self) -> str:
        return f"<model in the worker {self.fwcompare_backend.name!r}>"


def in_worker(
    name: str, given: Any, *, state: str | os.PathLike[str] | None = None
) -> RemoteModel | InFramework:
    """A model in a worker, to be passed to `compare` or `fwcompare_port` as reference or port.

    Example:
        >>> old = in_worker("torch@old", "my_models:encoder", state="encoder.pt")
        >>> compare(old, in_worker("keras@jax", "encoder.keras"), inputs=...)

    Args:
        name: framework, with the tag of a worker where there is one: "torch", "keras@jax", or
            "torch@old" of `--fwcompare-worker torch@old=/path/to/python`.
        given: a function or class defined at the top of a module, its name ("module:function"),
            a described network, or the path of a `.keras` file or of a SavedModel's folder.
        state: path of a torch state dict to load into what the function returns.

    Raises:
        UsageError: it cannot be made in another process, with what can.
    """
    if isinstance(given, Network):
        return InFramework(given, name, apart=True)
    backend = registry.backend(name)
    if not isinstance(backend, RemoteBackend):
        backend = RemoteBackend(name)
    return RemoteModel(backend, source_of(given, state))


def make_there(worker: Worker, source: Mapping[str, Any], role: str) -> tuple[str, int]:
    """Have a worker make a model; its framework, and its number there.

    Raises:
        ModelError: stage "import" or "build".
    """
    about = f"source: {described(source)}"
    worker.request("load", Task(role, "import", about), patient=True, source=source)
    task, seed = Task(role, "build", about), SEED.get()
    made = worker.request("make", task, patient=True, source=source, seed=seed)
    return made["framework"], made["model"]


@final
class RemoteBackend(Backend):
    """A framework in a worker.

    Args:
        name: "torch", or with a tag: "torch@old", "keras@jax".
        environment: variables of the worker beside those that follow from its name.
    """

    def __init__(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        self.name = name  # type: ignore[misc]
        self.framework, self.tag = parse_name(name, "worker")
        self._environment = dict(environment or {})
        local = registry.backend(self.framework).tagged(self.tag)
        self.distribution = local.distribution  # type: ignore[misc]
        self.imports = local.imports  # type: ignore[misc]
        self.can_build = local.can_build  # type: ignore[misc]
        self.can_differentiate = local.can_differentiate  # type: ignore[misc]
        self.devices = local.devices  # type: ignore[misc]
        self.modes = local.modes  # type: ignore[misc]
        self.dtypes = local.dtypes  # type: ignore[misc]

    def unavailable(self) -> str | None:
        """Why it cannot be used: its name means nothing, or its interpreter cannot be run.

        What a worker of another interpreter lacks is found out when it is started.
        """
        try:
            spec = pool.current().spec(self.name)
        except UsageError as error:
            return str(error)
        if spec.text == "popen":
            return super().unavailable()
        return spec.refusal()

    def start(self, role: str = "worker", *, frameworks: bool = True) -> Worker:
        """The running worker, with the framework imported unless that is left to its models."""
        worker = pool.current().worker(self.name, self._environment)
        if frameworks and self.framework not in worker.imported:
            worker.imported[self.framework] = worker.request(
                "import", Task(role, "import"), patient=True, framework=self.framework
            )
        return worker

    def _ask(self, do: str, **keywords: Any) -> Any:
        return self.start().request(
            do, Task(self.name, "import"), framework=self.framework, **keywords
        )

    def version(self) -> str:
        """Of the framework in the worker."""
        return str(self.start().imported[self.framework]["version"])

    def device_names(self) -> list[str]:
        """Devices that the worker sees."""
        return list(self.start().imported[self.framework]["devices"])

    def owns(self, model: object) -> bool:
        """Models of workers say themselves whose they are."""
        return False

    def build(self, network: Network, *, dtype: str = "float32", device: str = "cpu") -> Built:
        """A described network, built in the worker; its `model` is a handle."""
        worker = self.start()
        made = worker.request(
            "build",
            Task(self.name, "build", f"network: {network!r}"),
            patient=True,
            framework=self.framework,
            network=network,
            dtype=dtype,
            device=device,
        )
        model = RemoteModel(self, None)
        model.network = network
        model.keep(worker, made.pop("model"))
        return Built(model, **{**made, "placements": tuple(made["placements"])})

    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> RemoteSide:
        """The side of a model in the worker."""
        assert isinstance(model, RemoteModel)
        worker, number = model.made("model")
        axes = {"dtype": dtype, "device": device, "mode": mode, "own": own}
        side = worker.request(
            "adopt",
            Task(self.name, "build"),
            patient=True,
            framework=model.framework,
            model=number,
            **axes,
        )
        return RemoteSide(
            worker,
            side,
            model.framework,
            self.tag,
            partial(self._twin, model, dtype, device, mode),
            mode=mode,
            device=device,
        )

    def _twin(
        self, model: RemoteModel, dtype: str, device: str, mode: str, variables: Mapping[str, str]
    ) -> RemoteSide:
        """The side of the same model in a worker with other variables."""
        backend = RemoteBackend(self.name, variables)
        if model.network is not None:
            again = backend.build(model.network, dtype=dtype, device=device).model
        else:
            again = RemoteModel(backend, model.source)
        return backend.adopt(again, dtype=dtype, device=device, mode=mode, own=True)

    def environment(self) -> dict[str, Any]:
        """That of the framework in the worker, and what the worker is."""
        worker = self.start()
        facts: dict[str, Any] = self._ask("environment")
        hello = worker.hello
        told = {key: hello[key] for key in ("python", "numpy", "host", "pid")}
        return facts | {"worker": told | {"spec": str(worker.spec)}}

    def threads(self) -> int | None:
        """Of the framework in the worker."""
        found = self._ask("threads")
        return None if found is None else int(found)

    def set_threads(self, count: int) -> None:
        """In the worker; none is started for it, as one that died will not come back for it."""
        if pool.current().is_running(self.name, self._environment):
            self._ask("set_threads", count=count)


def described(source: Mapping[str, Any]) -> str:
    """A source for a message."""
    if source["kind"] == "factory":
        return f"{source['module']}:{source['name']}"
    return str(source["path"])
