"""Options, their ini twins, the marker's keys, and the settings of a run that follow from them.

Each group of options has a file here with `add` (registers them) and `read` (checks them); this
one puts them together.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_fwcompare.devices import FORMS
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.formats import DTYPES
from pytest_fwcompare.options import controls, costs, gate, golden, report, workers
from pytest_fwcompare.options.axes import (
    AXES,
    DEFAULTS,
    MODES,
    AxisName,
    Choice,
    check_axis,
    check_frameworks,
    marker_values,
)
from pytest_fwcompare.options.cases import Case, cases
from pytest_fwcompare.options.given import base, check_count, flag, given, split
from pytest_fwcompare.options.settings import Settings

if TYPE_CHECKING:
    import pytest

__all__ = [
    "AXES",
    "Case",
    "Choice",
    "Settings",
    "add_options",
    "cases",
    "check_frameworks",
    "marker_values",
    "read_settings",
]


def add_options(parser: pytest.Parser) -> None:
    """Register every option and its ini twin."""
    group = parser.getgroup("fwcompare", "comparison of networks between frameworks")
    group.addoption(
        "--fwcompare",
        action="store_true",
        default=None,
        help="Run the comparisons; without it they are skipped.",
    )
    parser.addini("fwcompare", "Run the comparisons.", type="bool", default=False)
    for key, meta, text in (
        ("frameworks", "NAMES", "Frameworks to judge: torch,tensorflow,keras,jax,numpy."),
        ("devices", "NAMES", f"Devices: {FORMS}. Default: cpu."),
        ("dtypes", "NAMES", f"Working dtypes: {', '.join(DTYPES)}. Default: float32."),
        ("modes", "NAMES", f"Modes: {', '.join(MODES)}. Default: eager."),
        ("examples", "N", "Generated examples a comparison."),
    ):
        group.addoption(f"--fwcompare-{key}", metavar=meta, default=None, help=text)
        parser.addini(f"fwcompare_{key.replace('-', '_')}", text, default=None)
    group.addoption(
        "--fwcompare-no-timings",
        action="store_true",
        default=None,
        help="Do not time the frameworks.",
    )
    parser.addini("fwcompare_no_timings", "Do not time.", type="bool", default=False)
    report.add(group, parser)
    text = "Write a folder with a standalone script for each failing comparison."
    group.addoption("--fwcompare-repro", metavar="DIR", default=None, help=text)
    parser.addini("fwcompare_repro", text, default=None)
    gate.add(group, parser)
    golden.add(group, parser)
    controls.add(group, parser)
    workers.add(group, parser)
    costs.add(group, parser)


def read_settings(config: pytest.Config) -> Settings:
    """The settings of this run: the command line where it says something, else the ini file.

    Raises:
        UsageError: an option has a value that cannot be used; names the option.
    """
    axes: dict[str, Choice] = {axis: _axis(config, axis) for axis in AXES}
    raw, source = given(config, "examples")
    gated, replayed, apart = gate.read(config), golden.read(config), workers.read(config)
    return Settings(
        enabled=flag(config, "fwcompare"),
        axes=axes,
        examples=None if raw is None else check_count(raw, source),
        timings=not flag(config, "fwcompare_no_timings"),
        report=report.read(config),
        gate=gated,
        command=(*_command(config), *gated.command, *replayed.command, *apart.command),
        examples_forced=source.startswith("--"),
        repro=_repro(config),
        golden=replayed,
        thorough=controls.read(config),
        workers=apart,
        costs=costs.read(config),
    )


def _axis(config: pytest.Config, axis: AxisName) -> Choice:
    raw, source = given(config, axis)
    if raw is None:
        return Choice(DEFAULTS.get(axis, ()))
    values = split(raw, source)
    check_axis(axis, values, source)
    return Choice(values, source)


def _repro(config: pytest.Config) -> Path | None:
    """The folder, relative to where it was typed, or to the ini file."""
    raw, source = given(config, "repro")
    if raw is None:
        return None
    path = base(config, source) / str(raw)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{source}={raw}: expected a folder, this is a file")
    return path


def _command(config: pytest.Config) -> tuple[str, ...]:
    """The options to repeat so that the same comparison runs again."""
    parts = ["--fwcompare"]
    for key in (*AXES, "examples"):
        value = config.getoption(f"fwcompare_{key}")
        if value is not None:
            parts.append(f"--fwcompare-{key}={value}")
    return tuple(parts)
