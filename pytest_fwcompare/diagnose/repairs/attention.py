"""Repairs of softmax, masks, scales."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.prove import Candidate, is_fitted
from pytest_fwcompare.diagnose.repairs.base import Spot, decades, repair, show
from pytest_fwcompare.diagnose.repairs.order import is_attention
from pytest_fwcompare.diagnose.repairs.patterns import averages, keeps_off_zero
from pytest_fwcompare.diagnose.replay import Replay

FILLS = (-np.inf, -1e30, -1e9, -1e4, 0.0, -65504.0, -3.4028234663852886e38)
"""Common fills of masked scores."""


def near(replay: Replay, place: int, kinds: set[str], onward: bool, reach: int = 4) -> int | None:
    """The nearest operation of some kinds that `place` feeds (or is fed by), within `reach`."""
    front, seen = [place], {place}
    links = replay.graph.consumers if onward else replay.graph.inputs
    for _ in range(reach):
        following = [other for spot in front for other in links[spot] if other not in seen]
        seen.update(following)
        for other in sorted(following):
            if replay.kind(other) in kinds:
                return other
        front = following
    return None


def scale_cause(spot: Spot) -> str | None:
    """What a scale at this place is called; None where it has no name."""
    replay, place = spot.replay, spot.place
    front = [place]
    for _ in range(8):
        front = list({p for at in front for p in spot.graph.consumers[at]})
        if any(spot.name(p) in ("sin", "cos") for p in front):
            return "position"
    softmax_at = near(replay, place, {"softmax"}, onward=True)
    if softmax_at is not None:
        attends = is_attention(spot, softmax_at)
        return "attention-scale" if attends else "activation-parameter"
    looked_up = near(replay, place, {"embedding"}, False, 2)
    if replay.kind(place) == "embedding" or looked_up is not None:
        return "embedding"
    consumers = spot.graph.consumers[place]
    if any(replay.kind(other) == "activation" for other in consumers):
        return "activation-parameter"
    if any(_adds(replay, other) for other in consumers):
        return "residual"
    return None


def _adds(replay: Replay, place: int) -> bool:
    operation = replay.operation(place)
    return (
        operation is not None
        and operation.kind == "arithmetic"
        and operation.options["function"] in ("add", "subtract")
        and len(operation.arguments) == 2
    )


@repair("arithmetic")
def number(spot: Spot) -> Iterator[Candidate]:
    """Another number: a scale, a temperature, a base, a limit."""
    options = spot.operation.options
    if len(spot.operation.arguments) != 1:
        return
    own, function = options["number"], options["function"]
    if function in ("maximum", "minimum"):
        wide = [-(10.0**e) for e in range(6, -7, -1)] + [0.0] + decades(-6, 6, 1)
        yield from spot.solved("clipping", "limit", "number", own, wide)
        x = np.asarray(spot.operation.arguments[0], np.float64)
        yield Candidate(
            "clipping", f"no limit (reference {show(own)})", {spot.place: x}, weak=True
        )
        return
    if function in COMPARED:
        yield from _thresholds(spot)
        return
    cause = "norm-epsilon" if keeps_off_zero(spot) else scale_cause(spot)
    if averages(spot):
        cause = "reduction"
    if cause is None:
        return
    grid = decades(-8, 8, 1)
    if cause == "norm-epsilon":
        text = f"no epsilon (reference {show(own)})"
        yield from spot.change(cause, text, number=0.0)
        grid = decades(-16, 1, 1)
    if own < 0:
        grid = [-point for point in reversed(grid)]
    label = {"multiply": "scale", "divide": "divisor", "power": "base"}.get(function, "offset")
    label = "epsilon" if cause == "norm-epsilon" else label
    yield from spot.solved(cause, label, "number", own, sorted({*grid, own * 0.999, own * 1.001}))
    if function in ("multiply", "divide"):
        x = np.asarray(spot.operation.arguments[0], np.float64)
        text = f"no {label} (reference {show(own)})"
        yield Candidate(cause, text, {spot.place: x}, weak=True)


COMPARED = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
"""Functions whose number is a limit that what follows chooses by."""


def _thresholds(spot: Spot) -> Iterator[Candidate]:
    """A mask whose limit is one or two steps off, or has no limit on this side."""
    own, x = spot.operation.options["number"], spot.operation.arguments[0]
    chosen = near(spot.replay, spot.place, {"mask", "where"}, onward=True)
    if chosen is None or own != round(own) or np.any(x != np.round(x)):
        return
    for shift in (1, -1, 2, -2):
        text = f"a limit of {own + shift:g} (reference {own:g})"
        yield from spot.change("mask", text, number=own + shift)
    yield Candidate("mask", f"no limit (reference {own:g})", {spot.place: np.ones_like(x)})


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


@repair("softmax")
def softmax_options(spot: Spot) -> Iterator[Candidate]:
    """Another axis, a temperature, no softmax, two of them, the logarithm last."""
    own = spot.operation.options["axis"]
    x = spot.operation.arguments[0]
    for axis in range(x.ndim):
        if axis != own:
            text = f"softmax over axis {axis} (reference {own})"
            yield from spot.change("softmax-axis", text, axis=axis)
    attention = near(spot.replay, spot.place, {"matmul"}, onward=False)
    cause = "activation-parameter" if attention is None else "attention-scale"
    yield from spot.solved(cause, "temperature", "temperature", 1.0, decades(-4, 4))
    name = spot.record.operation
    if spot.operation.options["log"]:
        yield from spot.change(
            "unstable-formula", "the logarithm of softmax instead of log_softmax", log_last=True
        )
        yield from spot.change("activation-variant", "softmax instead of its logarithm", log=False)
    yield Candidate("activation-place", f"no {name}", {spot.place: x}, weak=True)
    yield from spot.arguments("activation-place", f"{name} twice", spot.record.value)


@repair("softmax", "arithmetic", "mask", "where")
def exchanged(spot: Spot) -> Iterator[Candidate]:
    """Query and key exchanged: the scores transposed, what is done with them as it was."""
    replay = spot.replay
    product = near(replay, spot.place, {"matmul"}, onward=False)
    if product is None or (
        replay.kind(spot.place) != "softmax"
        and near(replay, spot.place, {"softmax"}, onward=True) is None
    ):
        return
    value = spot.graph.records[product].value
    if value.ndim > 1 and value.shape[-1] == value.shape[-2]:
        other = np.swapaxes(value, -1, -2)
        yield Candidate(
            "fused-order", "query and key exchanged", {product: other}, places=(product,)
        )


@repair("arithmetic")
def angles(spot: Spot) -> Iterator[Candidate]:
    """Angles in other units before their sines: with pi or without, in turns."""
    if spot.operation.options["function"] not in ("multiply", "divide"):
        return
    if scale_cause(spot) != "position":
        return
    names = {np.pi: "pi", 2 * np.pi: "2 pi", np.pi / 2: "pi / 2", 2.0: "2"}
    for factor, name in names.items():
        for value, text in (
            (spot.record.value * factor, f"angles multiplied by {name}"),
            (spot.record.value / factor, f"angles divided by {name}"),
        ):
            yield Candidate("position", text, {spot.place: value}, places=(spot.place,))


@repair("matmul")
def averaged(spot: Spot) -> Iterator[Candidate]:
    """A sum of products that the port takes as a mean: over what the product sums."""
    count = _summed(spot)
    if count < 2 or near(spot.replay, spot.place, {"softmax"}, onward=True) is not None:
        return
    sizes = {spot.place: spot.record.value / count}
    yield Candidate("reduction", f"mean instead of sum over {count}", sizes, places=(spot.place,))


def _summed(spot: Spot) -> int:
    """How many products a product of two tensors sums; 0 where one of them is a parameter."""
    operation = spot.operation
    if len(operation.arguments) != 2:
        return 0
    if any(not isinstance(source, int) for source in spot.graph.sources(spot.place)):
        return 0  # a layer: its weight says how many
    left, right = operation.arguments
    equation = operation.options.get("equation")
    if not equation:
        return int(left.shape[-1]) if left.ndim > 1 and right.ndim > 1 else 0
    terms, _, result = str(equation).replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for letters, argument in zip(terms.split(","), (left, right), strict=True):
        if "." in letters or len(letters) != argument.ndim:
            return 0
        sizes.update(zip(letters, argument.shape, strict=True))
    return int(np.prod([size for letter, size in sizes.items() if letter not in result]))


@repair("matmul", "embedding", "linear")
def scaled(spot: Spot) -> Iterator[Candidate]:
    """A scale that the reference does not have, where scales have a name."""
    cause = scale_cause(spot)
    if cause is None:
        return
    for factor, value in factors(spot, spot.record.value):
        text = f"a factor of {factor:.10g} (reference 1)"
        yield Candidate(cause, text, {spot.place: value}, fitted=is_fitted(factor))


def factors(spot: Spot, value: Array) -> Iterator[tuple[float, Array]]:
    """Numbers by which the port's tensors are a multiple of `value`."""
    yield from spot.prover.solve(lambda c: c * value, decades(-4, 4, 2))
    yield from spot.prover.solve(lambda c: -c * value, decades(-4, 4, 2))


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
        yield from _other_masks(spot, other, told)
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


def _other_masks(spot: Spot, fill: float, told: str) -> Iterator[Candidate]:
    """The same mask along other axes, or shifted as an off-by-one in a causal mask does."""
    slot = 1 if spot.operation.kind == "mask" else 0
    mask = np.asarray(spot.operation.arguments[slot], bool)
    if mask.ndim < 2:
        return
    choices: list[tuple[str, Array]] = []
    if mask.shape[-1] == mask.shape[-2]:
        choices.append(("the mask transposed", np.swapaxes(mask, -1, -2)))
        size = mask.shape[-1]
        for shift in (-1, 0, 1):
            upper = ~np.tril(np.ones((size, size), bool), shift)
            choices.append(
                (f"a causal mask shifted by {shift}", np.broadcast_to(upper, mask.shape))
            )
        choices.extend(_bands(mask))
    full = np.broadcast_to(mask, spot.record.value.shape)
    if full.shape[-1] == full.shape[-2]:
        choices.append(("the mask over queries instead of keys", np.swapaxes(full, -1, -2)))
    choices.append(("the mask reversed in time", np.flip(mask, -1)))
    for text, other in choices:
        value = attempt(spot.operation, spot.replaced(slot, other), fill=fill)
        if value is not None:
            yield Candidate("mask", f"{text}{told}", {spot.place: value})


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
        if mask.ndim > 1 and mask.shape[-1] == mask.shape[-2]:
            choices["the mask transposed"] = np.swapaxes(mask, -1, -2)
        for fill in (*FILLS, *_port_fills(spot)):
            choices[f"fill {show(fill)} (reference {show(low)})"] = np.where(masked, fill, 0.0)
            choices[f"the mask inverted, fill {show(fill)}"] = np.where(masked, 0.0, fill)
        for text, other in choices.items():
            yield from spot.arguments(
                "mask", text, *spot.replaced(slot, other), weak=text == "no mask"
            )


@repair("attention")
def fused_attention(spot: Spot) -> Iterator[Candidate]:
    """A fused attention with another scale, mask or direction, or query and key exchanged."""
    options = spot.operation.options
    query, key, *others = spot.operation.arguments
    if query.shape == key.shape:
        yield from spot.arguments("fused-order", "query and key exchanged", key, query, *others)
    yield from spot.solved(
        "attention-scale", "scale", "scale", options["scale"], decades(-4, 3, 2)
    )
    yield from spot.change("mask", "causality the other way", causal=not options["causal"])
    for shift in (-1, 1):
        yield from spot.change(
            "mask", f"the causal mask shifted by {shift}", causal=True, shift=shift
        )
    for fill in FILLS:
        yield from spot.change(
            "mask", f"the mask inverted, fill {show(fill)}", inverted=True, fill=fill
        )
        yield from spot.change("mask", f"fill {show(fill)}", fill=fill)
    yield from spot.change("mask", "no mask", unmasked=True, causal=False)
    yield from spot.change("softmax-axis", "softmax over the queries", axis=-2)
