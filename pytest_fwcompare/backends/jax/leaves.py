"""What a JAX tree holds: its arrays, the names of their places, and plain facts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

Values = dict[str, Any]
"""Arrays by name."""


def is_array(value: Any) -> bool:
    """True for JAX and NumPy arrays, traced ones included."""
    return isinstance(value, (jax.Array, np.ndarray))


def is_float(value: Any) -> bool:
    """True for arrays of floating dtype, bfloat16 and float8 included."""
    return is_array(value) and jax.dtypes.issubdtype(value.dtype, np.inexact)


def has_numbers(value: Any) -> bool:
    """False for random keys, which are no numbers."""
    dtype = getattr(value, "dtype", None)
    return dtype is None or not jax.dtypes.issubdtype(dtype, jax.dtypes.extended)


def key_text(key: Any) -> str:
    """One step of a key path as a word: .conv, [0], ['scale']."""
    for attribute in ("name", "idx", "key"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key).strip(".[]'\"")


def key_value(key: Any) -> Any:
    """What one step of a key path is looked up with."""
    return next((getattr(key, a) for a in ("name", "idx", "key") if hasattr(key, a)), None)


def path_name(path: Sequence[Any]) -> str:
    """A key path as a name: .blocks[0].conv.kernel is "blocks.0.conv.kernel"."""
    return ".".join(key_text(key) for key in path) or "params"


def plain(value: Any) -> Any:
    """The value if it is a plain fact (numbers, words, tuples of them), else None."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)) and value:
        items = [plain(item) for item in value]
        return None if any(item is None for item in items) else tuple(items)
    return None


def options_of(owner: Any) -> dict[str, Any]:
    """Plain facts that a layer holds as attributes."""
    names = getattr(type(owner), "__dataclass_fields__", None) or getattr(owner, "__dict__", {})
    facts = {}
    for name in names:
        if not name.startswith("_"):
            with contextlib.suppress(Exception):
                if (fact := plain(getattr(owner, name))) is not None:
                    facts[name] = fact
    return facts
