"""Nested outputs of a JAX model, flattened to names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from pytest_fwcompare.backends.jax.leaves import is_array


@jax.tree_util.register_pytree_node_class
class Outputs:
    """Nested outputs flattened to names in order. A pytree, so that it can leave a jit.

    Attributes:
        names, arrays: the outputs that are arrays.
        skipped: name and reason of those that are not.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        arrays: Sequence[Any],
        skipped: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.names, self.arrays, self.skipped = names, list(arrays), skipped

    def tree_flatten(self) -> tuple[Any, Any]:
        return tuple(self.arrays), (self.names, self.skipped)

    @classmethod
    def tree_unflatten(cls, facts: Any, arrays: Any) -> Outputs:
        return cls(facts[0], arrays, facts[1])

    def items(self) -> list[tuple[str, Any]]:
        """Names with their arrays."""
        return list(zip(self.names, self.arrays, strict=True))

    @classmethod
    def of(cls, value: Any) -> Outputs:
        """The outputs of a model: arrays, tuples, dicts, dataclasses, nested."""
        names: list[str] = []
        arrays: list[Any] = []
        skipped: list[tuple[str, str]] = []
        for name, item in _walk("", value):
            label = name or "output"
            if is_array(item):
                names.append(label)
                arrays.append(item)
            else:
                reason = "is None" if item is None else f"is {type(item).__name__}, no array"
                skipped.append((label, reason))
        return cls(tuple(names), arrays, tuple(skipped))


def _walk(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    items: Any
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = zip(value._fields, value, strict=True)
    elif isinstance(value, (tuple, list)):
        items = enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type) and not is_array(value):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    else:
        yield name, value
        return
    for key, item in items:
        yield from _walk(f"{name}.{key}" if name else str(key), item)
