"""A side in a worker: every call is a request, every result comes back as NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Gradients,
    Parameter,
    Pass,
    Precision,
    Recorded,
    Side,
    Stopwatch,
)
from pytest_fwcompare.encoding import decode
from pytest_fwcompare.errors import UsageError, WorkerDied
from pytest_fwcompare.records import Timing
from pytest_fwcompare.workers.process import Task, Worker

if TYPE_CHECKING:
    from pytest_fwcompare.backends.keras.examined import Examined

OTHER_KERAS = ("torch", "jax", "numpy")
"""Tags of Keras without TensorFlow."""

SHOWN = 64
"""Values of an input up to which a message shows them all."""


@final
class RemoteSide(Side):
    """A side in a worker. See `Side`.

    Args:
        worker: where it is.
        number: by which the worker knows it.
        framework: whose it is, without a tag.
        tag: of the worker; "" for none.
        twin: opens the same model in a worker with these variables beside its own.
        mode, device: of the comparison.
    """

    def __init__(
        self,
        worker: Worker,
        number: int,
        framework: str,
        tag: str,
        twin: Callable[[Mapping[str, str]], RemoteSide],
        *,
        mode: str,
        device: str,
    ) -> None:
        self.worker, self.number = worker, number
        self._framework, self._tag, self._twin = framework, tag, twin
        self.framework = f"{framework}@{tag}" if tag else framework
        self.mode, self.device = mode, device
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
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

    def ask(self, do: str, stage: str, about: object = "", **keywords: Any) -> Any:
        """A request about this side."""
        return self.worker.request(do, Task(self.role, stage, about), **keywords)

    def prepare(self, arguments: Sequence[Argument]) -> None:
        self._parameters = None
        self.ask(
            "prepare", "forward", Shown(arguments), side=self.number, arguments=list(arguments)
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
        about = Shown(arguments)
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

    def examine_layers(
        self, arguments: Sequence[Argument], paths: Sequence[str] | None, dtype: str, seed: int
    ) -> list[Examined]:
        found: list[Examined] = self.ask(
            "examine",
            "forward",
            Shown(arguments),
            side=self.number,
            arguments=list(arguments),
            paths=None if paths is None else list(paths),
            dtype=dtype,
            seed=seed,
        )
        return found

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        about = Shown(arguments)
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
        if self.library not in ("tensorflow", "keras") or self._tag in OTHER_KERAS:
            return self._timing(*given, {})
        try:
            twin = self._twin({"TF_ENABLE_ONEDNN_OPTS": "1"})  # TensorFlow as it comes
            twin.role = self.role
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
            Shown(arguments),
            side=self.number,
            framework=self._framework,
            name=name,
            arguments=list(arguments),
            shapes=dict(shapes),
            backward=backward,
        )
        timing: Timing = decode(made, Timing, "timing")
        # Its ratio compares it with itself: alone in there, it was the fastest.
        return replace(timing, own_process=True, settings=dict(settings), ratio=None)

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

    def __init__(self, side: RemoteSide, number: int, about: object) -> None:
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

    def __init__(self, side: RemoteSide, made: Mapping[str, Any], about: object) -> None:
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


class Shown:
    """The input of a call for a message: values where they are few, else their range.

    Put into words only when a message is written: it takes as long as a pass of a small layer.
    """

    def __init__(self, arguments: Sequence[Argument]) -> None:
        self._arguments = tuple(arguments)

    def __str__(self) -> str:
        parts = []
        for argument in self._arguments:
            value = np.asarray(argument.value)
            text = f"{argument.name}: {value.dtype} {value.shape}"
            if value.size <= SHOWN:
                text += f" = {value.tolist()}"
            elif value.dtype.kind in "iuf":
                text += f" from {value.min():.6g} to {value.max():.6g}"
            parts.append(text)
        return f"input: {'; '.join(parts)}"
