"""TensorFlow with and without oneDNN: judged without, timed with, and known dangers go apart."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.opening import trial
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.remote import RemoteBackend
from pytest_fwcompare.workers.specs import Spec

THREADS = {"TF_NUM_INTRAOP_THREADS": "4", "TF_NUM_INTEROP_THREADS": "2"}
"""With one thread oneDNN chooses another kernel, which does no harm."""

PRELOAD = "libc_malloc_debug.so.0"
"""Checks the heap at every call where it is loaded and MALLOC_CHECK_ is set (glibc 2.34)."""


def shortcut(size: int = 8, filters: int = 4) -> fn.Network:
    """What every ResNet has beside its blocks."""
    return fn.Sequential([fn.Conv2D(filters, 1, stride=2)], input_shape=(size, size, 3))


@pytest.fixture
def isolated():
    """A pool that puts every framework into a worker."""
    before = pool.configure(pool.Settings(isolate="framework", timeout=600.0))
    yield pool.current()
    pool.put_back(before)


def judged(network: fn.Network, name: str, **keywords):
    return fwc.compare(
        InFramework(network, "numpy"),
        InFramework(network, name),
        inputs=network.inputs,
        **keywords,
    )


def test_tensorflow_is_judged_without_onednn_and_timed_with_it(isolated):
    network = fn.Sequential([fn.Conv2D(4, 3), fn.Flatten(), fn.Dense(3)], input_shape=(8, 8, 3))
    start = time.perf_counter()
    comparison = judged(network, "tensorflow", examples=2, timings=True)
    taken = time.perf_counter() - start
    assert comparison.verdict == "equivalent", comparison.summary()
    assert comparison.environment["tensorflow"]["onednn_active"] is False
    timing = next(each for each in comparison.timings if each.framework == "tensorflow")
    assert timing.own_process
    assert timing.settings == {"onednn": "on"}
    assert 0 < timing.forward.median < taken
    assert timing.peak_bytes is None or timing.peak_bytes > 0
    assert "in its own process, onednn on" in " ".join(comparison.summary().split())
    assert isolated.started["tensorflow"] == 2
    reference = next(each for each in comparison.timings if each.framework == "numpy")
    assert not reference.own_process
    again = fwc.Comparison.from_json(comparison.to_json())
    assert again.timings == comparison.timings


class TestKnownDangers:
    @pytest.fixture
    def active(self, monkeypatch):
        monkeypatch.setattr(trial, "onednn_is_on", lambda: True)

    def test_a_strided_point_convolution_with_onednn(self, active):
        for name in ("tensorflow", "keras"):
            assert "1x1 with a stride" in trial.known_danger(shortcut(), name)
        assert trial.known_danger(shortcut(), "torch") is None

    @pytest.mark.parametrize("layer", [fn.Conv2D(4, 1), fn.Conv2D(4, 3, stride=2), fn.Flatten()])
    def test_nothing_else(self, active, layer):
        network = fn.Sequential([layer], input_shape=(8, 8, 3))
        assert trial.known_danger(network, "tensorflow") is None

    def test_without_onednn_there_is_none(self, monkeypatch):
        monkeypatch.setattr(trial, "onednn_is_on", lambda: False)
        assert trial.known_danger(shortcut(), "tensorflow") is None

    def test_what_is_known_goes_to_a_worker_where_it_is_judged_right(self, active):
        before = pool.configure(pool.Settings(isolate="crash", timeout=600.0))
        try:
            comparison = judged(shortcut(), "tensorflow", examples=2)
            assert comparison.verdict == "equivalent", comparison.summary()
            told = comparison.environment["tensorflow"]
            assert told["worker"]["pid"] == pool.current().worker("tensorflow").pid
            assert told["onednn_active"] is False
        finally:
            pool.put_back(before)


def heap_checked() -> Spec:
    """This interpreter with glibc's heap checks on."""
    folder = Path("/lib/x86_64-linux-gnu")
    found = next(
        (p for p in (folder, Path("/usr/lib64"), Path("/lib64")) if (p / PRELOAD).exists()), None
    )
    if sys.platform != "linux" or found is None:
        pytest.skip(f"no {PRELOAD} of glibc here")
    checked = f"/usr/bin/env LD_PRELOAD={found / PRELOAD} MALLOC_CHECK_=3 {sys.executable}"
    return Spec(f"popen//python={checked}")


@pytest.mark.slow
def test_three_hundred_sizes_under_heap_checks_never_end_this_process(request):
    """With oneDNN some die of it, each one result; without it all are judged right."""
    specs = {"tensorflow@checked": heap_checked()}
    before = pool.configure(pool.Settings(timeout=600.0, specs=specs))
    verdicts = {"0": [], "1": []}
    try:
        for number in range(300):
            network = shortcut(7 + number % 20, 1 + number // 20)
            for onednn, found in verdicts.items():
                if onednn == "1" and number % 10 != 7:
                    continue  # a new worker after each death takes its time
                comparison = pass_once(network, {trial.ONEDNN: onednn, **THREADS})
                found.append(comparison)
    finally:
        pool.put_back(before)
    assert verdicts["0"] == ["equivalent"] * 300
    assert len(verdicts["1"]) == 30
    assert set(verdicts["1"]) <= {"equivalent", "error"}
    deaths = verdicts["1"].count("error")
    request.node.user_properties.append(("deaths_with_onednn", deaths))


def pass_once(network: fn.Network, environment: dict[str, str]) -> str:
    """Verdict of a few examples in a worker with these variables."""
    model = RemoteBackend("tensorflow@checked", environment)
    try:
        built = model.build(network)
        comparison = fwc.compare(
            InFramework(network, "numpy"),
            built.model,
            inputs=network.inputs,
            examples=1,
            explain=False,
        )
    except fwc.FwcompareError:
        return "error"
    return comparison.verdict
