"""What GitHub Actions shows: an annotation at each failing test, and the card as a step summary.

Workflow commands are lines of the log; their grammar and escapes are those of
https://docs.github.com/actions/reference/workflow-commands-for-github-actions and of
`toolkit/packages/core/src/command.ts` of actions/toolkit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from pytest_fwcompare.recording import Result
from pytest_fwcompare.report.facts import facts, name_of
from pytest_fwcompare.report.host import Host
from pytest_fwcompare.report.text import headline

TOLD = ("Where", "Cause", "Evidence", "Hint", "Drift", "Whose doing", "Changed since")
"""Facts that an annotation repeats; the rest is in the summary."""


def escape_message(text: str) -> str:
    """A message on one line of the log."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """A property of a command, which commas and colons would end."""
    return escape_message(text).replace(":", "%3A").replace(",", "%2C")


def annotation(result: Result, file: str, line: int) -> str:
    """The command that marks a failed comparison at its test.

    Args:
        result: what failed.
        file: of the test, from the root of the repository.
        line: of the test, counted from 1.
    """
    made = result.comparison
    told = [headline(made)]
    if made.message:
        told.append(made.message)
    told += [f"{fact.label}: {fact.text}" for fact in facts(made) if fact.label in TOLD]
    properties = {"file": file, "line": str(line), "title": f"fwcompare: {name_of(result)}"}
    listed = ",".join(f"{key}={escape_property(value)}" for key, value in properties.items())
    return f"::error {listed}::{escape_message(chr(10).join(told))}"


class GitHub:
    """Registered in jobs of GitHub Actions, in the process that prints.

    Args:
        config: of the run.
        results: gives what the reports carried.
        environment: of the process.
        host: the machine and the command of the run.
    """

    def __init__(
        self,
        config: pytest.Config,
        results: Callable[[], Sequence[Result]],
        environment: Mapping[str, str],
        host: Host,
    ) -> None:
        self._config, self._results, self._environment = config, results, environment
        self._host = host
        self._failed: dict[str, tuple[str, int]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember where the tests that fail stand."""
        if report.failed:
            file, line, _ = report.location
            self._failed[report.nodeid] = (self._from_root(file), (line or 0) + 1)

    def _from_root(self, file: str) -> str:
        """A path as GitHub knows it: from the root of the checkout, with forward slashes."""
        path = self._config.rootpath / file
        workspace = self._environment.get("GITHUB_WORKSPACE")
        if workspace and path.is_relative_to(workspace):
            return path.relative_to(workspace).as_posix()
        return Path(file).as_posix()

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the annotations and append the card to the step's summary."""
        results = self._results()
        for line in self.annotations(results):
            terminalreporter.write_line(line)
        path = self._environment.get("GITHUB_STEP_SUMMARY")
        if not path or not results:
            return
        from pytest_fwcompare.report.markdown import run_to_markdown

        try:
            with Path(path).open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(run_to_markdown(results, self._host) + "\n")
        except OSError as error:  # the tests' outcome is not lost to a summary
            text = escape_message(f"fwcompare: no step summary was written: {error}")
            terminalreporter.write_line(f"::warning::{text}")

    def annotations(self, results: Sequence[Result]) -> Iterator[str]:
        """A command for each comparison that failed its test."""
        for result in results:
            drift = result.comparison.drift
            moved = drift is not None and drift.drifted
            if result.test in self._failed and (moved or not result.comparison.passed):
                yield annotation(result, *self._failed[result.test])
