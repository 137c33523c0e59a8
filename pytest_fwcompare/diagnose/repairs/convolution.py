"""Repairs of convolutions, linear layers, pools and interpolation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import Operation
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair, table_cause


def merged(spot: Spot) -> Spot:
    """A convolution together with the padding that the reference runs just before it."""
    place = spot.replay.source(spot.place)
    if place is None or spot.replay.kind(place) != "movement":
        return spot
    before = spot.replay.operation(place)
    if before is None or before.options.get("move") != "pad":
        return spot
    options = dict(spot.operation.options)
    if any(any(pair) for pair in options["padding"]) or before.options["fill"] != 0.0:
        return spot
    options.update(padding=before.options["widths"][2:], mode=before.options["mode"])
    made = replace(
        spot.operation,
        arguments=(before.arguments[0], *spot.operation.arguments[1:]),
        options=options,
    )
    return replace(spot, operation=made)


def _padding_choices(own: Any, rank: int, reach: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """Amounts of padding, the same total first, then equal on all axes, then any."""
    pairs = [(b, a) for b in range(reach + 1) for a in range(reach + 1)]
    total = sum(own[0])
    pairs.sort(key=lambda pair: (abs(sum(pair) - total), abs(pair[0] - pair[1])))
    seen = {tuple(own)}
    mixed = itertools.product(pairs, repeat=rank) if rank <= 2 and reach <= 3 else ()
    for choice in itertools.chain(((pair,) * rank for pair in pairs), mixed):
        if tuple(choice) not in seen:
            seen.add(tuple(choice))
            yield tuple(choice)


@repair("convolution")
def padding(spot: Spot) -> Iterator[Candidate]:
    """Other amounts or sides, another rule to fill."""
    alone, spot = spot, merged(spot)
    if spot is not alone:
        # Where an operation of its own pads, that is where the fault lies.
        place = spot.replay.source(spot.place)
        assert place is not None
        for candidate in _padded_otherwise(spot):
            yield replace(candidate, places=(place,))
        return
    yield from _padded_otherwise(spot)


def _padded_otherwise(spot: Spot) -> Iterator[Candidate]:
    options = spot.operation.options
    kernel = spot.operation.arguments[1].shape[2:]
    own, mode = options["padding"], options["mode"]
    if any(any(pair) for pair in own):
        for other in ("constant", "reflect", "replicate", "circular", "symmetric"):
            if other != mode:
                text = f"padding filled by {other} (reference {mode})"
                yield from spot.change("padding-value", text, mode=other)
    reach = max((k - 1) * d for k, d in zip(kernel, options["dilation"], strict=True))
    for choice in _padding_choices(own, len(kernel), min(reach, 12)):
        text = f"padding {_pairs(choice)} (reference {_pairs(own)})"
        yield from spot.change("padding", text, padding=choice)


@repair("convolution")
def stride_dilation(spot: Spot) -> Iterator[Candidate]:
    """Another stride or dilation, the padding kept or grown with it."""
    spot = merged(spot)
    options = spot.operation.options
    kernel = spot.operation.arguments[1].shape[2:]
    rank = len(kernel)
    for dilation in range(1, 9):
        if (dilation,) * rank == tuple(options["dilation"]):
            continue
        text = f"dilation {dilation} (reference {options['dilation'][0]})"
        scaled = tuple(
            (b * dilation // d, a * dilation // d)
            for (b, a), d in zip(options["padding"], options["dilation"], strict=True)
        )
        for pads in dict.fromkeys((scaled, tuple(options["padding"]))):
            yield from spot.change(
                "stride-dilation", text, dilation=(dilation,) * rank, padding=pads
            )
    for stride in itertools.product(range(1, 5), repeat=min(rank, 2)):
        steps = stride if rank == len(stride) else stride[:1] * rank
        if steps != tuple(options["stride"]):
            text = f"stride {steps} (reference {tuple(options['stride'])})"
            for pads in _same_total(spot.operation, steps):
                yield from spot.change("stride-dilation", text, stride=steps, padding=pads)


def _same_total(
    operation: Operation, stride: tuple[int, ...]
) -> list[tuple[tuple[int, int], ...]]:
    """The padding as it is, and as "same" would have it at that stride."""
    x, weight = operation.arguments[:2]
    own = tuple(operation.options["padding"])
    same = []
    for size, k, d, s in zip(
        x.shape[2:], weight.shape[2:], operation.options["dilation"], stride, strict=True
    ):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        same.append((total // 2, total - total // 2))
    return [own, tuple(same)]


@repair("transposed convolution")
def crop(spot: Spot) -> Iterator[Candidate]:
    """The full output cropped elsewhere."""
    own = spot.operation.options["crop"]
    rank = len(own)
    for choice in _padding_choices(own, rank, max(max(map(max, own)), 2) + 1):
        text = f"cropped by {_pairs(choice)} (reference {_pairs(own)})"
        yield from spot.change("padding", text, crop=choice)
    totals = [b + a for b, a in own]
    for sides in itertools.product(*(range(t + 1) for t in totals)):
        choice = tuple((side, total - side) for side, total in zip(sides, totals, strict=True))
        if choice != tuple(own):
            text = f"cropped by {_pairs(choice)} (reference {_pairs(own)})"
            yield from spot.change("padding", text, crop=choice)


@repair("convolution", "transposed convolution")
def kernel_layout(spot: Spot) -> Iterator[Candidate]:
    """The kernel flipped or with axes exchanged."""
    spot = merged(spot) if spot.operation.kind == "convolution" else spot
    weight = spot.operation.arguments[1]
    space = tuple(range(2, weight.ndim))
    cause = "kernel-layout"
    for count in range(len(space), 0, -1):
        for axes in itertools.combinations(space, count):
            text = f"the kernel flipped along axes {axes}"
            yield from spot.arguments(cause, text, *spot.replaced(1, np.flip(weight, axes)))
    for order in itertools.permutations(range(weight.ndim)):
        changed = weight.transpose(order)
        if order != tuple(range(weight.ndim)) and changed.shape == weight.shape:
            text = f"the kernel's axes in the order {order}"
            yield from spot.arguments(cause, text, *spot.replaced(1, changed))
    if len(space) == 2:
        for order in itertools.permutations(range(weight.ndim)):
            text = f"the kernel's memory read with axes {order}"
            changed = weight.transpose(order).reshape(weight.shape)
            yield from spot.arguments(cause, text, *spot.replaced(1, changed))


@repair("convolution")
def group_order(spot: Spot) -> Iterator[Candidate]:
    """Grouped or depthwise channels in another order."""
    spot = merged(spot)
    groups = spot.operation.options["groups"]
    value = spot.value
    weight = spot.operation.arguments[1]
    each = value.shape[1] // groups
    cause = "channel-order"
    if groups > 1 and each > 1:
        order = np.arange(value.shape[1]).reshape(groups, each).T.reshape(-1)
        text = "output channels of the groups interleaved"
        shuffled = spot.operation.outward(value[:, order])
        yield Candidate(cause, text, {spot.place: shuffled}, weak=True)
        changed = weight[order]
        text = "kernels of the groups interleaved"
        yield from spot.arguments(cause, text, *spot.replaced(1, changed))
        back = np.argsort(order)
        yield from spot.arguments(cause, text, *spot.replaced(1, weight[back]))


@repair("linear", "matmul", "addmm")
def weight_layout(spot: Spot) -> Iterator[Candidate]:
    """A weight transposed, or its memory read in another order."""
    for number, argument in enumerate(spot.operation.arguments):
        if argument.ndim != 2 or not _is_parameter(spot, argument):
            continue
        cause = "kernel-layout"
        if argument.shape[0] == argument.shape[1]:
            yield from spot.arguments(
                cause, "the weight transposed", *spot.replaced(number, argument.T)
            )
        read = argument.T.reshape(argument.shape)
        text = "the weight's memory read as its transpose"
        yield from spot.arguments(cause, text, *spot.replaced(number, read))


def _is_parameter(spot: Spot, argument: Array) -> bool:
    """Whether an argument is a parameter, as far as the record tells."""
    sources = spot.graph.sources(spot.place)
    for source, recorded in zip(sources, spot.record.arguments, strict=True):
        if recorded is argument:
            return not isinstance(source, int)
    return False


@repair("linear", "convolution", "transposed convolution")
def bias(spot: Spot) -> Iterator[Candidate]:
    """A bias missing, doubled or scaled."""
    if len(spot.operation.arguments) < 3:
        return
    yield from spot.change("bias", "no bias", weak=True, bias_factor=0.0)
    yield from spot.change("bias", "the bias added twice", bias_factor=2.0)
    yield from spot.change("bias", "the bias subtracted", bias_factor=-1.0)


@repair("arithmetic")
def added_bias(spot: Spot) -> Iterator[Candidate]:
    """A parameter that is added, left out, added twice, or added behind a scale."""
    if spot.operation.options["function"] != "add" or len(spot.operation.arguments) < 2:
        return
    for number, argument in enumerate(spot.operation.arguments):
        if spot.replay.source(spot.place, number) is None and _is_parameter(spot, argument):
            zero = np.zeros_like(argument)
            cause, what = "bias", "parameter"
            if argument.ndim > 1:
                cause, what = table_cause(argument, what)
            yield from spot.arguments(
                cause, f"the {what} not added", *spot.replaced(number, zero), weak=True
            )
            yield from spot.arguments(
                cause, "the parameter added twice", *spot.replaced(number, 2 * argument)
            )
            yield from _added_later(spot, cause, number, argument)


def _added_later(spot: Spot, cause: str, number: int, own: Array) -> Iterator[Candidate]:
    """The parameter added to what the sum is multiplied with or divided by, not to the sum."""
    x = np.asarray(spot.operation.arguments[1 - number], np.float64)
    for place in spot.graph.consumers[spot.place]:
        after = spot.replay.operation(place)
        if after is None or after.options.get("function") not in ("multiply", "divide"):
            continue
        scaled = spot.replay.with_inputs(place, {spot.place: x})
        if scaled is not None and scaled.shape == x.shape:
            text = f"the parameter added after {spot.graph.records[place].operation}"
            yield Candidate(cause, text, {place: scaled + own}, places=(spot.place,))


@repair("pool")
def pooling(spot: Spot) -> Iterator[Candidate]:
    """Other counts at the border, another kind, other padding, stride or rounding."""
    options = spot.operation.options
    own, rank = options["padding"], len(options["kernel"])
    if options["function"] == "average":
        counted = options["count_include_pad"]
        text = "padded cells left out of the count" if counted else "padded cells counted"
        yield from spot.change("pool-count", text, count_include_pad=not counted)
        if options.get("divisor") != 1:
            text = "the sum of each window instead of its mean"
            yield from spot.change("reduction", text, divisor=1)
    other = "max" if options["function"] == "average" else "average"
    yield from spot.change(
        "reduction", f"{other} instead of {options['function']}", function=other
    )
    x = spot.operation.arguments[0]
    steps = tuple(slice(None, None, step) for step in options["stride"])
    whole = (slice(None),) * (x.ndim - rank)
    plain = spot.operation.outward(x[(*whole, *steps)])
    if plain.shape == spot.record.value.shape and any(k > 1 for k in options["kernel"]):
        text = f"every cell at stride {options['stride']}, nothing pooled"
        yield Candidate("reduction", text, {spot.place: plain}, weak=True)
    if options["function"] == "max" and any(map(any, own)):
        bordered = np.pad(x, [(0, 0)] * (x.ndim - rank) + [tuple(pair) for pair in own])
        text = "the border filled with zeros instead of minus infinity"
        yield from spot.arguments("padding-value", text, bordered, padding=((0, 0),) * rank)
    for ceil in (True, False):
        for choice in (tuple(own), *_padding_choices(own, rank, max(options["kernel"]) - 1)):
            for count in (True, False):
                text = f"padding {_pairs(choice)}, sizes rounded {'up' if ceil else 'down'}"
                yield from spot.change(
                    "padding", text, padding=choice, ceil=ceil, count_include_pad=count
                )
    for stride in range(1, 5):
        if (stride,) * rank != tuple(options["stride"]):
            text = f"stride {stride} (reference {options['stride'][0]})"
            yield from spot.change("stride-dilation", text, stride=(stride,) * rank)


@repair("resize")
def alignment(spot: Spot) -> Iterator[Candidate]:
    """Other alignment of the places, another mode."""
    options = spot.operation.options
    own = (options["mode"], options["alignment"])
    names = {
        "corners": "corners aligned",
        "half": "half-pixel centres",
        "edges": "places i * scale without an offset",
        "smooth": "half-pixel centres, antialiased",
    }
    for mode in dict.fromkeys((options["mode"], "nearest", "linear", "cubic", "catmull")):
        for place in names:
            if (mode, place) != own:
                text = f"{mode}, {names[place]} (reference {own[0]}, {names[own[1]]})"
                yield from spot.change("resize-alignment", text, mode=mode, alignment=place)


@repair("movement")
def explicit_padding(spot: Spot) -> Iterator[Candidate]:
    """An explicit padding on other sides, of other amounts, or filled by another rule."""
    options = spot.operation.options
    if options.get("move") != "pad":
        return
    own = options["widths"]
    for other in ("constant", "reflect", "replicate", "circular", "symmetric"):
        if other != options["mode"]:
            text = f"padding filled by {other} (reference {options['mode']})"
            yield from spot.change("padding-value", text, mode=other)
    padded = [axis for axis, pair in enumerate(own) if any(pair)]
    totals = [sum(own[axis]) for axis in padded]
    for sides in itertools.product(*(range(total + 1) for total in totals)):
        widths = list(own)
        for axis, before, total in zip(padded, sides, totals, strict=True):
            widths[axis] = (before, total - before)
        if tuple(widths) != tuple(own):
            text = f"padding {_pairs(widths)} (reference {_pairs(own)})"
            yield from spot.change("padding", text, widths=tuple(widths))


def _pairs(choice: Any) -> str:
    """Padding of the axes that have any, as text."""
    return "x".join(f"({before}, {after})" for before, after in choice)
