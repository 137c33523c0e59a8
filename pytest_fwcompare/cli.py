"""The command line: what is done with files of runs and baselines, with no framework installed.

A subcommand is a row of `COMMANDS` with two small functions: one adds its arguments, one does it
and returns the exit status. What they need is imported when they run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pytest_fwcompare.errors import FwcompareError
from pytest_fwcompare.gate import commands as gate
from pytest_fwcompare.report import commands as reports

OK, DIFFERS, MISUSED = 0, 1, 2
"""Exit statuses: done; done, and the answer is no; it could not be done."""


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        name: as it is typed.
        text: one line of help.
        add: adds its arguments to its parser.
        run: does it; returns the exit status.
    """

    name: str
    text: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS: tuple[Command, ...] = (
    Command("report", "Write a saved run as .html or .md.", reports.add_report, reports.report),
    Command("show", "Print a saved run.", reports.add_show, reports.show),
    Command("diff", "Say what changed between two saved runs.", reports.add_diff, reports.diff),
    Command("schema", "Print the schema of a .json report.", reports.add_schema, reports.schema),
    Command("merge", "Put baselines of several jobs together.", gate.add_merge, gate.merge),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: instead of those of the process.

    Returns:
        The exit status: 0, 1 if the answer is no (a conflict, a difference), 2 if it could not be
        done.
    """
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (FwcompareError, OSError) as error:
        print(f"pytest_fwcompare {options.command}: {error}", file=sys.stderr)
        return MISUSED


def parser() -> argparse.ArgumentParser:
    """The parser of the command line, a subparser a command."""
    made = argparse.ArgumentParser(
        prog="python -m pytest_fwcompare",
        description="Works with the files that pytest --fwcompare wrote; needs no framework.",
    )
    found = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        one = found.add_parser(command.name, help=command.text, description=command.text)
        command.add(one)
        one.set_defaults(run=command.run)
    return made
