"""Repairs of the place of an activation: before instead of after something, or the reverse."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations import Operation, attempt
from pytest_fwcompare.diagnose.prove import Candidate
from pytest_fwcompare.diagnose.repairs.base import Spot, repair

REACH = 4
"""Operations that an activation may have moved over: a norm and a pool, say, and what is between
them only hands values on."""


@repair("")
def moved_activation(spot: Spot) -> Iterator[Candidate]:
    """The activation that follows applied to an argument instead: before instead of after."""
    if spot.operation.kind == "activation":
        return
    for consumer in spot.graph.consumers[spot.place]:
        way = _to_activation(spot, consumer)
        if not way:
            continue
        after = spot.replay.operation(way[-1])
        assert after is not None
        text = f"{after.options['function']} before instead of after {spot.record.operation}"
        for arguments in _activated(spot, after):
            value = attempt(spot.operation, arguments)
            for before, place in itertools.pairwise([spot.place, *way[:-1]]):
                value = None if value is None else spot.replay.with_inputs(place, {before: value})
            if value is not None:
                places = (spot.place, way[-1])
                if _is_module(spot, way[-1]):
                    places = (way[-1], spot.place)
                yield Candidate("activation-place", text, {way[-1]: value}, places=places)


def _to_activation(spot: Spot, place: int) -> list[int]:
    """The way from an operation to the activation that follows; empty if none does."""
    way = [place]
    while len(way) <= REACH:
        operation = spot.replay.operation(way[-1])
        if operation is None:
            return []
        if operation.kind == "activation" and not spot.replay.is_identity(way[-1]):
            return way
        following = _used_by(spot, way[-1])
        if len(following) != 1:
            return []
        way.append(following[0])
    return []


def _activated(spot: Spot, after: Operation) -> Iterator[tuple[Array, ...]]:
    """The arguments with one of them activated, or with all of them."""
    own = spot.operation.arguments
    fed = [n for n in range(len(own)) if spot.replay.source(spot.place, n) is not None]
    for numbers in dict.fromkeys([*((number,) for number in fed), tuple(fed)]):
        arguments = list(own)
        for number in numbers:
            made = attempt(after, (own[number],))
            if made is None:
                break
            arguments[number] = made
        else:
            yield tuple(arguments)


@repair("activation")
def deferred_activation(spot: Spot) -> Iterator[Candidate]:
    """The activation applied to what is computed from its argument: after instead of before."""
    name = spot.operation.options["function"]
    if name == "identity":
        return
    plain = {spot.place: np.asarray(spot.operation.arguments[0], np.float64)}
    place = spot.place
    for _ in range(REACH):
        following = _used_by(spot, place)
        if len(following) != 1:
            return
        place = following[0]
        if spot.replay.kind(place) == "activation" and not spot.replay.is_identity(place):
            return
        beside = {p: v for p, v in _beside(spot, place).items() if p not in plain}
        for more in ({}, beside) if beside else ({},):
            value = spot.replay.with_inputs(place, {**plain, **more})
            made = None if value is None else attempt(spot.operation, (value,))
            if made is not None:
                text = f"{name} after instead of before {spot.graph.records[place].operation}"
                cause = "activation-place"
                yield Candidate(cause, text, {place: made}, places=(spot.place,))
        value = spot.replay.with_inputs(place, plain)
        if value is None:
            return
        plain[place] = value


def _beside(spot: Spot, place: int) -> dict[int, Array]:
    """What goes into an operation from the same activation in other branches, not activated."""
    found: dict[int, Array] = {}
    own = dict(spot.operation.options)
    for source in spot.graph.inputs[place]:
        other = spot.replay.operation(source)
        if other is not None and other.kind == "activation" and dict(other.options) == own:
            found[source] = np.asarray(other.arguments[0], np.float64)
    return found


def _used_by(spot: Spot, place: int) -> list[int]:
    """What uses a value on its way to an output."""
    return [p for p in spot.graph.consumers[place] if p in spot.graph.live]


def _is_module(spot: Spot, place: int) -> bool:
    """Whether an activation is a module of its own behind another one.

    One that several places use belongs to the code around it, as what a sum is made by does.
    """
    graph = spot.graph
    path, own = graph.records[place].path, spot.record.path
    if path == own or {path, own} & graph.containers:
        return False
    return sum(record.path == path for record in graph.records) == 1
