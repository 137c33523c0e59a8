"""Gradients of parameters and buffers in which both shadows differ, by the reference's names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import numpy as np

from pytest_fwcompare.diagnose import BufferChange
from pytest_fwcompare.running.arrays import Shelf
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Point, Run

VANISHED = 1e-4
"""Share of the largest gradient below which another one is not told from zero."""

TITLE = "gradient of "
"""What the gradient of a parameter is called before its name."""


class WrongGradients(Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """Gradients of parameters that differ: expected and obtained, by the reference's name.

    They are compared when somebody asks first, which nobody does where the forward passes part
    already, and read when they are asked for: those of a large network wait in a file.

    Args:
        reference, port: a pass of each, taken back.
    """

    def __init__(self, reference: Run, port: Run) -> None:
        self._sides = reference.parameters, port.parameters

    @cached_property
    def _names(self) -> dict[str, None]:
        ours, theirs = self._sides
        # A shift that a norm takes out again has the gradient zero, and rounding instead of it.
        peak = ours.largest if isinstance(ours, Shelf) else largest(ours.values())
        return {
            title.removeprefix(TITLE): None
            for title, obtained in theirs.items()
            if title in ours
            and (expected := ours[title]).shape == obtained.shape
            and _differ(expected, obtained, least=VANISHED * peak)
        }

    def __getitem__(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in self._names:
            raise KeyError(name)
        return self._sides[0][TITLE + name], self._sides[1][TITLE + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def largest(values: Iterable[np.ndarray]) -> float:
    """Largest magnitude in any of the arrays, 0.0 if there is none."""
    return max((float(np.abs(value).max(initial=0.0)) for value in values), default=0.0)


def wrong_buffers(pair: Pair, point: Point, reference: Run, port: Run) -> dict[str, BufferChange]:
    """Buffers that a step in training mode left different, by the reference's name."""
    before = point.weights or pair.given
    wrong = {}
    for name, obtained in port.buffers.items():
        expected, source = reference.buffers.get(name), name.removeprefix("buffer ")
        if expected is None or expected.shape != obtained.shape or source not in before:
            continue
        if _differ(expected, obtained):
            wrong[source] = BufferChange(before[source], expected, obtained)
    return wrong


def _differ(expected: np.ndarray, obtained: np.ndarray, least: float = 0.0) -> bool:
    """Whether two float64 arrays differ by more than a constant kept in float64 can explain.

    Args:
        expected: of the reference.
        obtained: of the port, of one shape with it.
        least: magnitude that counts as nothing.
    """
    scale = max(float(np.abs(expected).max(initial=0.0)), least) or 1.0
    return bool(np.abs(expected - obtained).max(initial=0.0) > 1e-9 * scale)
