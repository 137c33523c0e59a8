"""One pool of workers for all tests of this folder, since starting one takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.specs import Spec


@pytest.fixture(scope="session", autouse=True)
def workers() -> Iterator[pool.Pool]:
    """Workers of this interpreter under names of their own: torch@w, torch@v, numpy@w."""
    names = ("torch@w", "torch@v", "numpy@w")
    before = pool.configure(pool.Settings(timeout=600.0, specs={name: Spec() for name in names}))
    yield pool.current()
    pool.put_back(before)
