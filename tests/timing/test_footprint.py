"""Peak memory in a process of its own."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.timing import footprint as module
from pytest_fwcompare.timing.footprint import footprint
from pytest_fwcompare.timing.memory import reset_peak, resident_bytes
from pytest_fwcompare.timing.sides import time_network

MEGA = 2**20


@pytest.fixture(autouse=True)
def told() -> None:
    if resident_bytes() is None or not reset_peak():
        pytest.skip("this system does not tell a process its memory, or let it reset its peak")


def network(units: int) -> fn.Network:
    return fn.Sequential([fn.Dense(units), fn.Dense(1)], input_shape=(1024,))


def inputs() -> list[Argument]:
    return [Argument("x", np.ones((4, 1024), "float32"))]


def test_the_peak_holds_parameters_and_gradients_and_no_library() -> None:
    units = 8 * 1024
    kernel = 1024 * units * 4
    small = footprint(network(8), "numpy", inputs())
    large = footprint(network(units), "numpy", inputs())
    assert small is not None
    assert large is not None
    assert large.device_peak is None
    assert small.peak < 32 * MEGA < large.imported
    assert large.peak - small.peak > 2 * kernel  # the kernel and its gradient
    forward = footprint(network(units), "numpy", inputs(), backward=False)
    assert forward is not None
    assert forward.peak < large.peak


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be imported by that name in another process"):
        footprint(lambda: None, "numpy", inputs())


def test_a_child_that_fails_or_hangs_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert footprint(network(8), "numpy", [Argument("x", np.ones((4, 3)))]) is None
    assert footprint(network(8), "numpy", inputs(), patience_s=0.01) is None
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    assert footprint(network(8), "numpy", inputs()) is None


def test_timings_carry_it_where_it_is_asked_for() -> None:
    axes = {"dtype": "float32", "device": "cpu", "mode": "eager"}
    (timing,) = time_network(network(64), ["numpy"], network(64).inputs, memory=True, **axes)
    assert timing.peak_of == "process"
    assert timing.peak_bytes is not None
    assert timing.peak_bytes > 0
    (timing,) = time_network(network(64), ["numpy"], network(64).inputs, **axes)
    assert timing.peak_of in ("rise", "")


@pytest.mark.slow
def test_a_frameworks_factory_is_measured() -> None:
    pytest.importorskip("torch")
    found = footprint(make_torch, "torch", inputs())
    assert found is not None
    assert found.peak > 2 * 1024 * 2048 * 4


def make_torch() -> object:
    import torch

    return torch.nn.Linear(1024, 2048)
