"""Elementwise functions with their derivatives, in forms that lose no digits at either end.

Formulas: the docstring of `networks.layers.Activation`. Python floats throughout, so that float32
arrays stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from autograd.extend import defvjp

from pytest_fwcompare.backends.numpy.traced import Array, Value, primitive

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def _function(forward: Callable[..., Array], slope: Callable[..., Array]) -> Callable[..., Value]:
    """A differentiable function of x and constants, from its values and its derivative."""
    made = primitive(forward)
    defvjp(made, lambda answer, x, *constants: lambda g: g * slope(x, *constants))
    return made


def erfc(x: Array) -> Array:
    """Complementary error function to the last place of float64, of any array."""
    wide = map(math.erfc, x.ravel().tolist())
    return np.fromiter(wide, np.float64, x.size).reshape(x.shape).astype(x.dtype, copy=False)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def _sigmoid_slope(x: Array) -> Array:
    # s (1 - s) without the difference, which has no digits left at large x.
    small = np.exp(-np.abs(x))
    return small / (1 + small) ** 2


def _tanh_slope(x: Array) -> Array:
    small = np.exp(-2 * np.abs(x))
    return 4 * small / (1 + small) ** 2


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _silu_slope(x: Array) -> Array:
    return _sigmoid(x) + x * _sigmoid_slope(x)


def _mish(x: Array) -> Array:
    return x * np.tanh(_softplus(x))


def _mish_slope(x: Array) -> Array:
    soft = _softplus(x)
    return np.tanh(soft) + x * _tanh_slope(soft) * _sigmoid(x)


def _gelu(x: Array) -> Array:
    # 1 + erf(u) = erfc(-u), which keeps its digits below zero.
    return 0.5 * x * erfc(-x / math.sqrt(2))


def _gelu_slope(x: Array) -> Array:
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return 0.5 * erfc(-x / math.sqrt(2)) + x * density


def _gelu_inner(x: Array) -> Array:
    return math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)


def _gelu_tanh(x: Array) -> Array:
    # (1 + tanh(u)) / 2 = sigmoid(2 u)
    return x * _sigmoid(_gelu_inner(x))


def _gelu_tanh_slope(x: Array) -> Array:
    inner = _gelu_inner(x)
    slope = math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return _sigmoid(inner) + x * _sigmoid_slope(inner) * slope


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _elu_slope(x: Array, alpha: float) -> Array:
    return np.where(x > 0, 1, alpha * np.exp(np.minimum(x, 0))).astype(x.dtype, copy=False)


def _celu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha))


def _celu_slope(x: Array, alpha: float) -> Array:
    return np.exp(np.minimum(x, 0) / alpha)


def _hard_sigmoid(x: Array) -> Array:
    return np.clip(x / 6 + 0.5, 0, 1)


def _inside(x: Array, low: float, high: float) -> Array:
    return (x > low) & (x < high)


def _hard_silu_slope(x: Array) -> Array:
    middle = np.where(_inside(x, -3, 3), x / 3 + 0.5, 0)
    return np.where(x >= 3, 1, middle).astype(x.dtype, copy=False)


relu = _function(lambda x: np.maximum(x, 0), lambda x: x > 0)
relu6 = _function(lambda x: np.clip(x, 0, 6), lambda x: _inside(x, 0, 6))
tanh = _function(np.tanh, _tanh_slope)
sigmoid = _function(_sigmoid, _sigmoid_slope)
softplus = _function(_softplus, _sigmoid)
silu = _function(lambda x: x * _sigmoid(x), _silu_slope)
mish = _function(_mish, _mish_slope)
gelu = _function(_gelu, _gelu_slope)
gelu_tanh = _function(_gelu_tanh, _gelu_tanh_slope)
softsign = _function(lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2)
hard_sigmoid = _function(_hard_sigmoid, lambda x: _inside(x, -3, 3) / x.dtype.type(6))
hard_silu = _function(lambda x: x * _hard_sigmoid(x), _hard_silu_slope)
selu = _function(
    lambda x: SELU_SCALE * _elu(x, SELU_ALPHA), lambda x: SELU_SCALE * _elu_slope(x, SELU_ALPHA)
)
leaky_relu = _function(
    lambda x, alpha: np.where(x > 0, x, alpha * x),
    lambda x, alpha: np.where(x > 0, 1, alpha).astype(x.dtype, copy=False),
)
elu = _function(_elu, _elu_slope)
celu = _function(_celu, _celu_slope)

FUNCTIONS: dict[str, Callable[..., Value]] = {
    "relu": relu,
    "relu6": relu6,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": selu,
    "celu": celu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "mish": mish,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": hard_silu,
    "softplus": softplus,
    "softsign": softsign,
}
"""By the names of `Activation`; those with a parameter take alpha as their second argument."""


@primitive
def prelu(x: Array, slope: Array) -> Array:
    """Max(x, 0) + slope min(x, 0), slope (features)."""
    return np.where(x > 0, x, slope * x)


defvjp(
    prelu,
    lambda answer, x, slope: lambda g: np.where(x > 0, g, slope * g),
    lambda answer, x, slope: (
        lambda g: np.where(x > 0, 0, x * g).sum(axis=tuple(range(x.ndim - 1)), dtype=x.dtype)
    ),
)
