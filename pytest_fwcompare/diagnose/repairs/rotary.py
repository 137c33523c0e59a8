"""Repairs of rotary positions: pairs of features of query and key, turned by angles of a step.

A turn is found by what it does, however it is written: each row keeps its length. From the rows
before and after it follow the pairs of features and the angle of each step, and from these every
other turn that a port may make: of other tensors, other features, to another base, the other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations.linear import is_product
from pytest_fwcompare.diagnose.prove import Candidate, is_fitted
from pytest_fwcompare.diagnose.repairs.base import Spot, repair

EXACT = 1e-6
"""Relative difference below which rows are as long; tables may be rounded to float32."""

REACH = 14
"""Operations along the data flow that a turn may consist of."""

BASES = [50.0, 300.0, 3e3, 3e4, 3e5, 3e6, 3e7]
"""Bases between which another one is sought."""

FACTORS = [0.01, 0.1, 0.3, 0.7, 1.5, 3.0, 10.0]
"""Numbers between which one is sought that positions are multiplied by."""

OFFSETS = (1, -1, 2, -2, 3, -3)
"""Steps by which positions are shifted."""


@dataclass(frozen=True)
class Turn:
    """Features turned in pairs by an angle of each step.

    Attributes:
        first: (pairs,) positions of the first features of the pairs along the last axis.
        second: the same of the second.
        angles: (steps, pairs).
        axis: of the steps, counted from the end.
        size: of the last axis.
    """

    first: Array
    second: Array
    angles: Array
    axis: int
    size: int

    def apply(self, x: Array) -> Array:
        """The tensor turned; it has the steps at the same place from the end."""
        shape = [1] * x.ndim
        shape[self.axis], shape[-1] = self.angles.shape
        angles = self.angles.reshape(shape)
        one, other = x[..., self.first], x[..., self.second]
        made = np.array(x, np.float64)
        made[..., self.first] = one * np.cos(angles) - other * np.sin(angles)
        made[..., self.second] = one * np.sin(angles) + other * np.cos(angles)
        return made

    @property
    def rates(self) -> Array:
        """(pairs,) the angle of one step."""
        return np.asarray(self.angles[1] - self.angles[0])

    def with_rates(self, rates: Array, shift: float = 0.0) -> Turn:
        """The turn by other angles of a step, its positions shifted."""
        fastest = int(np.abs(self.rates).argmax())
        start = self.angles[0, fastest] / (self.rates[fastest] or 1.0)
        steps = np.arange(len(self.angles))[:, None] + start + shift
        return replace(self, angles=steps * rates)


def turn_between(before: Array, after: Array) -> Turn | None:
    """The turn that makes one tensor the other; None where none does."""
    if before.shape != after.shape or before.ndim < 3 or before.shape[-1] < 2:
        return None
    lengths = [np.linalg.norm(x, axis=-1) for x in (before, after)]
    scale = float(lengths[0].max()) or 1.0
    if np.abs(lengths[0] - lengths[1]).max() > EXACT * scale:
        return None
    size = before.shape[-1]
    left = np.abs(after - before).reshape(-1, size).max(axis=0) > 10 * EXACT * scale
    moved = np.flatnonzero(left)
    if moved.size < 2 or moved.size % 2:
        return None
    half = moved.size // 2
    for first, second in ((moved[:half], moved[half:]), (moved[::2], moved[1::2])):
        made = _turned(before, after, first, second)
        if made is not None:
            return made
    return None


def _turned(before: Array, after: Array, first: Array, second: Array) -> Turn | None:
    """The turn of given pairs."""
    one = before[..., first] + 1j * before[..., second]
    other = after[..., first] + 1j * after[..., second]
    angles = np.angle(other * np.conj(one))
    for axis in range(2, before.ndim + 1):
        steps = before.shape[-axis]
        if steps < 2:
            continue
        rows = np.moveaxis(angles, -axis, 0).reshape(steps, -1, len(first))
        mean = np.angle(np.exp(1j * rows).mean(axis=1))
        unrolled = _steady(mean)
        made = Turn(first, second, unrolled, -axis, before.shape[-1])
        scale = float(np.abs(after).max()) or 1.0
        moves = np.abs(np.exp(1j * mean) - np.exp(1j * mean[:1])).max() > EXACT
        if moves and np.abs(made.apply(before) - after).max() <= EXACT * scale:
            return made
    return None


def _steady(angles: Array) -> Array:
    """Angles (steps, pairs) without jumps by whole turns: each step turns by the same."""
    rates = np.angle(np.exp(1j * (angles[1] - angles[0])))
    wanted = angles[0] + np.arange(len(angles))[:, None] * rates
    whole: Array = angles + 2 * np.pi * np.round((wanted - angles) / (2 * np.pi))
    return whole if np.abs(whole - wanted).max() < EXACT * max(len(angles), 10) else angles


@dataclass(frozen=True)
class Turned:
    """A turn in a recorded pass.

    Attributes:
        start: position of what is turned.
        end: position of the result.
        turn: what is done.
    """

    start: int
    end: int
    turn: Turn


def turns_before(spot: Spot, product: int) -> list[Turned]:
    """The turns of what goes into a product of two tensors: of query and key."""
    found = []
    for source in spot.graph.inputs[product]:
        made = _turn_upstream(spot, source)
        if made is not None:
            found.append(made)
    return found


def _turn_upstream(spot: Spot, place: int) -> Turned | None:
    """The nearest turn before a place along what goes into it."""
    graph, fed = spot.graph, spot.sides.fed
    front, seen = [place], {place}
    for _ in range(REACH):
        for end in front:
            value = graph.records[end].value
            starts = [p for p in _near(spot, end) if graph.records[p].value.shape == value.shape]
            for start in starts:
                turn = turn_between(graph.records[start].value, value)
                if turn is not None:
                    return Turned(start, end, turn)
        only = [p for p in front if spot.replay.kind(p) in ("movement", "arithmetic")]
        front = [s for p in only for s in graph.inputs[p] if s not in seen and s in fed]
        seen.update(front)
        front = [p for p in front if graph.records[p].value.ndim > 2]
    return None


def _near(spot: Spot, end: int) -> list[int]:
    """What an operation is computed from, near ones first, as far as no layer is between."""
    front, found = [end], []
    for _ in range(REACH):
        inner = [p for p in front if spot.replay.kind(p) in ("movement", "arithmetic", "")]
        front = [s for p in inner for s in spot.graph.inputs[p] if s not in found]
        front = [s for s in dict.fromkeys(front) if s in spot.sides.fed]
        found += front
    return found


@repair("", late=True)
def rotary(spot: Spot) -> Iterator[Candidate]:
    """Query and key turned by other angles, in other features, in part, or values as well."""
    product = _product(spot)
    if product is None:
        return
    turned = turns_before(spot, product)
    if not turned:
        return
    places = (turned[0].end,)
    # What the port has is turned rightly; of two that it lacks one may be what follows.
    each = [(one,) for one in turned if len(turned) > 1 and not spot.sides.has(one.end)]
    for some in (tuple(turned), *each):
        which = "" if len(some) == len(turned) else f" in one of {len(turned)} tensors"
        for text, turns in _other_turns(some, alone=len(some) < len(turned)):
            values = {t.end: _made(spot, t, turn) for t, turn in zip(some, turns, strict=True)}
            yield Candidate("position", f"{text}{which}", values, places=places)
    yield from _solved(spot, turned, places)
    yield from _values(spot, turned[0], product)


PASSING = ("movement", "arithmetic", "matmul", "mask", "where", "")
"""Kinds of operations between a turn and the softmax of scores."""


def _product(spot: Spot) -> int | None:
    """The product of query and key that a culprit goes into, or comes from."""
    if spot.place != spot.prover.culprit:
        return None  # where the difference begins is asked, and nothing else
    for links in (spot.graph.consumers, spot.graph.inputs):
        front, seen = [spot.place], {spot.place}
        for _ in range(2 * REACH):
            for place in front:
                if spot.replay.kind(place) == "attention":
                    return place
                weights = [p for p in spot.graph.inputs[place] if is_product(spot.name(place))]
                for at in (place, *weights):
                    if spot.replay.kind(at) == "softmax":
                        return _before(spot, at)
            open_ones = [p for p in front if p == spot.place or _passes(spot, p)]
            front = [p for at in open_ones for p in links[at] if p not in seen]
            front = list(dict.fromkeys(front))
            seen.update(front)
    return None


def _passes(spot: Spot, place: int) -> bool:
    """Whether what is looked for may be behind an operation; sines of positions are before it."""
    table = spot.replay.kind(place) == "activation" and place not in spot.sides.fed
    return table or spot.replay.kind(place) in PASSING


def _before(spot: Spot, softmax: int) -> int | None:
    """The product whose scores a softmax is taken of."""
    front = [softmax]
    for _ in range(6):
        front = [p for at in front for p in spot.graph.inputs[at] if p in spot.sides.fed]
        for place in front:
            if is_product(spot.name(place)) and len(spot.graph.inputs[place]) == 2:
                return place
    return None


def _made(spot: Spot, turned: Turned, turn: Turn | None) -> Array:
    """What is turned, turned otherwise, or not at all."""
    start = np.asarray(spot.graph.records[turned.start].value, np.float64)
    return start if turn is None else turn.apply(start)


def _other_turns(
    some: Sequence[Turned], alone: bool
) -> Iterator[tuple[str, tuple[Turn | None, ...]]]:
    """Other turns of some tensors alike: text and turns."""
    yield "not turned by position", (None,) * len(some)
    yield (
        "turned the other way",
        tuple(replace(t.turn, angles=-t.turn.angles) for t in some),
    )
    if alone:  # of both it would change nothing
        for shift in OFFSETS:
            turns = tuple(t.turn.with_rates(t.turn.rates, shift) for t in some)
            yield f"turned by positions shifted by {shift:+d}", turns
    changes = [list(_of_other_features(t.turn)) for t in some]
    for both in zip(*changes, strict=False):
        yield both[0][0], tuple(turn for _, turn in both)


def _of_other_features(turn: Turn) -> Iterator[tuple[str, Turn]]:
    """The same turn in other pairs, of more or fewer features, by the rates that belong to it."""
    count, base = 2 * len(turn.first), _base(turn)
    own = (tuple(turn.first), tuple(turn.second))
    start = min(turn.first[0], turn.second[0])
    for width in dict.fromkeys((count, turn.size // 4, turn.size // 2, turn.size)):
        for begin in dict.fromkeys((int(start), 0, turn.size - width)):
            if width < 2 or width % 2 or begin + width > turn.size:
                continue
            features = np.arange(begin, begin + width)
            half = width // 2
            for words, first, second in (
                ("halves", features[:half], features[half:]),
                ("neighbours", features[::2], features[1::2]),
            ):
                for divisor in dict.fromkeys((width, turn.size, count)):
                    rates = base ** (-2.0 * np.arange(half) / divisor)
                    rates = turn.rates if width == count and divisor == count else rates
                    other = replace(turn, first=first, second=second).with_rates(rates)
                    if own == (tuple(first), tuple(second)) and divisor == count:
                        continue
                    text = f"features {begin} to {begin + width - 1} turned, {words} paired"
                    text += "" if divisor == width else f", exponents divided by {divisor}"
                    yield text, other


def _base(turn: Turn) -> float:
    """The base that the rates are powers of; the usual one where there is but one rate."""
    rates = np.abs(turn.rates)
    if len(rates) < 2 or not rates.all() or rates[0] <= rates[1]:
        return 1e4
    return float((rates[0] / rates[1]) ** len(rates))


Way = tuple[str, Callable[[Turn, float], Turn], float, list[float]]
"""What a number does to a turn: words, the turn it makes, the reference's number, others."""


def _solved(spot: Spot, turned: Sequence[Turned], places: tuple[int, ...]) -> Iterator[Candidate]:
    """Another base, or positions times a number."""
    first = turned[0]
    own, pairs = _base(first.turn), len(first.turn.first)

    def to_base(turn: Turn, base: float) -> Turn:
        rates = turn.rates[0] * base ** (-np.arange(len(turn.first)) / len(turn.first))
        return turn.with_rates(rates)

    def scaled(turn: Turn, factor: float) -> Turn:
        return replace(turn, angles=turn.angles * factor)

    ways: list[Way] = [("rates to the base", to_base, own, BASES)] if pairs > 1 else []
    ways.append(("positions times", scaled, 1.0, FACTORS))
    for words, way, reference, grid in ways:

        def family(number: float, way: Callable[[Turn, float], Turn] = way) -> Array:
            return _made(spot, first, way(first.turn, number))

        near = sorted({*grid, reference * 0.99, reference * 1.01})
        for number, _ in spot.prover.solve(family, near):
            text = f"{words} {number:.10g} (reference {reference:.6g})"
            values = {t.end: _made(spot, t, way(t.turn, number)) for t in turned}
            yield Candidate("position", text, values, places=places, fitted=is_fitted(number))


def _values(spot: Spot, turned: Turned, product: int) -> Iterator[Candidate]:
    """Values turned as well, or those of a reference that turns them not turned."""
    source = _value_source(spot, product)
    if source is None:
        return
    value = np.asarray(spot.graph.records[source].value, np.float64)
    own = _turn_upstream(spot, source)
    if own is not None:
        text, made = "values not turned by position", {own.end: _made(spot, own, None)}
        yield Candidate("position", text, made, places=(own.end,))
        return
    steps = len(turned.turn.angles)
    if value.shape[-1] != turned.turn.size:
        return
    for axis in range(-2, -value.ndim - 1, -1):
        if value.shape[axis] == steps:
            changed = replace(turned.turn, axis=axis).apply(value)
            text = "values turned by position as well"
            yield Candidate("position", text, {source: changed}, places=(turned.end,))


def _value_source(spot: Spot, product: int) -> int | None:
    """Position of what the weights are multiplied with."""
    if spot.replay.kind(product) == "attention":
        return spot.replay.source(product, 2)
    scores = spot.graph.downstream([product])
    for place in sorted(scores - {product})[: 2 * REACH]:
        if is_product(spot.name(place)) and len(spot.graph.inputs[place]) == 2:
            others = [p for p in spot.graph.inputs[place] if p not in scores]
            return others[0] if others else None
    return None
