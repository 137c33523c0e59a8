"""Repairs of stacks of residual sublayers: where all norms are, what goes into a sublayer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair
from pytest_fwcompare.diagnose.repairs.patterns import is_addition

SUBLAYER = 40
"""Operations that a sublayer may consist of."""

DEEPEST = 64
"""Sublayers that are followed."""

WRITTEN = ("divide", "multiply")
"""Functions that end a norm which is written out, before its gain."""

REACH = 60
"""Operations in execution order that a sum may be away."""


@dataclass(frozen=True)
class Sublayer:
    """One summand of a stream and the norm that belongs to it.

    Attributes:
        stream: position of what goes in and is added again.
        norm: position of the norm.
        branch: position of the summand.
        total: position of the sum.
    """

    stream: int
    norm: int
    branch: int
    total: int


def _norm_first(spot: Spot, norm: int) -> Sublayer | None:
    """The sublayer x + f(norm(x)) that a norm belongs to."""
    stream = spot.replay.source(norm)
    if stream is None:
        return None
    for place in sorted(spot.graph.downstream([norm]))[:SUBLAYER]:
        found = _summands(spot, place)
        if stream in found and found[0] != found[1]:
            branch = found[1 - found.index(stream)]
            return Sublayer(stream, norm, branch, place)
    return None


def _norm_last(spot: Spot, norm: int) -> Sublayer | None:
    """The sublayer norm(x + f(x)) that a norm belongs to."""
    total = spot.replay.source(norm)
    found = () if total is None else _summands(spot, total)
    if total is None or len(found) != 2:
        return None
    for stream, branch in (found, found[::-1]):
        if stream in spot.graph.upstream([branch]) and stream != branch:
            return Sublayer(stream, norm, branch, total)
    return None


def _summands(spot: Spot, place: int) -> tuple[int, ...]:
    """Positions of both summands of a sum of two tensors of a shape; empty for others."""
    operation = spot.replay.operation(place)
    if operation is None or not is_addition(operation):
        return ()
    if operation.arguments[0].shape != operation.arguments[1].shape:
        return ()
    made = [spot.replay.source(place, number) for number in (0, 1)]
    return tuple(p for p in made if p is not None) if None not in made else ()


def _next_norms(spot: Spot, place: int) -> list[int]:
    return [p for p in sorted(spot.graph.consumers[place]) if spot.replay.kind(p) == "norm"]


def _normed(spot: Spot, norm: int, value: Array) -> Array | None:
    operation = spot.replay.operation(norm)
    if operation is None:
        return None
    return attempt(operation, (operation.taken(0, value), *operation.arguments[1:]))


@repair("norm")
def norms_moved(spot: Spot) -> Iterator[Candidate]:
    """All norms of a stack behind the sums, or behind the sublayers, instead of before these."""
    for behind, text in (
        (False, "sums normalised instead of what goes into the sublayers"),
        (True, "what comes of the sublayers normalised instead of what goes into them"),
    ):
        values, count = _moved_back(spot, behind)
        if count > 1 or (behind and count):
            told = f"{text}, in {count} places"
            yield Candidate("residual", told, values, places=(spot.place,))


def _moved_back(spot: Spot, behind: bool) -> tuple[dict[int, Array], int]:
    """Changed values where norms come after the sums, or `behind` the sublayers; how many."""
    values: dict[int, Array] = {}
    norm, count, stream = spot.place, 0, None
    while count < DEEPEST:
        layer = _norm_first(spot, norm)
        if layer is None:
            break
        if stream is None:
            stream = np.asarray(spot.graph.records[layer.stream].value, np.float64)
        end = layer.branch if behind else layer.total
        made = spot.after({layer.stream: stream, norm: stream}, end)
        normed = None if made is None else _normed(spot, norm, made)
        if normed is None or normed.shape != stream.shape:
            break
        if not values and not spot.sides.index.find(normed, spot.sides.tolerance):
            break  # the first of them tells whether they are all there
        values[norm], values[end] = stream, normed
        stream = stream + normed if behind else normed
        values[layer.total] = stream
        count += 1
        after = _next_norms(spot, layer.total)
        if not after:
            break
        norm = after[0]
    return values, count


@repair("norm")
def norms_first(spot: Spot) -> Iterator[Candidate]:
    """All norms of a stack before the sublayers instead of behind the sums."""
    yield from _before_sublayers(spot, spot.place)


@repair("linear", "matmul", late=True)
def norms_first_here(spot: Spot) -> Iterator[Candidate]:
    """The same, where the first layer of a sublayer is where the difference begins."""
    source = spot.replay.source(spot.place)
    if source is None or spot.place != spot.prover.culprit:
        return
    sums = [p for p in sorted(spot.graph.consumers[source]) if source in _summands(spot, p)]
    for norm in [n for total in sums for n in _next_norms(spot, total)][:1]:
        yield from _before_sublayers(spot, norm)


def _before_sublayers(spot: Spot, norm: int) -> Iterator[Candidate]:
    """Norms from one on before the sublayers whose sums they are taken of."""
    first = norm
    values: dict[int, Array] = {}
    count, stream = 0, None
    while count < DEEPEST:
        layer = _norm_last(spot, norm)
        if layer is None:
            break
        if stream is None:
            stream = np.asarray(spot.graph.records[layer.stream].value, np.float64)
        normed = _normed(spot, norm, stream)
        branch = None if normed is None else spot.after({layer.stream: normed}, layer.branch)
        if branch is None or branch.shape != stream.shape:
            break
        stream = stream + branch
        if not values and not spot.sides.index.find(stream, spot.sides.tolerance):
            break
        values[layer.total] = values[norm] = stream
        count += 1
        after = _norms_ahead(spot, norm)
        if not after:
            break
        norm = after[0]
    if count > 1:
        text = f"what goes into the sublayers normalised instead of the sums, in {count} places"
        yield Candidate("residual", text, values, places=(first,))


def _norms_ahead(spot: Spot, norm: int) -> list[int]:
    """Norms of the sums that a norm's result is a summand of."""
    sums = [p for p in spot.graph.consumers[norm] if norm in _summands(spot, p)]
    return [p for total in sums for p in _next_norms(spot, total)]


@repair("norm")
def other_stream(spot: Spot) -> Iterator[Candidate]:
    """Sublayers one after the other instead of beside each other, and the other way round.

    The norm takes the stream before a sum that the reference has made by then, or after one that
    it makes later.
    """
    source = spot.replay.source(spot.place)
    if source is None or not spot.sides.right[source]:
        return
    own = np.asarray(spot.graph.records[source].value, np.float64)
    choices: dict[str, Array] = {}
    for place in _summands(spot, source):
        text = f"the stream before the {spot.record.operation}'s last sum normalised"
        choices[f"{text}, {_word(spot, place)}"] = spot.graph.records[place].value
    behind = spot.graph.downstream([spot.place])
    for place in spot.graph.downstream([source]) - behind:
        far = abs(place - spot.place) > REACH
        if far or place == source or not spot.sides.right[place] or not spot.sides.telling(place):
            continue
        feeds = [total for total in spot.graph.consumers[place] if _summands(spot, total)]
        value = spot.graph.records[place].value
        if feeds and value.shape == own.shape and not _summands(spot, place):
            text = f"the sum with {_word(spot, place)} normalised"
            choices[text] = own + value
    for text, value in choices.items():
        made = _normed(spot, spot.place, np.asarray(value, np.float64))
        if made is not None:
            yield Candidate("residual", text, {spot.place: made}, places=(spot.place,))


def _word(spot: Spot, place: int) -> str:
    record = spot.graph.records[place]
    return f"the result of {record.operation} of {record.path or 'the root'}"


@repair("arithmetic")
def layer_scale(spot: Spot) -> Iterator[Candidate]:
    """A learned scale of a summand left out, or taken twice."""
    operation = spot.operation
    if operation.options["function"] != "multiply" or len(operation.arguments) != 2:
        return
    sums = [p for p in spot.graph.consumers[spot.place] if len(set(_summands(spot, p))) == 2]
    if not sums:
        return
    for number in (0, 1):
        given = spot.replay.source(spot.place, 1 - number)
        scale = operation.arguments[number]
        if given is None or given not in spot.sides.fed or not _is_parameter(spot, number):
            continue
        before = spot.replay.operation(given)
        if before is None or before.kind == "norm" or before.options.get("function") in WRITTEN:
            continue  # the gain of a norm
        x = np.asarray(operation.arguments[1 - number], np.float64)
        if x.shape == spot.record.value.shape:
            text = "the summand not scaled"
            yield Candidate("residual", text, {spot.place: x}, True, (spot.place,))
        twice = attempt(operation, spot.replaced(1 - number, spot.record.value))
        if twice is not None and np.unique(scale).size > 1:
            text = "the summand scaled twice"
            yield Candidate("residual", text, {spot.place: twice}, places=(spot.place,))


def _is_parameter(spot: Spot, number: int) -> bool:
    """Whether an argument is a parameter, by itself or in another shape."""
    source = spot.replay.source(spot.place, number)
    if source is not None:
        return source not in spot.sides.fed and bool(
            spot.graph.records[source].parameters
            or any(spot.graph.records[p].parameters for p in spot.graph.upstream([source]))
        )
    return bool(spot.record.parameters)
