"""What it means to understand a recorded operation: to compute its value again in NumPy.

A recorded operation is understood if a NumPy implementation, given the recorded arguments, gives
the recorded value. Only then may a change of it prove anything. Options that a record does not
name are found by trying: what reproduces the value is right.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded

Arguments = tuple[Array, ...]
Axes = tuple[int, ...]
Compute = Callable[[Arguments, Mapping[str, Any]], Array]
Guess = tuple[Arguments, dict[str, Any]]
Guesses = Callable[[Recorded], Iterator[Guess]]

LAYOUTS, RESULT = "layouts of the arguments", "layout of the result"
"""Options by which a guess says that its arguments and value are transposed recorded ones."""

REPRODUCED = 1e-9
"""Largest relative difference at which a recomputed value counts as the recorded one. Float32
constants inside a framework's float64 kernels stay below it."""


@dataclass(frozen=True)
class Operation:
    """An operation that NumPy computes again.

    Attributes:
        kind: family of operations that share repairs, e.g. "convolution".
        name: normalised name, e.g. "conv2d".
        arguments: input arrays, in the order of the record unless `order` says otherwise.
        options: everything else that the value depends on.
        compute_with: the implementation, in the axis order of torch.
        layouts: for each argument the axes by which the recorded array was transposed to that
            order, None where it is as recorded; empty if all are.
        result: axes by which the implementation's value is transposed to the recorded one.
    """

    kind: str
    name: str
    arguments: Arguments
    options: Mapping[str, Any] = field(default_factory=dict)
    compute_with: Compute = field(repr=False, default=lambda arguments, options: arguments[0])
    layouts: tuple[Axes | None, ...] = ()
    result: Axes | None = None

    def compute(self, arguments: Sequence[Array] | None = None, **changes: Any) -> Array:
        """The value with other arguments or with options changed."""
        options = {**self.options, **changes} if changes else self.options
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            used = self.arguments if arguments is None else tuple(arguments)
            return self.outward(np.asarray(self.compute_with(used, options), dtype=np.float64))

    def outward(self, value: Array) -> Array:
        """A value of the implementation in the recorded axis order."""
        return value if self.result is None else value.transpose(self.result)

    def inward(self, value: Array) -> Array:
        """A recorded value in the implementation's axis order."""
        return value if self.result is None else value.transpose(np.argsort(self.result))

    def taken(self, number: int, value: Array) -> Array:
        """A recorded argument in the implementation's axis order."""
        axes = self.layouts[number] if number < len(self.layouts) else None
        return value if axes is None else value.transpose(axes)

    def with_options(self, **changes: Any) -> Operation:
        """The operation with options changed."""
        return replace(self, options={**self.options, **changes})


@dataclass(frozen=True)
class Folded(Recorded):
    """Several recorded operations as the one that they compute together.

    Attributes:
        known: the operation, proved by its value; its first arguments are those of the record.
    """

    known: Operation = field(default_factory=lambda: Operation("", "", ()))


@dataclass(frozen=True)
class Rule:
    """One NumPy implementation and how a record is read for it."""

    kind: str
    guesses: Guesses
    compute: Compute


RULES: dict[str, list[Rule]] = {}
"""By normalised operation name."""

FALLBACKS: list[Rule] = []
"""Tried where no rule of that name reproduces the value."""


def rule(kind: str, *names: str, guesses: Guesses | None = None) -> Callable[[Compute], Compute]:
    """Register a NumPy implementation under operation names; without names as a fallback."""

    def register(compute: Compute) -> Compute:
        made = Rule(kind, guesses or plain, compute)
        for name in names:
            RULES.setdefault(name, []).append(made)
        if not names:
            FALLBACKS.append(made)
        return compute

    return register


def plain(record: Recorded) -> Iterator[Guess]:
    """Arguments and attributes as they were recorded."""
    yield record.arguments, dict(record.attributes)


def normalised(name: str) -> str:
    """Operation name without namespace, underscores and case: "torch.nn.functional.relu_"."""
    last = name.rsplit(".", 1)[-1].rsplit("::", 1)[-1].strip("_")
    return last.lower()


def same(value: Array, expected: Array, tolerance: float = REPRODUCED) -> bool:
    """Whether two arrays agree element by element, NaN and infinities in the same places."""
    value, expected = np.asarray(value, np.float64), np.asarray(expected, np.float64)
    if value.shape != expected.shape:
        return False
    with np.errstate(all="ignore"):
        finite = np.isfinite(expected)
        if not np.array_equal(finite, np.isfinite(value)):
            return False
        if not np.array_equal(value[~finite], expected[~finite], equal_nan=True):
            return False
        if not finite.any():
            return True
        scale = float(np.abs(expected[finite]).max())
        return bool(np.abs(value[finite] - expected[finite]).max() <= tolerance * scale)


def understand(record: Recorded) -> Operation | None:
    """The operation that reproduces the record, or None: then nothing may be claimed of it."""
    if not record.arguments:
        return None
    if isinstance(record, Folded):
        known = record.known
        given = [known.taken(number, array) for number, array in enumerate(record.arguments)]
        # Weights and states that no operation made come after what is recorded.
        whole = replace(known, arguments=(*given, *known.arguments[len(given) :]))
        value = attempt(whole)
        return whole if value is not None and same(value, record.value) else None
    name = normalised(record.operation)
    for candidate in [*RULES.get(name, ()), *FALLBACKS]:
        operation = _reproduce(candidate, name, record)
        if operation is not None:
            return operation
    return None


def made(
    kind: str, name: str, arguments: Arguments, options: Mapping[str, Any], compute: Compute
) -> Operation:
    """The operation of a guess, with the axis orders it names among its options."""
    plain_options = {k: v for k, v in options.items() if k not in (LAYOUTS, RESULT)}
    layouts, result = options.get(LAYOUTS, ()), options.get(RESULT)
    return Operation(kind, name, arguments, plain_options, compute, layouts, result)


def _reproduce(candidate: Rule, name: str, record: Recorded) -> Operation | None:
    try:
        for arguments, options in candidate.guesses(record):
            operation = made(candidate.kind, name, arguments, options, candidate.compute)
            value = attempt(operation)
            if value is not None and same(value, record.value):
                return operation
    except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError):
        # A guess that does not fit the record's shapes or attributes is not understood.
        return None
    return None


def attempt(
    operation: Operation, arguments: Sequence[Array] | None = None, **changes: Any
) -> Array | None:
    """The value with changes, or None where they do not fit the shapes."""
    try:
        return operation.compute(arguments, **changes)
    except (
        ValueError,
        IndexError,
        TypeError,
        KeyError,
        ZeroDivisionError,
        OverflowError,
        np.exceptions.AxisError,
    ):
        return None


def pairs(value: Any, rank: int) -> tuple[tuple[int, int], ...]:
    """Amounts before and after for each of `rank` axes, from an int, ints or pairs."""
    each = spread(value, rank)
    return tuple((int(v[0]), int(v[1])) if np.ndim(v) else (int(v), int(v)) for v in each)


def spread(value: Any, rank: int) -> tuple[Any, ...]:
    """One entry for each of `rank` axes, from a number or a sequence of 1 or `rank` entries."""
    if isinstance(value, (list, tuple)):
        return tuple(value) * (rank if len(value) == 1 else 1)
    return (value,) * rank
