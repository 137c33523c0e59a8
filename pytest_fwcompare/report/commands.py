"""The subcommands that read saved runs: report, show, diff, schema."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_fwcompare.errors import UsageError

if TYPE_CHECKING:
    from pytest_fwcompare.recording import Result

LOG_WIDTH = 160
"""Columns where nothing says how many there are."""


def load(path: Path) -> tuple[list[Result], dict[str, str]]:
    """The results of a saved run, and its machine and command.

    Raises:
        UsageError: the file is no report, is cut off, or was written by a newer version.
        OSError: it cannot be read.
    """
    from pytest_fwcompare.report.json import host_from_json, run_from_json

    try:
        text = path.read_text(encoding="utf-8")
        return run_from_json(text), host_from_json(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file: {error}") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def add_report(parser: argparse.ArgumentParser) -> None:
    """The arguments of `report`."""
    parser.add_argument("saved", type=Path, metavar="RUN.json", help="a .json report")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        required=True,
        metavar="PATH",
        help="what to write: .html, .md or .json; repeatable",
    )


def report(options: argparse.Namespace) -> int:
    """Write a saved run as other reports."""
    from pytest_fwcompare.options.report import check_installed, check_path
    from pytest_fwcompare.report.files import write

    for path in options.output:
        check_path(path, f"-o {path}")
        check_installed(path.suffix, f"-o {path}")
    results, host = load(options.saved)
    for path in options.output:
        write(path, results, host)
        print(f"report: {path}")
    return 0


def add_show(parser: argparse.ArgumentParser) -> None:
    """The arguments of `show`."""
    parser.add_argument("saved", type=Path, metavar="RUN.json", help="a .json report")
    parser.add_argument(
        "test",
        nargs="?",
        default="",
        help="a part of a test's id: its comparisons are told in full, whatever their verdict",
    )


def show(options: argparse.Namespace) -> int:
    """Print the table of a saved run, and what is known of comparisons that do not hold."""
    from pytest_fwcompare.report.facts import name_of, title
    from pytest_fwcompare.report.terminal import table

    results, _ = load(options.saved)
    chosen = [result for result in results if options.test in name_of(result)]
    if options.test and not chosen:
        raise UsageError(
            f"{options.saved}: no test's id contains {options.test!r}; there are "
            f"{len(results)} comparisons, the first is "
            f"{name_of(results[0]) if results else 'none'}"
        )
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else LOG_WIDTH
    print(title(chosen))
    if chosen:
        print(*table(chosen, width), sep="\n")
    for result in chosen:
        if options.test or not result.comparison.passed:
            print(f"\n{name_of(result)}\n{result.comparison.summary()}")
    return 0


def add_diff(parser: argparse.ArgumentParser) -> None:
    """The arguments of `diff`."""
    parser.add_argument("old", type=Path, metavar="OLD.json", help="a .json report")
    parser.add_argument("new", type=Path, metavar="NEW.json", help="a later one")
    parser.add_argument(
        "--factor",
        type=float,
        default=2.0,
        help="how many times larger or smaller a figure must be to count; default: 2",
    )


def diff(options: argparse.Namespace) -> int:
    """Print what changed between two saved runs; 1 if anything but times did."""
    from pytest_fwcompare.report.diff import difference, told

    if not options.factor >= 1:
        raise UsageError(f"--factor: expected at least 1, got {options.factor}")
    found = difference(load(options.old)[0], load(options.new)[0], options.factor)
    print(*told(found, options.factor), sep="\n")
    return int(found.differs)


def add_schema(parser: argparse.ArgumentParser) -> None:
    """`schema` takes no arguments."""


def schema(options: argparse.Namespace) -> int:
    """Print the JSON Schema of a .json report."""
    import json

    from pytest_fwcompare.report.schema import run_schema

    print(json.dumps(run_schema(), indent=1))
    return 0
