"""Repairs of what several operations do together: gates, norms by hand, repeated heads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import Operation, attempt
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair
from pytest_fwcompare.diagnose.repairs.order import alike, is_attention, nearby

SMALL = 0.1
"""Below this a number that is added may be an epsilon."""

ROOTS = ("sqrt", "rsqrt")
"""Activations whose argument a small number keeps off zero."""


@repair("arithmetic")
def gate(spot: Spot) -> Iterator[Candidate]:
    """A product of an activation and a tensor, with the activation on the other factor."""
    operation = spot.operation
    if operation.options["function"] != "multiply" or len(operation.arguments) != 2:
        return
    for number in (0, 1):
        source = spot.replay.source(spot.place, number)
        inner = spot.replay.operation(source) if source is not None else None
        if inner is None or inner.kind != "activation" or len(inner.arguments) != 1:
            continue
        plain, gated = inner.arguments[0], attempt(inner, (operation.arguments[1 - number],))
        if gated is None or plain.shape != operation.arguments[number].shape:
            continue
        value = attempt(operation, (plain, gated))
        if value is not None:
            text = f"{inner.options['function']} on the other factor"
            yield Candidate("activation-place", text, {spot.place: value}, places=(spot.place,))


@repair("gated")
def halves(spot: Spot) -> Iterator[Candidate]:
    """A gated linear unit with its halves exchanged, or another gate."""
    yield from spot.change("fused-order", "the halves exchanged", swapped=True)
    for name in ("tanh", "silu", "gelu", "relu", "identity"):
        text = f"a gate by {name} (reference sigmoid)"
        yield from spot.change("activation-variant", text, function=name)


@repair("activation", "arithmetic")
def centred_by_hand(spot: Spot) -> Iterator[Candidate]:
    """A norm x / sqrt(mean(x^2) + eps), step by step: the mean of x subtracted first."""
    square = _squares(spot)
    if square is None:
        return
    source, axes = square
    x = spot.graph.records[source].value
    centred = np.asarray(x - x.mean(axis=axes, keepdims=True), np.float64)
    values: dict[int, Array] = {}
    for place in sorted(spot.graph.downstream([source]) - {source}):
        if place - spot.place > 12:
            break
        if source in spot.graph.inputs[place] or any(
            p in values for p in spot.graph.inputs[place]
        ):
            value = spot.replay.with_inputs(place, {**values, source: centred})
            if value is None:
                break
            values[place] = value
            if source in spot.graph.inputs[place] and len(values) > 1:
                # The product with x ends the norm; what follows is computed as always.
                text = f"the mean over axes {axes} subtracted"
                yield Candidate("norm-axis", text, values, places=(spot.place,))
                return


def _squares(spot: Spot) -> tuple[int, tuple[int, ...]] | None:
    """Position of x and the axes, where this operation squares x for a mean and a root."""
    options = spot.operation.options
    name = options.get("function")
    squared = name == "square" or (name == "power" and options.get("number") == 2.0)
    product = name == "multiply" and len(spot.operation.arguments) == 2
    if product and spot.operation.arguments[0] is spot.operation.arguments[1]:
        squared = True
    source = spot.replay.source(spot.place, 0)
    if not squared or source is None:
        return None
    for consumer in spot.graph.consumers[spot.place]:
        mean = spot.replay.operation(consumer)
        if mean is not None and mean.kind == "reduction" and mean.options["function"] == "mean":
            return source, tuple(mean.options["axes"])
    return None


def keeps_off_zero(spot: Spot) -> bool:
    """Whether this operation adds a small number under a root, or to one: an epsilon."""
    options = spot.operation.options
    if options.get("function") != "add" or not abs(options.get("number", 1.0)) < SMALL:
        return False
    after = [spot.replay.operation(place) for place in spot.graph.consumers[spot.place]]
    source = spot.replay.source(spot.place, 0)
    before = spot.replay.operation(source) if source is not None else None
    names = [o.options.get("function") for o in [*after, before] if o is not None]
    halves = [
        o.options.get("number")
        for o in after
        if o is not None and o.options.get("function") == "power"
    ]
    return any(name in ROOTS for name in names) or any(h in (0.5, -0.5) for h in halves)


def averages(spot: Spot) -> bool:
    """Whether a sum of several tensors is divided by their number: their mean."""
    options = spot.operation.options
    name, number = options.get("function"), options.get("number")
    if name not in ("divide", "multiply") or not number or options.get("swapped"):
        return False
    count = float(number) if name == "divide" else 1 / float(number)
    source = spot.replay.source(spot.place, 0)
    before = spot.replay.operation(source) if source is not None else None
    return (
        before is not None
        and source is not None
        and before.options.get("function") == "add"
        and len(before.arguments) == 2
        and all(isinstance(place, int) for place in spot.graph.sources(source))
        and source is not None
        and abs(count - _terms(spot, source)) < 1e-6
    )


def _terms(spot: Spot, place: int) -> int:
    """How many tensors a chain of additions adds up."""
    if not is_addition(spot.replay.operation(place)):
        return 1
    sources = (spot.replay.source(place, number) for number in (0, 1))
    return sum(1 if source is None else _terms(spot, source) for source in sources)


@repair("movement")
def selected(spot: Spot) -> Iterator[Candidate]:
    """One index along an axis taken (a class token, the last step): a reduction instead."""
    options = spot.operation.options
    if options["move"] != "index":
        return
    x, axis = spot.operation.arguments[0], options["axis"]
    for name, value in (
        ("mean", x.mean(axis=axis)),
        ("sum", x.sum(axis=axis)),
        ("largest", x.max(axis=axis)),
    ):
        text = f"the {name} over axis {axis} instead of its index {options['start']}"
        yield Candidate("reduction", text, {spot.place: value}, places=(spot.place,))


@repair("movement")
def repeated(spot: Spot) -> Iterator[Candidate]:
    """Heads repeated one by one, or all of them one after the other: grouped queries."""
    places = [place for place in alike(spot) if _other_repeat(spot, place) is not None]
    attends = any(is_attention(spot, place) for place in nearby(spot.graph, spot.place))
    cause = "head-split" if attends else "channel-order"
    for some in dict.fromkeys((tuple(places), (spot.place,))):
        values = {place: v for place in some if (v := _other_repeat(spot, place)) is not None}
        if spot.place in values:
            text = "each repeated" if spot.operation.options["move"] == "tile" else "all repeated"
            text += f" in turn, in {len(values)} places"
            yield Candidate(cause, text, values, places=(spot.place,))


def _other_repeat(spot: Spot, place: int) -> Array | None:
    """A repetition along one axis in the other order."""
    operation = spot.replay.operation(place)
    if operation is None or operation.kind != "movement":
        return None
    x, options = operation.arguments[0], operation.options
    if options["move"] == "each":
        repeats = [1] * x.ndim
        repeats[options["axis"]] = options["count"]
        return np.tile(x, repeats)
    if options["move"] == "tile" and len(options["repeats"]) == x.ndim:
        axes = [axis for axis, count in enumerate(options["repeats"]) if count > 1]
        if len(axes) == 1:
            return np.repeat(x, options["repeats"][axes[0]], axis=axes[0])
    return None


SUMS = ("sum", "reduce_sum", "index_add", "scatter_add", "segmentsum", "unsortedsegmentsum")
"""Operations that sum what a count may divide."""


@repair("arithmetic")
def undivided(spot: Spot) -> Iterator[Candidate]:
    """A mean by hand, a sum divided by a count: the division left out, or masked cells counted."""
    operation = spot.operation
    if operation.options["function"] != "divide" or len(operation.arguments) != 2:
        return
    total = spot.replay.source(spot.place, 0)
    if total is None or operation.options.get("swapped"):
        return
    summed = _is_sum(spot, total)
    if summed:
        x = np.asarray(operation.arguments[0], np.float64)
        if x.shape == spot.record.value.shape:
            text = "the sum not divided by its count"
            yield Candidate("reduction", text, {spot.place: x}, weak=True, places=(spot.place,))
    inner = spot.replay.operation(total)
    if inner is None or inner.kind != "reduction" or inner.options["function"] != "sum":
        return
    weighted = spot.replay.source(total, 0)
    product = spot.replay.operation(weighted) if weighted is not None else None
    if product is not None and product.kind in ("mask", "where"):
        yield from _over_all_cells(spot, inner)
    if product is None or product.options.get("function") != "multiply":
        return
    if len(product.arguments) != 2:
        return
    for number, weights in enumerate(product.arguments):
        if not np.isin(weights, (0.0, 1.0)).all():
            continue
        x, options = product.arguments[1 - number], inner.options
        plain = x.mean(axis=options["axes"], keepdims=options["keepdims"])
        if plain.shape == spot.record.value.shape:
            text = "the mean of all cells, masked ones counted"
            yield Candidate("mask", text, {spot.place: plain}, places=(spot.place,))
            yield from _over_all_cells(spot, inner)


def _over_all_cells(spot: Spot, total: Operation) -> Iterator[Candidate]:
    """A sum of what a mask lets through divided by the count of all cells."""
    count = float(np.prod([total.arguments[0].shape[axis] for axis in total.options["axes"]]))
    text = "the sum of what is not masked divided by the count of all cells"
    value = np.asarray(spot.operation.arguments[0] / count)
    yield Candidate("reduction", text, {spot.place: value}, places=(spot.place,))


@repair("arithmetic")
def shares(spot: Spot) -> Iterator[Candidate]:
    """Values divided by their own sum: not divided."""
    operation = spot.operation
    if operation.options["function"] != "divide" or len(operation.arguments) != 2:
        return
    parts, total = (1, 0) if operation.options.get("swapped") else (0, 1)
    source, divisor = spot.replay.source(spot.place, parts), spot.replay.source(spot.place, total)
    front = [] if divisor is None else [divisor]
    for _ in range(3):
        if any(_is_sum(spot, p) and source in spot.graph.inputs[p] for p in front):
            x = np.asarray(operation.arguments[parts], np.float64)
            text = "the values not divided by their sum"
            yield Candidate("reduction", text, {spot.place: x}, weak=True, places=(spot.place,))
            return
        front = [s for p in front for s in spot.graph.inputs[p]]


CHOSEN = ("topk", "top_k", "topkv2", "approx_top_k", "sort", "take_along_dim", "gather")
"""Operations that choose some of a row's values: the likeliest experts, the nearest neighbours."""


@repair("movement", "rows")
def weighed_anew(spot: Spot) -> Iterator[Candidate]:
    """The chosen ones of several shares divided by their sum."""
    x, value = spot.operation.arguments[0], spot.record.value
    if spot.name(spot.place) not in CHOSEN or value.ndim < 1 or value.shape[-1] < 2:
        return
    if (value < 0).any() or not np.allclose(np.sum(x, axis=-1), 1.0):
        return
    made = value / value.sum(axis=-1, keepdims=True)
    text = "the chosen shares divided by their sum"
    yield Candidate("reduction", text, {spot.place: made}, places=(spot.place,))


def _is_sum(spot: Spot, place: int) -> bool:
    """Whether an operation sums, by itself or after what only moves or masks."""
    name = spot.name(place).replace("-", "_")
    operation = spot.replay.operation(place)
    if operation is not None and operation.kind == "reduction":
        return bool(operation.options["function"] == "sum")
    return name in SUMS or (operation is not None and operation.kind == "scattered sum")


@repair("reduction")
def masked_mean(spot: Spot) -> Iterator[Candidate]:
    """A mean that leaves out the cells that a mask of the inputs leaves out."""
    options, x = spot.operation.options, spot.operation.arguments[0]
    if options["function"] not in ("mean", "max") or len(options["axes"]) != 1:
        return
    axis = options["axes"][0]
    for record in spot.graph.records:
        mask = record.value
        if record.operation != "input" or mask.shape != x.shape[: axis + 1] or axis < 1:
            continue
        if not np.isin(mask, (0.0, 1.0)).all() or mask.all():
            continue
        weights = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)).astype(float)
        if options["function"] == "max":
            value = np.where(weights > 0, x, -np.inf).max(axis=axis, keepdims=options["keepdims"])
        else:
            total = (x * weights).sum(axis=axis, keepdims=options["keepdims"])
            count = weights.sum(axis=axis, keepdims=options["keepdims"])
            value = total / np.maximum(count, 1e-300)
        name = record.attributes.get("name", "an input")
        cause, text = "mask", f"cells left out that {name} masks"
        if options["function"] == "mean" and np.array_equal(x * weights, x):
            # They are zeros already: only what the sum is divided by is another count.
            cause, text = (
                "reduction",
                f"the sum divided by the count of the cells that {name} keeps",
            )
        yield Candidate(cause, text, {spot.place: value}, places=(spot.place,))


@repair("reduction")
def logarithm_of_mean(spot: Spot) -> Iterator[Candidate]:
    """The logarithm of a mean of exponentials instead of their sum."""
    options, x = spot.operation.options, spot.operation.arguments[0]
    if options["function"] == "logsumexp":
        count = float(np.prod([x.shape[axis] for axis in options["axes"]]))
        value = spot.record.value - np.log(count)
        text = "the mean instead of the sum under the logarithm"
        yield Candidate("reduction", text, {spot.place: value}, places=(spot.place,))


@repair("norm")
def norm_and_sum(spot: Spot) -> Iterator[Candidate]:
    """A norm of the sum instead of the sum with the norm, or the other way round."""
    operation = spot.operation
    for consumer in spot.graph.consumers[spot.place]:
        after = spot.replay.operation(consumer)
        if not is_addition(after):
            continue
        assert after is not None
        for number in (0, 1):
            if spot.replay.source(consumer, 1 - number) != spot.place:
                continue
            other = after.arguments[number]
            if other.shape != operation.arguments[0].shape:
                continue
            value = attempt(operation, (operation.arguments[0] + operation.taken(0, other),))
            if value is not None:
                text = "the sum normalised instead of the norm added"
                yield Candidate("residual", text, {consumer: value}, places=(consumer,))
    source = spot.replay.source(spot.place, 0)
    before = spot.replay.operation(source) if source is not None else None
    if not is_addition(before):
        return
    assert before is not None
    assert source is not None
    for number in (0, 1):
        one, other = before.arguments[number], before.arguments[1 - number]
        if one.shape != other.shape:
            continue
        value = attempt(operation, (operation.taken(0, one),))
        if value is not None:
            text = "one summand normalised instead of the sum"
            yield Candidate("residual", text, {spot.place: value + other}, places=(source,))


def is_addition(operation: Operation | None) -> bool:
    """Whether an operation adds two tensors."""
    return (
        operation is not None
        and operation.kind == "arithmetic"
        and operation.options["function"] == "add"
        and len(operation.arguments) == 2
    )
