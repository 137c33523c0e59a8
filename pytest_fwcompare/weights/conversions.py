"""One parameter against one: every transform between them that their layouts allow."""

from __future__ import annotations

import itertools

from pytest_fwcompare.weights.assign import FORBIDDEN
from pytest_fwcompare.weights.conventions import Slot, role_word
from pytest_fwcompare.weights.transforms import (
    Identity,
    Reshape,
    Transform,
    Transpose,
    compose,
    invert,
)

MOST_LAYOUTS = 6
"""Axis orders considered for one parameter of unknown layout."""

UNDOCUMENTED = "same shape, layout of neither side documented"
"""Reason of a guess that neither side's layer class supports."""

UNORDERED = "no class documents the order of its gates"
"""Reason of one of the ways to read a recurrent cell's joined kernel."""


def conversions(reference: Slot, port: Slot) -> tuple[tuple[Transform, str], ...]:
    """Transforms from one parameter to the other, the likeliest first; none if they do not fit."""
    if reference.size != port.size:
        return ()
    if len(reference.shape) <= 1 and len(port.shape) <= 1:
        return (_canonical(reference, port),)
    documented = reference.certain and port.certain
    if documented and {reference.form, port.form} == {"convolution", "transposed"}:
        return ()
    fits = _trim(reference.shape) == _trim(port.shape)
    if documented:
        return (_canonical(reference, port),) if fits else _patches(reference, port)
    found = [_canonical(reference, port)] if fits else []
    if (
        not reference.certain
        and not port.certain
        and reference.native == port.native
        and role_word(reference.parameter) == role_word(port.parameter)
    ):
        found = [(Identity(), UNDOCUMENTED), *(o for o in found if o[0] != Identity())]
    for option in _permutations(reference, port):
        if all(option[0] != known for known, _ in found):
            found.append(option)
    return tuple(found[:MOST_LAYOUTS])


PATCH = "cells of a patch one after the other"
"""Reason of a pair of a convolution and a linear layer that takes its patches as rows."""


def _patches(reference: Slot, port: Slot) -> tuple[tuple[Transform, str], ...]:
    """A convolution against a linear layer on rows of cells, channels last or first in a cell."""
    if {reference.form, port.form} != {"convolution", "linear"}:
        return ()
    if reference.shape[0] != port.shape[0]:
        return ()
    kernel = reference if reference.form == "convolution" else port
    rank = len(kernel.shape)
    found = []
    for axes in ((0, *range(2, rank), 1), tuple(range(rank))):
        rows = tuple(kernel.shape[axis] for axis in axes)
        steps: tuple[Transform, ...]
        if kernel is reference:
            steps = (reference.steps, Transpose(axes), Reshape(port.shape))
        else:
            back = tuple(axes.index(axis) for axis in range(rank))
            steps = (reference.steps, Reshape(rows), Transpose(back))
        made = compose(reference.native, *steps, invert(port.steps, port.native))
        where = "last" if axes[-1] == 1 else "first"
        found.append((made, f"{PATCH}, channels {where}"))
    return tuple(found)


def _trim(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A canonical kernel shape without kernel axes of one cell: a 1x1 convolution is linear."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _canonical(reference: Slot, port: Slot) -> tuple[Transform, str]:
    """By way of the canonical layout."""
    steps = compose(
        reference.native,
        reference.steps,
        Reshape(port.shape),
        invert(port.steps, port.native),
    )
    return steps, "" if isinstance(steps, Identity) else "by the documented layouts"


def _permutations(reference: Slot, port: Slot) -> list[tuple[Transform, str]]:
    """All axis orders that fit, singleton axes aside; the fewest moves first."""
    own = tuple(length for length in reference.native if length != 1)
    wanted = tuple(length for length in port.native if length != 1)
    if sorted(own) != sorted(wanted) or len(own) > 5:
        return []
    fitting = [
        axes
        for axes in itertools.permutations(range(len(own)))
        if tuple(own[axis] for axis in axes) == wanted
    ]
    return [
        (
            compose(reference.native, Reshape(own), Transpose(axes), Reshape(port.native)),
            "the axis order that fits" if len(fitting) == 1 else "an axis order that fits",
        )
        for axes in fitting
    ]


def slot_cost(reference: Slot, port: Slot) -> float:
    """How unlikely it is that two parameters are one, names aside."""
    if not conversions(reference, port):
        return FORBIDDEN
    cost = 0.0 if reference.certain and port.certain else 0.05
    if reference.certain and port.certain and _trim(reference.shape) != _trim(port.shape):
        cost += 0.4  # a patch embedding: rather with its like
    if reference.parameter.trainable != port.parameter.trainable:
        cost += 0.2
    roles = {reference.role, port.role}
    if len(roles) == 1:
        return cost
    if "other" in roles or roles == {"kernel", "embedding"}:
        return cost + 0.3
    return FORBIDDEN if reference.certain and port.certain else cost + 0.8
