"""A worker that dies is one clear result, and the next comparison runs as if nothing were."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.errors import WorkerDied
from pytest_fwcompare.workers import pool, process
from pytest_fwcompare.workers.process import ending
from pytest_fwcompare.workers.remote import RemoteModel
from pytest_fwcompare.workers.specs import Spec
from workers import models

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and /proc of Linux")

INPUTS = {"x": fwc.TensorSpec(("batch", 3))}

TIMEOUT_S = 1000.0
"""Longer than anything takes on the busiest machine."""


class Clock:
    """Jumps once a worker has said that it hangs, so that no test waits, and none has to hurry."""

    def __init__(self, told: Path) -> None:
        self.told = told

    def monotonic(self) -> float:
        return time.monotonic() + (10 * TIMEOUT_S if self.told.exists() else 0.0)


@pytest.fixture(scope="module", autouse=True)
def clock(tmp_path_factory):
    """A pool of its own whose workers can say that they hang."""
    told = tmp_path_factory.mktemp("deaths") / "hangs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FWCOMPARE_TEST_HANGS", str(told))
        patch.setattr(process, "time", Clock(told))
        before = pool.configure(pool.Settings(timeout=TIMEOUT_S, specs={"torch@w": Spec()}))
        yield told
        pool.put_back(before)


@pytest.fixture(autouse=True)
def nobody_hangs(clock):
    clock.unlink(missing_ok=True)


def remote(factory) -> RemoteModel:
    return fwc.in_worker("torch@w", factory)


def compared(factory):
    return fwc.compare(models.plain, remote(factory), inputs=INPUTS, examples=2)


DEATHS = {
    "segfault": (
        r"was killed by signal 11 (SIGSEGV: segmentation fault)",
        "the last words before the fault",
        "Fatal Python error: Segmentation fault",
    ),
    "kill": ("was killed by signal 9 (SIGKILL: killed), as the system does when memory runs out",),
    "exit": ("exited with status 3 in the middle of its work",),
    "loop": ("gave no answer for 1000 s (--fwcompare-timeout) and was killed",),
    "pipes": ("closed its pipe in the middle of its work",),
    "nonsense": ("the worker 'torch@w'",),
}


QUICK = [("segfault", "backward"), ("exit", "forward"), ("loop", "backward"), ("pipes", "forward")]
"""One of a kind; the others take a new worker each, too."""


@pytest.mark.parametrize(
    ("death", "stage"),
    [
        pytest.param(death, stage, marks=() if (death, stage) in QUICK else pytest.mark.slow)
        for death in DEATHS
        for stage in ("forward", "backward")
    ],
)
def test_a_death_is_one_clear_error(death, stage):
    comparison = compared(getattr(models, f"{death}_in_{stage}"))
    assert comparison.verdict == "error"
    assert f"port, {stage}: the worker 'torch@w'" in comparison.message
    for said in DEATHS[death]:
        assert said in comparison.message
    assert "input: x: float" in comparison.message
    assert (comparison.reference, comparison.port) == ("torch", "torch@w")


@pytest.mark.slow
def test_the_next_comparison_has_a_new_worker():
    pool.current().worker("torch@w")
    before = pool.current().started["torch@w"]
    assert compared(models.exit_in_forward).verdict == "error"
    assert compared(models.plain).verdict == "equivalent"
    assert compared(models.plain).verdict == "equivalent"
    assert pool.current().started["torch@w"] - before == 1


@pytest.mark.parametrize("stage", ["forward", pytest.param("backward", marks=pytest.mark.slow)])
def test_ten_gigabytes_under_a_limit_are_an_error_of_the_model_and_end_nobody(stage):
    comparison = compared(getattr(models, f"memory_in_{stage}"))
    assert comparison.verdict == "error"
    assert "port, " in comparison.message
    assert "10737418240 bytes" in comparison.message
    pool.current().worker("torch@w").close()  # its limit stays


@pytest.mark.parametrize("stage", ["forward", "backward"])
def test_what_is_printed_to_standard_output_disturbs_nobody(stage):
    assert compared(getattr(models, f"garbage_in_{stage}")).verdict == "equivalent"


def test_a_death_at_import_names_the_stage():
    comparison = compared_with("workers.dies_at_import:model")
    assert comparison.verdict == "error"
    assert "port, import: the worker 'torch@w'" in comparison.message
    assert "signal 11 (SIGSEGV" in comparison.message
    assert "importing the last module of my life" in comparison.message
    assert "source: workers.dies_at_import:model" in comparison.message


def test_a_death_while_the_model_is_made_names_the_stage():
    comparison = compared(models.segfault_in_build)
    assert comparison.verdict == "error"
    assert comparison.port == "torch@w"
    assert "port, build: the worker 'torch@w'" in comparison.message
    assert "source: workers.models:segfault_in_build" in comparison.message


def compared_with(name: str):
    return fwc.compare(models.plain, remote(name), inputs=INPUTS, examples=2)


@pytest.mark.parametrize(
    ("factory", "stage"), [(models.dies_in_double, "shadow"), (models.dies_of_a_copy, "copy")]
)
def test_a_death_elsewhere_names_the_stage(factory, stage):
    comparison = compared(factory)
    assert comparison.verdict == "error"
    assert f"port, {stage}: the worker 'torch@w'" in comparison.message
    assert "signal 11 (SIGSEGV" in comparison.message


def test_the_reference_may_die_too():
    comparison = fwc.compare(
        remote(models.exit_in_forward), models.plain, inputs=INPUTS, examples=2
    )
    assert comparison.verdict == "error"
    assert comparison.message.startswith("reference, forward: the worker 'torch@w'")


def test_a_model_whose_worker_died_does_not_come_back_by_itself():
    from pytest_fwcompare import networks as fn
    from pytest_fwcompare.backends.registry import backend
    from pytest_fwcompare.errors import UsageError

    built = backend("torch@w").build(fn.Sequential([fn.Dense(2)], input_shape=(3,)))
    pool.current().worker("torch@w").kill()
    with pytest.raises(UsageError, match=r"the worker that held this torch@w model is gone"):
        fwc.compare(models.plain, built.model, inputs=INPUTS)


def test_a_dead_worker_says_so_to_whoever_asks():
    from pytest_fwcompare.workers.process import Task

    worker = pool.current().worker("torch@w")
    worker.kill()
    with pytest.raises(WorkerDied, match=r"^port, forward: the worker 'torch@w' is gone"):
        worker.request("threads", Task("port", "forward"), framework="torch")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with status 0 in the middle of its work"),
        (-signal.SIGFPE, "killed by signal 8 (SIGFPE: floating point exception)"),
        (-200, "killed by signal 200 (unknown)"),
    ],
)
def test_endings_in_words(code, words):
    assert words in ending(code)
