"""One fault planted in each phase of a backend of a third party: each is caught."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Gradients, Stopwatch
from pytest_fwcompare.backends.numpy import NumpyBackend
from pytest_fwcompare.building import build_identical
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.timing.sides import time_network

NETWORK = fn.Sequential([fn.Dense(5), fn.Activation("tanh"), fn.Dense(3)], input_shape=(4,))
SMALL = 1e-5
WORK_S = 0.03


class Wrapped:
    """Something of NumPy's with a few methods of its own."""

    def __init__(self, inner: Any) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.inner.close()


class FaultyPass(Wrapped):
    """Gradients that are wrong by a little."""

    wrong: Callable[[Gradients], Gradients]

    def backward(self, cotangents: Mapping[str, Any]) -> Gradients:
        return type(self).wrong(self.inner.backward(cotangents))


class InputGradient(FaultyPass):
    @staticmethod
    def wrong(found: Gradients) -> Gradients:
        return replace(found, inputs={k: grown(v) for k, v in found.inputs.items()})


class ParameterGradient(FaultyPass):
    @staticmethod
    def wrong(found: Gradients) -> Gradients:
        name = "dense_2.bias"
        return replace(found, parameters={**found.parameters, name: grown(found.parameters[name])})


def grown(value: Any) -> Any:
    return value * (1 + SMALL)


class Faulty(Wrapped):
    """A side with one fault."""

    fault = "none"
    queue = ThreadPoolExecutor(1)

    def load(self, values: Mapping[str, Any], precision: Any) -> None:
        kept = {k: v for k, v in values.items() if self.fault != "copy" or k != "dense.bias"}
        self.inner.load(kept, precision)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        self.queue.submit(int).result()  # values are waited for; only the stopwatch is hasty
        made = self.inner.forward(*arguments, **keywords)
        if self.fault == "forward":
            made.outputs = {name: grown(value) for name, value in made.outputs.items()}
        kinds = {"input gradient": InputGradient, "parameter gradient": ParameterGradient}
        return kinds[self.fault](made) if self.fault in kinds else made

    def stopwatch(self, *arguments: Any) -> Stopwatch:
        if self.fault != "timing":
            return self.inner.stopwatch(*arguments)

        def forward() -> None:
            self.queue.submit(time.sleep, WORK_S)

        return Stopwatch(forward, None)


class Planted(NumpyBackend):
    name = "planted"

    def adopt(self, model: Any, **keywords: Any) -> Any:
        return Faulty(super().adopt(model, **keywords))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setitem(registry.SHIPPED, "planted", f"{__name__}:Planted")
        forget()
        yield
    forget()


def forget() -> None:
    registry.import_strings.cache_clear()
    registry.backend.cache_clear()


def judged(monkeypatch: pytest.MonkeyPatch, fault: str) -> fwc.Comparison:
    monkeypatch.setattr(Faulty, "fault", fault)
    return fwc.compare(
        InFramework(NETWORK, "numpy"),
        InFramework(NETWORK, "planted"),
        inputs=NETWORK.inputs,
        examples=4,
        explain=False,
    )


def test_without_a_fault_it_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(monkeypatch, "none").verdict == "equivalent"


def test_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, "copy")
    assert found.verdict == "error"
    assert found.message == (
        "port, copy: parameter 'dense.bias' of shape (5,) does not hold the values that were "
        "written to it"
    )
    with pytest.raises(ModelError, match=r"planted, copy: parameter 'dense\.bias' of shape"):
        build_identical(NETWORK, ["planted"], seed=1)


@pytest.mark.parametrize(
    ("fault", "kind", "count"),
    [
        ("forward", "output", 1),
        ("input gradient", "input gradient", 1),
        ("parameter gradient", "parameter gradient", 1),
    ],
)
def test_a_pass(monkeypatch: pytest.MonkeyPatch, fault: str, kind: str, count: int) -> None:
    found = judged(monkeypatch, fault)
    assert found.verdict == "semantic"
    wrong = [row for row in found.tensors if row.verdict == "semantic"]
    assert [row.kind for row in wrong] == [kind] * count
    assert wrong[0].gap == pytest.approx(SMALL, rel=1e-6)
    with pytest.raises(AssertionError, match="does not compute the same function"):
        found.assert_equivalent()


@pytest.mark.parametrize("fault", ["none", "timing"])
def test_timing_without_synchronisation(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(Faulty, "fault", fault)
    (timing,) = time_network(
        NETWORK, ["planted"], NETWORK.inputs, dtype="float32", device="cpu", mode="eager"
    )
    assert timing.synchronised is (fault == "none")
    assert np.isfinite(timing.forward.median)


@pytest.mark.parametrize(("function", "verdict"), [("gelu", "equivalent"), ("tanh", "equivalent")])
def test_a_constant_that_keras_keeps_in_float32_is_a_notice_in_float64(function, verdict):
    pytest.importorskip("keras")
    network = fn.Sequential([fn.Dense(5), fn.Activation(function)], input_shape=(4,))
    found = fwc.compare(
        network,
        InFramework(network, "keras"),
        inputs=network.inputs,
        dtype="float64",
        examples=4,
    )
    assert found.verdict == verdict
    noted = any("keeps float32 accuracy in the port" in notice for notice in found.notices)
    assert noted == (function == "gelu")
