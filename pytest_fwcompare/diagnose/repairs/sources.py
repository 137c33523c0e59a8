"""Repairs of where values come from: residuals, positions, embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.graph import ancestors
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.prove import Candidate, is_fitted
from pytest_fwcompare.diagnose.repairs.attention import factors, passes_by
from pytest_fwcompare.diagnose.repairs.base import Spot, repair, table_cause
from pytest_fwcompare.diagnose.repairs.order import is_score_table
from pytest_fwcompare.diagnose.repairs.patterns import is_addition

REACH = 60
"""Operations back in execution order that a residual may be taken from."""


PLAIN = ("activation", "arithmetic", "softmax", "mask", "where", "reduction", "movement")
"""Kinds of operations whose leaving out has names of its own."""


LAYERS = ("linear", "matmul", "convolution", "addmm")
"""Kinds of operations that a residual may pass by, though what they give is moved afterwards."""


@repair("arithmetic")
def residual(spot: Spot) -> Iterator[Candidate]:
    """A sum of two tensors, one of them taken elsewhere, left out, doubled or scaled."""
    operation = spot.operation
    if operation.options["function"] not in ("add", "subtract") or len(operation.arguments) != 2:
        return
    sources = [spot.replay.source(spot.place, number) for number in (0, 1)]
    first, second = sources
    if first is None or second is None:
        return
    seen = list(operation.arguments)
    for number in (0, 1):
        own, source = operation.arguments[number], (first, second)[number]
        if not _is_fed(spot, source):
            # A table made of parameters: one of positions, added to scores or to embeddings.
            made = attempt(operation, spot.replaced(number, np.zeros_like(own)))
            if made is not None and own.ndim > 1:
                cause, what = table_cause(own, "table")
                text = f"the {what} not added"
                yield Candidate(cause, text, {spot.place: made}, True, (spot.place,))
            yield from _turned_table(spot, number)
            yield from _passed_by(spot, number, source)
            seen.append(own)
            continue
        if not spot.sides.right[source]:
            # What is added is wrong itself: taking something else instead proves nothing.
            continue
        # Without the operation that made it: that is a fault of its own kind.
        passed = {s for s in spot.graph.inputs[source] if spot.replay.kind(source) in PLAIN}
        if _is_residual(spot, source):
            passed = set()  # the stream before the sum: a residual from further back
        for place in reversed(range(max(spot.place - REACH, 0), spot.place)):
            value = spot.graph.records[place].value
            if value.shape != own.shape or not spot.sides.telling(place) or place in passed:
                continue
            # What the reference computes and throws away is no place to take anything from.
            if place not in spot.graph.live:
                continue
            if not spot.sides.right[place] or any(_equal(value, other) for other in seen):
                continue
            record = spot.graph.records[place]
            words = f"{record.operation} of {record.path or 'the root'}"
            text = f"the result of {words} added instead of its own"
            made = attempt(operation, spot.replaced(number, value))
            if made is not None:
                yield Candidate("residual", text, {spot.place: made}, places=(spot.place,))
        yield from _passed_by(spot, number, source)
    if not (_is_fed(spot, first) and _is_fed(spot, second)) or _is_formula(spot, sources):
        return
    joined = _of_one_stream(spot, first, second)
    for number in (0, 1):
        zero = np.zeros_like(operation.arguments[number])
        yield from spot.arguments(
            "residual", "one summand left out", *spot.replaced(number, zero), weak=True
        )
        if not joined:
            continue  # branches of their own, of which none is a residual
        x, y = operation.arguments[number], operation.arguments[1 - number]
        yield from spot.arguments("residual", "one summand twice", *spot.replaced(number, 2 * x))
        if x.shape == y.shape:
            text = "one summand twice, the other one not added"
            yield from spot.arguments("residual", text, *spot.replaced(number, y))
        if passes_by(spot, spot.place) and x.shape == y.shape == spot.record.value.shape:

            def family(c: float, x: Array = x, y: Array = y) -> Array:
                return np.asarray(c * x + y)

            for factor, value in spot.prover.solve(family, [-2.0, -1.0, 1e-6, 0.999, 1.001, 8.0]):
                text = f"one summand scaled by {factor:.10g} (reference 1)"
                # Anything that scales a summand looks so: a mean for a sum, a missing factor.
                fitted = is_fitted(factor) or factor not in (-1.0, 2.0)
                yield Candidate("residual", text, {spot.place: value}, fitted=fitted)


def _is_fed(spot: Spot, place: int) -> bool:
    """Whether an input goes into a summand, so that it is no table of positions."""
    return place in spot.sides.fed and not is_score_table(spot, place)


def _of_one_stream(spot: Spot, first: int, second: int) -> bool:
    """Whether both summands come of one computed tensor, as a residual and its branch do.

    Of branches that have nothing but the inputs in common, none is a residual.
    """
    before, beside = spot.graph.upstream([first]), spot.graph.upstream([second])
    if first in beside or second in before:
        return True
    return any(spot.graph.inputs[place] and place in spot.sides.fed for place in before & beside)


def _is_residual(spot: Spot, place: int) -> bool:
    """Whether a value is the sum of two others of its shape that inputs go into."""
    operation = spot.replay.operation(place)
    if not is_addition(operation) or operation is None:
        return False
    sources = [spot.replay.source(place, number) for number in (0, 1)]
    shapes = {argument.shape for argument in operation.arguments}
    return len(shapes) == 1 and all(s is not None and _is_fed(spot, s) for s in sources)


def _turned_table(spot: Spot, number: int) -> Iterator[Candidate]:
    """A square table of distances added the other way round, or counted from the other end."""
    own = spot.operation.arguments[number]
    if own.ndim < 2 or own.shape[-1] != own.shape[-2] or own.shape[-1] < 2:
        return
    choices = {
        "the table transposed": np.swapaxes(own, -1, -2),
        "the table reversed along its last axis": np.flip(own, -1),
    }
    for text, other in choices.items():
        made = attempt(spot.operation, spot.replaced(number, other))
        if made is not None and not np.array_equal(own, other):
            yield Candidate("position", text, {spot.place: made}, places=(spot.place,))


def _passed_by(spot: Spot, number: int, source: int) -> Iterator[Candidate]:
    """The layer that made a summand passed by: its input, moved in the same way, added instead."""
    way = [source]
    while spot.replay.kind(way[-1]) == "movement" and len(spot.graph.inputs[way[-1]]) == 1:
        way.append(spot.graph.inputs[way[-1]][0])
    if len(way) == 1:
        return  # as it is, it is among the results that are tried anyway
    shape = spot.graph.records[way[-1]].value.shape
    for given in _entering(spot, way[-1]):
        if given.shape != shape:
            continue
        value: Array | None = np.asarray(given, np.float64)
        for after, place in zip(way[:0:-1], way[-2::-1], strict=True):
            value = None if value is None else spot.replay.with_inputs(place, {after: value})
        made = None if value is None else attempt(spot.operation, spot.replaced(number, value))
        if made is not None:
            layer = spot.graph.records[way[-1]].path or spot.graph.records[way[-1]].operation
            text = f"the input of {layer} added instead of its result"
            yield Candidate("residual", text, {spot.place: made}, places=(spot.place,))


def _entering(spot: Spot, place: int) -> list[Array]:
    """What goes into the linear layer that ends with an operation: its input and its weights."""
    graph, path = spot.graph, spot.graph.records[place].path
    layer, front = {place}, [place]
    while front:
        for before in graph.inputs[front.pop()]:
            inside = graph.records[before].path == path and path != spot.record.path
            biased = spot.replay.kind(place) == "arithmetic" and before in graph.inputs[place]
            if before not in layer and (inside or biased):
                layer.add(before)
                front.append(before)
    if not any(spot.replay.kind(one) in LAYERS for one in layer):
        return []
    results = [graph.records[one].value for one in layer]
    entering = [a for one in sorted(layer) for a in graph.records[one].arguments]
    return [a for a in entering if not any(_equal(a, result) for result in results)]


def _is_formula(spot: Spot, sources: Sequence[int | None]) -> bool:
    """Whether both summands are functions of one tensor, element by element: no residual."""
    origins = []
    for source in sources:
        place = source
        for _ in range(4):
            if place is None or spot.replay.kind(place) not in ("activation", "arithmetic"):
                break
            fed = [s for s in spot.graph.inputs[place] if s in spot.sides.fed]
            if len(fed) != 1:
                break
            place = fed[0]
        origins.append(place)
    return origins[0] == origins[1] and origins[0] not in sources


@repair("linear", "convolution", late=True)
def other_source(spot: Spot) -> Iterator[Candidate]:
    """The input taken from elsewhere in the code around the module: a skip of another tensor."""
    source = spot.replay.source(spot.place, 0)
    if source is None or spot.operation.layouts or not spot.record.path:
        return
    own, holder = spot.operation.arguments[0], ancestors(spot.record.path)[0]
    # Without the operation that made it: that is a fault of its own kind.
    passed = {s for s in spot.graph.inputs[source] if spot.replay.kind(source) in PLAIN}
    for place in reversed(range(max(spot.place - REACH, 0), spot.place)):
        record = spot.graph.records[place]
        inside = record.path == holder or record.path.startswith(holder + ".") or not holder
        if not inside or record.value.shape != own.shape or not spot.sides.telling(place):
            continue
        if place in passed:
            continue
        # A sum that nothing uses is what the last block of a stack leaves over.
        if place not in spot.graph.live and spot.name(place) not in ("add", "addv2", "iadd"):
            continue
        if not spot.sides.right[place] or _equal(record.value, own):
            continue
        words = f"{record.operation} of {record.path or 'the root'}"
        made = attempt(spot.operation, spot.replaced(0, record.value))
        if made is not None:
            between = (spot.graph.records[source].path, spot.record.path)
            yield Candidate(
                "residual",
                f"the result of {words} as its input",
                {spot.place: made},
                culprit=(holder, between),
            )


def _equal(left: Array, right: Array) -> bool:
    return left.shape == right.shape and bool(np.array_equal(left, right))


def whole_steps(value: Array) -> bool:
    """Whether a tensor counts 0, 1, 2, ... (or from another start) along an axis."""
    flat = np.unique(value)
    return flat.size > 1 and bool(np.all(np.diff(flat) == 1)) and flat[0] >= -2


@repair("")
def positions(spot: Spot) -> Iterator[Candidate]:
    """Positions that start at another number, or count down, made upstream of this operation."""
    for place in sorted(spot.graph.upstream([spot.place])):
        record = spot.graph.records[place]
        counted = record.operation in ("arange", "range", "iota", "cumsum", "linspace")
        if not counted or spot.place - place > 12 or not whole_steps(record.value):
            continue
        value = record.value
        choices = {f"positions shifted by {n:+d}": value + n for n in (1, -1, 2, -2, 3)}
        # The middle of a cell for its corner.
        choices |= {f"positions shifted by {n:+g}": value + n for n in (0.5, -0.5)}
        choices["positions in reverse"] = value.max() + value.min() - value
        if value.max() > 0:
            choices["positions divided by their count"] = value / (value.max() + 1)
            choices["positions divided by the last"] = value / value.max()
        for text, other in choices.items():
            yield Candidate("position", text, {place: other}, places=(spot.place,))
    yield from _index_argument(spot)


def _index_argument(spot: Spot) -> Iterator[Candidate]:
    """Positions that are looked up in a table, where the index is no operation's result."""
    if spot.operation.kind != "embedding":
        return
    indices, table = spot.operation.arguments
    if not whole_steps(indices):
        return
    for shift in (1, -1, 2, -2):
        moved = indices + shift
        if moved.min() >= 0 and moved.max() < len(table):
            text = f"positions shifted by {shift:+d}"
            yield from spot.arguments("position", text, moved, table)


@repair("embedding")
def embedding(spot: Spot) -> Iterator[Candidate]:
    """A padding row of zeros, indices off by one, a scale."""
    indices, table = spot.operation.arguments
    width = table.shape[-1]
    for factor, words in ((width**0.5, "the root of the width"), (width**-0.5, "1 / that root")):
        text = f"scaled by {words}, {factor:.6g}"
        yield Candidate("embedding", text, {spot.place: factor * spot.record.value})
    for factor, value in factors(spot, spot.record.value):
        text = f"scaled by {factor:.10g} (reference 1)"
        yield Candidate("embedding", text, {spot.place: value}, fitted=is_fitted(factor))
    for padding in dict.fromkeys((spot.operation.options.get("padding_idx"), 0, len(table) - 1)):
        if padding is None or padding < 0:
            continue
        masked = np.where((indices == padding)[..., None], 0.0, spot.record.value)
        text = f"token {padding} read as zeros"
        yield Candidate("embedding", text, {spot.place: masked})
    cause = "position" if whole_steps(indices) else "embedding"
    for shift in (1, -1):
        moved = np.clip(indices + shift, 0, len(table) - 1)
        yield from spot.arguments(cause, f"indices shifted by {shift:+d}", moved, table)
