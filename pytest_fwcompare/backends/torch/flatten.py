"""Nested outputs of a torch model as named tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def flatten(result: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by name in order, and what was left out with the reason.

    A single tensor is "output"; a tuple gives "0", "1"; mappings, dataclasses and named tuples
    their keys; nested ones are joined by dots.
    """
    tensors: dict[str, torch.Tensor] = {}
    skipped: dict[str, str] = {}
    for name, value in _leaves(result, ""):
        name = name or "output"
        if isinstance(value, torch.Tensor):
            tensors[name] = value
        elif value is None:
            skipped[name] = "is None"
        else:
            skipped[name] = f"is not a tensor but {type(value).__name__}"
    return tensors, skipped


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The leaves of a nested result with their names, in order."""
    items = _items(value)
    if items is None:
        yield name, value
        return
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _items(value: Any) -> list[tuple[Any, Any]] | None:
    """Keys and values of a container, None for a leaf."""
    if isinstance(value, torch.Tensor):
        return None
    if isinstance(value, Mapping):  # before dataclasses: a ModelOutput is both and leaves None out
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    return None
