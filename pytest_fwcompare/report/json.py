"""A run as JSON: everything that is known, readable without any framework."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pytest_fwcompare import __version__
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.recording import Result
from pytest_fwcompare.records import Comparison
from pytest_fwcompare.report.host import Host

FORMAT = 1
"""Version of the file; a reader refuses a newer one."""


def run_to_json(results: Sequence[Result], host: Host | None = None) -> str:
    """The text of the file: `format`, `version`, `host`, and one entry a comparison.

    Args:
        results: written in order of test.
        host: the machine and the command of the run, where they are known.
    """
    entries = [
        {
            "test": result.test,
            "group": result.group,
            "index": result.index,
            "calls": result.calls,
            "outcome": result.outcome,
            "comparison": json.loads(result.comparison.to_json()),
        }
        for result in sorted(results, key=lambda result: (result.test, result.index))
    ]
    data = {
        "format": FORMAT,
        "version": __version__,
        "host": dict(host or {}),
        "comparisons": entries,
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def run_from_json(text: str) -> list[Result]:
    """The results that `run_to_json` wrote.

    Raises:
        UsageError: it is not such a file, or was written by a newer version.
    """
    results = []
    for number, entry in enumerate(_read(text).get("comparisons", [])):
        try:
            comparison = Comparison.from_json(json.dumps(entry["comparison"]))
            results.append(
                Result(
                    str(entry["test"]),
                    str(entry["group"]),
                    int(entry["index"]),
                    int(entry["calls"]),
                    comparison,
                    str(entry.get("outcome", "")),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"report: comparisons[{number}]: {error!r}") from None
    return results


def host_from_json(text: str) -> dict[str, str]:
    """The machine and the command that `run_to_json` wrote.

    Raises:
        UsageError: as `run_from_json`.
    """
    host = _read(text).get("host", {})
    if not isinstance(host, dict):
        raise UsageError(f"report: host: expected an object, got {type(host).__name__}")
    return {str(name): str(value) for name, value in host.items()}


def _read(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UsageError(f"report: not JSON: {error}") from None
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise UsageError("report: expected an object with a 'format' number")
    if data["format"] > FORMAT:
        raise UsageError(
            f"report: format {data['format']} was written by a newer pytest-fwcompare; this one "
            f"reads up to {FORMAT}. Upgrade it"
        )
    return data
