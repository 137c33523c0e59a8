"""Calls that return before their work is done must be told from those that wait."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import pytest

from pytest_fwcompare.timing.clocks import available_threads, resolution, unsynchronised

WORK_S = 0.03


class Device:
    """Works off what is queued, one after the other, as a GPU's stream does."""

    def __init__(self) -> None:
        self._queue: queue.Queue[float | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (seconds := self._queue.get()) is not None:
            time.sleep(seconds)
            self._queue.task_done()
        self._queue.task_done()

    def enqueue(self) -> None:
        self._queue.put(WORK_S)

    def wait(self) -> None:
        self.enqueue()
        self._queue.join()

    def stop(self) -> None:
        self._queue.put(None)
        self._thread.join()


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.stop()


def test_a_call_that_only_queues_its_work_is_caught(device: Device) -> None:
    left = unsynchronised(device.enqueue, device.wait)
    assert left is not None
    assert left == pytest.approx(WORK_S, rel=0.9)


def test_a_call_that_waits_is_not_accused(device: Device) -> None:
    assert unsynchronised(device.wait, device.wait) is None


def test_a_slow_hand_over_of_values_is_no_hidden_work() -> None:
    assert unsynchronised(lambda: time.sleep(1e-3), lambda: time.sleep(5e-3)) is None


def test_one_hiccup_proves_nothing() -> None:
    """Only the wait behind the first burst is slow: the machine, not the call."""
    waits = iter([1.0, 1.0, 1.0, 30.0] + [1.0] * 50)
    now = [0.0]

    def drain() -> None:
        now[0] += next(waits)

    def call() -> None:
        now[0] += 0.1

    assert unsynchronised(call, drain, clock=lambda: now[0]) is None


def test_resolution_is_the_smallest_step_seen() -> None:
    readings = iter([0.0, 0.0, 3.0, 3.0, 5.0, 5.0, 9.0])
    assert resolution(lambda: next(readings), tries=3) == 2.0


def test_a_real_clock_is_fine_enough() -> None:
    assert 0 < resolution() < 1e-4


def test_threads_are_those_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert available_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "0")
    assert available_threads() >= 1
