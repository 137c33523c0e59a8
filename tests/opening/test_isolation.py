"""What `--fwcompare-isolate` puts into workers, and what it leaves here."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from workers import models

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.errors import ModelError, UsageError
from pytest_fwcompare.opening import isolation
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.specs import Spec

AXES = {"dtype": "float32", "device": "cpu", "mode": "eager"}
INPUTS = {"x": fwc.TensorSpec(("batch", 3))}


@pytest.fixture(scope="module")
def isolating():
    before = pool.configure(pool.Settings(isolate="framework", timeout=600.0))
    yield pool.current()
    pool.put_back(before)


@pytest.fixture(scope="module")
def named():
    specs = {"torch": Spec(f"popen//python={sys.executable}")}
    before = pool.configure(pool.Settings(timeout=600.0, specs=specs))
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

    def test_a_live_model_crosses_with_its_values_as_a_file_that_is_gone_afterwards(
        self, isolating
    ):
        model = models.tiny()
        comparison = fwc.compare(model, models.tiny, inputs=INPUTS, examples=2, weights="given")
        assert comparison.verdict == "equivalent", comparison.summary()
        told = comparison.environment["torch"]["worker"]
        assert told["pid"] == isolating.worker("torch").pid
        folder = isolating.folders[-1]
        assert (folder / "model.pickle").is_file()
        assert folder.stat().st_mode & 0o77 == 0  # nobody else can put another there

    def test_one_that_cannot_is_refused_with_the_reason_and_what_to_do(self, isolating):
        complaint = (
            r"^port: --fwcompare-isolate=framework runs every model in a worker, but a Holding "
            r"object cannot be sent to another process \(.*lambda.*\); pass a function that "
        )
        with pytest.raises(UsageError, match=complaint):
            open_side(models.Holding(), "port", **AXES)

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


class TestNamedWorkers:
    """`--fwcompare-worker torch=SPEC`, without a tag: every torch model runs there."""

    def test_factories_are_made_there(self, named):
        comparison = fwc.compare(models.tiny, models.tiny, inputs=INPUTS, examples=1)
        assert comparison.verdict == "equivalent", comparison.summary()
        told = comparison.environment["torch"]["worker"]
        assert told["pid"] == named.worker("torch").pid
        assert named.started == {"torch": 1}

    def test_one_whose_framework_is_not_here(self, named, monkeypatch):
        named.worker("torch")  # before the variable that tells the two processes apart
        monkeypatch.setenv("FWCOMPARE_TEST_PARENT", "1")
        side = open_side(models.not_installed_here, "port", **AXES).side
        assert side.worker is named.worker("torch")
        side.close()

    def test_other_frameworks_stay(self, named):
        import jax.numpy as jnp

        given = (lambda params, x: x @ params["w"], {"w": jnp.ones((3, 2))})
        assert isolation.elsewhere(given, "port") is given
        assert isolation.made_by(lambda: given, "port", lambda made, role: made()) is given
        function = fwc.NumpyFunction(lambda x: x * 2)
        assert isolation.elsewhere(function, "port") is function

    def test_what_cannot_go_there_is_named_with_the_reason(self, named):
        ours = r"^port: --fwcompare-worker torch=\.\.\. runs every torch model there, but "
        hint = r"\. A worker with a tag \(torch@other=\.\.\.\) runs only what names it$"
        live = (
            rf"a Sequential object cannot be sent to another interpreter \({sys.executable}\); .*"
        )
        with pytest.raises(UsageError, match=ours + live + hint):
            open_side(models.tiny(), "port", **AXES)
        local = r"TestNamedWorkers\.\S*<lambda> of \S* cannot be imported by that name.*"
        with pytest.raises(UsageError, match=ours + local + hint):
            open_side(lambda: models.tiny(), "port", **AXES)

    def test_a_factory_that_fails_for_another_reason_says_so(self, named):
        with pytest.raises(ModelError, match=r"^port, build: the factory raises raised ValueErr"):
            open_side(models.raises, "port", **AXES)


def test_without_it_nothing_is_touched():
    before = pool.configure(pool.Settings())
    try:
        assert isolation.elsewhere(models.tiny, "port") is models.tiny
        model = models.tiny()
        assert isolation.elsewhere(model, "port") is model
        assert open_side(model, "port", **AXES).side.framework == "torch"
        assert not pool.current().workers
    finally:
        pool.put_back(before)
