"""References that are recorded once, and what they are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_fwcompare import Comparison, GoldenReference, compare
from pytest_fwcompare.golden.record import record
from pytest_fwcompare.golden.session import asked

Record = Callable[..., Path]


@pytest.fixture
def recorded(tmp_path: Path) -> Record:
    """Records a reference and gives its folder."""

    def make(reference: Any, **keywords: Any) -> Path:
        folder = tmp_path / "traces"
        record(reference, folder, "a.py::test", asked(keywords))
        return folder

    return make


@pytest.fixture
def replayed(recorded: Record) -> Callable[..., Comparison]:
    """Compares a port with a recorded reference; a direct comparison must say the same."""

    def make(reference: Any, port: Any, *, explained: bool = True, **keywords: Any) -> Comparison:
        folder = recorded(reference, **keywords)
        direct = compare(reference, port, deterministic=True, **keywords)
        made = compare(GoldenReference(folder), port, **keywords)
        same = ("verdict", "gap", "noise", "tensors", "controls", "weights", "digest", "checks")
        for name in same:
            assert getattr(made, name) == getattr(direct, name), name
        for name in ("culprit", "port_culprit", "between", "cause", "evidence", "depth"):
            assert not explained or getattr(made, name) == getattr(direct, name), name
        assert made.examples.count == direct.examples.count
        environment = dict(made.environment[made.reference])
        if made.reference != made.port:
            assert environment.pop("replayed")
        said = f"the {made.reference} reference was replayed from golden traces"
        assert said in made.notices
        return dataclasses.replace(made, notices=tuple(n for n in made.notices if n != said))

    return make
