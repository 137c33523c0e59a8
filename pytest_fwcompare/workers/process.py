"""One worker as the parent sees it: started, asked, and reported on when it dies."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import execnet

from pytest_fwcompare.errors import (
    FrameworkUnavailable,
    FwcompareError,
    ModelError,
    OutOfMemory,
    UsageError,
    WorkerDied,
)
from pytest_fwcompare.workers import bootstrap, sharing
from pytest_fwcompare.workers.specs import Spec
from pytest_fwcompare.workers.wire import PROTOCOL, WireError, decode, encode

START_S = 120.0
"""Seconds that a worker may take to say hello, and a framework to be imported, at least."""

ENDING_S = 10.0
"""Seconds that a worker whose pipe is closed is given to be gone, before it is called running."""

SSH_LOST = 255
"""What ssh exits with if the connection ends, or the process at its other end by a signal."""

KEPT_LINES, LONGEST_LINE = 16, 200
MOST_LOGGED = 1 << 20
"""Bytes of output from which on a worker's log is begun anew."""

ENVIRONMENT = {"LIBC_FATAL_STDERR_": "1"}
"""glibc says to standard error, not to the terminal, why it gives up on a corrupted heap."""


@dataclass(frozen=True)
class Task:
    """What a request is about, for messages.

    Attributes:
        role: "reference" or "port".
        stage: as in `ModelError`.
        about: the input, or what else the worker was given, as `str` shows it; "" if there is
            nothing to tell.
    """

    role: str
    stage: str
    about: object = ""


class Worker:
    """A running worker.

    Args:
        name: what it is called: "torch", "keras@jax".
        spec: how it is started.
        environment: variables set before anything is imported there.
        timeout: seconds that one request may take.

    Raises:
        FrameworkUnavailable: it cannot be started, or is of another version.
    """

    def __init__(
        self, name: str, spec: Spec, environment: Mapping[str, str], timeout: float
    ) -> None:
        self.name, self.spec, self.timeout = name, spec, timeout
        self.alive = False
        self.used = time.monotonic()
        self.sides = 0
        self.imported: dict[str, dict[str, Any]] = {}
        self.seconds_waited = 0.0
        self._log = Log()
        self._lock = threading.RLock()
        self._number = 0
        self._dropped: list[int] = []
        self._sender, self._receiver = sharing.Sender(False), sharing.Receiver()
        self._group = execnet.Group()
        try:
            self._gateway = self._connect()
            self.hello = self._greet({**ENVIRONMENT, **environment})
        except BaseException:
            self.kill()
            raise
        self.alive = True
        self.shares = self._sender.enabled = bool(self.hello["shares"])

    # Starting --------------------------------------------------------------------------------

    def _connect(self) -> Any:
        reason = self.spec.refusal()
        if reason is None:
            try:
                return self._group.makegateway(self.spec.text)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
        raise FrameworkUnavailable(
            f"worker {self.name!r} was asked for, but {self.spec} cannot be started: {reason}"
        )

    def _greet(self, environment: Mapping[str, str]) -> dict[str, Any]:
        import pytest_fwcompare

        probe = sharing.Probe()
        try:
            self._channel = self._gateway.remote_exec(bootstrap)
            self._channel.send(
                {
                    "own_process": self.spec.ends_with_us,
                    "main_thread": threading.current_thread() is threading.main_thread(),
                    "log": self._log.path if self.spec.own_process else "",
                    "environment": dict(environment),
                    "package": str(Path(pytest_fwcompare.__file__).parent),
                    "version": pytest_fwcompare.__version__,
                    "protocol": PROTOCOL,
                    "probe": probe.handle,
                    "word": probe.word,
                }
            )
            hello = self._channel.receive(START_S)
        except Exception as error:
            reason = self._ending() or f"{type(error).__name__}: {error}"
            text = f"worker {self.name!r} ({self.spec}) did not start: {reason}"
            raise FrameworkUnavailable(f"{text}{self._said()}") from None
        finally:
            probe.close()
        if not isinstance(hello, dict) or "refused" in hello:
            reason = hello["refused"] if isinstance(hello, dict) else repr(hello)
            raise FrameworkUnavailable(
                f"worker {self.name!r} ({self.spec}) cannot be used: {reason}"
            )
        return hello

    # Asking ----------------------------------------------------------------------------------

    def request(self, do: str, task: Task, *, patient: bool = False, **keywords: Any) -> Any:
        """Have something done and wait for its result.

        Args:
            do: name of a method of the server, without "do_".
            task: what it is about.
            patient: wait for `START_S` at least, as for imports.
            keywords: of the method.

        Raises:
            WorkerDied: no answer came.
            ModelError: the model failed.
            FwcompareError: what else the worker raised on purpose, as it was raised there.
        """
        with self._lock:
            if not self.alive:
                raise WorkerDied(task.role, task.stage, f"the worker {self.name!r} is gone")
            start = time.monotonic()
            timeout = max(self.timeout, START_S * patient)
            self._log.mark()
            try:
                answer = self._ask(do, keywords, start + timeout)
                result = self._result(answer, task)
            except execnet.gateway_base.TimeoutError:  # before OSError, which it is, too
                raise self._hung(task, timeout) from None
            except (EOFError, OSError, WireError, execnet.RemoteError) as error:
                raise self._died(task, error) from None
            except FwcompareError:
                raise
            except BaseException:
                self.kill()  # interrupted: an answer that is still to come would be mistaken
                raise
            finally:
                self.used = time.monotonic()
                self.seconds_waited += self.used - start
            return result

    def _ask(self, do: str, keywords: Mapping[str, Any], end: float) -> dict[str, Any]:
        self._number += 1
        dropped, self._dropped = self._dropped, []
        self._channel.send(
            {
                "id": self._number,
                "do": do,
                "drop": dropped,
                "keywords": encode(keywords, self._sender.store),
                "shared": self._sender.finish(),
                "released": self._receiver.released(),
                "gone": self._sender.gone(),
            }
        )
        answer = self._receive(end)
        if not isinstance(answer, dict) or answer.get("id") != self._number:
            raise WireError(f"expected the answer to request {self._number}, got {answer!r:.200}")
        return answer

    def _receive(self, end: float) -> Any:
        """The next message, with an eye on how much the worker prints."""
        while True:
            left = end - time.monotonic()
            try:
                return self._channel.receive(max(0.0, min(left, 1.0)))
            except execnet.gateway_base.TimeoutError:
                self._log.trim()
                if left <= 1.0:
                    raise

    def _result(self, answer: Mapping[str, Any], task: Task) -> Any:
        if "error" in answer:
            raise _rebuilt(answer["error"], task, self.name)
        self._sender.released(answer["released"])
        self._receiver.forget(answer["gone"])
        self._receiver.open(answer["shared"])
        try:
            return decode(answer["result"], self._receiver.fetch)
        finally:
            self._receiver.done()

    def drop_when_gone(self, thing: object, number: int) -> None:
        """Let the worker forget what it holds under a number once `thing` is collected."""
        weakref.finalize(thing, self._dropped_later, weakref.ref(self), number)

    @staticmethod
    def _dropped_later(worker: weakref.ref[Worker], number: int) -> None:
        if (held := worker()) is not None:
            held._dropped.append(number)

    # Ending ----------------------------------------------------------------------------------

    def _died(self, task: Task, error: BaseException) -> WorkerDied:
        found = self._ending()
        if found is None and isinstance(error, WireError):
            found = f"sent what is no answer: {error}"
        if found is None:
            found = "closed its pipe while it was still running"
        return self._post_mortem(task, found)

    def _hung(self, task: Task, timeout: float) -> WorkerDied:
        return self._post_mortem(
            task, f"gave no answer for {timeout:g} s (--fwcompare-timeout) and was killed"
        )

    def _post_mortem(self, task: Task, found: str) -> WorkerDied:
        self.kill()
        about = str(task.about)
        text = f"the worker {self.name!r} ({self.spec}) {found}{self._said()}"
        text += f"\n{about}" if about else ""
        return WorkerDied(task.role, task.stage, text)

    def _said(self) -> str:
        """Its last lines for a message; what another host's wrote stays there."""
        return self._log.tail() if self.spec.own_process else ""

    def _ending(self) -> str | None:
        """How the process ended, in words; None if it has not, or cannot be known."""
        popen = self._popen()
        if popen is None:
            return None
        with contextlib.suppress(Exception):
            popen.wait(timeout=ENDING_S)
        if not self.spec.own_process and popen.returncode == SSH_LOST:
            return "is gone (ssh: the connection ended, or a signal killed it)"
        return None if popen.returncode is None else ending(popen.returncode)

    def _popen(self) -> Any:
        """The process, where execnet started one on this host."""
        gateway = getattr(self, "_gateway", None)
        return getattr(getattr(gateway, "_io", None), "popen", None)

    @property
    def pid(self) -> int:
        """Process id on its own host."""
        return int(self.hello["pid"])

    def kill(self) -> None:
        """End it at once; also tidies up after one that is dead."""
        self.alive = False
        popen = self._popen()
        if popen is not None:
            with contextlib.suppress(Exception):
                popen.kill()
                popen.wait(timeout=5.0)
        with contextlib.suppress(Exception):
            self._group.terminate(timeout=1.0)
        sock = getattr(getattr(getattr(self, "_gateway", None), "_io", None), "sock", None)
        if sock is not None:  # execnet leaves it to the garbage collector
            sock.close()

    def close(self) -> None:
        """End it; it has nothing to say any more."""
        self.kill()
        self._sender.close()
        self._log.close()


def _rebuilt(error: Mapping[str, Any], task: Task, name: str) -> Exception:
    """The worker's exception as one of this process."""
    message, kind = str(error["message"]), str(error["kind"])
    if kind == "OutOfMemory":
        return OutOfMemory(task.role, message)
    if error["stage"]:
        return ModelError(task.role, str(error["stage"]), message)
    if kind:
        known = {each.__name__: each for each in (FrameworkUnavailable, UsageError)}
        return known.get(kind, UsageError)(f"{task.role} (worker {name!r}): {message}")
    trace = "\n".join(str(error["trace"]).splitlines()[-KEPT_LINES:])
    return ModelError(task.role, task.stage, f"the worker {name!r} raised {message}\n{trace}")


def ending(code: int) -> str:
    """An exit status in words."""
    if code == bootstrap.CUT_OFF:
        return "closed its pipe in the middle of its work"
    if code >= 0:
        return f"exited with status {code} in the middle of its work"
    number = -code
    try:
        known = signal.Signals(number)
        words = f"{known.name}: {(signal.strsignal(number) or '').lower()}"
    except ValueError:
        words = "unknown"
    hint = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
    return f"was killed by signal {number} ({words}){hint}"


class Log:
    """What a worker prints, kept for the day it dies."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create") and sharing.available():
            self._fd = os.memfd_create("fwcompare-log")
            self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
            self._remove = False
        else:
            self._fd, self.path = tempfile.mkstemp(prefix="fwcompare-", suffix=".log")
            self._remove = True
        self._start = 0

    def mark(self) -> None:
        """A new request begins."""
        self.trim()
        self._start = os.fstat(self._fd).st_size

    def trim(self) -> None:
        """Begin anew if a worker prints without end."""
        if os.fstat(self._fd).st_size > MOST_LOGGED:
            os.ftruncate(self._fd, 0)
            self._start = 0

    def lines(self) -> list[str]:
        """The last lines since the request began; those around a crash if there was one."""
        size = os.fstat(self._fd).st_size
        start = max(self._start, size - (MOST_LOGGED >> 4))
        raw = os.pread(self._fd, size - start, start).replace(b"\0", b"")
        lines = [line[:LONGEST_LINE] for line in raw.decode(errors="replace").splitlines()]
        lines = [line for line in lines if line and not line.startswith("Extension modules:")]
        crash = next((n for n, line in enumerate(lines) if line.startswith("Fatal Python")), None)
        if crash is None:
            return lines[-KEPT_LINES:]
        # The innermost frames come first there; what matters stands at their head.
        return lines[max(0, crash - KEPT_LINES // 4) :][:KEPT_LINES]

    def tail(self) -> str:
        """These lines for a message."""
        try:
            lines = self.lines()
        except OSError:
            return ""
        if not lines:
            return "; it wrote nothing"
        return "; the last lines it wrote:\n" + "\n".join(f"  {line}" for line in lines)

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if self._remove:
                Path(self.path).unlink(missing_ok=True)
