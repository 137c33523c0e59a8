"""The worker's half: makes sides and runs them for the parent, one request at a time.

Imports NumPy, this package's backends and whatever framework a request names; neither pytest nor
Hypothesis.
"""

from __future__ import annotations

import os
import platform
import queue
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np

from pytest_fwcompare import encoding
from pytest_fwcompare.backends.base import Backend, Pass, Side, Stopwatch
from pytest_fwcompare.backends.registry import backend, owner
from pytest_fwcompare.errors import FwcompareError, ModelError, UsageError
from pytest_fwcompare.randomness import seeded
from pytest_fwcompare.workers import loading, sharing
from pytest_fwcompare.workers.wire import PROTOCOL, decode, encode

END = object()
"""What the channel gives last, once the parent is gone."""


def serve(channel: Any, config: Mapping[str, Any], cut_off: int) -> None:
    """Answer requests until the parent closes the channel.

    Args:
        channel: of execnet.
        config: what the parent sent to the bootstrap.
        cut_off: exit status once the parent is gone.
    """
    from pytest_fwcompare import __version__

    shares = sharing.reads(config["probe"], config["word"])
    channel.send(
        {
            "protocol": PROTOCOL,
            "version": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "shares": shares,
        }
    )
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def arrived(message: Any) -> None:
        if message is END and config["own_process"]:
            os._exit(cut_off)  # in execnet's thread: whatever still runs is for nobody
        requests.put(message)

    channel.setcallback(arrived, endmarker=END)
    Server(channel, requests, shares).run()


class Server:
    """Holds the sides, passes and stopwatches that the parent knows by number.

    Args:
        channel: where answers go.
        requests: where they come from.
        shares: whether both processes can share memory files.
    """

    def __init__(self, channel: Any, requests: Any, shares: bool) -> None:
        self._channel, self._requests = channel, requests
        self._held: dict[int, Any] = {}
        self._number = 0
        self._sender, self._receiver = sharing.Sender(shares), sharing.Receiver()

    def run(self) -> None:
        """Until the channel ends."""
        while (message := self._requests.get()) is not END:
            self._channel.send(self._answer(message))

    def _answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {"id": message["id"]}
        for number in message["drop"]:
            self._held.pop(number, None)
        try:
            self._sender.released(message["released"])
            self._receiver.forget(message["gone"])
            self._receiver.open(message["shared"])
            keywords = decode(message["keywords"], self._receiver.fetch)
            self._receiver.done()
            result = getattr(self, f"do_{message['do']}")(**keywords)
            del keywords
            answer["result"] = encode(result, self._sender.store)
            answer["shared"] = self._sender.finish()
            answer["released"] = self._receiver.released()
            answer["gone"] = self._sender.gone()
        except BaseException as error:
            # SystemExit too: a model that calls sys.exit() ends nothing but its own call.
            answer = {"id": message["id"], "error": described(error)}
        return answer

    def _keep(self, thing: Any) -> int:
        self._number += 1
        self._held[self._number] = thing
        return self._number

    def _side(self, number: int) -> Side:
        found = self._held[number]
        assert isinstance(found, Side)
        return found

    def _pass(self, number: int) -> Pass:
        found = self._held[number]
        assert isinstance(found, Pass)
        return found

    # The framework ---------------------------------------------------------------------------

    def do_paths(self, paths: list[str]) -> None:
        """Let modules of the parent's project be found, after everything that is here."""
        sys.path += [path for path in paths if path not in sys.path]

    def do_import(self, framework: str) -> dict[str, Any]:
        """Import a framework; what it can do."""
        found = _require(framework)
        version = found.version()
        return {
            "version": version,
            "devices": found.device_names(),
            "modes": found.modes,
            "dtypes": found.dtypes,
            "can_differentiate": found.can_differentiate,
        }

    def do_environment(self, framework: str) -> dict[str, Any]:
        """Facts for the record."""
        return backend(framework).environment()

    def do_threads(self, framework: str) -> int | None:
        """Threads that it uses."""
        return backend(framework).threads()

    def do_set_threads(self, framework: str, count: int) -> None:
        """Change that."""
        backend(framework).set_threads(count)

    # Models ----------------------------------------------------------------------------------

    def do_load(self, source: Mapping[str, Any]) -> None:
        """Import what makes the model, so that a crash of it is told from one of the model."""
        loading.find(source)

    def do_make(self, source: Mapping[str, Any], seed: int | None = None) -> dict[str, Any]:
        """Make a model from what names it."""
        with seeded(seed):
            model = loading.make(source)
        return {"model": self._keep(model), "framework": _require(owner(model).name).name}

    def do_build(self, framework: str, network: Any, dtype: str, device: str) -> dict[str, Any]:
        """See `Backend.build`."""
        built = _require(framework).build(network, dtype=dtype, device=device)
        return {
            "model": self._keep(built.model),
            "placements": built.placements,
            "input_axes": built.input_axes,
            "output_axes": built.output_axes,
            "notices": built.notices,
        }

    def do_adopt(self, framework: str, model: int, **axes: Any) -> int:
        """See `Backend.adopt`."""
        return self._keep(_require(framework).adopt(self._held[model], **axes))

    def do_close(self, side: int) -> None:
        """Give a side up."""
        self._held.pop(side).close()

    def do_prepare(self, side: int, arguments: list[Any]) -> None:
        """See `Side.prepare`."""
        self._side(side).prepare(arguments)

    def do_parameters(self, side: int) -> list[Any]:
        """See `Side.parameters`."""
        return self._side(side).parameters()

    def do_read(self, side: int) -> dict[str, Any]:
        """See `Side.read`."""
        return self._side(side).read()

    def do_load_values(self, side: int, values: Mapping[str, Any], precision: Any) -> None:
        """See `Side.load`."""
        self._side(side).load(values, precision)

    # Passes ----------------------------------------------------------------------------------

    def do_forward(self, side: int, arguments: list[Any], **options: Any) -> dict[str, Any]:
        """See `Side.forward`."""
        model = self._side(side)
        passed = model.forward(arguments, **options)
        kept = options["gradients"] or options["training"] or options["record"]
        return {
            "pass": self._keep(passed) if kept else None,
            "outputs": passed.outputs,
            "skipped": passed.skipped,
            "leaks": list(model.leaks),
            "rounded_constants": list(model.rounded_constants),
            "reduced": model.reduced,
        }

    def do_backward(self, passed: int, cotangents: Mapping[str, Any]) -> Any:
        """See `Pass.backward`."""
        return self._pass(passed).backward(cotangents)

    def do_buffers(self, passed: int) -> dict[str, Any]:
        """See `Pass.buffers`."""
        return self._pass(passed).buffers()

    def do_recorded(self, passed: int) -> list[Any]:
        """See `Pass.recorded`."""
        return self._pass(passed).recorded()

    # Layers of Keras -------------------------------------------------------------------------

    def do_examine(
        self, side: int, arguments: list[Any], paths: list[str] | None, dtype: str, seed: int
    ) -> list[Any]:
        """See `Side.examine_layers`."""
        return self._side(side).examine_layers(arguments, paths, dtype, seed)

    def do_layers(self, jobs: list[Any]) -> list[Any]:
        """What layers of another process give on the backend that Keras has here."""
        _require("keras")
        from pytest_fwcompare.backends.tensorflow import prepare_import

        prepare_import()
        from pytest_fwcompare.backends.keras.elsewhere import run_job

        return [run_job(job) for job in jobs]

    # Timing ----------------------------------------------------------------------------------

    def do_stopwatch(
        self, side: int, arguments: list[Any], cotangents: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """See `Side.stopwatch`."""
        made = self._side(side).stopwatch(arguments, cotangents)
        return {
            "stopwatch": self._keep(made),
            "has": [name for name in CALLS if getattr(made, name) is not None],
        }

    def do_call(self, stopwatch: int, name: str) -> float:
        """One bare call; the seconds that it took here."""
        held = self._held[stopwatch]
        assert isinstance(held, Stopwatch)
        assert name in CALLS
        with held.settings():
            start = time.perf_counter()
            getattr(held, name)()
            return time.perf_counter() - start

    def do_time(
        self,
        side: int,
        framework: str,
        name: str,
        arguments: list[Any],
        shapes: Mapping[str, tuple[int, ...]],
        backward: bool,
    ) -> dict[str, Any]:
        """Time a side that has this process to itself; a `Timing`, field by field."""
        from pytest_fwcompare.sides import Opened
        from pytest_fwcompare.timing.turns import make_ready, time_ready

        opened = Opened(self._side(side), backend(framework))
        values = {key: np.empty(shape, np.bool_) for key, shape in shapes.items()}
        ready = make_ready(name, opened, arguments, values, backward=backward)
        return encoding.encode(time_ready([ready])[0])  # type: ignore[no-any-return]


CALLS = ("forward", "forward_backward", "backward")


def _require(name: str) -> Backend:
    found = backend(name)
    if reason := found.unavailable():
        raise UsageError(f"{reason} in the worker's Python {sys.executable}")
    return found


def described(error: BaseException) -> dict[str, Any]:
    """An exception as plain data."""
    known = isinstance(error, FwcompareError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    if isinstance(error, ModelError):
        text = text.removeprefix(f"{error.role}, {error.stage}: ")
    return {
        "kind": type(error).__name__ if known else "",
        "stage": getattr(error, "stage", "") if known else "",
        "message": _plain(text),
        "trace": _plain("".join(traceback.format_exception(error))),
    }


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
