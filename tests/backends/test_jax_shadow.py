"""Shadows are float64 throughout, whatever the code casts, and keep custom derivatives."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

from jax import numpy as jnp  # noqa: E402

from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.backends.jax import JaxBackend  # noqa: E402

F32, F16, BF16 = jnp.float32, jnp.float16, jnp.bfloat16
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((3, 3)).astype(np.float32)


def adopt(function, **params):
    model = (
        lambda params, x: function(x, **params),
        {k: jnp.asarray(v) for k, v in params.items()},
    )
    return JaxBackend().adopt(model, dtype="float32", device="cpu", mode="eager", own=True)


def double(function):
    """Output, gradients by x and by w of the shadow, and the side."""
    side = adopt(function, w=W)
    passed = side.forward([Argument("x", X)], precision="double")
    (output,) = passed.outputs.values()
    cotangent = np.random.default_rng(2).standard_normal(output.shape)
    found = passed.backward({"output": cotangent})
    return (output, found.inputs["x"], found.parameters["w"]), side


def gap(found, expected):
    pairs = zip(found, expected, strict=True)
    return max(np.abs(f - e).max() / max(np.abs(e).max(), 1e-30) for f, e in pairs)


@jax.custom_jvp
def narrow_sine(x):
    return jnp.sin(x.astype(F32))


@narrow_sine.defjvp
def _(primals, tangents):
    # Not the derivative, so that the test sees whether the rule is kept.
    return narrow_sine(*primals), (3 * primals[0].astype(F32) * tangents[0].astype(F32)).astype(
        F32
    )


@jax.custom_jvp
def wide_sine(x):
    return jnp.sin(x)


@wide_sine.defjvp
def _(primals, tangents):
    return wide_sine(*primals), 3 * primals[0] * tangents[0]


@jax.custom_vjp
def narrow_square(x, factor):
    return (x * x * factor).astype(F16)


narrow_square.defvjp(
    lambda x, factor: (narrow_square(x, factor), (x.astype(BF16), factor)),
    lambda kept, g: (5 * kept[0].astype(F32) * g.astype(F32), None),
)


@jax.custom_vjp
def wide_square(x, factor):
    return x * x * factor


wide_square.defvjp(
    lambda x, factor: (wide_square(x, factor), (x, factor)),
    lambda kept, g: (5 * kept[0] * g, jnp.zeros(())),
)


def scan(x, w, dtype):
    def step(carry, row):
        carry = (carry + jnp.tanh(row @ w).astype(dtype)) * dtype(1.1)
        return carry, carry.astype(dtype)

    last, every = jax.lax.scan(step, jnp.zeros(3, dtype), x)
    return every * last


def loop(x, w, dtype):
    def step(state):
        return state[0] + 1, jnp.sin(state[1] @ fixed).astype(dtype)

    # JAX takes no derivative back through a loop of unknown length.
    fixed, start = jax.lax.stop_gradient((w, x.astype(dtype)))
    return jax.lax.while_loop(lambda state: state[0] < 3, step, (0, start))[1] * (x @ w)


def switch(x, w, dtype):
    branches = [lambda v: v.astype(dtype) * 2, lambda v: jnp.exp(v).astype(dtype)]
    return jax.lax.switch(jnp.int32(x.shape[0] - 3), branches, x @ w)


def insisting(x, w, dtype):
    """Traces in one dtype only: the state is made in it, and the body casts nothing."""

    def step(carry, row):
        carry = jnp.tanh(carry @ w + row) * 0.1 + jax.nn.relu(row)
        return carry, wide_sine(carry) / np.sqrt(2)

    last, every = jax.lax.scan(step, jnp.zeros(3, dtype), x)
    return every + last


CASES = {
    "insisting": (
        lambda x, w: insisting(x, w, F32),
        lambda x, w: insisting(x, w, jnp.float64),
    ),
    "cast": (lambda x, w: jnp.sin(x.astype(F32) @ w), lambda x, w: jnp.sin(x @ w)),
    "half": (lambda x, w: (x.astype(F16) @ w.astype(F16)).astype(F32), lambda x, w: x @ w),
    "bfloat16": (lambda x, w: (x @ w).astype(BF16) * 3, lambda x, w: (x @ w) * 3),
    "scalar": (lambda x, w: x @ w + F32(0.1), lambda x, w: x @ w + 0.1),
    "numpy scalar": (lambda x, w: x @ w * np.float32(1e-5), lambda x, w: x @ w * 1e-5),
    "table": (
        lambda x, w: x @ w * jnp.array([0.1, 0.2, 0.7], F32),
        lambda x, w: x @ w * jnp.array([0.1, 0.2, 0.7]),
    ),
    "root": (
        lambda x, w: x @ w / np.sqrt(2).astype(np.float32),
        lambda x, w: x @ w / np.sqrt(2),
    ),
    "scan": (lambda x, w: scan(x, w, F32), lambda x, w: scan(x, w, jnp.float64)),
    "while": (lambda x, w: loop(x, w, F32), lambda x, w: loop(x, w, jnp.float64)),
    "switch": (lambda x, w: switch(x, w, F32), lambda x, w: switch(x, w, jnp.float64)),
    "jit": (
        lambda x, w: jax.jit(lambda v: (v @ w).astype(F32))(x),
        lambda x, w: x @ w,
    ),
    "vmap": (
        lambda x, w: jax.vmap(lambda row: jnp.tanh((row @ w).astype(F32)))(x),
        lambda x, w: jnp.tanh(x @ w),
    ),
    "checkpoint": (
        lambda x, w: jax.checkpoint(lambda v: jnp.sin(v.astype(F32) @ w))(x),
        lambda x, w: jnp.sin(x @ w),
    ),
    "custom_jvp": (lambda x, w: narrow_sine(x @ w), lambda x, w: wide_sine(x @ w)),
    "custom_vjp": (
        lambda x, w: narrow_square(x @ w, F32(0.3)),
        lambda x, w: wide_square(x @ w, 0.3),
    ),
    "stop_gradient": (
        lambda x, w: jax.lax.stop_gradient(x.astype(F32)) * jax.nn.relu(x @ w).astype(F32),
        lambda x, w: jax.lax.stop_gradient(x) * jax.nn.relu(x @ w),
    ),
    "accumulate": (
        lambda x, w: jax.lax.dot_general(
            x.astype(BF16), w.astype(BF16), (((1,), (0,)), ((), ())), preferred_element_type=F32
        ),
        lambda x, w: x @ w,
    ),
    "reduce_precision": (
        lambda x, w: jax.lax.reduce_precision(x @ w, 5, 10),
        lambda x, w: x @ w,
    ),
    "scatter": (
        lambda x, w: jnp.zeros((5, 3), F32).at[jnp.array([0, 2, 2, 4])].add((x @ w).astype(F32)),
        lambda x, w: jnp.zeros((5, 3)).at[jnp.array([0, 2, 2, 4])].add(x @ w),
    ),
    "sums": (
        lambda x, w: jnp.cumsum(jax.nn.logsumexp((x @ w).astype(F32), -1), dtype=F32),
        lambda x, w: jnp.cumsum(jax.nn.logsumexp(x @ w, -1)),
    ),
    "windows": (
        lambda x, w: jax.lax.reduce_window(
            (x @ w).astype(F32), -np.float32(np.inf), jax.lax.max, (2, 1), (1, 1), "VALID"
        ),
        lambda x, w: jax.lax.reduce_window(x @ w, -np.inf, jax.lax.max, (2, 1), (1, 1), "VALID"),
    ),
    "iota": (
        lambda x, w: x @ w + jnp.arange(3, dtype=F32) / 3,
        lambda x, w: x @ w + jnp.arange(3) / 3,
    ),
    "sort": (lambda x, w: jnp.sort((x @ w).astype(F32), 0), lambda x, w: jnp.sort(x @ w, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_narrow_code_is_widened(name):
    narrow, clean = CASES[name]
    found, side = double(narrow)
    expected, _ = double(clean)
    assert jax.config.jax_enable_x64 is False
    assert [array.dtype for array in found] == [np.float64] * 3
    assert gap(found, expected) < 1e-14
    assert side.leaks == []
    assert side.rounded_constants == []


@pytest.mark.parametrize(
    "name", ["half", "scalar", "table", "scan", "switch", "custom_vjp", "accumulate"]
)
def test_the_cases_are_narrow(name):
    # Without the lift they differ visibly, so the test above can fail.
    narrow, clean = CASES[name]
    with jax.enable_x64(True):
        x, w = jnp.asarray(X, jnp.float64), jnp.asarray(W, jnp.float64)
        assert gap([np.asarray(narrow(x, w), float)], [np.asarray(clean(x, w))]) > 1e-10


def test_rules_of_custom_derivatives_are_kept():
    (_, gradient, _), _ = double(lambda x, w: wide_sine(x) + 0 * w.sum())
    cotangent = np.random.default_rng(2).standard_normal(X.shape)
    np.testing.assert_allclose(gradient, 3 * X.astype(float) * cotangent, rtol=1e-15)


def test_bits_of_a_float_are_a_leak_that_is_named():
    def function(x, w):
        bits = jax.lax.bitcast_convert_type(x.astype(F32), jnp.int32)
        return x @ w + (bits % 7).astype(F32)

    _, side = double(function)
    assert len(side.leaks) == 1
    assert side.leaks[0].startswith("bitcast_convert_type at ")
    assert "test_jax_shadow.py" in side.leaks[0]


def test_random_bits_are_no_leak():
    key = jax.random.key(0)
    _, side = double(lambda x, w: x @ w * jax.random.uniform(key, (3,), F32))
    assert side.leaks == []


def test_constants_that_are_not_known_are_named():
    table = np.random.default_rng(0).standard_normal(3).astype(np.float32)
    _, side = double(lambda x, w: x @ w * table)
    assert len(side.rounded_constants) == 1
    assert "float32[3]" in side.rounded_constants[0]


def test_weights_are_not_taken_for_constants():
    side = adopt(lambda x, w: x * w, w=np.float32([0.1, 0.2, 0.3]))
    passed = side.forward([Argument("x", np.ones((1, 3), np.float32))], precision="double")
    assert passed.outputs["output"][0, 0] == float(np.float32(0.1))
