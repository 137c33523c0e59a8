"""What `--fwcompare-isolate=crash` tries in a worker first, and what then runs where."""

from __future__ import annotations

import sys

import pytest
from workers import models

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.opening import isolation
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool

INPUTS = {"x": fwc.TensorSpec(("batch", 3))}


@pytest.fixture(scope="module")
def guarding():
    before = pool.configure(pool.Settings(isolate="crash", timeout=600.0))
    yield pool.current()
    pool.put_back(before)


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

    @pytest.mark.skipif(sys.platform != "linux", reason="signals")
    def test_a_live_model_is_tried_too(self, guarding):
        tried = len(guarding.deaths)
        dies = models.exit_in_forward()
        for _ in range(2):
            comparison = fwc.compare(models.plain(), dies, inputs=INPUTS, examples=1)
            assert comparison.verdict == "error"
            assert "port, forward: the worker 'torch'" in comparison.message
        assert len(guarding.deaths) <= tried + 3  # two references, and the port once

    def test_one_that_lives_runs_here_and_leaves_no_file(self, guarding):
        model = models.tiny()
        comparison = fwc.compare(model, model, inputs=INPUTS, examples=1)
        assert comparison.verdict == "equivalent"
        assert "worker" not in comparison.environment["torch"]
        assert not list(guarding.folders[-1].iterdir())

    def test_what_cannot_be_tried_runs_here_with_a_notice_that_says_why(self, guarding):
        comparison = fwc.compare(models.Holding(), models.Holding, inputs=INPUTS, examples=1)
        assert comparison.verdict == "equivalent", comparison.summary()
        [notice] = [each for each in comparison.notices if "not tried" in each]
        assert notice.startswith(
            "reference: not tried in a worker (--fwcompare-isolate=crash) before it ran: a "
            "Holding object cannot be sent to another process"
        )

    def test_what_needs_no_trial_has_none(self, guarding):
        tried = len(guarding.deaths)
        network = fn.Sequential([fn.Dense(2)], input_shape=(3,))
        there = InFramework(network, "numpy@w")
        assert isolation.stays_here(there, described=False)
        assert not isolation.stays_here(InFramework(network, "torch"), described=False)
        there = fwc.in_worker("torch", models.tiny)
        comparison = fwc.compare(fwc.in_worker("torch", models.tiny), there, inputs=INPUTS)
        assert not [each for each in comparison.notices if "not tried" in each]
        assert len(guarding.deaths) == tried
