from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pytest_fwcompare.timing import memory


def test_the_rise_covers_what_the_call_held_at_most() -> None:
    if memory.resident_bytes() is None:
        pytest.skip("this system does not tell a process its resident memory")
    size = 64 * 2**20

    def call() -> None:
        np.ones(size, np.uint8)[0] = 2  # freed again before the call returns

    rise = memory.peak_rise(call)
    if rise is None:
        pytest.skip("this system does not let a process reset its peak")
    assert 0.9 * size < rise < 1.5 * size


def test_a_call_that_holds_nothing_has_no_rise_to_speak_of() -> None:
    assert (memory.peak_rise(lambda: None) or 0) < 2**20


def test_fields_are_read_in_bytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t    1024 kB\n")
    assert memory.resident_bytes(status=status) == 2**20
    assert memory.resident_bytes("VmHWM", status) == 2**21
    assert memory.resident_bytes("VmNone", status) is None


def test_a_system_without_such_files_gives_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    monkeypatch.setattr(memory, "RESET", tmp_path / "missing" / "clear_refs")
    assert memory.resident_bytes(status=tmp_path / "missing") is None
    assert memory.peak_rise(lambda: called.append(1)) is None
    assert called == [1]
