"""Frozen dataclasses as JSON values and back, with the place of what does not fit."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pytest_fwcompare.errors import UsageError


def encode(value: Any) -> Any:
    """Dataclasses, mappings and sequences as JSON values; NaN and infinities as strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if hasattr(value, "tolist"):
        return encode(value.tolist())
    return str(value)


WORDS: Mapping[type, str] = {str: "a text", int: "a whole number", bool: "true or false"}


def decode(data: Any, kind: Any, where: str) -> Any:
    """The value of type `kind` that `encode` turned into `data`.

    Args:
        data: JSON values.
        kind: a dataclass, a plain type, or one composed of them.
        where: what messages call it.

    Raises:
        UsageError: `data` is of another type; names the place.
    """
    origin, arguments = typing.get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_record(data, kind, where)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        return decode(data, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        if data not in arguments:
            raise UsageError(f"{where}: expected one of {', '.join(arguments)}, got {data!r}")
        return data
    if origin is tuple:
        if not isinstance(data, list):
            raise UsageError(f"{where}: expected a list, got {type(data).__name__}")
        inner = arguments[0] if arguments else Any
        return tuple(decode(item, inner, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, dict):
            raise UsageError(f"{where}: expected an object, got {type(data).__name__}")
        return {key: decode(item, arguments[1], f"{where}.{key}") for key, item in data.items()}
    if kind is float:
        try:
            return float(data)
        except (TypeError, ValueError):
            raise UsageError(f"{where}: expected a number, got {data!r}") from None
    if kind in WORDS and type(data) is not kind:
        raise UsageError(f"{where}: expected {WORDS[kind]}, got {data!r}")
    return data


def _decode_record(data: Any, kind: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise UsageError(f"{where}: expected an object, got {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - set(fields)):
        raise UsageError(f"{where}: unknown keys {', '.join(unknown)}")
    for name, spec in fields.items():
        optional = (
            spec.default is not dataclasses.MISSING
            or spec.default_factory is not dataclasses.MISSING
        )
        if name not in data and not optional:
            raise UsageError(f"{where}: missing key {name!r}")
    made = {name: decode(item, hints[name], f"{where}.{name}") for name, item in data.items()}
    return typing.cast(Any, kind)(**made)
