"""The settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pytest_fwcompare.options.axes import Choice
from pytest_fwcompare.options.costs import CostSettings
from pytest_fwcompare.options.gate import GateSettings
from pytest_fwcompare.options.golden import GoldenSettings
from pytest_fwcompare.options.report import Reports
from pytest_fwcompare.options.workers import WorkerSettings


class Settings(NamedTuple):
    """What the command line and the ini file ask for.

    Attributes:
        enabled: `--fwcompare`.
        axes: the choice of each axis; `frameworks` has no values where nobody chose.
        examples: generated examples a comparison; None leaves it to `compare`.
        examples_forced: True if the command line gave them, so that no marker changes them.
        timings: False under `--fwcompare-no-timings`.
        report: files and event files to write.
        gate: what fails a test, and the baseline.
        golden: references that are recorded or replayed.
        thorough: every parameter is disturbed after a pass, not a few.
        costs: how times and memory are measured.
        command: the options given on the command line, to be repeated when replaying.
        repro: folder under which each failing comparison writes a script that shows it.
        workers: what runs in a process of its own, and how that is started.
    """

    enabled: bool
    axes: Mapping[str, Choice]
    examples: int | None
    timings: bool
    report: Reports
    gate: GateSettings
    command: tuple[str, ...] = ()
    examples_forced: bool = False
    repro: Path | None = None
    golden: GoldenSettings = GoldenSettings()
    thorough: bool = False
    workers: WorkerSettings = WorkerSettings()
    costs: CostSettings = CostSettings()
