"""Normalisations written out: any axes, groups, with or without mean, scale, shift."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.canonical.fold import Fold, View
from pytest_fwcompare.diagnose.operations.norms import axis_sets, normalise

ROOTS = ("rsqrt", "sqrt")
POWERS = ("pow", "power", "float_power")

AGREE = 1e-7
"""Largest relative spread of what a root hides beside the variance, for an epsilon."""


def norms(view: View) -> Iterator[Fold]:
    """Folds around every root that a tensor is divided by."""
    done: set[int] = set()
    powers = [
        p
        for p in view.named(POWERS)
        if view.graph.records[p].attributes.get("number", 0.0) in (0.5, -0.5)
    ]
    for anchor in sorted([*view.named(ROOTS), *powers, *view.named(("std",))]):
        if anchor in done:
            continue
        found = _around(view, anchor)
        if found is not None:
            done |= view.inside(found)
            yield found


def _around(view: View, anchor: int) -> Fold | None:
    root = view.value(anchor)
    with np.errstate(all="ignore"):
        square = np.asarray(root, np.float64) ** 2
        number = view.graph.records[anchor].attributes.get("number")
        if view.name(anchor) == "rsqrt" or number == -0.5:
            square = 1.0 / square
    if not np.isfinite(square).all():
        return None
    for end in view.onward(anchor, 7):
        value = view.value(end)
        if value.size <= root.size or value.ndim < 2 or not np.isfinite(value).all():
            continue
        for x in view.back(end, 9):
            given = view.value(x)
            if given.shape != value.shape or anchor not in view.between([x], end):
                continue
            found = _norm(view, anchor, square, x, end)
            if found is not None:
                return found
    return None


def _norm(view: View, anchor: int, square: Array, x: int, end: int) -> Fold | None:
    region = view.between([x], end)
    held = view.held(region)
    numbers = _numbers(view, region)
    given = view.value(x)
    own = view.held(view.between([x], anchor))
    if any(array.size == square.size for array in own.values()):
        found = _given_statistics(view, square, x, end, held, own)
        if found is not None:
            return found
    for statistics, layout in _statistics(given, square, numbers):
        back = tuple(int(axis) for axis in np.argsort(layout)) if layout else None
        plain = {**statistics, "weight": None, "bias": None}
        shape = given.transpose(layout).shape if layout else given.shape
        for weight, bias in _affine(held, shape, channel=1 if layout else None):
            options = {**plain, "weight": weight, "bias": bias}
            found = _checked(view, x, end, options, layout, back)
            if found is not None:
                return found
    return None


def _checked(
    view: View,
    x: int,
    end: int,
    options: Mapping[str, Any],
    layout: tuple[int, ...] | None,
    back: tuple[int, ...] | None,
) -> Fold | None:
    if options.get("groups"):
        name = "group_norm"
    elif options.get("variance") is not None:
        name = "batch_norm"
    else:
        name = "layer_norm" if options["centred"] else "rms_norm"
    return view.fold(end, (x,), "norm", name, options, normalise, (layout,), back)


def _numbers(view: View, region: set[int]) -> list[float]:
    """Numbers that are added in a region: epsilons."""
    found = [n for p in sorted(region) for n in view.graph.records[p].attributes.values()]
    return [float(n) for n in found if isinstance(n, float) and 0.0 < abs(n) < 0.5]


def _epsilons(square: Array, variance: Array, numbers: list[float]) -> list[float]:
    """What a root may hold beside the variance, the likeliest first; none if not one number."""
    rest = square.reshape(-1) - variance.reshape(-1)
    scale = float(np.abs(square).max()) or 1.0
    eps = float(np.median(rest))
    if np.abs(rest - eps).max() > AGREE * scale or eps < -AGREE * scale:
        return []
    near = sorted(
        (n for n in numbers if abs(n - eps) <= AGREE * scale), key=lambda n: abs(n - eps)
    )
    return [*near, 0.0] if abs(eps) <= AGREE * scale else [*near, eps]


def _statistics(
    x: Array, square: Array, numbers: list[float]
) -> Iterator[tuple[dict[str, Any], tuple[int, ...] | None]]:
    """Options of norms whose root of the variance is the one recorded, and a layout for groups."""
    for axes in axis_sets(x.ndim):
        count = int(np.prod([x.shape[axis] for axis in axes]))
        if x.size // max(count, 1) != square.size or count < 2:
            continue
        for centred in (True, False):
            mean = x.mean(axis=axes, keepdims=True) if centred else 0.0
            squares = ((x - mean) ** 2).sum(axis=axes)
            for ddof in (0, 1) if centred else (0,):
                base = {"axes": axes, "centred": centred, "ddof": ddof}
                yield from _with_epsilon(base, square, squares / (count - ddof), numbers, None)
                # A sum of squares under the root: divided by the length, not the deviation.
    yield from _group_statistics(x, square, numbers)


def _with_epsilon(
    base: dict[str, Any],
    square: Array,
    variance: Array,
    numbers: list[float],
    layout: tuple[int, ...] | None,
) -> Iterator[tuple[dict[str, Any], tuple[int, ...] | None]]:
    found = _epsilons(square, variance, numbers)
    for eps in found:
        yield {**base, "eps": eps}, layout
    if not found:
        return
    # The root of the variance alone, with what is added to it outside.
    for number in numbers:
        yield {**base, "eps": number, "outside": True}, layout


def _group_statistics(
    x: Array, square: Array, numbers: list[float]
) -> Iterator[tuple[dict[str, Any], tuple[int, ...] | None]]:
    if x.ndim < 3 or square.size % x.shape[0]:
        return
    groups = square.size // x.shape[0]
    last = (0, x.ndim - 1, *range(1, x.ndim - 1))
    for layout in (None, last):
        turned = x if layout is None else x.transpose(layout)
        if not groups or turned.shape[1] % groups:
            continue
        rows = turned.reshape(x.shape[0], groups, -1)
        base = {"groups": groups, "axes": (), "centred": True}
        yield from _with_epsilon(base, square, rows.var(axis=2), numbers, layout)


def _affine(
    held: Mapping[str, Array], shape: tuple[int, ...], channel: int | None
) -> Iterator[tuple[Array | None, Array | None]]:
    """Scale and shift among parameters, along the last axis or that of channels."""
    yield None, None
    choices: list[Array] = []
    for array in held.values():
        # Some shapes fit more than one axis; the value tells.
        for axis in [channel] if channel is not None else [len(shape) - 1, 1, 0]:
            if axis < len(shape) and array.size == shape[axis]:
                choices.append(array.reshape([-1 if a == axis else 1 for a in range(len(shape))]))
        if array.ndim > 1 and array.shape == shape[-array.ndim :]:
            choices.append(array)
    for one in choices[:6]:
        yield one, None
        yield 1.0 + one, None
    for one, other in itertools.permutations(choices[:6], 2):
        yield one, other
        yield 1.0 + one, other
    for one in choices[:6]:
        yield None, one


def _given_statistics(
    view: View,
    square: Array,
    x: int,
    end: int,
    held: Mapping[str, Array],
    own: Mapping[str, Array],
) -> Fold | None:
    """Running statistics: the variance and the rest are parameters along one axis."""
    numbers = _numbers(view, view.between([x], end))
    for name, variance in own.items():
        fits = variance.size == square.size
        for eps in _epsilons(square, variance, numbers) if fits else []:
            found = _running(view, x, end, held, name, eps)
            if found is not None:
                return found
    return None


def _running(
    view: View, x: int, end: int, held: Mapping[str, Array], name: str, eps: float
) -> Fold | None:
    """A norm by running statistics whose variance is the parameter of that name."""
    given, variance = view.value(x), held[name]
    others = [a for key, a in held.items() if key != name and a.size == variance.size]
    axes = [axis for axis, size in enumerate(given.shape) if size == variance.size]
    for axis in sorted(axes, reverse=True):
        shape = [-1 if a == axis else 1 for a in range(given.ndim)]
        rows = [a.reshape(shape) for a in others]
        options: dict[str, Any] = {
            "eps": eps,
            "centred": True,
            "axes": tuple(a for a in range(given.ndim) if a != axis),
            "variance": variance.reshape(shape),
        }
        for chosen in _roles(rows):
            found = _checked(view, x, end, {**options, **chosen}, None, None)
            if found is not None:
                return found
    return None


def _roles(rows: list[Array]) -> Iterator[dict[str, Any]]:
    """Which of the parameters is the mean, the scale, the shift."""
    names = ("mean", "weight", "bias")
    for count in range(min(len(rows), 3), 0, -1):
        for some in itertools.permutations(rows, count):
            for roles in itertools.combinations(names, count):
                chosen = dict.fromkeys(names)
                chosen.update(zip(roles, some, strict=True))
                if chosen["mean"] is not None:
                    yield chosen
