"""Memory that runs out is reported as itself, by each framework's own error, and given back."""

from __future__ import annotations

import gc
import weakref
from typing import ClassVar

import numpy as np
import pytest

import pytest_fwcompare as fwc
from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.exhausted import failed, is_exhausted
from pytest_fwcompare.errors import ModelError, OutOfMemory

torch = pytest.importorskip("torch")

INPUTS = {"x": fwc.TensorSpec(("batch", 4))}


class Greedy(torch.nn.Module):
    """Fails as a full GPU does, in the pass it is told to; counts what it holds."""

    held: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, error, when="forward"):
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.error, self.when = error, when

    def forward(self, x):
        workspace = torch.zeros(1000)
        Greedy.held.add(workspace)
        if self.when == "forward":
            raise self.error()
        return Failing.apply(self.linear(x), self.error)


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ctx.error()


def full():
    return torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB of which 1 is free."
    )


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_torch_says_so(when):
    found = fwc.compare(lambda: torch.nn.Linear(4, 3), Greedy(full, when), inputs=INPUTS)
    assert found.verdict == "error"
    assert found.message.startswith("port, memory: torch ran out of memory on cpu in stage ")
    assert "CUDA out of memory. Tried to allocate 2.00 GiB" in found.message
    assert "smaller sizes" in found.message
    assert "axes=" not in found.message
    assert found.unsupported == ""


def test_what_the_failed_call_held_is_given_back():
    Greedy.held.clear()
    fwc.compare(lambda: torch.nn.Linear(4, 3), Greedy(full), inputs=INPUTS)
    gc.collect()
    assert len(Greedy.held) == 0


def test_the_frameworks_are_asked_to_give_memory_back(monkeypatch):
    asked = []
    monkeypatch.setattr(
        type(registry.backend("torch")), "release_memory", lambda self: asked.append("torch")
    )
    fwc.compare(lambda: torch.nn.Linear(4, 3), Greedy(full), inputs=INPUTS)
    assert asked == ["torch"]
    fwc.compare(lambda: torch.nn.Linear(4, 3), lambda: torch.nn.Linear(4, 3), inputs=INPUTS)
    assert asked == ["torch"]


def test_a_model_that_does_not_fit_when_it_is_copied(monkeypatch):
    def refuse(*_):
        raise full()

    monkeypatch.setattr("copy.deepcopy", refuse)
    found = fwc.compare(torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), inputs=INPUTS)
    assert (found.verdict, found.reference, found.port) == ("error", "torch", "torch")
    assert found.message.startswith("model, memory: torch ran out of memory on cpu in stage 'bui")


def test_tensorflow_says_so():
    tf = pytest.importorskip("tensorflow")

    class Model(tf.Module):
        def __init__(self):
            self.kernel = tf.Variable(np.ones((4, 3), "float32"))

        def __call__(self, x):
            if x.dtype == tf.float32 and tf.executing_eagerly():
                raise tf.errors.ResourceExhaustedError(
                    None, None, "OOM when allocating tensor with shape[1024,1024]"
                )
            return x @ self.kernel

    found = fwc.compare(Model(), Model(), inputs=INPUTS, checks=("forward",))
    assert found.verdict == "error"
    assert found.message.startswith("reference, memory: tensorflow ran out of memory on /CPU:0")
    assert "OOM when allocating tensor with shape[1024,1024]" in found.message


def test_jax_says_so():
    jax = pytest.importorskip("jax")

    def function(params, x):
        if isinstance(x, jax.core.Tracer):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes."
            )
        return x @ params

    model = function, np.ones((4, 3), "float32")
    found = fwc.compare(model, model, inputs=INPUTS)
    assert found.verdict == "error"
    assert "memory: jax ran out of memory on " in found.message
    assert "RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes" in found.message


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (MemoryError(), True),
        (np._core._exceptions._ArrayMemoryError((10**6,), np.dtype("f8")), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("the model is out of memory slots"), False),
        (KeyError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, exhausted):
    assert is_exhausted(error) is exhausted
    made = failed("port", "forward", "torch", error, "cuda:0")
    assert isinstance(made, OutOfMemory) is exhausted
    assert made.stage == ("memory" if exhausted else "forward")


def test_an_error_that_was_raised_from_one_counts_too():
    error = RuntimeError("backend compiler failed")
    error.__cause__ = full()
    assert is_exhausted(error)
    made = failed("port", "forward", "torch", error, "cuda:0")
    assert isinstance(made, ModelError)
    assert "Tried to allocate 2.00 GiB" in str(made)
    assert "on cuda:0" in str(made)
