"""What fails a test, and the baseline that a run is held against."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.gate.conditions import DEFAULT, DRIFT_FACTOR, Condition, parse, verdicts
from pytest_fwcompare.options.given import base, flag, given

if TYPE_CHECKING:
    import pytest

DRIFT = Condition("drift", DRIFT_FACTOR, "x")


class GateSettings(NamedTuple):
    """What fails a test.

    Attributes:
        conditions: that fail a test.
        baseline: the file, None without one.
        shown: the file as it was given, for messages and commands.
        update: write what this run finds to the baseline.
        prune: remove entries of tests that are gone.
    """

    conditions: tuple[Condition, ...]
    baseline: Path | None = None
    shown: str = ""
    update: bool = False
    prune: bool = False

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Verdicts that fail a test."""
        return verdicts(self.conditions)

    @property
    def command(self) -> tuple[str, ...]:
        """The options to repeat so that the same thing is held against the same baseline."""
        return (f"--fwcompare-baseline={self.shown}",) if self.baseline else ()

    def creating(self, *more: str) -> str:
        """The command that records what is missing.

        Args:
            *more: further arguments, such as a test's id.
        """
        parts = ("pytest", "--fwcompare", *self.command, "--fwcompare-update-baseline", *more)
        return " ".join(map(shlex.quote, parts))


def add(group: pytest.OptionGroup, parser: pytest.Parser) -> None:
    """Register the options and their ini twins."""
    for key, meta, text in (
        (
            "fail-on",
            "CONDITIONS",
            f"What fails a test: verdicts, drift>2x, noise>8ulp, gap>1e-9, ulp>100. Default: "
            f"{','.join(DEFAULT)}, and drift>{DRIFT_FACTOR:g}x with a baseline.",
        ),
        ("baseline", "PATH", "Hold the figures against those recorded in a JSON file."),
    ):
        group.addoption(f"--fwcompare-{key}", metavar=meta, default=None, help=text)
        parser.addini(f"fwcompare_{key.replace('-', '_')}", text, default=None)
    for key, text in (
        ("update-baseline", "Write the figures of the tests that run to the baseline."),
        ("prune-baseline", "Remove the baseline's entries of tests that are gone."),
    ):
        group.addoption(f"--fwcompare-{key}", action="store_true", default=None, help=text)
        parser.addini(f"fwcompare_{key.replace('-', '_')}", text, type="bool", default=False)


def read(config: pytest.Config) -> GateSettings:
    """The settings of this group.

    Raises:
        UsageError: an option has a value that cannot be used; names the option.
    """
    path, shown = _baseline(config)
    update, prune = (flag(config, f"fwcompare_{word}_baseline") for word in ("update", "prune"))
    if path is None and (update or prune):
        word = "update" if update else "prune"
        raise UsageError(
            f"--fwcompare-{word}-baseline: which one? Name it with --fwcompare-baseline=PATH"
        )
    raw, source = given(config, "fail_on")
    if raw is not None:
        conditions = parse(str(raw), source)
    else:
        conditions = parse(",".join(DEFAULT), "the default")
        if path is not None:
            conditions = (*conditions, DRIFT)
    if path is None and any(condition.what == "drift" for condition in conditions):
        raise UsageError(
            f"{source}={raw}: drift is held against a baseline; name it with "
            f"--fwcompare-baseline=PATH"
        )
    if update:  # what is written down anew has not drifted
        conditions = tuple(c for c in conditions if c.what != "drift")
    return GateSettings(conditions, path, shown, update, prune)


def _baseline(config: pytest.Config) -> tuple[Path | None, str]:
    """The file, relative to where it was typed or to the ini file, and how it was given."""
    raw, source = given(config, "baseline")
    if raw is None:
        return None, ""
    path = base(config, source) / str(raw)
    if path.suffix != ".json":
        raise UsageError(f"{source}={raw}: expected the path of a .json file")
    if path.is_dir():
        raise UsageError(f"{source}={raw}: expected a file, this is a folder")
    return path, str(raw)
