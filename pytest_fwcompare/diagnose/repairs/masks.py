"""Repairs of masks: conditions, what is filled in, what is added to scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.operations.attention import softmax
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair, show

FILLS = (-np.inf, -1e30, -1e9, -1e4, 0.0, -65504.0, -3.4028234663852886e38)
"""Common fills of masked scores."""


@repair("softmax")
def added_mask(spot: Spot) -> Iterator[Candidate]:
    """A mask that the reference does not have: of later or earlier steps, or of an input."""
    x, axis = np.asarray(spot.operation.arguments[0], np.float64), spot.operation.options["axis"]
    if axis != x.ndim - 1 or x.ndim < 2:
        return
    kept: dict[str, Array] = {}
    if x.shape[-1] == x.shape[-2]:
        seen = np.tril(np.ones(x.shape[-2:], bool))
        kept = {"later steps masked": seen, "earlier steps masked": seen.T}
    for record in spot.graph.records:
        mask = record.value
        if record.operation != "input" or not np.isin(mask, (0.0, 1.0)).all() or mask.all():
            continue
        if mask.ndim == 2 and mask.shape == (x.shape[0], x.shape[-1]):
            name = record.attributes.get("name", "an input")
            shape = (x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])
            kept[f"keys masked by {name}"] = mask.reshape(shape) > 0
    for text, keep in kept.items():
        for fill in (-np.inf, *_port_fills(spot)):
            told = "" if fill == -np.inf else f", filled with {show(fill)}"
            value = np.where(keep, x, fill)
            yield from spot.arguments("mask", f"{text}{told}", value)


@repair("mask", "where")
def masks(spot: Spot) -> Iterator[Candidate]:
    """A mask inverted, left out, transposed, shifted, or filled with another value."""
    operation = spot.operation
    fill = operation.options.get("fill")
    fills = (
        [fill, *(f for f in FILLS if f != fill), *_port_fills(spot)] if fill is not None else []
    )
    for other in fills:
        told = "" if other == fill else f", filled with {show(other)}"
        reference = f" (reference {show(fill)})" if other != fill else ""
        if other != fill:
            yield from spot.change("mask", f"fill {show(other)}{reference}", fill=other)
        yield from spot.change("mask", f"the mask inverted{told}", inverted=True, fill=other)
        yield from other_masks(spot, other, told)
    if fill is None:
        yield from spot.change("mask", "the condition inverted", inverted=True)
    x = operation.arguments[0 if operation.kind == "mask" else 1]
    if x.shape == spot.record.value.shape:
        yield Candidate("mask", "no mask", {spot.place: np.asarray(x, np.float64)}, weak=True)


def _port_fills(spot: Spot) -> list[float]:
    """Values that the port's tensors of that size repeat more than any other, as a mask would."""
    found: dict[float, None] = {}
    for place, record in enumerate(spot.sides.port.records):
        if record.value.size != spot.record.value.size or place in spot.sides.explained:
            continue
        values, counts = np.unique(record.value, return_counts=True)
        if counts.size and counts.max() > 1 and np.isfinite(values[counts.argmax()]):
            found[float(values[counts.argmax()])] = None
    return list(found)[:6]


def other_masks(spot: Spot, fill: float, told: str) -> Iterator[Candidate]:
    """The same mask along other axes, or shifted as an off-by-one in a causal mask does."""
    slot = 1 if spot.operation.kind == "mask" else 0
    mask = np.asarray(spot.operation.arguments[slot], bool)
    for text, other in rearranged(mask, spot.record.value.shape):
        value = attempt(spot.operation, spot.replaced(slot, other), fill=fill)
        if value is not None:
            yield Candidate("mask", f"{text}{told}", {spot.place: value})


def rearranged(mask: Array, shape: tuple[int, ...]) -> list[tuple[str, Array]]:
    """Other masks made of a mask that is broadcast to scores of a shape (..., queries, keys)."""
    if mask.ndim < 2:
        return []
    choices: list[tuple[str, Array]] = []
    if mask.shape[-1] == mask.shape[-2]:
        choices.append(("the mask transposed", np.swapaxes(mask, -1, -2)))
        size = mask.shape[-1]
        for shift in (-1, 0, 1):
            upper = ~np.tril(np.ones((size, size), bool), shift)
            text = f"a causal mask shifted by {shift}"
            # It says what is hidden, or what is seen.
            choices += [(text, np.broadcast_to(one, mask.shape)) for one in (upper, ~upper)]
        choices.extend(_bands(mask))
    full = np.broadcast_to(mask, shape)
    if full.shape[-1] == full.shape[-2]:
        turned = np.swapaxes(full, -1, -2)
        choices.append(("the mask over queries instead of keys", turned))
        for both in (full | turned, full & turned):
            choices.append(("the mask over queries as well as keys", both))
    choices.append(("the mask reversed in time", np.flip(mask, -1)))
    choices.extend(_factors(mask))
    # One that hides nothing, or all, is told otherwise.
    some = [(text, other) for text, other in choices if other.any() and not other.all()]
    return [(text, other) for text, other in some if not _alike(other, mask)]


def _factors(mask: Array) -> Iterator[tuple[str, Array]]:
    """The parts of a mask that is one of steps, alike for all rows, and one of keys."""
    for hidden in (True, False):
        seen = mask != hidden
        keys = seen.any(axis=-2, keepdims=True)
        steps = seen.any(axis=tuple(range(mask.ndim - 2)), keepdims=True)
        if not np.array_equal(keys & steps, seen):
            continue
        for text, part in (("keys", keys), ("steps", steps)):
            yield f"the mask of {text} alone", np.broadcast_to(part != hidden, mask.shape)


def _alike(left: Array, right: Array) -> bool:
    """Whether two masks are the same where they are broadcast to one shape."""
    try:
        one, other = np.broadcast_arrays(left, right)
    except ValueError:
        return False
    return bool(np.array_equal(one, other))


def _bands(mask: Array) -> Iterator[tuple[str, Array]]:
    """Masks that choose by the distance of two steps alone, with limits elsewhere."""
    size = mask.shape[-1]
    steps = np.arange(size)
    distance = steps[None, :] - steps[:, None]
    one = mask.reshape(-1, size, size)[0]
    by_distance = {int(d): bool(one[distance == d][0]) for d in np.unique(distance)}
    for hidden in (True, False):
        kept = [d for d, value in by_distance.items() if value != hidden]
        band = (distance >= min(kept)) & (distance <= max(kept)) if kept else distance > size
        if not kept or not np.array_equal(np.broadcast_to(band != hidden, mask.shape), mask):
            continue
        low, high = min(kept), max(kept)
        ends = [(low + a, high + b) for a in (-2, -1, 0, 1, 2) for b in (-2, -1, 0, 1, 2)]
        ends += [(-size, high), (low, size), (-high, -low), (low, -low), (-high, high)]
        for first, last in dict.fromkeys(ends):
            if (first, last) != (low, high) and first <= last:
                other = (distance >= first) & (distance <= last)
                text = f"steps {first} to {last} seen (reference {low} to {high})"
                yield text, np.broadcast_to(other != hidden, mask.shape)
        return


@repair("mask", "where")
def masked_late(spot: Spot) -> Iterator[Candidate]:
    """Weights masked behind the softmax instead of scores before it, so that they sum to less."""
    fill = spot.operation.options.get("fill")
    slot = 0 if spot.operation.kind == "mask" else 1
    if fill is None or spot.operation.arguments[slot].shape != spot.record.value.shape:
        return
    scores = np.asarray(spot.operation.arguments[slot], np.float64)
    for place in spot.graph.consumers[spot.place]:
        operation = spot.replay.operation(place)
        if operation is None or operation.kind != "softmax" or operation.options["log"]:
            continue
        hidden = spot.record.value != scores
        late = np.where(hidden, 0.0, softmax(scores, operation.options["axis"]))
        text = "weights masked behind the softmax instead of scores before it"
        values = {spot.place: scores, place: late}
        yield Candidate("mask", text, values, places=(spot.place,))


CONDITIONS = ("logical_and", "logical_or", "multiply", "minimum", "maximum")
"""Functions that make one mask of two."""


@repair("arithmetic")
def conditions(spot: Spot) -> Iterator[Candidate]:
    """One of two masks that are joined left out, inverted, or along other axes."""
    operation, value = spot.operation, spot.record.value
    if operation.options["function"] not in CONDITIONS or len(operation.arguments) != 2:
        return
    if not all(np.isin(a, (0.0, 1.0)).all() for a in (value, *operation.arguments)):
        return
    for number, own in enumerate(operation.arguments):
        other = np.asarray(operation.arguments[1 - number], np.float64)
        told = "one of two masks"
        if not _alike(other, value):
            left = np.broadcast_to(other, value.shape)
            yield Candidate("mask", f"{told} left out", {spot.place: left}, places=(spot.place,))
        mask = np.asarray(own, bool)
        choices = [("inverted", ~mask), *rearranged(mask, value.shape)]
        for text, changed in choices:
            made = attempt(operation, spot.replaced(number, changed.astype(np.float64)))
            if made is not None and made.shape == value.shape:
                words = f"{told}: {text}"
                yield Candidate("mask", words, {spot.place: made}, places=(spot.place,))


@repair("arithmetic")
def additive_mask(spot: Spot) -> Iterator[Candidate]:
    """A mask that is added to scores: inverted, left out, of another size."""
    if spot.operation.options["function"] != "add" or len(spot.operation.arguments) != 2:
        return
    for slot, mask in enumerate(spot.operation.arguments):
        low, high = float(np.min(mask)), float(np.max(mask))
        if high != 0.0 or low > -1e3 or np.unique(mask).size != 2:
            continue
        masked = mask < 0
        choices = {
            "the mask inverted": np.where(masked, 0.0, low),
            "no mask": np.zeros_like(mask),
        }
        for text, other in rearranged(masked, spot.record.value.shape):
            choices[text] = np.where(other, low, 0.0)
        for fill in (*FILLS, *_port_fills(spot)):
            choices[f"fill {show(fill)} (reference {show(low)})"] = np.where(masked, fill, 0.0)
            choices[f"the mask inverted, fill {show(fill)}"] = np.where(masked, 0.0, fill)
        for text, other in choices.items():
            yield from spot.arguments(
                "mask", text, *spot.replaced(slot, other), weak=text == "no mask"
            )
