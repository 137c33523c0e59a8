"""Elementwise functions at their kinks, at large values, and against torch's double precision."""

from __future__ import annotations

import math

import autograd
import numpy as np
import pytest

from pytest_fwcompare.backends.numpy import elementwise, primitives, windows
from pytest_fwcompare.networks.layers.elementwise import FUNCTIONS

EDGES = np.array([-700.0, -80.0, -20.0, -3.5, -1e-8, 0.0, 1e-8, 3.5, 20.0, 80.0, 700.0])


def slope(function, x, *constants):
    vjp, _ = autograd.make_vjp(lambda value: function(value, *constants))(np.asarray(x, float))
    return vjp(np.ones_like(x, float))


def test_all_described_functions_are_there() -> None:
    assert set(elementwise.FUNCTIONS) == set(FUNCTIONS)


def test_erfc_is_that_of_the_c_library() -> None:
    x = np.linspace(-6, 26, 2001).reshape(3, 667)
    expected = np.array([[math.erfc(value) for value in row] for row in x])
    np.testing.assert_array_equal(elementwise.erfc(x), expected)
    assert elementwise.erfc(x.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize(
    ("name", "at", "expected"),
    [
        ("relu", 0.0, 0.0),
        ("relu6", 0.0, 0.0),
        ("relu6", 6.0, 0.0),
        ("hard_sigmoid", -3.0, 0.0),
        ("hard_sigmoid", 3.0, 0.0),
        ("hard_silu", -3.0, 0.0),
        ("hard_silu", 3.0, 1.0),
        ("selu", 0.0, elementwise.SELU_SCALE * elementwise.SELU_ALPHA),
    ],
)
def test_derivative_at_a_kink(name: str, at: float, expected: float) -> None:
    assert slope(elementwise.FUNCTIONS[name], at) == expected


def test_derivative_at_a_kink_with_alpha() -> None:
    assert slope(elementwise.leaky_relu, 0.0, 0.3) == 0.3
    assert slope(elementwise.elu, 0.0, 0.7) == 0.7
    assert slope(elementwise.celu, 0.0, 0.7) == 1.0


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "gelu", "mish", "silu"])
def test_no_digits_are_lost_far_out(name: str) -> None:
    x = np.array([-30.0, -20.0])
    obtained = elementwise.FUNCTIONS[name](x)
    exponential = np.exp(x)
    expected = {
        "sigmoid": exponential / (1 + exponential),
        "tanh": np.array([-1.0, -1.0]),
        "softplus": np.log1p(exponential),
        "gelu": x * np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in x]),
        "mish": x * np.tanh(np.log1p(exponential)),
        "silu": x * exponential / (1 + exponential),
    }[name]
    np.testing.assert_allclose(obtained, expected, rtol=1e-14)


def test_slopes_of_saturated_functions_keep_their_digits() -> None:
    # 1 - tanh(x)^2 in float64 is 0 at 20; the true value is 4 exp(-40) up to 1e-17 relative.
    np.testing.assert_allclose(slope(elementwise.tanh, 20.0), 4 * math.exp(-40), rtol=1e-14)
    np.testing.assert_allclose(slope(elementwise.sigmoid, 40.0), math.exp(-40), rtol=1e-14)


def test_against_torch() -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    theirs = {
        "relu": functional.relu, "relu6": functional.relu6, "selu": functional.selu,
        "gelu": functional.gelu, "silu": functional.silu, "mish": functional.mish,
        "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
        "tanh": torch.tanh, "sigmoid": torch.sigmoid, "hard_sigmoid": functional.hardsigmoid,
        "hard_silu": functional.hardswish, "softsign": functional.softsign,
        "softplus": lambda x: functional.softplus(x, threshold=1000),
        "leaky_relu": lambda x: functional.leaky_relu(x, 0.3),
        "elu": lambda x: functional.elu(x, 0.7), "celu": lambda x: functional.celu(x, 0.7),
    }  # fmt: skip
    assert set(theirs) == set(elementwise.FUNCTIONS)
    x = np.concatenate([EDGES, np.random.default_rng(0).normal(0, 3, 200)])
    for name, function in theirs.items():
        constants = {"leaky_relu": (0.3,), "elu": (0.7,), "celu": (0.7,)}.get(name, ())
        given = torch.tensor(x, requires_grad=True)
        expected = function(given)
        (gradient,) = torch.autograd.grad(expected.sum(), given)
        obtained = elementwise.FUNCTIONS[name](x, *constants)
        np.testing.assert_allclose(obtained, expected.detach(), rtol=1e-13, atol=1e-13)
        with np.errstate(all="ignore"):
            found = slope(elementwise.FUNCTIONS[name], x, *constants)
        # torch 2.13 takes 1/6 of hardsigmoid and 1/alpha of celu from float32 in the backward
        # pass, in double too.
        rtol = 5e-7 if name in ("hard_sigmoid", "celu") else 1e-12
        np.testing.assert_allclose(found, gradient, rtol=rtol, atol=1e-13, err_msg=name)


def test_softmax_of_large_values_and_of_nothing() -> None:
    x = np.array([[1000.0, 1000.0, -1000.0], [1.0, 2.0, 3.0]])
    np.testing.assert_allclose(primitives.softmax(x, -1)[0], [0.5, 0.5, 0])
    np.testing.assert_allclose(
        primitives.log_softmax(x, -1)[0], [-math.log(2), -math.log(2), -2000 - math.log(2)]
    )
    allowed = np.array([[False, False, False], [True, False, True]])
    vjp, answer = autograd.make_vjp(lambda v: primitives.softmax(v, -1, allowed))(x)
    np.testing.assert_array_equal(answer[0], 0)
    assert answer[1, 1] == 0
    gradient = vjp(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(gradient[0], 0)
    assert gradient[1, 1] == 0
    assert np.isfinite(gradient).all()


def pool(values: list[float], kernel: int, stride: int, pads: tuple[int, int] = (0, 0)):
    x = np.array(values).reshape(1, -1, 1)
    out = (len(values) + sum(pads) - kernel) // stride + 1
    geometry = windows.Geometry((kernel,), (stride,), (1,), (pads,), (out,))
    vjp, answer = autograd.make_vjp(lambda v: windows.max_pool(v, geometry))(x)
    return answer.ravel(), vjp(np.ones_like(answer)).ravel()


def test_max_pool_tie_goes_to_the_first() -> None:
    answer, gradient = pool([2.0, 2.0, 1.0, 1.0], 2, 2)
    np.testing.assert_array_equal(answer, [2, 1])
    np.testing.assert_array_equal(gradient, [1, 0, 1, 0])


def test_max_pool_passes_nan_and_minus_infinity_on() -> None:
    answer, gradient = pool([1.0, math.nan, 3.0, -math.inf], 2, 2, (0, 0))
    assert math.isnan(answer[0])
    assert answer[1] == 3
    np.testing.assert_array_equal(gradient, [0, 1, 1, 0])
    answer, _ = pool([-math.inf, -5.0], 2, 1, (1, 1))
    np.testing.assert_array_equal(answer, [-math.inf, -5, -5])


def test_greatest_shares_a_tie() -> None:
    vjp, answer = autograd.make_vjp(lambda v: primitives.greatest(v, (0,)))(np.array([3.0, 1, 3]))
    assert answer == 3
    np.testing.assert_array_equal(vjp(np.array(1.0)), [0.5, 0, 0.5])


def test_prelu_at_zero() -> None:
    vjp, _ = autograd.make_vjp(lambda s: elementwise.prelu(np.zeros((2, 3)), s))(np.full(3, 0.2))
    np.testing.assert_array_equal(vjp(np.ones((2, 3))), 0)
    vjp, _ = autograd.make_vjp(lambda x: elementwise.prelu(x, np.full(3, 0.2)))(np.zeros((2, 3)))
    np.testing.assert_array_equal(vjp(np.ones((2, 3))), 0.2)
