"""Keras on torch or JAX where there is no TensorFlow: nothing may ask for it."""

from __future__ import annotations

import pytest

from pytest_fwcompare.backends import keras as module
from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Backend
from pytest_fwcompare.backends.keras import KerasBackend


class Below(type(registry.backend("numpy"))):
    """Stands for the framework that Keras computes with."""

    name = "below"

    def __init__(self) -> None:
        self.asked: list[object] = []

    def threads(self):
        return 3

    def thread_count(self):
        return 4

    def set_threads(self, count):
        self.asked.append(("threads", count))

    def lacking(self, mode, device):
        return f"no {mode} on {device}"

    def device_peak(self, device, call):
        call()
        return 17

    def release_memory(self):
        self.asked.append("release")


def test_threads_and_memory_are_those_of_the_framework_below(monkeypatch):
    below, called = Below(), []
    monkeypatch.setattr(KerasBackend, "_below", lambda self: below)
    keras: Backend = KerasBackend("torch")
    assert (keras.threads(), keras.thread_count()) == (3, 4)
    assert keras.device_peak("cuda:0", lambda: called.append(1)) == 17
    assert called == [1]
    assert keras.lacking("compiled", "cpu") == "no compiled on cpu"
    keras.set_threads(2)
    keras.release_memory()
    assert below.asked == [("threads", 2), "release"]


@pytest.mark.parametrize(
    ("here", "reason"),
    [
        ({"keras", "torch", "jax"}, ", or set KERAS_BACKEND=torch or jax)"),
        ({"keras", "jax"}, ", or set KERAS_BACKEND=jax)"),
        ({"keras"}, ")"),
    ],
)
def test_a_missing_tensorflow_is_told_with_the_way_out(monkeypatch, here, reason):
    monkeypatch.setattr(module, "find_spec", lambda name: name if name in here else None)
    assert KerasBackend("tensorflow").unavailable() == (
        "keras computes with tensorflow here, which is not installed (pip install tensorflow-cpu"
        + reason
    )


def test_keras_on_what_is_there_can_be_used(monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    assert KerasBackend("torch").unavailable() is None
