"""Proves a repair: the reference, changed in one way, gives values that only the port has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.align import Index, contents, fingerprint
from pytest_fwcompare.diagnose.operations import Operation, same

if TYPE_CHECKING:
    from pytest_fwcompare.diagnose.locate import Sides
    from pytest_fwcompare.diagnose.replay import Replay

UNSEEN = 12
"""Operations computed on without finding anything before a repair is given up."""

FALLS = 100.0
"""A repair must bring the reference closer to the port by this factor at least."""

SEEN = 5
"""The same where the port shows nearly all values, so that a right change is seen early."""

ONWARD = 8
"""Operations computed on after the first find, to see that the port goes on with the value."""

CLOSEST = 8
"""Tensors of the port that are most like a value, for which numbers are solved."""

NEXT = 4
"""Tensors of the port computed next behind what the culprit is computed from, likewise."""

ALONE = 3
"""Operations computed on from a single find, none of which is found, that speak against it."""

MIXING = frozenset(
    (
        *("linear", "matmul", "addmm", "convolution", "transposed convolution", "norm"),
        *("reduction", "softmax", "attention", "recurrent", "pool"),
    )
)
"""Kinds of operations whose result tells in which order their input came."""

UNMIXED = 3
"""Such operations missed in a row that speak against an arrangement seen in values alone."""

ARRANGED = frozenset(
    (
        *("mask", "softmax-axis", "kernel-layout", "flatten-order", "head-split", "fused-order"),
        *("channel-order", "position", "reduction", "norm-axis", "residual", "initial-state"),
    )
)
"""Causes that are told by which value lies where. Two of them may hold the same values in another
arrangement, so what follows must be in the port, too."""


@dataclass(frozen=True)
class Candidate:
    """One change of the reference that may be what the port does.

    Attributes:
        cause: one word of the cause table.
        change: what was changed, to be read after "with": "epsilon=0.001 (reference 1e-05)".
        values: new values by position in the reference's graph.
        weak: the changed value occurs in right ports too (a product before its bias), so only
            what the port computes from it proves anything.
        places: positions that make up the culprit; where it was found, if empty.
        culprit: path and neighbours of the culprit where they are not those of `places`.
        fitted: a number of many digits was solved for, so that a change without one that explains
            as much is the likelier.
        number: the number that was solved for, if one was.
        operation: the changed operation, where one operation was changed and nothing else, so
            that it can be computed with other arguments; None where nobody says.
    """

    cause: str
    change: str
    values: Mapping[int, Array] = field(repr=False)
    weak: bool = False
    places: tuple[int, ...] = ()
    culprit: tuple[str, tuple[str, str] | None] | None = None
    fitted: bool = False
    number: float = np.nan
    operation: Operation | None = field(default=None, repr=False)


TELLING = 3
"""Elements that a tensor must have for a number that was solved for to say anything."""

DIGITS = 3
"""Significant digits up to which a number is one that people write."""


def is_fitted(number: float) -> bool:
    """Whether a number that was solved for is none that people write."""
    return float(f"{number:.{DIGITS}g}") != number


@dataclass(frozen=True)
class Proof:
    """What showed that a candidate is what the port does.

    Attributes:
        place: first position whose changed value the port has.
        before: distance of the reference's own value there to the port's nearest tensor.
        after: distance of the changed value.
        port_index: position of that tensor among the port's operations, -1 for an output.
        hits: number of positions whose changed values the port has.
        to_output: whether a changed output was computed and is the port's output.
        values: all changed values that were computed.
        alone: nothing that follows from the change is in the port, so that it proves a cause
            only if another fault behind it explains why.
        beside: the change makes an output that the port does not hand out.
        disordered: an output that was computed holds the values of one of that shape of the port,
            in another order.
    """

    place: int
    before: float
    after: float
    port_index: int
    hits: int
    to_output: bool
    values: Mapping[int, Array] = field(repr=False)
    alone: bool = False
    beside: bool = False
    disordered: bool = False


class Prover:
    """Looks changed values up in the port.

    Args:
        sides: both passes, aligned.
        replay: recomputation of the reference.
        culprit: position where the reference and the port part.
    """

    def __init__(self, sides: Sides, replay: Replay, culprit: int | None = None) -> None:
        self.sides = sides
        self.replay = replay
        self.culprit = culprit
        sure = [place for place, right in enumerate(sides.sure) if right and sides.telling(place)]
        shown = sum(bool(sides.alignment.matches[place]) for place in sure)
        self.patience = SEEN if len(sure) > 5 and shown > 0.8 * len(sure) else UNSEEN

    def prove(self, candidate: Candidate) -> Proof | None:
        """The proof, or None.

        At least one changed value must be in the port whose own value is not there. What a right
        port may hold as well counts only if the port goes on with it.
        """
        sides = self.sides
        values: dict[int, Array] = {}
        hits: list[int] = []
        seen: set[int] = set()
        first: tuple[int, float, int] | None = None
        unseen = onward = 0
        to_output, strong, missed, beside = False, False, False, False
        mixed, unmixed = False, 0
        for place, value in self.replay.run(candidate.values):
            values[place] = value
            if not self._differs(place, value) or sides.has(place):
                continue
            found = self._find(place, value)
            moved = self.replay.kind(place) == "movement" or self.replay.is_identity(place)
            if place not in candidate.values and self.replay.kind(place) in MIXING:
                mixed, unmixed = mixed or found is not None, unmixed + (found is None)
            if found is not None:
                # The same values once more, moved or handed on, are no second find.
                if found[1] < 0 or found[1] not in seen:
                    hits.append(place)
                seen.add(found[1])
                first = first or (place, *found)
                fresh = found[1] < 0 or found[1] not in sides.explained
                beyond = place not in candidate.values and not moved
                strong = strong or (fresh and (beyond or not candidate.weak))
                to_output = to_output or place in sides.output_places
            # An output that the change makes, and that the port does not hand out.
            beside = beside or (found is None and place in sides.output_places)
            if first is None:
                unseen += not moved
            else:
                onward += not moved
                missed = missed or (found is None and not moved and len(hits) == 1)
            if unseen > self.patience or (onward > ONWARD and strong):
                break
        if first is None or not (strong or to_output):
            return None
        if candidate.cause in ARRANGED and to_output and beside and len(hits) == 1:
            return None  # one output by chance, another one not
        if candidate.cause in ARRANGED and not to_output:
            if missed and len(hits) == 1:
                return None
            # Positions are paired in the tensor and in the table that turns it, at once.
            told = candidate.cause != "position" and unmixed and (beside or unmixed >= UNMIXED)
            if told and not mixed:
                return None  # the right values, in no order that what follows bears out
        # The port has the value on its way to another one, and nothing that follows from it.
        few = len(hits) == 1 or (candidate.weak and len(hits) == 2)
        alone = few and not to_output and (onward >= ALONE or beside)
        place, distance, index = first
        nearest = sides.nearest(place)
        before = nearest.distance if nearest is not None else float("inf")
        if distance > before / FALLS:
            # Near the tolerance a change may come closer by luck.
            return None
        if self._anything_does(candidate, place, values[place]):
            return None
        flags = (alone, beside, to_output and self._disordered(values))
        return Proof(place, before, distance, index, len(hits), to_output, values, *flags)

    def _disordered(self, values: Mapping[int, Array]) -> bool:
        """Whether a changed output is one of the port's in another order of elements."""
        sides = self.sides
        for place in sides.output_places & values.keys():
            ends = [end for end in sides.output_values if end.shape == values[place].shape]
            if ends and not any(same(values[place], end, sides.tolerance) for end in ends):
                return True
        return False

    def _anything_does(self, candidate: Candidate, place: int, found: Array) -> bool:
        """Whether other values than the candidate's give what was found: zeros, or bent ones.

        Behind a ReLU that lets nothing through, or a softmax over one, all changes are alike.
        """
        if place in candidate.values:
            return False
        for decoy in (np.zeros_like, _bent):
            others = {at: decoy(value) for at, value in candidate.values.items()}
            if all(np.array_equal(others[at], value) for at, value in candidate.values.items()):
                continue
            for at, value in self.replay.run(others):
                if at == place and not self._apart(found, value):
                    return True
                if at >= place:
                    break
        return False

    def _differs(self, place: int, value: Array) -> bool:
        """Whether a changed value is another one than the reference's."""
        return self._apart(self.sides.graph.records[place].value, value)

    def _apart(self, own: Array, value: Array) -> bool:
        """Whether two tensors differ by more than the tolerance."""
        if own.shape != value.shape:
            return True
        with np.errstate(all="ignore"):
            both = np.isfinite(own) & np.isfinite(value)
            if not np.array_equal(np.isfinite(own), np.isfinite(value)):
                return True
            if not both.any():
                return False
            scale = float(np.abs(own[both]).max()) or 1.0
            return bool(np.abs(own - value)[both].max() > self.sides.tolerance * scale)

    def _find(self, place: int, value: Array) -> tuple[float, int] | None:
        """Distance and position of a changed value in the port; -1 for outputs."""
        made, sides = contents(value), self.sides
        if not made.told.telling:
            return None
        spread = made.ordered[-1] - made.ordered[0]
        if value.size > 1 and spread <= sides.tolerance * made.told.scale:
            return None  # ones, say, up to the tolerance: the cosines of tiny angles
        if place in sides.output_places:
            found = sides.outputs.find(made, sides.tolerance)
            return (found[0].distance, -1) if found else None
        matches = sides.index.find(made, sides.tolerance)
        matches = [found for found in matches if not self._is_weight(found.index)]
        if not matches:
            return None
        fresh = [match for match in matches if match.index not in sides.explained]
        best = (fresh or matches)[0]
        return best.distance, best.index

    def _is_weight(self, index: int) -> bool:
        """Whether a tensor of the port is a weight, at most in another shape.

        A convolution of zeros gives its bias everywhere, and nobody computed that in the port.
        """
        port = self.sides.port
        record = port.records[index]
        return not port.inputs[index] and any(
            a.size == record.value.size for a in record.arguments
        )

    # Solving for numbers.

    def solve(
        self,
        family: Callable[[float], Array | None],
        grid: Sequence[float],
        observe: Callable[[Array], Iterator[tuple[int, Array]]] | None = None,
    ) -> Iterator[tuple[float, Array]]:
        """Numbers at which a family of values meets a tensor of the port.

        Args:
            family: value by number; None where it cannot be computed.
            grid: numbers in order, between which solutions are sought.
            observe: computes what the port shows of a value (position and value), where the
                value itself may be fused; by default the value itself.

        Yields:
            A number and the family's value there; rounded to few digits where that fits as well.
        """
        samples = [(number, family(number)) for number in grid]
        known = [(number, value) for number, value in samples if value is not None]
        if len(known) < 2:
            return
        shown = [(n, v, self._shown(v, observe)) for n, v in known]
        for slot in range(max(len(show) for *_, show in shown)):
            series = [(n, v, show[slot]) for n, v, show in shown if len(show) > slot]
            for target in self.targets(series[0][2]):
                number = self._root(family, observe, slot, series, target)
                if number is None:
                    continue
                yield from self._accepted(family, observe, slot, number, target)

    def _shown(
        self, value: Array, observe: Callable[[Array], Iterator[tuple[int, Array]]] | None
    ) -> list[Array]:
        return [value] if observe is None else [v for _, v in observe(value)]

    def targets(self, value: Array) -> list[Array]:
        """The port's tensors of that size that the reference lacks: the closest, and the next.

        The layers after a culprit all have tensors of a size, and some are closer to a value that
        was not solved for yet than the one that is meant: what the port computes next is, too.
        """
        sides = self.sides
        size = value.size
        fresh = [
            place
            for place, record in enumerate(sides.port.records)
            if record.value.size == size
            and place not in sides.explained
            and sides.index.fingerprints[place].telling
        ]
        probe = fingerprint(value)
        near = [place for place in fresh if place > self._behind][:NEXT]
        fresh.sort(
            key=lambda place: float(
                np.abs(sides.index.fingerprints[place].figures - probe.figures).max()
            )
        )
        chosen = dict.fromkeys([*fresh[:CLOSEST], *near])
        return [sides.port.records[place].value for place in chosen]

    @cached_property
    def _behind(self) -> int:
        """Position in the port of what the culprit is computed from, the last of it; -1 unknown.

        Of a value that is there several times the first counts.
        """
        graph, matches = self.sides.graph, self.sides.alignment.matches
        front = [] if self.culprit is None else list(graph.inputs[self.culprit])
        seen, last = set(front), -1
        while front:
            place = front.pop()
            if matches[place]:
                last = max(last, min(match.index for match in matches[place]))
                continue
            # The port fuses it with what is computed from it.
            more = [source for source in graph.inputs[place] if source not in seen]
            seen.update(more)
            front += more
        return last

    def _root(
        self,
        family: Callable[[float], Array | None],
        observe: Callable[[Array], Iterator[tuple[int, Array]]] | None,
        slot: int,
        series: Sequence[tuple[float, Array, Array]],
        target: Array,
    ) -> float | None:
        """Where the figure that moves most meets the target's, by bisection and secants."""
        wanted = fingerprint(target).figures
        figures = np.array([fingerprint(show).figures for *_, show in series])
        with np.errstate(all="ignore"):
            moves = np.ptp(figures, axis=0)
        for figure in np.argsort(-moves)[:3]:
            if not np.isfinite(moves[figure]) or moves[figure] == 0:
                continue
            misses = figures[:, figure] - wanted[figure]
            signs = np.flatnonzero(np.sign(misses[:-1]) != np.sign(misses[1:]))
            for start in signs[:2]:

                def miss(number: float, figure: int = int(figure)) -> float:
                    value = family(number)
                    shown = [] if value is None else self._shown(value, observe)
                    if len(shown) <= slot:
                        return float("nan")
                    return float(fingerprint(shown[slot]).figures[figure] - wanted[figure])

                low, high = series[start][0], series[start + 1][0]
                number = bracketed_root(miss, low, high, misses[start], misses[start + 1])
                if number is None:
                    continue
                value = family(number)
                shown = [] if value is None else self._shown(value, observe)
                if len(shown) > slot and Index([target]).find(shown[slot], self.sides.tolerance):
                    return number
        return None

    def _accepted(
        self,
        family: Callable[[float], Array | None],
        observe: Callable[[Array], Iterator[tuple[int, Array]]] | None,
        slot: int,
        number: float,
        target: Array,
    ) -> Iterator[tuple[float, Array]]:
        """The shortest decimal near the root that gives the target, or the root itself."""
        index = Index([target])
        rounded = [float(f"{number:.{digits}g}") for digits in range(1, 9)]
        for candidate in (*rounded, number):
            value = family(candidate)
            shown = [] if value is None else self._shown(value, observe)
            if len(shown) > slot and index.find(shown[slot], self.sides.tolerance):
                assert value is not None
                # One or two values are met by some number, whatever the port does.
                if target.size >= TELLING or not is_fitted(candidate):
                    yield candidate, value
                return


def _bent(value: Array) -> Array:
    """A tensor whose elements are changed, each by another few percent; of a mask, every other."""
    if np.isin(value, (0.0, 1.0)).all():
        odd = np.arange(value.size).reshape(value.shape) % 2 == 1
        return np.where(odd, 1.0 - np.asarray(value, np.float64), value)
    waves = np.sin(1.0 + np.arange(value.size)).reshape(value.shape)
    return np.asarray(value * (1.0 + 0.05 * waves))


def bracketed_root(
    function: Callable[[float], float], low: float, high: float, at_low: float, at_high: float
) -> float | None:
    """Root between two points of opposite sign: secants kept in the bracket (Illinois method).

    The bracket is halved in the logarithm where it spans decades, as numbers such as epsilons do.
    """
    if at_low == 0.0:
        return low
    if at_high == 0.0:
        return high
    side = 0
    for count in range(80):
        wide = low > 0 and high / low > 4
        if wide or count % 3 == 2:
            middle = (low * high) ** 0.5 if wide else 0.5 * (low + high)
        else:
            middle = high - at_high * (high - low) / (at_high - at_low)
        value = function(middle)
        if not np.isfinite(value):
            return None
        if value == 0.0 or abs(high - low) <= 1e-15 * max(abs(low), abs(high)):
            return middle
        if (value > 0) == (at_high > 0):
            high, at_high = middle, value
            at_low, side = (at_low / 2 if side == 1 else at_low), 1
        else:
            low, at_low = middle, value
            at_high, side = (at_high / 2 if side == -1 else at_high), -1
    return 0.5 * (low + high)
