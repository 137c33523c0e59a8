"""Writes the results of a run to the files that were asked for."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.files import replace_file
from pytest_fwcompare.options.report import SUFFIXES, Reports
from pytest_fwcompare.recording import Result
from pytest_fwcompare.report.host import Host


def render(suffix: str, results: Sequence[Result], host: Host | None = None) -> str:
    """The report's text.

    Args:
        suffix: ".json", ".html" or ".md".
        results: of the run.
        host: its machine and command, where they are known.

    Raises:
        UsageError: no report is written with that suffix.
    """
    if suffix == ".json":
        from pytest_fwcompare.report.json import run_to_json

        return run_to_json(results, host)
    if suffix == ".md":
        from pytest_fwcompare.report.markdown import run_to_markdown

        return run_to_markdown(results, host)
    if suffix == ".html":
        from pytest_fwcompare.report.html import run_to_html

        return run_to_html(results, host)
    raise UsageError(
        f"report: unsupported suffix {suffix!r}; reports are written as {', '.join(SUFFIXES)}"
    )


def write_all(wanted: Reports, results: Sequence[Result], host: Host) -> tuple[list[str], bool]:
    """Write every report of a run that was asked for.

    Returns:
        A line for each of where it is, or why it is not; and whether one could not be written.
        The others are, then: a run of hours is not lost to a full disk or to a bug of a report.
    """
    asked = [*wanted.paths, *([wanted.tensorboard] if wanted.tensorboard is not None else [])]
    lines, failed = {}, False
    # Data first: what a library of charts may do to the process, it does last.
    for target in sorted(asked, key=lambda path: path.suffix == ".html"):
        try:
            lines[target] = _write_one(target, target == wanted.tensorboard, results, host)
        except Exception as error:
            failed = True
            lines[target] = f"error: {target} was not written: {type(error).__name__}: {error}"
    return [lines[target] for target in asked], failed


def _write_one(target: Path, events: bool, results: Sequence[Result], host: Host) -> str:
    if not events:
        write(target, results, host)
        return f"report: {target}"
    from pytest_fwcompare.report.tensorboard import write_events

    write_events(target, results)
    return f"event files: tensorboard --logdir {shlex.quote(str(target))}"


def write(path: Path, results: Sequence[Result], host: Host | None = None) -> None:
    """Write a report, whole or not at all: a run that is cut off leaves the old file."""
    text = render(path.suffix, results, host)
    # Half a surrogate pair, as in the name of a file that is no text, is shown as its escape.
    replace_file(path, text.encode("utf-8", errors="backslashreplace"))
