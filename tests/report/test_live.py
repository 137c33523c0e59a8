"""The line that is shown while a comparison runs, and where it is not."""

from __future__ import annotations

import io
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_fwcompare.progress import TIMING, Step
from pytest_fwcompare.report import live
from pytest_fwcompare.report.live import Watched, duration, wanted


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0.01)
    monkeypatch.setattr(live, "EVERY", 0.01)


def until(stream: io.StringIO, pattern: str) -> str:
    """What was written, once it holds the pattern."""
    end = time.monotonic() + 20
    while not re.search(pattern, stream.getvalue()):
        assert time.monotonic() < end, stream.getvalue()
        time.sleep(0.005)
    return stream.getvalue()


@pytest.mark.usefixtures("hurried")
def test_the_step_is_shown_below_and_the_cursor_comes_back() -> None:
    stream = io.StringIO()
    watched = Watched(stream, "test_port[cpu]", 80, 14)
    watched.hear(Step("example", 3, 20))
    text = until(stream, "example 3 of 20, ")
    assert text.startswith("\n\r\x1b[Ktest_port[cpu]: example 3 of 20, 0 s\x1b[1A\x1b[15G")
    watched.hear(Step("looking for the place"))
    until(stream, "looking for the place")
    watched.end()
    assert stream.getvalue().endswith("\n\r\x1b[K\x1b[1A\x1b[15G")


@pytest.mark.usefixtures("hurried")
def test_nothing_runs_while_the_clock_does() -> None:
    stream = io.StringIO()
    watched = Watched(stream, "t", 80, 0)
    watched.hear(Step(TIMING))
    until(stream, "timing")
    time.sleep(0.1)
    assert stream.getvalue().count("timing") == 1
    watched.end()


def test_a_short_comparison_leaves_no_trace() -> None:
    stream = io.StringIO()
    watched = Watched(stream, "t", 80, 0)
    watched.hear(Step("example", 1, 2))
    watched.end()
    assert stream.getvalue() == ""


def test_a_test_that_compares_nothing_starts_no_thread() -> None:
    watched = Watched(io.StringIO(), "t", 80, 0)
    assert watched._thread is None
    watched.end()


@pytest.mark.usefixtures("hurried")
def test_after_the_end_nothing_is_shown() -> None:
    stream = io.StringIO()
    watched = Watched(stream, "t", 80, 0)
    watched.end()
    watched.hear(Step("example", 1, 2))
    time.sleep(0.05)
    assert stream.getvalue() == ""


@pytest.mark.usefixtures("hurried")
def test_a_terminal_that_is_gone_disturbs_nobody() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    watched = Watched(Gone(), "t", 80, 0)
    watched.hear(Step("example"))
    thread = watched._thread
    assert thread is not None
    thread.join(20)
    assert not thread.is_alive()
    watched.end()


@pytest.mark.parametrize("width", [8, 20, 40, 200])
def test_the_line_fits_and_says_how_far(width: int) -> None:
    watched = Watched(io.StringIO(), "test_with_a_long_name[and\x1bparameters]", width, 0)
    line = watched.line(Step("example", 3, 20))
    assert len(line) < width
    assert line.isprintable()
    if width >= 40:
        assert line.endswith(": example 3 of 20, 0 s")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0 s"), (59.9, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def config(**changed: Any) -> Any:
    """What `wanted` asks of pytest's config, on a terminal unless changed."""
    known = {"isatty": True, "verbose": 0, "capture": "fd", "log_cli": False, "logging": True}
    known.update(changed)
    reporter = SimpleNamespace(isatty=known["isatty"]) if known["isatty"] is not None else None
    made = SimpleNamespace(
        pluginmanager=SimpleNamespace(
            get_plugin=lambda name: reporter, has_plugin=lambda name: known["logging"]
        ),
        getoption=lambda name, default: known.get(name, default),
        getini=lambda name: known["log_cli"],
    )
    if known.get("worker"):
        made.workerinput = {}
    return made


def test_a_terminal_is_wanted() -> None:
    assert wanted(config(), {"TERM": "xterm"})
    assert wanted(config(verbose=1), {"TERM": "xterm"})
    assert wanted(config(logging=False, log_cli=True), {"TERM": "xterm"})


@pytest.mark.parametrize(
    ("changed", "environment"),
    [
        ({"isatty": False}, {"TERM": "xterm"}),
        ({"isatty": None}, {"TERM": "xterm"}),
        ({"worker": True}, {"TERM": "xterm"}),
        ({"verbose": -1}, {"TERM": "xterm"}),
        ({"capture": "no"}, {"TERM": "xterm"}),
        ({"log_cli_level": "INFO"}, {"TERM": "xterm"}),
        ({"log_cli": True}, {"TERM": "xterm"}),
        ({}, {"TERM": "dumb"}),
        ({}, {}),
    ],
    ids=["no terminal", "no reporter", "xdist", "-q", "-s", "level", "log_cli", "dumb", "none"],
)
def test_elsewhere_it_is_silent(changed: dict[str, Any], environment: dict[str, str]) -> None:
    assert not wanted(config(**changed), environment)
