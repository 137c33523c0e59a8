"""The workers of a run: what the options say of them, and their end with the session."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.specs import parse_name, parse_spec

if TYPE_CHECKING:
    from pytest_fwcompare.options.workers import WorkerSettings


def settings_of(given: WorkerSettings, sharers: int = 1) -> pool.Settings:
    """Options as the pool takes them.

    Raises:
        UsageError: a name or a specification is none.
    """
    specs = {}
    for name, (text, source) in given.specs.items():
        parse_name(name, source)
        specs[name] = parse_spec(text, f"{source} {name}")
    timeout = pool.TIMEOUT_S if given.timeout is None else given.timeout
    return pool.Settings(given.isolate, timeout, specs, sharers)


ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
"""TensorFlow 2.21 with oneDNN corrupts memory, so nothing is judged with it unless asked for."""


class WorkerHooks:
    """One pool for the session.

    Args:
        config: of the run.
        given: the options.

    Raises:
        UsageError: a name or a specification is none.
    """

    def __init__(self, config: pytest.Config, given: WorkerSettings) -> None:
        sharers = int(getattr(config, "workerinput", {}).get("workercount", 1))
        self._before = pool.configure(settings_of(given, sharers))
        # TensorFlow reads it at its import, which may be a test module's; the user's own stays.
        self._sets_onednn = ONEDNN not in os.environ
        os.environ.setdefault(ONEDNN, "0")

    def pytest_unconfigure(self) -> None:
        """End all workers; the environment is as it was."""
        if self._sets_onednn:
            os.environ.pop(ONEDNN, None)
        pool.put_back(self._before)
