"""Stopwatches of the backends wait for their work, and a planted one that does not is told."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Stopwatch
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.timing import sides
from pytest_fwcompare.timing.sides import time_network
from pytest_fwcompare.timing.turns import make_ready

INSTALLED = [name for name, reason in registry.available().items() if reason is None]
WORK_S = 0.03
NETWORK = fn.Sequential([fn.Dense(16), fn.Activation("tanh"), fn.Dense(3)], input_shape=(8,))


def test_every_installed_framework_is_timed_and_waits_for_its_work() -> None:
    timings = time_network(
        NETWORK, INSTALLED, NETWORK.inputs, dtype="float32", device="cpu", mode="eager"
    )
    assert [timing.framework for timing in timings] == INSTALLED
    for timing in timings:
        assert timing.synchronised, timing.framework
        assert timing.forward.median > 0
        assert timing.forward.low <= timing.forward.median <= timing.forward.high
        assert timing.backward is not None
        assert timing.shapes == {"x": (sides.BATCH, 8)}
        assert timing.threads > 0
        assert timing.ratio is not None
        assert 0 < timing.ratio.low <= timing.ratio.median <= timing.ratio.high
    assert 1.0 in [timing.ratio.median for timing in timings if timing.ratio]


def test_a_framework_that_cannot_run_it_is_left_out() -> None:
    timings = time_network(
        NETWORK, ["numpy"], NETWORK.inputs, dtype="float32", device="cuda:99", mode="eager"
    )
    assert [timing.framework for timing in timings] == ["numpy"]
    assert (
        time_network(
            NETWORK,
            ["tensorflow"],
            NETWORK.inputs,
            dtype="mixed_float16",
            device="cpu",
            mode="eager",
        )
        == ()
    )


class Late:
    """Hands its work to a queue and returns; values are waited for."""

    def __init__(self, side: Any) -> None:
        self._side, self._queue = side, ThreadPoolExecutor(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._side, name)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        self._queue.submit(time.sleep, WORK_S).result()
        return self._side.forward(*arguments, **keywords)

    def stopwatch(self, *_: Any) -> Stopwatch:
        def forward() -> None:
            self._queue.submit(time.sleep, WORK_S)

        return Stopwatch(forward, None)

    def close(self) -> None:
        self._queue.shutdown()
        self._side.close()


def punctual(side: Any) -> Any:
    return side


@pytest.mark.parametrize(("wrap", "waits"), [(punctual, True), (Late, False)])
def test_a_stopwatch_that_does_not_wait_is_told(wrap: Callable[[Any], Any], waits: bool) -> None:
    opened = open_side(
        InFramework(NETWORK, "numpy"), "reference", dtype="float32", device="cpu", mode="eager"
    )
    opened = dataclasses.replace(opened, side=wrap(opened.side))
    from pytest_fwcompare.inputs.examples import plan
    from pytest_fwcompare.running.points import arguments

    planned = plan(NETWORK.inputs, ("given",), 0)
    values = planned.arrays(sides.timed_example(planned))
    given = arguments(planned, opened, "reference", values)
    ready = make_ready("numpy", opened, given, values, backward=False)
    opened.side.close()
    assert ready.synchronised is waits


def test_both_sides_of_one_framework_keep_their_names() -> None:
    comparison = fwc.compare(
        InFramework(NETWORK, "numpy"),
        InFramework(NETWORK, "numpy"),
        inputs=NETWORK.inputs,
        examples=2,
        timings=True,
    )
    assert [timing.framework for timing in comparison.timings] == ["numpy reference", "numpy"]


def test_the_first_call_is_timed_before_anything_was_traced() -> None:
    """Ten times as long at least as a later one, where it traces and compiles."""
    pytest.importorskip("jax")
    (timing,) = time_network(
        NETWORK, ["jax"], NETWORK.inputs, dtype="float32", device="cpu", mode="compiled"
    )
    assert timing.first_call_s > 10 * timing.forward.median


def test_the_devices_own_peak_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(self: Any, device: str, call: Callable[[], None]) -> int:
        call()
        return 12345

    monkeypatch.setattr(type(registry.backend("numpy")), "device_peak", peak)
    (timing,) = time_network(
        NETWORK, ["numpy"], NETWORK.inputs, dtype="float32", device="cpu", mode="eager"
    )
    assert (timing.peak_bytes, timing.peak_of) == (12345, "device")
