"""Repairs of parts: joined, cut, regrouped, in another order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair
from pytest_fwcompare.diagnose.repairs.order import by_waves, order_cause


@repair("movement")
def joining(spot: Spot) -> Iterator[Candidate]:
    """Parts joined in another order."""
    options = spot.operation.options
    arguments = spot.operation.arguments
    if options["move"] not in ("concatenate", "stack") or not 2 <= len(arguments) <= 5:
        return
    turnedby_waves = order_cause(spot) == "position"
    cause = "position" if turnedby_waves or _in_time(spot) else "channel-order"
    for order in itertools.permutations(range(len(arguments))):
        if order != tuple(range(len(arguments))):
            value = attempt(spot.operation, [arguments[k] for k in order])
            if value is not None and value.shape == spot.record.value.shape:
                text = f"parts joined in the order {order}"
                yield Candidate(cause, text, {spot.place: value}, places=(spot.place,))


def _in_time(spot: Spot) -> bool:
    """Whether parts are joined along an axis of steps: what follows works on the last axis."""
    options, rank = spot.operation.options, spot.record.value.ndim
    if options["move"] != "concatenate" or rank != 3 or options["axis"] != 1:
        return False
    front = [spot.place]
    for _ in range(4):
        front = [p for place in front for p in spot.graph.consumers[place]]
        kinds = {spot.replay.kind(place) for place in front}
        if {"convolution", "transposed convolution", "pool"} & kinds:
            return False
        if {"linear", "matmul", "attention"} & kinds:
            return True
    return False


def siblings(spot: Spot) -> list[int]:
    """Positions that cut the same tensor along the same axis: the parts of a fused projection."""
    x = spot.operation.arguments[0]
    axis = spot.operation.options.get("axis")
    found = []
    for place in range(len(spot.graph)):
        record = spot.graph.records[place]
        if not record.arguments or record.arguments[0] is not x:
            continue
        other = spot.replay.operation(place)
        if (
            other is not None
            and other.kind == "movement"
            and other.options["move"] in ("slice", "index")
            and other.options["axis"] == axis
            and record.value.shape == spot.record.value.shape
        ):
            found.append(place)
    return found


def turned(spot: Spot, parts: list[int]) -> bool:
    """Whether parts of a tensor are negated and joined again, as rotary positions do it."""
    after = [other for place in parts for other in spot.graph.consumers[place]]
    negated = any(
        (operation := spot.replay.operation(place)) is not None
        and (operation.options.get("function") == "neg" or operation.options.get("number") == -1)
        for place in after
    )
    return (negated or any(by_waves(spot, place) for place in after)) and len(parts) == 2


SQUASHED = ("sigmoid", "hard_sigmoid", "tanh")
"""Functions that make a gate of a sum."""


def are_gates(spot: Spot, parts: list[int]) -> bool:
    """Whether parts of a tensor are the gates of a cell: of a recurrent loop that is written out.

    Three or four, most of which end in such a function at once or after one sum. The halves of a
    gated linear unit are two, of which one does.
    """
    squashed, seen = 0, set()
    for place in parts:
        seen.add(spot.graph.records[place].value.tobytes())
        after = list(spot.graph.consumers[place])
        after += [p for q in after if spot.name(q) == "add" for p in spot.graph.consumers[q]]
        squashed += any(spot.name(p) in SQUASHED for p in after)
    return len(seen) in (3, 4) and squashed >= 2


@repair("movement")
def cutting(spot: Spot) -> Iterator[Candidate]:
    """Parts of a fused tensor taken in another order, or interleaved."""
    options = spot.operation.options
    if options["move"] not in ("slice", "index"):
        return
    parts = siblings(spot)
    if not 2 <= len(parts) <= 4:
        return
    if order_cause(spot) == "position" or turned(spot, parts):
        cause = "position"
    else:
        cause = "gate-order" if are_gates(spot, parts) else "fused-order"
    values = [spot.graph.records[place].value for place in parts]
    for order in itertools.permutations(range(len(parts))):
        if order != tuple(range(len(parts))):
            text = f"parts taken in the order {order}"
            changed = {place: values[k] for place, k in zip(parts, order, strict=True)}
            yield Candidate(cause, text, changed, places=tuple(parts))
    x, axis = spot.operation.arguments[0], options["axis"]
    if options["move"] == "slice" and x.shape[axis] == len(parts) * spot.record.value.shape[axis]:
        changed = {
            place: np.take(x, np.arange(k, x.shape[axis], len(parts)), axis=axis)
            for k, place in enumerate(parts)
        }
        yield Candidate(cause, "parts interleaved", changed, places=tuple(parts))


@repair("movement")
def channels(spot: Spot) -> Iterator[Candidate]:
    """Channels regrouped before a shuffle."""
    if spot.operation.options["move"] != "gather":
        return
    for text, value in regrouped(spot.operation.arguments[0], 1):
        made = attempt(spot.operation, (value,))
        if made is not None:
            yield Candidate("channel-order", text, {spot.place: made}, places=(spot.place,))


def regrouped(x: Array, axis: int) -> Iterator[tuple[str, Array]]:
    """An axis read as (a, b) and written as (b, a), for each way to factor its size."""
    if axis >= x.ndim:
        return
    size = x.shape[axis]
    for first in range(2, size // 2 + 1):
        if size % first == 0:
            order = np.arange(size).reshape(first, size // first).T.reshape(-1)
            yield (
                f"axis {axis} regrouped as {first} x {size // first}",
                np.take(x, order, axis=axis),
            )


@repair("linear", "convolution", late=True)
def features(spot: Spot) -> Iterator[Candidate]:
    """Input channels regrouped, reversed or exchanged by halves."""
    x = spot.operation.arguments[0]
    axis = x.ndim - 1 if spot.operation.kind == "linear" else 1
    size = x.shape[axis]
    if size < 2:
        return
    choices = [*regrouped(x, axis), ("channels reversed", np.flip(x, axis))]
    if size % 2 == 0:
        choices.append(("halves of the channels exchanged", np.roll(x, size // 2, axis)))
    cause = "flatten-order" if _of_patches(spot) else "channel-order"
    for text, value in choices:
        made = attempt(spot.operation, spot.replaced(0, value))
        if made is not None:
            yield Candidate(cause, f"input: {text}", {spot.place: made})


PATCHES = ("unfold", "im2col", "extractimagepatches", "conv_general_dilated_patches")
"""Operations that lay the cells of a patch beside its channels."""


def _of_patches(spot: Spot) -> bool:
    """Whether the features are cells of patches just before: channels and places in one axis."""
    front = [spot.place]
    for _ in range(4):
        front = [source for place in front for source in spot.graph.inputs[place]]
        if any(spot.name(place) in PATCHES for place in front):
            return True
    return False
