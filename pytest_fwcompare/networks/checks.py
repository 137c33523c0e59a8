"""Checks that several layers share. Each raises a NetworkError that names the layer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pytest_fwcompare.networks.base import Layer, Shape, Size, join, show

Amounts = int | tuple[int, ...]
"""One number for all spatial axes, or one for each."""

Padding = str | int | tuple[tuple[int, int], ...]
""""valid", "same", "causal" (1D only), one amount for all sides, or (before, after) an axis."""


def whole(layer: Layer, word: str, value: object, least: int = 1) -> None:
    """Value is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise layer.error(f"{word} is an integer of at least {least}, got {value!r}")


def real(layer: Layer, word: str, value: object, least: float, below: float = math.inf) -> None:
    """Value is a number in [least, below)."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not least <= value < below
    ):
        wanted = f"at least {least}" if below == math.inf else f"in [{least}, {below})"
        raise layer.error(f"{word} is a number {wanted}, got {value!r}")


def choice(layer: Layer, word: str, value: object, choices: Iterable[str]) -> None:
    """Value is one of some words."""
    choices = tuple(choices)
    if value not in choices:
        raise layer.error(f"{word} is one of {join(choices)}, got {value!r}")


def amounts(layer: Layer, word: str, value: Amounts, axes: int, least: int = 1) -> None:
    """Value is one number, or a tuple of one for each of the spatial axes."""
    if isinstance(value, (tuple, list)):
        if len(value) != axes:
            raise layer.error(
                f"{word} is one number or {axes} of them, one a spatial axis, got {value!r}"
            )
        for number in value:
            whole(layer, word, number, least)
    else:
        whole(layer, word, value, least)


def padding(layer: Layer, value: Padding, axes: int, words: Sequence[str]) -> None:
    """Value is one of the words, a number, or a pair of numbers for each spatial axis."""
    if isinstance(value, str):
        if value not in words:
            raise layer.error(
                f"padding is one of {join(words)}, a number, or (before, after) for each of "
                f"{axes} spatial axes, got {value!r}"
            )
    elif isinstance(value, (tuple, list)):
        pairs(layer, "padding", value, axes)
    else:
        whole(layer, "padding", value, 0)


def pairs(layer: Layer, word: str, value: object, axes: int | None) -> None:
    """Value is a tuple of (before, after), one for each spatial axis."""
    fits = isinstance(value, (tuple, list)) and len(value) == (axes or len(value))
    if not fits or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in value):  # type: ignore[attr-defined]
        raise layer.error(
            f"{word} is (before, after) for each of {axes or 'the'} spatial axes, got {value!r}"
        )
    for pair in value:  # type: ignore[attr-defined]
        for number in pair:
            whole(layer, word, number, 0)


def spatial(layer: Layer, shapes: Sequence[Shape], space: int) -> None:
    """One input with as many spatial axes between the batch and the features."""
    if len(shapes) == 1 and len(shapes[0]) != space + 2:
        raise layer.error(
            f"expected an input of {space + 2} axes (batch, {space} spatial, features), got "
            f"{len(shapes[0])} in shape {show(shapes[0])}"
        )


def features(layer: Layer, shape: Shape) -> int:
    """The last size, which must be known."""
    if not isinstance(shape[-1], int):
        raise layer.error(
            f"expected a known number of features on the last axis, got the free size "
            f"{shape[-1]!r} in shape {show(shape)}"
        )
    if shape[-1] < 1:
        raise layer.error(f"expected at least one feature on the last axis, got {show(shape)}")
    return shape[-1]


def nonempty(layer: Layer, word: str, size: Size, source: str) -> Size:
    """A size of the output, which must be at least one where it is known."""
    if isinstance(size, int) and size < 1:
        raise layer.error(f"{word} would have {size} cells {source}")
    return size


def broadcast(layer: Layer, shapes: Sequence[Shape]) -> Shape:
    """The shape that the inputs broadcast to; free sizes are equal only to themselves."""
    rank = max(map(len, shapes))
    if any(len(shape) != rank for shape in shapes):
        raise layer.error(
            f"expected inputs of the same number of axes, got {join(map(show, shapes))}"
        )
    result: list[Size] = []
    for axis, sizes in enumerate(zip(*shapes, strict=True)):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            raise layer.error(
                f"expected sizes that are equal or 1, got {join(sizes)} on axis {axis} of "
                f"{join(map(show, shapes))}"
            )
        result.append(wide.pop() if wide else 1)
    return tuple(result)
