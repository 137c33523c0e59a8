"""Activations, arithmetic with tensors and with numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.operations.base import Arguments, Guess, rule

_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """The error function, element by element."""
    return np.asarray(_erf(x), dtype=np.float64)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def softplus(x: Array, beta: float = 1.0, threshold: float = np.inf) -> Array:
    """log(1 + exp(beta x)) / beta; the identity above `threshold`, as torch has it."""
    return np.where(beta * x > threshold, x, np.logaddexp(0.0, beta * x) / beta)


def gelu(x: Array, approximate: str = "none", cubic: float = 0.044715) -> Array:
    """Gaussian error linear unit: "none" by erf, "tanh", or "sigmoid" of 1.702 x ("quick")."""
    if approximate == "tanh":
        inner = math.sqrt(2.0 / math.pi) * (x + cubic * x**3)
        return np.asarray(0.5 * x * (1.0 + np.tanh(inner)))
    if approximate == "sigmoid":
        return np.asarray(x * sigmoid(1.702 * x))
    return np.asarray(0.5 * x * (1.0 + erf(x / math.sqrt(2.0))))


SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def elu(x: Array, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Array:
    """Exponential linear unit."""
    return np.asarray(scale * np.where(x > 0, x, alpha * np.expm1(input_scale * np.minimum(x, 0))))


def hard_sigmoid(x: Array, slope: float = 1 / 6, offset: float = 0.5) -> Array:
    """Straight line through (0, offset), limited to 0 and 1."""
    return np.asarray(np.clip(slope * x + offset, 0.0, 1.0))


def pade_tanh(x: Array, order: int, limited: bool) -> Array:
    """Tanh by its continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))), `order` levels deep.

    Lambert's continued fraction, the source of the common rational approximations.
    """
    tail = np.full_like(x, 2.0 * order - 1.0)
    for odd in range(2 * order - 3, 0, -2):
        tail = odd + x * x / tail
    return np.clip(x / tail, -1.0, 1.0) if limited else np.asarray(x / tail)


def huber(x: Array, delta: float = 1.0) -> Array:
    """Square of half the slope near zero, a straight line of slope delta beyond delta."""
    size = np.asarray(np.abs(x))
    return np.where(size <= delta, 0.5 * x * x, delta * (size - 0.5 * delta))


def soft_cap(x: Array, cap: float = 1.0) -> Array:
    """Limited to +-cap by a hyperbolic tangent: cap * tanh(x / cap)."""
    return np.asarray(cap * np.tanh(x / cap))


ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "clamp": lambda x, min=-np.inf, max=np.inf: np.clip(
        x, -np.inf if min is None else min, np.inf if max is None else max
    ),
    "leaky_relu": lambda x, negative_slope=0.01: np.where(x >= 0, x, negative_slope * x),
    "elu": elu,
    "celu": lambda x, alpha=1.0: elu(x, alpha, 1.0, 1.0 / alpha),
    "selu": lambda x, alpha=SELU_ALPHA, scale=SELU_SCALE: elu(x, alpha, scale),
    "gelu": gelu,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "pade_tanh": pade_tanh,
    "hard_sigmoid": hard_sigmoid,
    "silu": lambda x, beta=1.0: x * sigmoid(beta * x),
    "hard_silu": lambda x, slope=1 / 6: x * hard_sigmoid(x, slope),
    "mish": lambda x: x * np.tanh(softplus(x)),
    "softplus": softplus,
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "logsigmoid": lambda x: -np.logaddexp(0.0, -x),
    "tanhshrink": lambda x: x - np.tanh(x),
    "softshrink": lambda x, lambd=0.5: np.sign(x) * np.maximum(np.abs(x) - lambd, 0.0),
    "hardshrink": lambda x, lambd=0.5: np.where(np.abs(x) > lambd, x, 0.0),
    "threshold": lambda x, threshold=0.0, value=0.0: np.where(x > threshold, x, value),
    "huber": huber,
    "smooth_l1": lambda x, beta=1.0: huber(x, beta) / beta,
    "soft_cap": soft_cap,
    "squared_relu": lambda x: np.square(np.maximum(x, 0.0)),
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "square": np.square,
    "reciprocal": lambda x: 1.0 / x,
    "abs": np.abs,
    "neg": np.negative,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "erf": erf,
    "erfc": lambda x: 1.0 - erf(x),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "logical_not": np.logical_not,
    "invert": np.logical_not,
}

SYNONYMS = {
    "relu6": ("clamp", {"min": 0.0, "max": 6.0}),
    "hardtanh": ("clamp", {}),
    "clip": ("clamp", {}),
    "clip_by_value": ("clamp", {}),
    "hardsigmoid": ("hard_sigmoid", {}),
    "hardswish": ("hard_silu", {}),
    "swish": ("silu", {}),
    "logistic": ("sigmoid", {}),
    "log_sigmoid": ("logsigmoid", {}),
    "negative": ("neg", {}),
    "absolute": ("abs", {}),
    "leakyrelu": ("leaky_relu", {}),
    "prelu": ("leaky_relu", {}),
    "rrelu": ("leaky_relu", {}),
    "clamp_min": ("clamp", {}),
    "clamp_max": ("clamp", {}),
    "dropout": ("identity", {}),
    "dropout1d": ("identity", {}),
    "dropout2d": ("identity", {}),
    "dropout3d": ("identity", {}),
    "alpha_dropout": ("identity", {}),
    "feature_alpha_dropout": ("identity", {}),
}
"""Other names: the activation and the options it implies."""

SPELLINGS = {
    "min_val": "min",
    "max_val": "max",
    "clip_value_min": "min",
    "clip_value_max": "max",
    "slope": "negative_slope",
}
"""Other names of options. The positional ones of `clamp` are found by trying."""


def _activation(record: Recorded) -> Iterator[Guess]:
    from pytest_fwcompare.diagnose.operations.base import normalised

    name = normalised(record.operation)
    base, implied = SYNONYMS.get(name, (name, {}))
    numbers = {SPELLINGS.get(key, key): value for key, value in record.attributes.items()}
    known = {
        key: value
        for key, value in numbers.items()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    }
    if name == "prelu" and len(record.arguments) == 2:
        weight = record.arguments[1]
        shape = (1, -1) + (1,) * (record.arguments[0].ndim - 2)
        slope = weight.reshape(shape) if weight.size > 1 else weight.reshape(())
        yield record.arguments[:1], {"function": base, "negative_slope": slope}
    if base == "identity":
        rate = known.get("p", known.get("rate", known.get("drop_prob", 0.5)))
        yield record.arguments[:1], {"function": base, "rate": rate}
        return
    yield record.arguments[:1], {"function": base, **implied, **_fitting(base, known)}
    yield record.arguments[:1], {"function": base, **implied}
    yield from _limits(record, base)
    if base == "gelu":
        for approximate in ("tanh", "none"):
            yield record.arguments[:1], {"function": base, "approximate": approximate}
    if base in ("leaky_relu", "elu") and (x := record.arguments[0]).size:
        # The one option is what the most negative element tells.
        low = int(np.argmin(x))
        name = "negative_slope" if base == "leaky_relu" else "alpha"
        unit = x.flat[low] if base == "leaky_relu" else np.expm1(x.flat[low])
        if unit < 0:
            yield record.arguments[:1], {"function": base, name: record.value.flat[low] / unit}


def _limits(record: Recorded, base: str) -> Iterator[Guess]:
    """Limits of a clip that the record does not name."""
    if base == "clamp" and record.value.size:
        low, high = float(record.value.min()), float(record.value.max())
        yield record.arguments[:1], {"function": base, "min": low, "max": high}


def _fitting(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that the activation takes."""
    import inspect

    function = ACTIVATIONS[name]
    try:
        taken = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {key: value for key, value in options.items() if key in taken and key != "x"}


@rule("activation", *ACTIVATIONS, *SYNONYMS, guesses=_activation)
def activate(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """An activation by name: options "function" and its own."""
    function = ACTIVATIONS[options["function"]]
    own = {k: v for k, v in options.items() if k not in ("function", "rate")}
    return np.asarray(function(np.asarray(arguments[0], np.float64), **own))


BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "squared_difference": lambda x, y: (x - y) ** 2,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}

BINARY_NAMES = {
    **{name: name for name in BINARY},
    **{
        other: name
        for name, others in {
            "add": ("radd", "iadd", "addv2", "biasadd", "bias_add", "add_any"),
            "subtract": ("sub", "rsub", "isub"),
            "multiply": ("mul", "rmul", "imul"),
            "divide": ("div", "truediv", "rtruediv", "true_divide", "realdiv", "rdiv", "itruediv"),
            "power": ("pow", "rpow", "ipow", "float_power", "integer_pow"),
            "maximum": ("max",),
            "minimum": ("min",),
            "floor_divide": ("floordiv",),
            "remainder": ("mod", "rem"),
            "equal": ("eq",),
            "not_equal": ("ne",),
            "squared_difference": ("squareddifference",),
            "less": ("lt",),
            "less_equal": ("le",),
            "greater": ("gt",),
            "greater_equal": ("ge",),
            "logical_and": ("and",),
            "logical_or": ("or",),
        }.items()
        for other in others
    },
}


def _arithmetic(record: Recorded) -> Iterator[Guess]:
    from pytest_fwcompare.diagnose.operations.base import normalised

    base = BINARY_NAMES[normalised(record.operation)]
    options: dict[str, Any] = {"function": base}
    if len(record.arguments) == 2:
        alpha = record.attributes.get("alpha", 1)
        yield record.arguments, options
        yield record.arguments, {**options, "swapped": True}
        if alpha != 1:
            yield record.arguments, {**options, "alpha": alpha}
        return
    if len(record.arguments) != 1:
        return
    numbers = [
        value
        for value in record.attributes.values()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    for number in [*numbers, *_numbers(base, record.arguments[0], record.value)]:
        yield record.arguments, {**options, "number": float(number)}
        yield record.arguments, {**options, "number": float(number), "swapped": True}


def _numbers(base: str, x: Array, value: Array) -> Iterator[float]:
    """The number that was added, multiplied, ... as the largest element tells it."""
    if not x.size or x.shape != value.shape or not np.isfinite(x).all():
        return
    place = int(np.abs(x).argmax())
    before, after = float(x.flat[place]), float(value.flat[place])
    if base == "add":
        yield after - before
    elif base == "subtract":
        yield before - after
        yield after + before
    elif base == "multiply" and before:
        yield after / before
    elif base == "divide" and before and after:
        yield before / after
        yield after * before
    elif base == "power" and before > 0 and before != 1 and after > 0:
        yield math.log(after) / math.log(before)
        yield after ** (1 / before)
    elif base in ("power",):
        yield from (2.0, 3.0, -1.0, 0.5, -0.5)
    elif base == "maximum":
        yield float(value.min())
    elif base == "minimum":
        yield float(value.max())


@rule("arithmetic", *BINARY_NAMES, guesses=_arithmetic)
def arithmetic(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Two tensors, or one and options["number"]; "swapped" puts the second first."""
    left = np.asarray(arguments[0], np.float64)
    other = arguments[1] if len(arguments) > 1 else options["number"]
    right = options.get("alpha", 1) * np.asarray(other, np.float64)
    if options.get("swapped"):
        left, right = right, left
    return np.asarray(BINARY[options["function"]](left, right), dtype=np.float64)


def _gates(record: Recorded) -> Iterator[Guess]:
    x = record.arguments[0]
    named = record.attributes.get("dim", record.attributes.get("axis", -1))
    axes = [named] if isinstance(named, int) else []
    for axis in [*axes, *range(x.ndim)]:
        yield (x,), {"axis": int(axis) % max(x.ndim, 1)}


@rule("gated", "glu", guesses=_gates)
def gated(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """One half along an axis times the sigmoid of the other; the first gates if "swapped"."""
    parts = np.split(np.asarray(arguments[0], np.float64), 2, axis=options["axis"])
    value, gate = reversed(parts) if options.get("swapped") else parts
    function = ACTIVATIONS[options.get("function", "sigmoid")]
    return np.asarray(value * function(gate))


def _unchanged(record: Recorded) -> Iterator[Guess]:
    for argument in record.arguments[:1]:
        if argument.shape == record.value.shape:
            yield (argument,), {"function": "identity", "rate": 0.0}


rule(
    "activation",
    *("clone", "contiguous", "detach", "to", "float", "double", "type_as", "cast", "copy"),
    *("stop_gradient", "convert_element_type", "requires_grad", "alias"),
    guesses=_unchanged,
)(activate)
