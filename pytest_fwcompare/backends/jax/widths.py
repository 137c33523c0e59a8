"""Narrow and wide dtypes, and constants as their author meant them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.constants import restore

WIDE = {"complex64": np.complex128}
"""Complex dtypes that are narrow; narrow real ones are all floats of fewer than 8 bytes."""


def is_narrow(dtype: Any) -> bool:
    """True for floats below float64, bfloat16 and float8 included, and for complex64."""
    try:
        if jax.dtypes.issubdtype(dtype, np.floating):
            return bool(np.dtype(dtype).itemsize < 8)
        return str(np.dtype(dtype)) in WIDE
    except TypeError:  # random keys and other extended dtypes
        return False


def to_numpy(value: Any) -> Array:
    """A NumPy array; bfloat16 and float8 as float32."""
    array = np.asarray(value)
    if array.dtype.kind not in "biufc" and is_narrow(array.dtype):
        return array.astype(np.float32)
    return array


def wide(dtype: Any) -> Any:
    """float64 or complex128 in place of a narrower dtype; any other as it is."""
    if not is_narrow(dtype):
        return dtype
    return np.dtype(WIDE.get(str(np.dtype(dtype)), np.float64))


def widen(value: Any) -> Any:
    """A value in float64 if it was a narrower float."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not is_narrow(dtype):
        return value
    return jax.lax.convert_element_type(value, wide(dtype))


def meant(value: Any) -> tuple[Any, bool]:
    """A constant of the program as its author meant it, and whether that is known exactly.

    JAX turns a float32 scalar into a float64 literal when its other operand is one, so numbers
    that fit into float32 are looked at too.
    """
    dtype = getattr(value, "dtype", None)
    if isinstance(value, jax.core.Tracer) or (dtype is None and not isinstance(value, float)):
        return value, True
    try:
        array = np.asarray(value)
    except TypeError:  # random keys
        return value, True
    if is_narrow(array.dtype) and array.dtype.kind != "c":
        return restore(array.astype(np.float32), str(array.dtype))
    if is_narrow(array.dtype):
        return array.astype(np.complex128), False
    if array.dtype == np.float64 and array.ndim == 0:
        with np.errstate(over="ignore", invalid="ignore"):
            single = array.astype(np.float32)
        if single == array:
            restored, exact = restore(single)
            return (restored, True) if exact else (value, True)
    return value, True
