"""Eager JAX in one program: as if operation by operation, and as itself where it cannot be one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.jax import JaxBackend
from pytest_fwcompare.backends.jax.model import quick_jit
from pytest_fwcompare.backends.jax.stepwise import stepwise

X = np.array([0.5, 1.2345678, 100.0], np.float32)

TELLING = {
    "overflow": lambda x: jnp.log(jnp.exp(x)),
    "cancellation": lambda x: (x + 1e8) - 1e8,
    "half precision": lambda x: x.astype(jnp.float16).astype(jnp.float32),
    "product and sum": lambda x: x * 1.1 - x,
}
"""What one program computes otherwise if its operations are not kept apart."""


@pytest.mark.parametrize("name", TELLING)
def test_operations_are_rounded_one_by_one(name):
    function = TELLING[name]
    together = quick_jit(stepwise(function), jax.devices("cpu")[0])
    np.testing.assert_array_equal(together(X), function(jnp.asarray(X)))


def test_gradients_too():
    def function(x):
        return jnp.sum(jnp.log(jnp.exp(x) / jnp.sum(jnp.exp(x))) * jnp.arange(3))

    found = quick_jit(jax.grad(stepwise(function)), jax.devices("cpu")[0])(X / 50)
    np.testing.assert_allclose(found, jax.grad(function)(jnp.asarray(X / 50)), rtol=1e-6)
    assert np.isnan(quick_jit(jax.grad(stepwise(function)), jax.devices("cpu")[0])(X)).any()


def side_of(function):
    model = (function, {"w": jnp.ones(3)})
    return JaxBackend().adopt(model, dtype="float32", device="cpu", mode="eager", own=True)


def test_code_that_looks_at_values_runs_operation_by_operation():
    calls = []

    def function(params, x):
        # An integer input is never differentiated, so eager JAX knows its value.
        calls.append(x)
        return params["w"] * (2.0 if int(x) > 1 else 1.0)

    side = side_of(function)
    for value, factor in ((1, 1.0), (2, 2.0)):
        passed = side.forward([Argument("x", np.int32(value))], precision="working")
        np.testing.assert_array_equal(passed.outputs["output"], np.full(3, factor))
        found = passed.backward({"output": np.ones(3)})
        np.testing.assert_array_equal(found.parameters["w"], np.full(3, factor))
    # Traced once in vain, then run for each call.
    assert len(calls) == 3


def test_a_stopwatch_times_what_the_user_runs():
    calls = []

    def function(params, x):
        calls.append(x)
        return params["w"] * x

    side = side_of(function)
    arguments = [Argument("x", X)]
    for _ in range(2):
        side.forward(arguments, precision="working").backward({"output": np.ones(3)})
    assert len(calls) == 1  # one program
    watch = side.stopwatch(arguments, {"output": np.ones(3)})
    before = len(calls)
    watch.forward_backward()
    watch.forward_backward()
    assert len(calls) == before + 2


ABORTED = """
import jax
import jax.numpy as jnp
from pytest_fwcompare.backends.jax.stepwise import stepwise

product = stepwise(lambda x, y: jnp.matmul(x, jnp.swapaxes(y, -1, -2)))
output, pull = jax.jit(lambda x, y: jax.vjp(product, x, y))(
    jnp.ones((2, 2, 3, 4)), jnp.ones((2, 2, 5, 4))
)
jax.block_until_ready(jax.jit(lambda pull, seed: pull(seed))(pull, output))
"""


def test_a_product_with_a_transposed_matrix_does_not_abort_the_process():
    """XLA's CPU compiler does, where a barrier stands between the two."""
    found = subprocess.run(
        [sys.executable, "-c", ABORTED], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-1000:]
