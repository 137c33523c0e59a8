"""Float32 constants brought back to the numbers their author meant.

A shadow computes in float64, but a constant that a program holds in float32 (an epsilon of 1e-5, a
square root of two) has already lost nine digits. Most such constants are short decimals or
well-known numbers, and the float32 value tells which. This is for constants of a program only: a
weight is an exact float32 number on both sides and must stay what it is.
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import numpy as np

from pytest_fwcompare.judge.distances import representable

Array = np.ndarray

SHORT = 6
"""Decimals of up to six digits survive float32 (std::numeric_limits<float>::digits10)."""

LONG = 7
"""About a third of all float32 numbers are some decimal of seven digits: the last resort."""

DYADIC_BITS = 12
"""A float32 number with no more mantissa bits than this is taken as exactly that number."""

FEW = {"float16": 3, "bfloat16": 2}
"""Decimals of so many digits survive in the narrow dtypes."""

SAMPLE = 64
"""Numbers of a long table that are looked at first."""


@cache
def named_constants() -> list[float]:
    """Irrational numbers and fractions that programs write down, in float64."""
    pi, e = math.pi, math.e
    # Klambauer et al. 2017, section 2: the fixed point (0, 1) of SELU.
    selu_alpha, selu_scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    roots = [math.sqrt(n) for n in range(2, 4097)]
    return [
        *(pi, 2 * pi, pi / 2, pi / 4, pi / 180, 180 / pi, 1 / pi, 2 / pi, 1 / (2 * pi)),
        *(math.sqrt(pi), math.sqrt(2 * pi), 1 / math.sqrt(pi), 1 / math.sqrt(2 * pi)),
        *(math.sqrt(2 / pi), 2 / math.sqrt(pi), math.sqrt(pi / 2), math.sqrt(8 / pi)),
        *(math.log(2 * pi), 0.5 * math.log(2 * pi), math.log(pi)),
        *(e, 1 / e, math.log(2), math.log(10), 1 / math.log(2), 1 / math.log(10)),
        *(math.log10(2), math.log(10000), (1 + math.sqrt(5)) / 2),
        *(selu_alpha, selu_scale, selu_alpha * selu_scale),
        *roots,
        *(1 / root for root in roots),
        *(1 / n for n in range(3, 4097)),
        *(p / q for q in range(3, 65) for p in range(2, 2 * q) if math.gcd(p, q) == 1),
    ]


GELU = (0.044715, 1.702, math.sqrt(0.5), math.sqrt(2 / math.pi))
"""Hendrycks and Gimpel 2016, section 2; in sixteen bits they look like decimals of few digits."""


@cache
def _table() -> tuple[Array, Array]:
    """Float32 keys in ascending order with their float64 values; the first one named wins."""
    values = np.asarray(named_constants())
    keys, first = np.unique(values.astype(np.float32), return_index=True)
    return keys, values[first]


def restore(value: Any, dtype: str = "float32") -> tuple[Array, bool]:
    """The float64 numbers that a float32 constant most likely stands for.

    In this order: zero, infinities, NaN, integers below 2^24 and numbers of at most twelve
    mantissa bits stay; a decimal of up to six digits; a named constant or fraction; a decimal
    of seven digits. An array is restored as a whole or not at all: a table in which a single
    number is none of these was computed in float32, and is handed back as it is.

    Args:
        value: scalar or array of any shape; float32 or narrower, else it is only converted.
        dtype: what the program holds it in, where that is narrower than `value` here.

    Returns:
        float64 array of the same shape, and whether every number is known exactly. Always rounds
        to `value` in float32.
    """
    given = np.asarray(value)
    kept = given.dtype.name if given.dtype.name in FEW else dtype
    if kept in FEW:
        return _restore_short(given.astype(np.float64), kept)
    if given.dtype.kind != "f" or given.dtype.itemsize > 4:
        return given.astype(np.float64), True
    flat, places = np.unique(given.astype(np.float32).ravel(), return_inverse=True)
    # A long table is given up after a few of its numbers, which costs microseconds.
    known = len(flat) <= 2 * SAMPLE or _restore(flat[:: len(flat) // SAMPLE])[1]
    restored, exact = _restore(flat) if known else (flat, False)
    if not exact:
        return given.astype(np.float64), False
    return restored[places].reshape(given.shape), True


def _restore_short(given: Array, dtype: str) -> tuple[Array, bool]:
    """One number of sixteen bits; a table of them stays as it is, for it says too little.

    In this order: what is whole or has at most three mantissa bits stays, zero, infinities and NaN
    with it; a decimal of few digits; a named constant; a decimal of one digit more.
    """
    if given.size != 1 or not np.isfinite(given).all():
        return given, bool((~np.isfinite(given) | (given == np.rint(given))).all())
    number = float(given.reshape(-1)[0])
    scaled = math.frexp(number)[0] * 8
    if number == round(number) or scaled == round(scaled):
        return given, True
    decimals = [float(f"{number:.{digits}e}") for digits in range(FEW[dtype] + 1)]
    named = (math.copysign(constant, number) for constant in named_constants())
    for candidate in (*GELU, *decimals[:-1], *named, decimals[-1]):
        if float(representable(np.asarray(candidate), dtype)) == number:
            return np.full(given.shape, candidate), True
    return given, False


def _restore(flat: Array) -> tuple[Array, bool]:
    """The restored numbers (n), and whether all of them are known."""
    with np.errstate(over="ignore"):
        exact, restored = _kept(flat), flat.astype(np.float64)
        for candidates in (
            partial(_decimal, digits=SHORT),
            _named,
            partial(_decimal, digits=LONG),
        ):
            if exact.all():
                break
            candidate = candidates(flat)
            fits = ~exact & (candidate.astype(np.float32) == flat)
            restored[fits] = candidate[fits]
            exact |= fits
    return restored, bool(exact.all())


def _kept(flat: Array) -> Array:
    """Where float32 numbers (n) stand for themselves."""
    mantissa, _ = np.frexp(np.where(np.isfinite(flat), flat, 0).astype(np.float64))
    scaled = mantissa * 2.0**DYADIC_BITS
    dyadic = scaled == np.rint(scaled)
    whole = (np.abs(flat) < 2**24) & (flat == np.rint(flat))
    extreme = np.abs(flat) == np.finfo(np.float32).max
    kept: Array = (dyadic & ~_is_short(flat)) | whole | extreme | ~np.isfinite(flat)
    return kept


def _is_short(flat: Array) -> Array:
    """Where a decimal of up to four digits fits: it wins over a number of few bits."""
    fits: Array = _decimal(flat, 4).astype(np.float32) == flat
    return fits


def _decimal(flat: Array, digits: int) -> Array:
    """The nearest decimals of so many significant digits, correctly rounded to float64."""
    finite = np.where(np.isfinite(flat), flat, 1).astype(np.float64)
    texts = (f"{number:.{digits - 1}e}" for number in finite.tolist())
    return np.fromiter(map(float, texts), np.float64, len(flat))


def _named(flat: Array) -> Array:
    """The named constants (n) that round to the numbers or their negatives; NaN where none."""
    keys, values = _table()
    size = np.abs(flat)
    places = np.minimum(np.searchsorted(keys, size), len(keys) - 1)
    found: Array = np.where(keys[places] == size, np.copysign(values[places], flat), np.nan)
    return found
