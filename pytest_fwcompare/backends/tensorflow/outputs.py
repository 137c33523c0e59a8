"""Nested outputs of a model as tensors by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf


@tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
def flatten(raw: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors by name, and what is none with the reason.

    A single tensor is "output"; items of tuples and lists go by their place, those of mappings,
    dataclasses and named tuples by their key; nested ones as "states.1".
    """
    outputs: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    _add("", raw, outputs, skipped)
    return outputs, skipped


def _add(path: str, value: Any, outputs: dict[str, Any], skipped: dict[str, str]) -> None:
    items = _items(value)
    if items is not None:
        for key, item in items:
            _add(f"{path}.{key}" if path else str(key), item, outputs, skipped)
        return
    name = path or "output"
    if isinstance(value, tf.Variable):
        outputs[name] = tf.convert_to_tensor(value)
    elif isinstance(value, tf.Tensor):
        if value.dtype.is_floating or value.dtype.is_integer or value.dtype.is_bool:
            outputs[name] = value
        else:
            skipped[name] = f"its dtype {value.dtype.name} is not compared"
    elif value is None:
        skipped[name] = "None"
    else:
        skipped[name] = f"not a tensor but {type(value).__name__}"


def _items(value: Any) -> list[tuple[Any, Any]] | None:
    """Keys and items of a container; None for anything else."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and (fields := getattr(value, "_fields", None)):
        return list(zip(fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return None
