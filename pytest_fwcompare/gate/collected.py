"""Which tests a run knew of, so that entries of tests that are gone can be told from others.

A run that selects some tests says nothing of the rest: an entry is called gone only if the whole
file of its test was collected and the test was not in it, or if the file is no longer there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_fwcompare.gate.baseline import Entry


class Collected(NamedTuple):
    """What a process collected; plain data, so that a worker can hand it over.

    Attributes:
        tests: ids without their axes, before any was deselected.
        files: test files that were collected wholly.
    """

    tests: set[str]
    files: set[str]

    def to_plain(self) -> dict[str, list[str]]:
        """Builtin types only, as pytest-xdist demands."""
        return {"tests": sorted(self.tests), "files": sorted(self.files)}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Collected:
        """What `to_plain` made."""
        return cls(set(data["tests"]), set(data["files"]))


def without_axes(test: str, axes: str) -> str:
    """A test's id with a star for its axes, and without the number of its comparison.

    Args:
        test: node id or key of a case.
        axes: "keras-cpu-float32-eager"; "" where the test has none.
    """
    test = re.sub(r" #\d+\Z", "", test)
    head, found, tail = test.rpartition(axes) if axes else (test, "", "")
    return f"{head}*{tail}" if found else test


def file_of(case: str) -> str:
    """The file of a test."""
    return case.partition("::")[0]


def gone(cases: Mapping[str, Entry], collected: Collected, root: Path) -> list[str]:
    """Cases whose tests there are no longer.

    Args:
        cases: of the baseline.
        collected: in this run.
        root: folder that the ids are relative to.
    """
    found = []
    for case, entry in cases.items():
        file = file_of(case)
        if file in collected.files:
            if without_axes(case, entry.axes) not in collected.tests:
                found.append(case)
        elif not (root / file).exists():
            found.append(case)
    return found


def partly(arguments: Iterable[str], where: Path, root: Path) -> set[str]:
    """Files of which only some tests were asked for by name.

    Args:
        arguments: of pytest: files, folders, ids.
        where: folder that they are relative to.
        root: folder that ids are relative to.
    """
    found = set()
    for argument in arguments:
        name, selects, _ = argument.partition("::")
        if selects:
            path = (where / name).resolve()
            found.add(path.relative_to(root).as_posix() if path.is_relative_to(root) else name)
    return found
