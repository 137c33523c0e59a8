"""Repairs of the order of axes, channels, heads and parts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.operations.linear import is_product
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair


def blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[range, range]] | None:
    """Groups of axes that a reshape merges or splits: axes before and after, of equal product."""
    made: list[tuple[range, range]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        start_i, start_j = i, j
        left, right = 1, 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif right < left and j < len(after):
                right, j = right * after[j], j + 1
            else:
                return None
        made.append((range(start_i, i), range(start_j, j)))
    return made


def reshapes(
    x: Array, shape: tuple[int, ...], parted: int | None = None
) -> Iterator[tuple[str, str, Array]]:
    """Other ways to get from x to the shape: the kind of change, its text, the value.

    A group of axes that is merged is merged in another order; one that is split is split with
    the new axes exchanged: of kind "parts" where that moves the axis `parted`.
    """
    groups = blocks(x.shape, shape)
    if groups is None:
        return
    for old, new in groups:
        if len(old) > 1 and len(new) == 1:
            for order in itertools.permutations(old):
                if order != tuple(old):
                    axes = [*range(old[0]), *order, *range(old[-1] + 1, x.ndim)]
                    text = f"axes {tuple(old)} merged in the order {order}"
                    yield "merge", text, x.transpose(axes).reshape(shape)
        if len(old) == 1 and len(new) > 1:
            sizes = [shape[axis] for axis in new]
            for order in itertools.permutations(range(len(new))):
                if order == tuple(range(len(new))):
                    continue
                lead, tail = shape[: new[0]], shape[new[-1] + 1 :]
                split = x.reshape((*lead, *(sizes[k] for k in order), *tail))
                back = [len(lead) + order.index(k) for k in range(len(new))]
                axes = [*range(len(lead)), *back, *range(len(lead) + len(new), split.ndim)]
                text = f"split as {tuple(sizes[k] for k in order)} (reference {tuple(sizes)})"
                if [sizes[k] for k in order] == sizes:
                    text = f"split as {tuple(sizes)} with the new axes in the order {order}"
                own = parted - new[0] if parted in new and parted is not None else 0
                kind = "parts" if parted in new and order.index(own) != own else "split"
                yield kind, text, split.transpose(axes)
    if math.prod(x.shape) == math.prod(shape) and x.ndim <= 5:
        # The memory read with the axes in another order, as if they had been it.
        for axes_order in itertools.permutations(range(x.ndim)):
            if axes_order != tuple(range(x.ndim)):
                text = f"reshaped with axes in the order {axes_order}"
                yield "merge", text, x.transpose(axes_order).reshape(shape)


def alike(spot: Spot) -> list[int]:
    """Positions of the same module that move elements in the same way: q, k and v."""
    own = spot.operation.options
    found = []
    for place, record in enumerate(spot.graph.records):
        if record.path != spot.record.path or record.operation != spot.record.operation:
            continue
        other = spot.replay.operation(place)
        if (
            other is not None
            and other.kind == "movement"
            and other.options["move"] == own["move"]
            and other.arguments[0].shape[-1:] == spot.operation.arguments[0].shape[-1:]
            and record.value.shape[-2:] == spot.record.value.shape[-2:]
        ):
            found.append(place)
    return found


NEARBY = 12
"""Operations along the data flow within which what is done to a tensor tells what it is."""


def order_cause(spot: Spot) -> str:
    """What a wrong order is called there."""
    linked = nearby(spot.graph, spot.place)
    if _near_waves(spot):
        return "position"
    attends = any(is_attention(spot, place) for place in linked)
    if attends and (_is_table(spot) or is_score_table(spot, spot.place)):
        return "position"
    if attends and _of_heads(spot):
        return "head-split"
    if _is_split(spot) and any(spot.name(place) in ("softmax", "exp") for place in linked):
        return "head-split"  # a softmax over parts of the batch, written out
    return "flatten-order"


def _is_split(spot: Spot) -> bool:
    """Whether the last axis is split in two: features in heads."""
    if spot.operation.options.get("move") != "reshape":
        return False
    groups = blocks(spot.operation.arguments[0].shape, spot.record.value.shape)
    return bool(groups) and groups is not None and [len(part) for part in groups[-1]] == [1, 2]


def _of_heads(spot: Spot) -> bool:
    """Whether what is moved here are heads, and not places: windows and patches are whole rows.

    Heads come of a split of the features, go to a product of two tensors, or are merged into the
    features again. On the way they are only moved.
    """
    for links in (spot.graph.inputs, spot.graph.consumers):
        front, seen = [spot.place], {spot.place}
        while front:
            place = front.pop()
            if spot.replay.kind(place) != "movement" and not spot.replay.is_identity(place):
                if _mixes(spot, place):
                    return True
                continue
            if _regroups_features(spot, place):
                return True
            near = [p for p in links[place] if p not in seen]
            seen.update(near)
            front += near
    return False


def _mixes(spot: Spot, place: int) -> bool:
    """Whether an operation is a part of an attention: a product of two tensors, a softmax."""
    if spot.replay.kind(place) in ("softmax", "attention"):
        return True
    return is_product(spot.name(place)) and all(
        isinstance(source, int) for source in spot.graph.sources(place)
    )


def _regroups_features(spot: Spot, place: int) -> bool:
    """Whether a reshape splits the last axis or merges others into it."""
    operation = spot.replay.operation(place)
    if operation is None or operation.options.get("move") != "reshape":
        return False
    groups = blocks(operation.arguments[0].shape, spot.graph.records[place].value.shape)
    if groups and len(groups[-1][0]) > 1 and _is_turned(spot, place):
        return False  # places of an image, its channels before them
    return not groups or [len(part) for part in groups[-1]] != [1, 1]


def _is_turned(spot: Spot, place: int) -> bool:
    """Whether all that is made of a value has its last axis moved elsewhere."""
    after = [spot.replay.operation(consumer) for consumer in spot.graph.consumers[place]]
    return bool(after) and all(
        operation is not None
        and operation.options.get("move") == "transpose"
        and operation.options["axes"][-1] != len(operation.options["axes"]) - 1
        for operation in after
    )


def is_score_table(spot: Spot, place: int) -> bool:
    """Whether a value that no input goes into is added to scores of an attention.

    What is looked up by whole numbers may be looked up by an input; but then it is no score.
    """
    graph = spot.graph
    if any(graph.records[p].operation == "input" for p in graph.upstream([place])):
        return False
    front, seen = [place], {place}
    for _ in range(NEARBY):
        front = [p for at in front for p in graph.consumers[at] if p not in seen]
        seen.update(front)
        for consumer in front:
            scores = spot.name(consumer) in ("add", "addv2", "iadd", "radd", "add_any")
            if scores and near_softmax(spot, consumer):
                return True
        front = [p for p in front if spot.replay.kind(p) == "movement"]
    return False


def near_softmax(spot: Spot, place: int, reach: int = 5) -> bool:
    """Whether a softmax between two products follows, what is in between masked and scaled."""
    front = [place]
    for _ in range(reach):
        front = [p for at in front for p in spot.graph.consumers[at]]
        if any(is_attention(spot, p) for p in front):
            return True
        plain = ("arithmetic", "mask", "where", "movement")
        front = [p for p in front if spot.replay.kind(p) in plain]
    return False


def _is_table(spot: Spot) -> bool:
    """Whether the value is made of parameters alone and added to what is computed from inputs.

    A learned query is made of parameters, too, but multiplied with the keys.
    """
    fed, front, seen, added = spot.sides.fed, [spot.place], {spot.place}, False
    if spot.place in fed:
        return False
    while front:
        for consumer in spot.graph.consumers[front.pop()]:
            if consumer in seen:
                continue
            seen.add(consumer)
            if consumer not in fed:
                front.append(consumer)
                continue
            operation = spot.replay.operation(consumer)
            if operation is not None and operation.kind in ("matmul", "linear"):
                return False
            if operation is not None and operation.kind == "attention":
                sources = [spot.replay.source(consumer, n) for n in range(3)]
                if any(place in seen for place in sources):
                    return False
            added = True
    return added


def _near_waves(spot: Spot) -> bool:
    """Whether the value goes into sines, or is turned by them just after or just before."""
    front, graph = [spot.place], spot.graph
    # What weights have made are features, not coordinates.
    learned = any(graph.records[p].parameters for p in graph.upstream([spot.place]))
    for step in range(8):
        front = list({p for place in front for p in graph.consumers[place]})
        if not learned and any(is_wave(spot, p) for p in front):
            return True
        if step < 3 and any(by_waves(spot, p) for p in front):
            return True
    front = [spot.place]
    for _ in range(3):
        front = list({p for place in front for p in graph.inputs[place]})
        if any(by_waves(spot, p) or is_wave(spot, p) for p in front):
            return True
    return False


def is_wave(spot: Spot, place: int) -> bool:
    """Whether an operation is a sine or cosine of positions: of a constant, or beside the other.

    A sine of data alone is an activation.
    """
    name = spot.name(place)
    if name not in ("sin", "cos"):
        return False
    if place not in spot.sides.fed:
        return True
    other = "cos" if name == "sin" else "sin"
    angles = spot.graph.inputs[place]
    return any(spot.name(p) == other for angle in angles for p in spot.graph.consumers[angle])


def nearby(graph: Graph, place: int) -> set[int]:
    """Operations of the same module within reach, before and after."""
    path, found = graph.records[place].path, set()
    for links in (graph.inputs, graph.consumers):
        front = [place]
        for _ in range(NEARBY):
            front = [p for spot in front for p in links[spot] if p not in found]
            found.update(front)
    return {p for p in found if graph.records[p].path == path}


def is_attention(spot: Spot, place: int) -> bool:
    """Whether an operation is an attention, or the softmax between its two products."""
    name = spot.name(place)
    if name == "scaled_dot_product_attention":
        return True
    if name != "softmax":
        return False
    front = [place]
    for _ in range(3):
        front = [p for at in front for p in spot.graph.consumers[at]]
        for product in front:
            if is_product(spot.name(product)) and all(
                isinstance(source, int) for source in spot.graph.sources(product)
            ):
                return True
    return False


def _shuffles(spot: Spot) -> bool:
    """Whether axes are split, moved and merged just around here, and the shape is as before."""
    links = (spot.graph.inputs, spot.graph.consumers)
    before, after = (_moves_along(spot, direction) for direction in links)
    first, last = min([spot.place, *before]), max([spot.place, *after])
    source = spot.replay.source(first, 0)
    if source is None or last - first < 2:
        return False
    given, made = spot.graph.records[source].value, spot.graph.records[last].value
    front = list(spot.graph.consumers[last])
    convolved = any("convolution" in spot.replay.kind(place) for place in front)
    return given.shape == made.shape and made.ndim > 2 and convolved


def _moves_along(spot: Spot, links: Sequence[Sequence[int]]) -> list[int]:
    """The next two operations before or after that move elements, where there is but one way."""
    found, place = [], spot.place
    for _ in range(2):
        near = links[place]
        if len(near) != 1 or spot.replay.kind(near[0]) != "movement":
            break
        place = near[0]
        found.append(place)
    return found


@repair("movement")
def regrouping(spot: Spot) -> Iterator[Candidate]:
    """Channels split into other groups before they are shuffled, or not shuffled at all."""
    options, x = spot.operation.options, np.asarray(spot.operation.arguments[0], np.float64)
    if options["move"] != "reshape" or not _shuffles(spot):
        return
    after = _moves_along(spot, spot.graph.consumers)
    groups = blocks(x.shape, spot.record.value.shape) or []
    for old, new in groups:
        if len(old) == 1 and len(new) == 2 and after:
            shape = list(spot.record.value.shape)
            shape[new[0]], shape[new[1]] = shape[new[1]], shape[new[0]]
            text = f"split as {shape[new[0]]} x {shape[new[1]]} (reference the other way round)"
            value = x.reshape(shape)
            yield Candidate("channel-order", text, {spot.place: value}, places=(spot.place,))
            if spot.graph.records[after[-1]].value.shape == x.shape:
                text = "channels not shuffled"
                yield Candidate("channel-order", text, {after[-1]: x}, True, (spot.place,))


@repair("movement")
def flattening(spot: Spot) -> Iterator[Candidate]:
    """Axes merged or split in another order, here alone or in all like places of the module."""
    if spot.operation.options["move"] != "reshape":
        return
    cause = "channel-order" if _shuffles(spot) else order_cause(spot)
    places = alike(spot)
    shape = spot.record.value.shape
    parted = parted_axis(spot)
    for kind, text, value in reshapes(spot.operation.arguments[0], shape, parted):
        if kind == "parts":
            yield Candidate("fused-order", text, {spot.place: value}, places=(spot.place,))
            continue
        yield Candidate(cause, text, {spot.place: value}, places=(spot.place,))
        if len(places) > 1:
            values = {}
            for place in places:
                other = spot.replay.operation(place)
                assert other is not None
                target = spot.graph.records[place].value.shape
                made = {t: v for k, t, v in reshapes(other.arguments[0], target) if k == kind}
                same = made.get(text) if text in made else next(iter(made.values()), None)
                if same is not None:
                    values[place] = same
            yield Candidate(cause, f"{text} in {len(values)} places", values, places=(spot.place,))


def parted_axis(spot: Spot) -> int | None:
    """The axis along which the value is cut into the parts of a fused projection just after."""
    front = [(spot.place, tuple(range(spot.record.value.ndim)))]
    for _ in range(2):
        found: list[int] = []
        after: list[tuple[int, tuple[int, ...]]] = []
        for place, axes in front:
            for consumer in spot.graph.consumers[place]:
                operation = spot.replay.operation(consumer)
                if operation is None or operation.kind != "movement":
                    continue
                if operation.options["move"] == "index":
                    found.append(axes[operation.options["axis"]])
                if operation.options["move"] == "transpose":
                    turned = operation.options["axes"]
                    after.append((consumer, tuple(axes[axis] for axis in turned)))
        if len(found) > 1:
            return found[0]
        front = after
    return None


@repair("movement")
def transposition(spot: Spot) -> Iterator[Candidate]:
    """Axes of equal size in another order; a transposition left out."""
    options = spot.operation.options
    x = spot.operation.arguments[0]
    if options["move"] != "transpose" or x.ndim > 5:
        return  # those of more axes: see windows
    for axes in itertools.permutations(range(x.ndim)):
        value = x.transpose(axes)
        if axes != tuple(options["axes"]) and value.shape == spot.record.value.shape:
            text = f"axes in the order {axes} (reference {tuple(options['axes'])})"
            yield Candidate(order_cause(spot), text, {spot.place: value}, places=(spot.place,))
    value = x.reshape(spot.record.value.shape)
    text = "reshaped instead of transposed"
    yield Candidate(order_cause(spot), text, {spot.place: value}, places=(spot.place,))


@repair("movement")
def rolled(spot: Spot) -> Iterator[Candidate]:
    """A roll left out, or the other way."""
    options, x = spot.operation.options, spot.operation.arguments[0]
    if options["move"] != "roll":
        return
    back = tuple(-shift for shift in np.atleast_1d(options["shift"]))
    other = np.roll(x, back, tuple(np.atleast_1d(options["axis"])))
    yield Candidate("position", "not rolled", {spot.place: x}, places=(spot.place,))
    yield Candidate("position", "rolled the other way", {spot.place: other}, places=(spot.place,))


def by_waves(spot: Spot, place: int) -> bool:
    """Whether an operation multiplies by a sine or cosine, of any shape."""
    if spot.name(place) not in ("mul", "multiply", "rmul"):
        return False
    # Waves of the positions, not of the tensor itself.
    own = spot.graph.downstream(spot.graph.inputs[spot.place])
    front = list(spot.graph.inputs[place])
    for _ in range(3):
        if any(is_wave(spot, p) and p not in own for p in front):
            return True
        front = [p for source in front for p in spot.graph.inputs[source]]
    return False
