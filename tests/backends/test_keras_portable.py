"""Keras' recurrent layers where a GPU is seen: cuDNN's operation is no part of a shadow."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

import pytest_fwcompare as fwc

pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from pytest_fwcompare.backends.keras import adopt, portable  # noqa: E402

INPUTS = {"x": fwc.TensorSpec((2, 3, 4))}
ON = keras.backend.backend()


def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((3, 4)), keras.layers.LSTM(5, return_sequences=True), keras.layers.GRU(2)]
    )


@pytest.fixture
def rnn(monkeypatch):
    """Keras' recurrent layers as they are where it sees a GPU."""
    if ON != "tensorflow":
        pytest.skip("Keras is not on TensorFlow here")
    module = importlib.import_module("keras.src.backend.tensorflow.rnn")
    monkeypatch.setattr(module, "_is_gpu_available", lambda: True)
    return module


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_machine_with_a_gpu_judges_them_on_the_cpu(rnn, monkeypatch, mode):
    monkeypatch.setattr(adopt, "elsewhere", lambda: True)
    net = model()
    found = fwc.compare(net, net, inputs=INPUTS, mode=mode, examples=2)
    assert found.verdict == "equivalent", found.summary()
    assert rnn._is_gpu_available()


def test_cudnn_in_a_shadow_would_fail(rnn, monkeypatch):
    monkeypatch.setattr(adopt, "elsewhere", lambda: False)
    net = model()
    found = fwc.compare(net, net, inputs=INPUTS, examples=1)
    assert found.verdict == "error"
    assert "CudnnRNN" in found.message


def test_keras_chooses_as_before_afterwards(rnn):
    def fail():
        with portable.without_cudnn():
            assert not rnn._is_gpu_available()
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fail()
    assert rnn._is_gpu_available()


def test_an_older_keras_has_no_choice(monkeypatch):
    monkeypatch.setattr(portable, "ASKED", {ON: "no such name"})
    with portable.without_cudnn():
        pass


@pytest.mark.parametrize("name", ["tensorflow", "torch", "jax"])
def test_the_name_by_which_keras_chooses_is_known(name):
    """So that a Keras that calls it otherwise is noticed."""
    pytest.importorskip(name)
    source = importlib.util.find_spec(f"keras.src.backend.{name}.rnn").origin
    assert f"def {portable.ASKED[name]}(" in Path(source).read_text()
