"""One line under pytest's own while a long comparison runs: which, how far, for how long.

It is written to a duplicate of the terminal's file descriptor, taken while pytest captures
nothing, so that neither the captured output of a test nor pytest's own bookkeeping of columns
knows of it. After each update the cursor is back where pytest left it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator, Mapping
from typing import TextIO

import pytest

from pytest_fwcompare.progress import TIMING, Step, listening

PATIENCE = 1.0
"""Seconds that a comparison may take before it is shown."""

EVERY = 0.5
"""Seconds between two updates."""

UP, CLEAR = "\x1b[1A", "\x1b[K"
COLUMN = "\x1b[{}G"


def wanted(config: pytest.Config, environment: Mapping[str, str]) -> bool:
    """Whether there is a terminal that nobody else writes to while a test runs.

    Not in a worker of pytest-xdist, with `-q`, with `-s` (the terminal is the test's), with live
    logs, or where the terminal cannot move its cursor.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return (
        reporter is not None
        and bool(reporter.isatty)
        and not hasattr(config, "workerinput")
        and config.getoption("verbose", 0) >= 0
        and config.getoption("capture", "no") != "no"
        and not _logs_live(config)
        and os.name == "posix"
        and environment.get("TERM", "dumb") != "dumb"
    )


def _logs_live(config: pytest.Config) -> bool:
    if not config.pluginmanager.has_plugin("logging"):
        return False
    return bool(config.getoption("log_cli_level", None) or config.getini("log_cli"))


class Live:
    """Shows the comparison that runs, where that is `wanted`."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._stream: TextIO | None = None
        self._watched: Watched | None = None

    @property
    def _reporter(self) -> pytest.TerminalReporter:
        found: pytest.TerminalReporter = self._config.pluginmanager.getplugin("terminalreporter")
        return found

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self) -> None:
        """Take hold of the terminal, if there is one to show on, while nothing is captured."""
        if not wanted(self._config, os.environ):
            return
        self._stream = os.fdopen(os.dup(self._reporter._tw._file.fileno()), "w", encoding="utf-8")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        """Listen while a test runs."""
        if self._stream is None:
            return (yield)
        tw = self._reporter._tw
        self._watched = Watched(
            self._stream, item.name, tw.fullwidth, tw.width_of_current_line % tw.fullwidth
        )
        try:
            with listening(self._watched.hear):
                return (yield)
        finally:
            self._watched.end()
            self._watched = None

    def pytest_enter_pdb(self) -> None:
        """Leave the terminal to the debugger."""
        if self._watched is not None:
            self._watched.end()

    def pytest_unconfigure(self) -> None:
        """Let go of the terminal."""
        if self._stream is not None:
            self._stream.close()


class Watched:
    """One test's line; a thread renews it from the first step until the end.

    Args:
        stream: the terminal.
        name: of the test.
        width: columns of the terminal.
        column: where pytest's cursor stands, counted from 0.
    """

    def __init__(self, stream: TextIO, name: str, width: int, column: int) -> None:
        printable = (letter if letter.isprintable() else "?" for letter in name)
        self._stream, self._name = stream, "".join(printable)
        self._width, self._column = width, column
        self._step = Step("starting")
        self._started = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._shown = False

    def hear(self, step: Step) -> None:
        """Take in what the comparison is at; the first time, begin to show it."""
        self._step = step
        if self._thread is None and not self._over.is_set():
            self._thread = threading.Thread(target=self._renew, daemon=True, name="fwcompare-live")
            self._thread.start()

    def end(self) -> None:
        """Stop, and leave no trace."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._shown:
            self._write("")
            self._shown = False

    def line(self, step: Step) -> str:
        """What is shown: the test, what it is at, for how long."""
        passed = duration(time.monotonic() - self._started)
        told = f"{step}, {passed}"
        room = self._width - 1 - len(told) - 2
        name = self._name if len(self._name) <= room else f"{self._name[: max(room - 1, 0)]}\u2026"
        return f"{name}: {told}"[: self._width - 1]

    def _renew(self) -> None:
        wait, told = PATIENCE, Step("")
        while not self._over.wait(wait):
            step = self._step
            if step == told and step.stage == TIMING:
                continue  # the clock runs
            self._write(self.line(step))
            self._shown, wait, told = True, EVERY, step

    def _write(self, text: str) -> None:
        # Relative moves: at the last line of a terminal the new line scrolls everything up.
        back = UP + COLUMN.format(self._column + 1)
        try:
            self._stream.write(f"\n\r{CLEAR}{text}{back}")
            self._stream.flush()
        except OSError:  # the terminal is gone; the tests are not
            self._over.set()


def duration(seconds: float) -> str:
    """Whole seconds: "12 s", "3 min 20 s", "2 h 5 min"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
