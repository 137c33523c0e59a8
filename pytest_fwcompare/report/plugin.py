"""The hooks of the reports: what is gathered while tests run, and written when they have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_fwcompare.items import SETTINGS
from pytest_fwcompare.report.host import host_of
from pytest_fwcompare.report.live import Live

if TYPE_CHECKING:
    from pytest_fwcompare.recording import Result

LOG_WIDTH = 160
"""Columns where nothing says how many there are."""


class Collector:
    """Gathers what the reports carry; lives in the process that prints, not in xdist's workers."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = config.stash[SETTINGS]
        self._plain: dict[str, list[dict[str, Any]]] = {}
        self._told: list[str] = []

    def register(self) -> None:
        """Take part in the run, with the line of progress and what GitHub shows."""
        manager = self._config.pluginmanager
        manager.register(self, "fwcompare-collector")
        manager.register(Live(self._config), "fwcompare-live")
        if os.environ.get("GITHUB_ACTIONS") == "true":
            from pytest_fwcompare.report.github import GitHub

            host = host_of(self._config, self._settings.command)
            github = GitHub(self._config, self.results, os.environ, host)
            manager.register(github, "fwcompare-github")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a report carries."""
        if report.when == "setup":
            self._plain.pop(report.nodeid, None)  # a rerun replaces what the first run left
        carried = getattr(report, "fwcompare", None)
        if carried:
            self._plain.setdefault(report.nodeid, []).extend(carried)

    def results(self) -> list[Result]:
        """What was compared so far."""
        from pytest_fwcompare.recording import Result

        return [Result.from_plain(data) for rows in self._plain.values() for data in rows]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports; a run whose reports are lost is not green."""
        wanted = self._settings.report
        if any(wanted) and not self._config.option.collectonly:
            from pytest_fwcompare.report.files import write_all

            host = host_of(self._config, self._settings.command)
            self._told, failed = write_all(wanted, self.results(), host)
            if failed and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table and where the reports are."""
        if not self._plain and not self._told:
            return
        from pytest_fwcompare.report.terminal import table

        terminalreporter.section("fwcompare")
        # A log has no width; only a terminal breaks long lines.
        width = terminalreporter._tw.fullwidth if terminalreporter.isatty else LOG_WIDTH
        lines = table(self.results(), width) if self._plain else []
        for line in [*lines, *self._told]:
            terminalreporter.write_line(line)
