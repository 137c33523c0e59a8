"""Hooks of a run with a baseline; registered by the plugin only where one is named.

`Examiner` runs wherever tests run, in pytest-xdist's workers too: it holds each comparison against
the baseline. `Keeper` runs where results come together, and writes the baseline.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_fwcompare.gate.baseline import Baseline, BaselineError, as_text
from pytest_fwcompare.gate.collected import Collected, gone, partly, without_axes
from pytest_fwcompare.gate.conditions import drift_limit
from pytest_fwcompare.gate.entries import case_key, entry_of
from pytest_fwcompare.gate.files import read, update
from pytest_fwcompare.gate.missing import said_of_missing
from pytest_fwcompare.items import FIXTURES, SETTINGS, item_case

if TYPE_CHECKING:
    from pytest_fwcompare.recording import Result
    from pytest_fwcompare.records import Comparison

COLLECTED = "fwcompare_collected"
"""Key under which a worker hands over what it collected."""


class Examiner:
    """Holds comparisons against the baseline.

    Args:
        config: of the run.

    Raises:
        BaselineError: the file is there and cannot be used.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = config.stash[SETTINGS].gate
        assert self._settings.baseline is not None
        self._baseline = read(self._settings.baseline)
        self.collected = Collected(set(), set())

    # What the fixtures ask -----------------------------------------------------------------------

    def examined(self, comparison: Comparison, item: pytest.Item, index: int) -> Comparison:
        """The comparison with its drift.

        Args:
            comparison: made in this item.
            item: the test.
            index: 1 for its first comparison.
        """
        from pytest_fwcompare.gate.drift import drift_of
        from pytest_fwcompare.records import Drift

        case = item_case(item)
        axes, key = "" if case is None else case.id, case_key(item.nodeid, index)
        limit = drift_limit(self._settings.conditions)
        if self._baseline is not None and key in self._baseline.cases:
            drift = drift_of(comparison, self._baseline, key, axes, limit)
        else:
            drift = Drift(key, axes, limit=limit)
            if not self._settings.update:
                said = said_of_missing(
                    drift, comparison, self._baseline, self.collected, self._settings
                )
                drift = dataclasses.replace(drift, whose=said)
        return dataclasses.replace(
            comparison, drift=dataclasses.replace(drift, baseline=self._settings.shown)
        )

    # Hooks ---------------------------------------------------------------------------------------

    def pytest_report_header(self) -> str:
        settings = self._settings
        if self._baseline is None:
            held = "does not exist yet"
        else:
            held = f"{len(self._baseline.cases)} cases"
        what = ", ".join(map(str, settings.conditions))
        return f"fwcompare baseline: {settings.shown}: {held}; fails on {what}"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.passed and report.nodeid.endswith(".py"):
            self.collected.files.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)  # before anything is deselected
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            case = item_case(item)
            axes = "" if case is None else case.id
            self.collected.tests.add(without_axes(item.nodeid, axes))
            if FIXTURES.intersection(getattr(item, "fixturenames", ())):
                derandomise(item)
        config = self._config
        if config.getoption("lf", False):
            self.collected.files.clear()  # passed tests were left out of their files
        some = partly(config.args, config.invocation_params.dir, config.rootpath)
        self.collected.files.difference_update(some)

    def pytest_sessionfinish(self) -> None:
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[COLLECTED] = self.collected.to_plain()


def derandomise(item: pytest.Item) -> None:
    """Give a test under `@given` a seed, so that equal runs draw equal examples.

    A seed that it has already stays.
    """
    function: Any = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    if not getattr(function, "is_hypothesis_test", False):
        return
    if getattr(function, "_hypothesis_internal_use_seed", None) is None:
        import hypothesis

        hypothesis.seed(0)(function)


class Keeper:
    """Writes the baseline at the end of a run, and says what became of it.

    Args:
        config: of the run.
        examiner: of this process; under pytest-xdist, which runs no tests here, the workers' hand
            over what they collected.
        results: of the run.
    """

    def __init__(
        self,
        config: pytest.Config,
        examiner: Examiner,
        results: Callable[[], Sequence[Result]],
    ) -> None:
        self._config, self._results = config, results
        self._settings = config.stash[SETTINGS].gate
        self._collected = examiner.collected
        self._passed: set[str] = set()
        self._said: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self._passed.add(report.nodeid)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        handed = getattr(node, "workeroutput", {}).get(COLLECTED)
        if handed is not None:
            theirs = Collected.from_plain(handed)
            self._collected.tests.update(theirs.tests)
            self._collected.files.update(theirs.files)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._config.option.collectonly:
            return
        path = self._settings.baseline
        assert path is not None
        try:
            if self._settings.update or self._settings.prune:
                update(path, self._changed)
            elif (held := read(path)) is not None:
                self._tell_gone(self._gone(held), "--fwcompare-prune-baseline removes them")
        except (BaselineError, OSError) as error:
            self._said.append(f"baseline not written: {error}")
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def _changed(self, before: Baseline) -> Baseline:
        """What the file shall hold, given what it holds now."""
        cases, environments = dict(before.cases), dict(before.environments)
        if self._settings.update:
            self._take(cases, environments, before)
        lost = self._gone(Baseline(cases, environments))
        if self._settings.prune:
            for case in lost:
                del cases[case]
            self._tell_gone(lost, "removed")
        else:
            self._tell_gone(lost, "--fwcompare-prune-baseline removes them")
        return Baseline(cases, environments)

    def _take(self, cases: dict[str, Any], environments: dict[str, Any], before: Baseline) -> None:
        """Put the cases that ran in place of what was there."""
        counts = {"new": 0, "changed": 0, "unchanged": 0}
        for result in self._results():
            made = result.comparison
            if made.drift is None:
                continue
            if made.verdict == "error":
                self._said.append(f"baseline: {made.drift.case} was an error; its entry stays")
                continue
            entry, facts = entry_of(made, made.drift.axes)
            old = before.cases.get(made.drift.case)
            word = (
                "new"
                if old is None
                else "unchanged"
                if as_text(old) == as_text(entry)
                else "changed"
            )
            counts[word] += 1
            cases[made.drift.case], environments[entry.environment] = entry, facts
        said = ", ".join(f"{count} {word}" for word, count in counts.items())
        self._said.append(f"baseline {self._settings.shown}: {said}")

    def _gone(self, held: Baseline) -> list[str]:
        """Entries of tests that are gone, and of comparisons that a test no longer makes."""
        lost = gone(held.cases, self._collected, self._config.rootpath)
        made = {
            result.comparison.drift.case for result in self._results() if result.comparison.drift
        }
        for case in held.cases:
            test = case.rpartition(" #")[0]
            if test in self._passed and case not in made and case not in lost:
                lost.append(case)
        return lost

    def _tell_gone(self, cases: Iterable[str], what: str) -> None:
        self._said += [f"baseline: {case}: its test is gone; {what}" for case in cases]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._said:
            terminalreporter.section("fwcompare baseline")
        for line in self._said:
            terminalreporter.write_line(line)


def register(config: pytest.Config, results: Callable[[], Sequence[Result]] | None) -> Examiner:
    """Read the baseline and register the hooks.

    Args:
        config: of the run.
        results: of the run; None in a worker of pytest-xdist, where they are not known.

    Raises:
        BaselineError: the file is there and cannot be used.
    """
    examiner = Examiner(config)
    config.pluginmanager.register(examiner, "fwcompare-baseline")
    if results is not None:
        keeper = Keeper(config, examiner, results)
        config.pluginmanager.register(keeper, "fwcompare-baseline-keeper")
    return examiner
