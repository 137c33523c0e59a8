"""Repairs of softmax, masks, scales."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.operations.elementwise import sigmoid
from pytest_fwcompare.diagnose.prove import Candidate, is_fitted
from pytest_fwcompare.diagnose.repairs.base import Spot, decades, repair, show
from pytest_fwcompare.diagnose.repairs.masks import FILLS, rearranged
from pytest_fwcompare.diagnose.repairs.order import (
    is_attention,
    is_score_table,
    near_softmax,
)
from pytest_fwcompare.diagnose.repairs.patterns import averages, keeps_off_zero
from pytest_fwcompare.diagnose.replay import Replay

LARGE = 100.0
"""Numbers above this hide scores; no scale of theirs is so large."""


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


FEATURES = ("linear", "matmul", "convolution", "norm", "softmax", "attention", "recurrent")
"""Kinds of operations that make features of positions."""


def scale_cause(spot: Spot) -> str | None:
    """What a scale at this place is called; None where it has no name."""
    replay, place = spot.replay, spot.place
    if is_score_table(spot, place):
        return "position"
    front = [place]
    for _ in range(8):
        after = {p for at in front for p in spot.graph.consumers[at]}
        # What weights or a norm make of it are features, and a sine of them an activation.
        front = [p for p in after if replay.kind(p) not in FEATURES]
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
    if any(passes_by(spot, other) for other in consumers):
        return "residual"
    return None


def passes_by(spot: Spot, place: int) -> bool:
    """Whether an operation adds a tensor and what is computed from it: a residual.

    A sum of two branches, such as a linear part and one of products, is none.
    """
    operation = spot.replay.operation(place)
    if operation is None or operation.kind != "arithmetic" or len(operation.arguments) != 2:
        return False
    if operation.options["function"] not in ("add", "subtract"):
        return False
    first, second = (spot.replay.source(place, number) for number in (0, 1))
    if first is None or second is None or not {first, second} <= spot.sides.fed:
        return False
    one, other = (_unscaled(spot, source) for source in (first, second))
    graph = spot.graph
    return one in graph.upstream([second]) or other in graph.upstream([first])


def _unscaled(spot: Spot, place: int) -> int:
    """Where a tensor comes from that was only scaled, moved or handed on since."""
    while True:
        operation, inputs = spot.replay.operation(place), spot.graph.inputs[place]
        if operation is None or len(inputs) != 1 or inputs[0] not in spot.sides.fed:
            return place
        scaled = operation.kind == "arithmetic" and len(operation.arguments) == 1
        if not (scaled or operation.kind == "movement" or spot.replay.is_identity(place)):
            return place
        place = inputs[0]


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
    x = spot.operation.arguments[0]
    of_scores = function == "multiply" and abs(own) > LARGE and near_softmax(spot, spot.place)
    if of_scores and np.any(x == 0.0) and np.unique(x).size == 2:
        cause = "mask"  # what is added to scores where they are masked
    if averages(spot):
        cause = "reduction"
    if cause is None:
        return
    yield from _of_other_reduction(spot)
    grid = decades(-8, 8, 1)
    if cause == "norm-epsilon":
        text = f"no epsilon (reference {show(own)})"
        yield from spot.change(cause, text, number=0.0)
        grid = decades(-16, 1, 1)
    if own < 0:
        grid = [-point for point in reversed(grid)]
    label = {"multiply": "scale", "divide": "divisor", "power": "base"}.get(function, "offset")
    label = "epsilon" if cause == "norm-epsilon" else label
    for made in spot.solved(
        cause, label, "number", own, sorted({*grid, own * 0.999, own * 1.001})
    ):
        # Any factor before an activation is some number: only one that is written is a parameter.
        if cause == "activation-parameter" and made.fitted and not _is_written(made.number, own):
            continue
        if cause != "reduction" or is_count(made.number):
            yield made
    if function in ("multiply", "divide"):
        x = np.asarray(spot.operation.arguments[0], np.float64)
        text = f"no {label} (reference {show(own)})"
        yield Candidate(cause, text, {spot.place: x}, weak=True)


def _is_written(number: float, own: float) -> bool:
    """Whether a number has at most four digits, or stands in such a ratio to the reference's."""
    ratios = (number, number / own) if own else (number,)
    return any(abs(float(f"{ratio:.4g}") - ratio) <= 1e-9 * abs(ratio) for ratio in ratios)


def is_count(number: float) -> bool:
    """Whether a factor, or what it divides by, is a whole number."""
    whole = (number, 1 / number) if number else ()
    return any(abs(count - round(count)) < 1e-6 and round(count) > 0 for count in whole)


def _of_other_reduction(spot: Spot) -> Iterator[Candidate]:
    """A scaled sum that is a mean, or the other way round: no scale is wrong there."""
    source = spot.replay.source(spot.place, 0)
    before = spot.replay.operation(source) if source is not None else None
    if before is None or before.kind != "reduction":
        return
    own = before.options["function"]
    if own not in ("sum", "mean") or not before.arguments[0].size:
        return
    count = before.arguments[0].size / max(before.compute().size, 1)
    x, other = spot.operation.arguments[0], "mean" if own == "sum" else "sum"
    value = attempt(spot.operation, (x / count if own == "sum" else x * count,))
    if value is not None and count > 1 and source is not None:
        text = f"{other} instead of {own}"
        yield Candidate("reduction", text, {spot.place: value}, places=(source,))


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
def softmax_options(spot: Spot) -> Iterator[Candidate]:
    """Another axis, a temperature, no softmax, two of them, the logarithm last."""
    own = spot.operation.options["axis"]
    x = spot.operation.arguments[0]
    for axis in range(x.ndim):
        if axis != own:
            text = f"softmax over axis {axis} (reference {own})"
            yield from spot.change("softmax-axis", text, axis=axis)
    attends = is_attention(spot, spot.place)
    cause = "attention-scale" if attends else "activation-parameter"
    yield from spot.solved(cause, "temperature", "temperature", 1.0, decades(-4, 4))
    name = spot.record.operation
    if spot.operation.options["log"]:
        yield from spot.change(
            "unstable-formula", "the logarithm of softmax instead of log_softmax", log_last=True
        )
        yield from spot.change("activation-variant", "softmax instead of its logarithm", log=False)
    else:
        value = spot.operation.outward(sigmoid(np.asarray(x, np.float64)))
        text = f"sigmoid instead of {name}"
        yield Candidate("activation-variant", text, {spot.place: value})
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
        if cause != "activation-parameter" or not is_fitted(factor):
            yield Candidate(cause, text, {spot.place: value}, fitted=is_fitted(factor))


def factors(spot: Spot, value: Array) -> Iterator[tuple[float, Array]]:
    """Numbers by which the port's tensors are a multiple of `value`."""
    yield from spot.prover.solve(lambda c: c * value, decades(-4, 4, 2))
    for negated, made in spot.prover.solve(lambda c: -c * value, decades(-4, 4, 2)):
        yield -negated, made


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
    yield from _other_fused_masks(spot)
    yield from spot.change("softmax-axis", "softmax over the queries", axis=-2)


def _other_fused_masks(spot: Spot) -> Iterator[Candidate]:
    """The mask that a fused attention is given along other axes, or without the causal one."""
    query, key, _, *masks = spot.operation.arguments
    if spot.operation.options["causal"]:
        yield from spot.change("mask", "no causal mask", causal=False)
    if not masks:
        return
    mask, shape = masks[0], (*query.shape[:-1], key.shape[-2])
    low = float(np.min(mask))
    boolean = bool(np.isin(mask, (0.0, 1.0)).all())
    if not boolean and (np.unique(mask).size != 2 or np.max(mask) != 0.0):
        return
    kept = np.asarray(mask, bool) if boolean else mask == 0.0
    for text, other in rearranged(kept, shape):
        value = other if boolean else np.where(other, 0.0, low)
        for fill in (-np.inf, -1e9):
            yield from spot.arguments("mask", text, *spot.replaced(3, value), fill=fill)
