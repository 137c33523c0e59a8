"""Intermediate tensors in the index: what a replay needs to say where a port parts, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded

MOST = 1 << 27
"""Bytes of the tensors of one pass up to which they are kept."""


def size_of(records: Iterable[Recorded]) -> int:
    """Bytes of all arrays of recorded operations, those in several counted once."""
    seen: dict[int, int] = {}
    for record in records:
        for array in (record.value, record.gradient, *record.arguments):
            if array is not None:
                seen[id(array)] = array.nbytes
    return sum(seen.values())


def encode(records: Iterable[Recorded], add: Callable[[Array], str]) -> list[dict[str, Any]]:
    """Recorded operations as the index keeps them.

    Args:
        records: in execution order.
        add: keeps an array and names it.
    """
    return [
        {
            "index": record.index,
            "path": record.path,
            "operation": record.operation,
            "value": add(record.value),
            "inputs": list(record.inputs),
            "parameters": list(record.parameters),
            "attributes": dict(_plain_items(record.attributes, add)),
            "arguments": [add(array) for array in record.arguments],
            "gradient": None if record.gradient is None else add(record.gradient),
            "place": record.place,
            "is_module": record.is_module,
        }
        for record in records
    ]


def decode(
    kept: Iterable[Mapping[str, Any]], get: Callable[[str], Array], *, gradients: bool
) -> Iterator[Recorded]:
    """The operations that `encode` kept.

    Args:
        kept: entries of the index.
        get: gives the array of a name.
        gradients: whether the pass has run backward.
    """
    for entry in kept:
        gradient = entry["gradient"] if gradients else None
        yield Recorded(
            index=entry["index"],
            path=entry["path"],
            operation=entry["operation"],
            value=get(entry["value"]),
            inputs=tuple(entry["inputs"]),
            parameters=tuple(entry["parameters"]),
            attributes={n: _value(v, get) for n, v in entry["attributes"].items()},
            arguments=tuple(get(name) for name in entry["arguments"]),
            gradient=None if gradient is None else get(gradient),
            place=entry["place"],
            is_module=entry["is_module"],
        )


def _plain_items(
    attributes: Mapping[str, Any], add: Callable[[Array], str]
) -> Iterator[tuple[str, Any]]:
    """Facts that JSON can hold; what it cannot is no plain fact, and left out."""
    for name, value in attributes.items():
        try:
            yield str(name), _plain(value, add)
        except TypeError:
            continue


def _plain(value: Any, add: Callable[[Array], str]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [_plain(item, add) for item in value]}
    if isinstance(value, list):
        return [_plain(item, add) for item in value]
    if isinstance(value, Mapping):
        return {"map": {str(name): _plain(item, add) for name, item in value.items()}}
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return {"array": add(value)}
    raise TypeError(type(value).__name__)


def _value(plain: Any, get: Callable[[str], Array]) -> Any:
    if isinstance(plain, list):
        return [_value(item, get) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, inside),) = plain.items()
    match kind:
        case "float":
            return float(inside)
        case "tuple":
            return tuple(_value(item, get) for item in inside)
        case "map":
            return {name: _value(item, get) for name, item in inside.items()}
    return get(inside)
