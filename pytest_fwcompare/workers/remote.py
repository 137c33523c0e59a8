"""A framework in a worker, with the face of one in this process: `Backend`, `Side` and `Pass`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import numpy as np

from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Backend,
    Built,
    Gradients,
    Parameter,
    Pass,
    Precision,
    Recorded,
    Side,
    Stopwatch,
)
from pytest_fwcompare.errors import UsageError, WorkerDied
from pytest_fwcompare.networks.graph import Network
from pytest_fwcompare.randomness import SEED
from pytest_fwcompare.records import Timing, decode
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.process import Task, Worker
from pytest_fwcompare.workers.sources import source_of
from pytest_fwcompare.workers.specs import parse_name

OTHER_KERAS = ("torch", "jax", "numpy")
"""Tags of Keras without TensorFlow."""

SHOWN = 64
"""Values of an input up to which a message shows them all."""


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

    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> Side:
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
        return RemoteSide(self, worker, side, model, **axes)

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


@final
class RemoteSide(Side):
    """A side in a worker. See `Side`."""

    def __init__(
        self,
        backend: RemoteBackend,
        worker: Worker,
        number: int,
        model: RemoteModel,
        **axes: Any,
    ) -> None:
        self.backend, self.worker, self.number = backend, worker, number
        self.framework = f"{model.framework}@{backend.tag}" if backend.tag else model.framework
        self.mode, self.device, self._axes = axes["mode"], axes["device"], axes
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
        self._model = model
        self._parameters: list[Parameter] | None = None
        worker.sides += 1
        self._open = True

    @property
    def model(self) -> Any:
        """Not to be had here.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{self.role}: the model is in the worker {self.worker.name!r}, so a function "
            f"cannot change it here; give weights as a dict, or run both sides in this process "
            f"(--fwcompare-isolate=none)"
        )

    def ask(self, do: str, stage: str, about: str = "", **keywords: Any) -> Any:
        """A request about this side."""
        return self.worker.request(do, Task(self.role, stage, about), **keywords)

    def prepare(self, arguments: Sequence[Argument]) -> None:
        self._parameters = None
        self.ask(
            "prepare", "forward", shown(arguments), side=self.number, arguments=list(arguments)
        )

    def parameters(self) -> list[Parameter]:
        if self._parameters is None:
            self._parameters = self.ask("parameters", "build", side=self.number)
        return list(self._parameters)

    def read(self) -> dict[str, Array]:
        found: dict[str, Array] = self.ask("read", "copy", side=self.number)
        return found

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        self.ask("load_values", "copy", side=self.number, values=dict(values), precision=precision)

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        about = shown(arguments)
        made = self.ask(
            "forward",
            "shadow" if precision == "double" else "forward",
            about,
            side=self.number,
            arguments=list(arguments),
            precision=precision,
            training=training,
            gradients=gradients,
            record=record,
        )
        self.leaks[:] = made["leaks"]
        self.rounded_constants[:] = made["rounded_constants"]
        self.note_reduced(made["reduced"])
        return RemotePass(self, made, about)

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        about = shown(arguments)
        made = self.ask(
            "stopwatch",
            "forward",
            about,
            side=self.number,
            arguments=list(arguments),
            cotangents=None if cotangents is None else dict(cotangents),
        )
        held = RemoteStopwatch(self, made["stopwatch"], about)
        self.worker.drop_when_gone(held, made["stopwatch"])
        has = made["has"]
        return Stopwatch(
            held.forward,
            held.forward_backward if "forward_backward" in has else None,
            held.backward if "backward" in has else None,
        )

    def time_apart(
        self,
        name: str,
        arguments: Sequence[Argument],
        shapes: Mapping[str, tuple[int, ...]],
        backward: bool,
    ) -> Timing | None:
        """Timed alone in a worker with the framework's default settings.

        That is the worker it is judged in, except for TensorFlow, which is judged without oneDNN.
        """
        given = (name, arguments, shapes, backward)
        if self.library not in ("tensorflow", "keras") or self.backend.tag in OTHER_KERAS:
            return self._timing(*given, {})
        try:
            twin = self._with_defaults()
            made = twin._timing(*given, {"onednn": "on"})
        except WorkerDied:  # of what it is judged without, so the figures are those without
            return self._timing(*given, {"onednn": "off"})
        twin.close()
        return made

    def _timing(
        self,
        name: str,
        arguments: Sequence[Argument],
        shapes: Mapping[str, tuple[int, ...]],
        backward: bool,
        settings: Mapping[str, str],
    ) -> Timing:
        made = self.ask(
            "time",
            "backward" if backward else "forward",
            shown(arguments),
            side=self.number,
            framework=self._model.framework,
            name=name,
            arguments=list(arguments),
            shapes=dict(shapes),
            backward=backward,
        )
        timing: Timing = decode(made, Timing, "timing")
        # Its ratio compares it with itself: alone in there, it was the fastest.
        return replace(timing, own_process=True, settings=dict(settings), ratio=None)

    def _with_defaults(self) -> RemoteSide:
        """The same model in a worker whose TensorFlow is as it comes."""
        backend = RemoteBackend(self.backend.name, {"TF_ENABLE_ONEDNN_OPTS": "1"})
        axes: dict[str, Any] = {key: self._axes[key] for key in ("dtype", "device")}
        if self._model.network is not None:
            model = backend.build(self._model.network, **axes).model
        else:
            model = RemoteModel(backend, self._model.source)
        side = backend.adopt(model, **axes, mode=self.mode, own=True)
        assert isinstance(side, RemoteSide)
        side.role = self.role
        return side

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self.worker.sides -= 1
        if self.worker.alive:
            self.ask("close", "build", side=self.number)


@final
class RemoteStopwatch:
    """The bare calls of a stopwatch in a worker."""

    def __init__(self, side: RemoteSide, number: int, about: str) -> None:
        self._side, self._number, self._about = side, number, about

    def _call(self, name: str) -> None:
        stage = "forward" if name == "forward" else "backward"
        self._side.ask("call", stage, self._about, stopwatch=self._number, name=name)

    def forward(self) -> None:
        """See `Stopwatch`."""
        self._call("forward")

    def forward_backward(self) -> None:
        """See `Stopwatch`."""
        self._call("forward_backward")

    def backward(self) -> None:
        """See `Stopwatch`."""
        self._call("backward")


@final
class RemotePass(Pass):
    """One pass of a side in a worker."""

    def __init__(self, side: RemoteSide, made: Mapping[str, Any], about: str) -> None:
        self._side, self._number, self._about = side, made["pass"], about
        self.outputs: dict[str, Array] = made["outputs"]
        self.skipped: dict[str, str] = made["skipped"]
        if self._number is not None:
            side.worker.drop_when_gone(self, self._number)

    def _ask(self, do: str, stage: str, **keywords: Any) -> Any:
        if self._number is None:
            raise UsageError(f"{self._side.role}: the pass was run with gradients=False")
        return self._side.ask(do, stage, self._about, passed=self._number, **keywords)

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        found: Gradients = self._ask("backward", "backward", cotangents=dict(cotangents))
        return found

    def buffers(self) -> dict[str, Array]:
        found: dict[str, Array] = self._ask("buffers", "forward")
        return found

    def recorded(self) -> list[Recorded]:
        found: list[Recorded] = self._ask("recorded", "record")
        return found


def shown(arguments: Sequence[Argument]) -> str:
    """The input of a call for a message: values where they are few, else their range."""
    parts = []
    for argument in arguments:
        value = np.asarray(argument.value)
        text = f"{argument.name}: {value.dtype} {value.shape}"
        if value.size <= SHOWN:
            text += f" = {value.tolist()}"
        elif value.dtype.kind in "iuf":
            text += f" from {value.min():.6g} to {value.max():.6g}"
        parts.append(text)
    return f"input: {'; '.join(parts)}"


def described(source: Mapping[str, Any]) -> str:
    """A source for a message."""
    if source["kind"] == "factory":
        return f"{source['module']}:{source['name']}"
    return str(source["path"])
