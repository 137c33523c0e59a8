"""A side's weights as a diagnosis asks for them: by name, shared with what was recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded

SMALL = 8_192
"""Elements up to which a weight is kept though no record holds it."""


class Held(Mapping[str, Array]):
    """Weights by name, each asked for once at most and kept without a copy.

    The weights of a large network are drawn anew whenever they are read, and a recorded pass holds
    most of them already, among the arguments of the operations that use them.

    Args:
        values: by name.
        records: of the pass that used them.
    """

    def __init__(self, values: Mapping[str, Array], records: Sequence[Recorded]) -> None:
        self._values = values
        self._found: dict[str, Array] = {}
        self._used: dict[str, list[Array]] = {}
        for record in records:
            for name in record.parameters:
                self._used.setdefault(name, []).extend(record.arguments)

    def __getitem__(self, name: str) -> Array:
        if name in self._found:
            return self._found[name]
        value = self._values[name]
        for argument in self._used.get(name, ()):
            if argument.shape == value.shape and np.array_equal(argument, value):
                self._found[name] = argument
                return argument
        if value.size <= SMALL:
            self._found[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values


def without_weights(records: Sequence[Recorded]) -> Iterator[Recorded]:
    """The records with no large weight among their arguments, which nobody asks of a port.

    What a port computed is looked up, and never computed again. Its shadow can let go its weights
    once no record holds them.

    Args:
        records: of the port's pass.
    """
    made = {id(record.value) for record in records}
    for record in records:
        kept = tuple(a for a in record.arguments if a.size <= SMALL or id(a) in made)
        if record.parameters and len(kept) < len(record.arguments):
            record = replace(record, arguments=kept)
        yield record
