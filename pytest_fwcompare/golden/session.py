"""Golden traces of a test session: where each comparison is recorded, or replayed from."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_fwcompare.golden.store import INDEX, GoldenError

if TYPE_CHECKING:
    from pytest_fwcompare.comparing.request import Request
    from pytest_fwcompare.records import Comparison

LONGEST = 80
"""Characters of a test's name in the name of its folder."""


class GoldenSession:
    """Makes comparisons and records their references, or replays those.

    Args:
        record: folder to record to, or None.
        replay: folder to replay from, or None.
    """

    def __init__(self, record: Path | None, replay: Path | None) -> None:
        self._record, self._replay = record, replay

    def compare(
        self,
        make: Callable[[Any, Any, dict[str, Any]], Comparison],
        reference: Any,
        port: Any,
        keywords: dict[str, Any],
        case: str,
    ) -> Comparison:
        """The comparison that `make` makes.

        Args:
            make: takes a reference, a port and the keywords of `compare`.
            reference: not touched in a replay.
            port: as for `compare`.
            keywords: of `compare`.
            case: names the traces.

        Raises:
            GoldenError: there are no traces of the case, or they cannot be used or recorded.
        """
        if self._replay is not None:
            return make(self._replayed(case), port, keywords)
        from pytest_fwcompare.golden.record import record

        assert self._record is not None
        keywords = {**keywords, "deterministic": True}
        record(reference, folder_of(self._record, case), case, asked(keywords))
        return make(reference, port, keywords)

    def _replayed(self, case: str) -> Any:
        from pytest_fwcompare.golden.replay import GoldenReference

        assert self._replay is not None
        folder = folder_of(self._replay, case)
        if not (folder / INDEX).is_file():
            raise GoldenError(
                f"golden traces: none of {case} in {self._replay}; where the reference's "
                f"framework is installed, record them: pytest --fwcompare "
                f"--fwcompare-record={self._replay}"
            )
        found = GoldenReference(folder)
        if found.case != case:
            raise GoldenError(f"golden traces {folder}: those of {found.case}, not of {case}")
        return found


def folder_of(base: Path, case: str) -> Path:
    """The folder of a case: its name as far as a file may have it, and a hash of it."""
    name = re.sub(r"[^\w.-]+", "-", case.rpartition("/")[2]).strip("-.")[:LONGEST]
    return base / f"{name}-{hashlib.sha256(case.encode()).hexdigest()[:10]}"


def asked(keywords: Mapping[str, Any]) -> Request:
    """The request that `compare` makes of its keywords."""
    from dataclasses import replace

    from pytest_fwcompare.comparing.request import check_request
    from pytest_fwcompare.comparison import compare

    bound = inspect.signature(compare).bind(None, None, **keywords)
    bound.apply_defaults()
    names = list(inspect.signature(check_request).parameters)
    made = check_request(*(bound.arguments[name] for name in names))
    return replace(made, deterministic=True)
