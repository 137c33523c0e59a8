"""A mode is traced for few distinct shapes, however many examples are judged."""

from __future__ import annotations

import numpy as np
import pytest

import pytest_fwcompare as fwc

INPUTS = {"x": fwc.TensorSpec(("batch", "time", 4))}
EXAMPLES = 20


def counted_torch(calls):
    torch = pytest.importorskip("torch")
    from pytest_fwcompare.backends.torch import modes

    def backend(graph, inputs):
        calls.append([tuple(getattr(value, "shape", ())) for value in inputs])
        return graph.forward

    return torch.nn.Linear(4, 3), torch.nn.Linear(4, 3), (modes.BACKENDS, "graph", backend)


def counted_tensorflow(calls):
    tf = pytest.importorskip("tensorflow")

    class Model(tf.Module):
        def __init__(self):
            self.kernel = tf.Variable(np.ones((4, 3), "float32"))

        def __call__(self, x):
            if not tf.executing_eagerly() and x.dtype == tf.float32:
                calls.append(tuple(x.shape))
            return tf.tanh(x @ self.kernel)

    return Model(), Model(), None


def counted_jax(calls):
    jax = pytest.importorskip("jax")

    def function(params, x):
        if isinstance(x, jax.core.Tracer) and x.dtype == np.float32:
            calls.append(tuple(x.shape))
        return jax.numpy.tanh(x @ params)

    params = np.ones((4, 3), "float32")
    return (function, params), (function, params), None


@pytest.mark.parametrize("make", [counted_torch, counted_tensorflow, counted_jax])
def test_a_mode_is_traced_for_few_shapes(make, monkeypatch):
    calls = []
    reference, port, patch = make(calls)
    if patch is not None:
        monkeypatch.setitem(*patch)
    weights = "given" if make is not counted_torch else "auto"
    if make is counted_tensorflow:
        weights = {"kernel": "kernel"}
    found = fwc.compare(
        reference, port, inputs=INPUTS, weights=weights, mode="graph", examples=EXAMPLES
    )
    assert found.verdict == "equivalent", found.summary()
    shapes = set(map(str, calls))
    assert 1 <= len(shapes) <= 6
    assert len(calls) <= EXAMPLES, "each of both sides' examples was traced by itself"
