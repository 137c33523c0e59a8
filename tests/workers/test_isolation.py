"""What `--fwcompare-isolate` puts into workers, and what it leaves here."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.sides import InFramework, open_side
from pytest_fwcompare.workers import isolation, pool
from pytest_fwcompare.workers.remote import RemoteModel
from pytest_fwcompare.workers.trial import Candidate
from workers import models

AXES = {"dtype": "float32", "device": "cpu", "mode": "eager"}
INPUTS = {"x": fwc.TensorSpec(("batch", 3))}


@pytest.fixture(scope="module")
def isolating():
    before = pool.configure(pool.Settings(isolate="framework", timeout=600.0))
    yield pool.current()
    pool.put_back(before)


@pytest.fixture(scope="module")
def guarding():
    before = pool.configure(pool.Settings(isolate="crash", timeout=600.0))
    yield pool.current()
    pool.put_back(before)


class TestFramework:
    def test_a_factory_is_made_in_a_worker_that_becomes_its_frameworks_own(self, isolating):
        first = isolation.elsewhere(models.tiny, "reference")
        second = isolation.elsewhere(models.plain, "port")
        assert first.framework == second.framework == "torch"
        comparison = fwc.compare(models.tiny, models.tiny, inputs=INPUTS, examples=2)
        assert comparison.verdict == "equivalent", comparison.summary()
        assert comparison.environment["torch"]["worker"]["pid"] == first.worker.pid
        assert isolating.started["torch"] == 1

    def test_a_described_network_too_and_the_reference_stays_here(self, isolating):
        network = fn.Sequential([fn.Dense(2)], input_shape=(3,))
        comparison = fwc.compare(
            InFramework(network, "numpy"),
            InFramework(network, "torch"),
            inputs=network.inputs,
            examples=2,
        )
        assert comparison.verdict == "equivalent"
        assert "worker" in comparison.environment["torch"]
        assert "worker" not in comparison.environment["numpy"]

    def test_numpy_stays_here(self, isolating):
        function = fwc.NumpyFunction(lambda x: x * 2)
        assert isolation.elsewhere(function, "port") is function

    def test_a_live_model_is_refused_with_what_to_do(self, isolating):
        with pytest.raises(UsageError, match=r"^port: --fwcompare-isolate=framework runs every m"):
            open_side(models.tiny(), "port", **AXES)

    @pytest.mark.slow
    def test_a_live_keras_model_crosses_as_a_file_that_is_gone_afterwards(self, isolating):
        import keras

        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        side = open_side(model, "port", **AXES).side
        kernel = np.asarray(model.layers[0].kernel.value)
        values = side.read()
        held = next(value for name, value in values.items() if name.endswith("kernel"))
        np.testing.assert_array_equal(held, kernel)
        side.close()
        folder = isolating.folders[-1]
        assert (folder / "model.keras").is_file()
        isolating.close()
        assert not folder.exists()


class TestCrash:
    @pytest.mark.skipif(sys.platform != "linux", reason="signals")
    def test_what_dies_when_it_is_tried_is_judged_in_a_worker(self, guarding):
        comparison = fwc.compare(models.plain, models.exit_in_backward, inputs=INPUTS, examples=2)
        assert comparison.verdict == "error"
        assert "port, backward: the worker 'torch'" in comparison.message
        assert list(guarding.deaths.values()) == [False, True]
        fwc.compare(models.plain, models.plain, inputs=INPUTS, examples=1)
        assert len(guarding.deaths) == 2  # each was tried once

    def test_what_lives_runs_here(self, guarding):
        comparison = fwc.compare(models.tiny, models.tiny, inputs=INPUTS, examples=1)
        assert comparison.verdict == "equivalent"
        assert "worker" not in comparison.environment["torch"]

    def test_what_cannot_be_tried_runs_here(self, guarding):
        model = models.tiny()
        assert Candidate.of(model) is None
        assert Candidate.of(lambda: model) is None
        assert Candidate.of(fwc.in_worker("torch", models.tiny)) is None
        network = fn.Sequential([fn.Dense(2)], input_shape=(3,))
        assert Candidate.of(InFramework(network, "numpy")) is None
        assert Candidate.of(InFramework(network, "torch")) is not None


def test_without_it_nothing_is_touched():
    before = pool.configure(pool.Settings())
    try:
        assert isolation.elsewhere(models.tiny, "port") is models.tiny
        assert isolation.guarded(models.tiny, "port", None) is models.tiny
        assert not pool.current().workers
    finally:
        pool.put_back(before)


class TestPool:
    def test_idle_workers_make_room(self, monkeypatch):
        monkeypatch.setattr(pool, "cores", lambda: 2)
        from pytest_fwcompare.workers.specs import Spec

        names = [f"numpy@{n}" for n in range(3)]
        before = pool.configure(pool.Settings(specs={name: Spec() for name in names}))
        try:
            workers = [pool.current().worker(name) for name in names]
            assert [worker.alive for worker in workers] == [False, True, True]
            assert pool.current().worker(names[1]) is workers[1]
        finally:
            pool.put_back(before)
        assert not any(worker.alive for worker in workers)

    def test_a_worker_in_use_stays(self, monkeypatch):
        monkeypatch.setattr(pool, "cores", lambda: 2)
        from pytest_fwcompare.workers.specs import Spec

        names = [f"numpy@{n}" for n in range(3)]
        before = pool.configure(pool.Settings(specs={name: Spec() for name in names}))
        network = fn.Sequential([fn.Dense(2)], input_shape=(3,))
        try:
            side = open_side(InFramework(network, names[0]), "port", **AXES).side
            pool.current().worker(names[1])
            pool.current().worker(names[2])
            assert side.worker.alive
            side.close()
        finally:
            pool.put_back(before)

    def test_sharers_divide_the_cores(self, monkeypatch):
        monkeypatch.setattr(pool, "cores", lambda: 16)
        assert pool.Pool(pool.Settings(sharers=4)).most == 4
        assert pool.Pool(pool.Settings(sharers=16)).most == 2

    def test_paths_of_the_project_only(self, monkeypatch, tmp_path):
        monkeypatch.setattr(sys, "path", [str(tmp_path), sys.prefix + "/lib", "/nowhere"])
        assert pool.project_paths() == [str(tmp_path)]


def test_a_remote_model_says_where_it_is():
    assert repr(fwc.in_worker("torch@w", models.tiny)) == "<model in the worker 'torch@w'>"
    assert isinstance(fwc.in_worker("torch", models.tiny), RemoteModel)
