"""Repairs of how tensors are read as heads, whatever made them: views, einsums, fused kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import Operation
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair

REACH = 8
"""Operations along the data flow between the two products of an attention."""


@dataclass(frozen=True)
class Heads:
    """A tensor that holds heads.

    Attributes:
        place: position of the operation that made it.
        axes: of (batch, time, head, feature) in it.
    """

    place: int
    axes: tuple[int, int, int, int]

    def natural(self, value: Array) -> Array:
        """The tensor as (batch, time, head, feature)."""
        return value.transpose(self.axes)

    def back(self, value: Array) -> Array:
        """A tensor (batch, time, head, feature) in its own order."""
        return value.transpose(np.argsort(self.axes))


def equation_of(operation: Operation) -> tuple[str, str, str] | None:
    """Letters of both factors and of the result of a product of two tensors."""
    left, right = operation.arguments[:2]
    text = operation.options.get("equation")
    if isinstance(text, str):
        factors, _, result = text.replace(" ", "").partition("->")
        one, _, other = factors.partition(",")
        fits = len(one) == left.ndim and len(other) == right.ndim
        return (one, other, result) if fits and result and "." not in text else None
    if left.ndim != right.ndim or left.ndim < 2:
        return None
    batch = "abcdefgh"[: left.ndim - 2]
    return f"{batch}ts", f"{batch}sd", f"{batch}td"


def _sources(spot: Spot, place: int) -> list[int] | None:
    sources = [spot.replay.source(place, number) for number in (0, 1)]
    return [s for s in sources if s is not None] if None not in sources else None


def attended(spot: Spot) -> tuple[list[Heads], int] | None:
    """Query, key and value around a product of the spot, and the position of the mixed values."""
    if spot.operation.kind == "attention":
        return _fused(spot)
    scores, softmax = _scores(spot)
    if scores is None or softmax is None:
        return None
    mix = next(
        (
            place
            for place in sorted(spot.graph.downstream([softmax]) - {softmax})[:REACH]
            if spot.replay.kind(place) == "matmul" and _sources(spot, place)
        ),
        None,
    )
    if mix is None:
        return None
    found = [*_keys(spot, scores), *_values(spot, mix, softmax)]
    return (found, mix) if len(found) == 3 else None


def _fused(spot: Spot) -> tuple[list[Heads], int] | None:
    sources = [spot.replay.source(spot.place, number) for number in range(3)]
    if any(s is None for s in sources) or spot.operation.arguments[0].ndim != 4:
        return None
    return [Heads(s, (0, 2, 1, 3)) for s in sources if s is not None], spot.place


def _scores(spot: Spot) -> tuple[int | None, int | None]:
    """Positions of the product of query and key and of the softmax after it."""
    graph, replay = spot.graph, spot.replay
    for links, first in ((graph.consumers, True), (graph.inputs, False)):
        front, seen = [spot.place], {spot.place}
        for _ in range(REACH):
            front = [p for at in front for p in links[at] if p not in seen]
            seen.update(front)
            softmaxes = [p for p in front if replay.kind(p) == "softmax"]
            if softmaxes and first:
                return spot.place, softmaxes[0]
            if softmaxes:
                before = sorted(graph.upstream([softmaxes[0]]), reverse=True)[: 2 * REACH]
                found = [p for p in before if replay.kind(p) == "matmul" and _sources(spot, p)]
                return (found[0] if found else None), softmaxes[0]
    return None, None


@dataclass(frozen=True)
class Factor:
    """One factor of a product of two tensors, its axes told apart by the product's equation.

    Attributes:
        source: position of the operation that made it.
        word: its letters in the equation, an axis each.
        shared: letters that it shares with the other factor and the result: batch and head.
        summed: letters that it shares with the other factor alone.
        own: letters that only it and the result have.
        layout: of its axes as the operation was given them, None as they lie.
    """

    source: int
    word: str
    shared: tuple[str, ...]
    summed: tuple[str, ...]
    own: tuple[str, ...]
    layout: tuple[int, ...] | None


def _factors(spot: Spot, place: int) -> list[Factor]:
    """Both factors of the product at a place, none where it cannot be read."""
    operation, sources = spot.replay.operation(place), _sources(spot, place)
    letters = equation_of(operation) if operation is not None else None
    if operation is None or letters is None or sources is None:
        return []
    one, other, result = letters
    both = [c for c in one if c in other]
    shared, summed = [c for c in both if c in result], [c for c in both if c not in result]
    found = []
    for number, (source, word) in enumerate(zip(sources, (one, other), strict=True)):
        own = tuple(c for c in word if c not in both)
        layout = operation.layouts[number] if number < len(operation.layouts) else None
        found.append(Factor(source, word, tuple(shared), tuple(summed), own, layout))
    return found


def _keys(spot: Spot, scores: int) -> Iterator[Heads]:
    """Query and key: what they share with each other and not with the scores is the feature."""
    for factor in _factors(spot, scores):
        yield from _heads(spot, factor, time=factor.own, feature=factor.summed)


def _values(spot: Spot, mix: int, softmax: int) -> Iterator[Heads]:
    """The values: what they share with the weights alone is the time."""
    weights = spot.graph.downstream([softmax])
    for factor in _factors(spot, mix):
        if factor.source not in weights:
            yield from _heads(spot, factor, time=factor.summed, feature=factor.own)


def _heads(
    spot: Spot, factor: Factor, time: Sequence[str], feature: Sequence[str]
) -> Iterator[Heads]:
    """The heads of a factor, if it has one axis of each kind."""
    if len(factor.shared) != 2 or len(time) != 1 or len(feature) != 1:
        return
    batch, head = sorted(factor.shared, key=factor.word.index)
    axes = [factor.word.index(c) for c in (batch, time[0], head, feature[0])]
    own = axes if factor.layout is None else [int(factor.layout[axis]) for axis in axes]
    if spot.graph.records[factor.source].value.ndim == 4:
        yield Heads(factor.source, (own[0], own[1], own[2], own[3]))


def feature_first(value: Array) -> Array:
    """Heads (batch, time, head, feature) split as (feature, head) instead."""
    *lead, heads, features = value.shape
    return np.swapaxes(value.reshape(*lead, features, heads), -1, -2)


def not_transposed(value: Array) -> Array:
    """(batch, time, head * feature) read as (batch, head, time, feature) as it lies."""
    batch, time, heads, features = value.shape
    return np.asarray(value).reshape(batch, heads, time, features).swapaxes(1, 2)


def not_joined(value: Array) -> Array:
    """(batch, head, time, feature) merged as (batch, time, head * feature) as it lies."""
    batch, time, heads, features = value.shape
    return np.ascontiguousarray(value.swapaxes(1, 2)).reshape(batch, time, heads, features)


@repair("matmul", "attention")
def heads(spot: Spot) -> Iterator[Candidate]:
    """Query, key and value, all or one, read as heads otherwise."""
    found = attended(spot)
    if found is None:
        return
    tensors, mix = found
    ways = {
        "heads split as (feature, head)": feature_first,
        "heads reshaped instead of transposed": not_transposed,
    }
    names = ("query", "key", "value")
    for text, way in ways.items():
        changed = {}
        for tensor in tensors:
            value = np.asarray(spot.graph.records[tensor.place].value, np.float64)
            changed[tensor.place] = tensor.back(way(tensor.natural(value)))
        sets = [names, *((name,) for name in names), names[:2]]
        for some in sets:
            values = {
                t.place: changed[t.place] for t, n in zip(tensors, names, strict=True) if n in some
            }
            told = f"{text} in {', '.join(some)}"
            yield Candidate("head-split", told, values, places=(spot.place,))
        if way is not_transposed:
            yield from _joined_too(spot, changed, mix, text)


def _joined_too(spot: Spot, changed: dict[int, Array], mix: int, text: str) -> Iterator[Candidate]:
    """The heads merged without a transposition as well."""
    made = spot.after(changed, mix)
    if made is None or made.ndim != 4:
        return
    for axes in ((0, 2, 1, 3), (0, 1, 2, 3)):
        tensor = Heads(mix, axes)
        merged = tensor.back(not_joined(tensor.natural(made)))
        yield Candidate(
            "head-split", f"{text}, and merged so", {**changed, mix: merged}, places=(spot.place,)
        )


@repair("matmul")
def regrouped_sum(spot: Spot) -> Iterator[Candidate]:
    """A kernel that sums over heads and features, with these in the other order."""
    letters = equation_of(spot.operation)
    if letters is None or not isinstance(spot.operation.options.get("equation"), str):
        return
    one, other, result = letters
    summed = [c for c in one if c in other and c not in result]
    if len(summed) != 2:
        return
    for number, word in enumerate((one, other)):
        source = spot.replay.source(spot.place, number)
        if source is None or source not in spot.sides.fed:
            continue
        order = sorted(summed, key=word.index)
        axes = [word.index(c) for c in order]
        last = np.moveaxis(spot.operation.arguments[number], axes, (-2, -1))
        ways = {
            "heads merged as (feature, head)": np.swapaxes(last, -1, -2).reshape(last.shape),
            "heads read as (feature, head)": feature_first(last),
        }
        for text, made in ways.items():
            value = np.moveaxis(made, (-2, -1), axes)
            yield from spot.arguments("head-split", text, *spot.replaced(number, value))
