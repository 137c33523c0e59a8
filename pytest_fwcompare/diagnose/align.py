"""Finds the same tensor in two unrelated implementations by what it contains, not by its name.

In float64 the intermediate tensors of a right port agree to about 1e-12, whatever their axis
order. So two tensors are taken as the same where they hold the same multiset of values: compared
first by a few figures that ignore the order of elements, then by their sorted values.

Every figure used is a mean, an extreme or a p-norm, which moves by no more than the largest change
of any element. So a figure that differs by more than the tolerance proves that the sorted values
do, and no match is lost to the quick comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded

TOLERANCE = 2e-7
"""Relative to the largest magnitude. Above what constants and weights rounded to float32 cost
inside a right port (tf.nn.gelu: 5e-9; two biases summed in float32 when copied: 2e-8), below what
a fault costs that float32 can show."""

FILL_RATIO = 1e3
"""An extreme value that many times above all others is a fill (-1e9, -1e30, -inf in a mask)."""


@dataclass(frozen=True)
class Fingerprint:
    """What a tensor contains, whatever the order of its axes and elements.

    Attributes:
        size: number of elements.
        figures: (8,) mean, mean magnitude, norms of order 2, 3, 4 divided by the size's root,
            minimum, maximum, mean of the positive part; of the regular elements only. The norms
            are `mean(|v|**p) ** (1/p)`, so tiled copies have the same figures.
        scale: largest magnitude of the regular elements.
        irregular: fractions of the elements that are NaN, filled high (+inf too), filled low.
        telling: False where the values say nothing: constants, few different values, or small
            whole numbers, as tokens, masks and positions have.
    """

    size: int
    figures: Array
    scale: float
    irregular: tuple[float, float, float]
    telling: bool


def regular(value: Array) -> tuple[Array, tuple[int, int, int]]:
    """Sorted elements that are neither NaN nor infinite nor a fill; counts of the others.

    Returns:
        The sorted regular elements (count,), and how many are NaN, high fills and low fills.
    """
    flat = np.asarray(value, dtype=np.float64).reshape(-1)
    finite = np.sort(flat[np.isfinite(flat)])
    nans = int(np.isnan(flat).sum())
    high, low = int((flat == np.inf).sum()), int((flat == -np.inf).sum())
    if finite.size > 1:
        bottom, top = finite[0], finite[-1]
        start = int(np.searchsorted(finite, bottom, "right")) if bottom < -FILL_RATIO else 0
        end = int(np.searchsorted(finite, top, "left")) if top > FILL_RATIO else finite.size
        if 0 < start < finite.size and -bottom / FILL_RATIO > np.abs(finite[[start, -1]]).max():
            low, finite, end = low + start, finite[start:], end - start
        if 0 < end < finite.size and top / FILL_RATIO > np.abs(finite[[0, end - 1]]).max():
            high, finite = high + finite.size - end, finite[:end]
    return finite, (nans, high, low)


def fingerprint(value: Array) -> Fingerprint:
    """The fingerprint of a tensor of any shape; booleans and integers count as numbers."""
    return contents(value).told


@dataclass(frozen=True)
class Contents:
    """A tensor's values in order, which is what costs, with what is told by them.

    Attributes:
        ordered: sorted regular elements (count,).
        told: the fingerprint.
    """

    ordered: Array
    told: Fingerprint


def contents(value: Array) -> Contents:
    """The contents of a tensor of any shape."""
    ordered, counts = regular(value)
    return Contents(ordered, _fingerprint(ordered, counts, size=int(np.size(value))))


def _fingerprint(ordered: Array, counts: tuple[int, int, int], size: int) -> Fingerprint:
    irregular = tuple(count / max(size, 1) for count in counts)
    nans, high, low = irregular
    if not ordered.size:
        return Fingerprint(size, np.zeros(8), 0.0, (nans, high, low), False)
    scale = float(max(abs(ordered[0]), abs(ordered[-1])))
    unit = ordered / scale if scale > 0 else ordered
    magnitude = np.abs(unit)
    square = unit * unit
    figures = scale * np.array(
        [
            unit.mean(),
            magnitude.mean(),
            square.mean() ** 0.5,
            (square * magnitude).mean() ** (1 / 3),
            (square * square).mean() ** 0.25,
            unit[0],
            unit[-1],
            np.maximum(unit, 0.0).mean(),
        ]
    )
    return Fingerprint(size, figures, scale, (nans, high, low), _telling(ordered, scale))


def _telling(ordered: Array, scale: float) -> bool:
    """Whether values are unlikely to come about twice by chance."""
    if scale == 0.0:
        return False
    # Scaled, so that no difference of huge values overflows.
    distinct = 1 + int((np.diff(ordered / scale) > 1e-12).sum())
    whole = scale < 2**31 and bool(np.all(ordered == np.round(ordered)))
    if ordered.size == 1:
        # A lone number tells as much as its digits: 0.5 and 3 come about anywhere.
        with np.errstate(over="ignore"):
            short = float(np.float32(ordered[0] * 1024))
        return scale < 2**31 and short != round(ordered[0] * 1024) and not whole
    return distinct > 2 and not whole


@dataclass(frozen=True)
class Match:
    """A tensor of the port that holds the same values.

    Attributes:
        index: position in the list of the port's records (not `Recorded.index`).
        distance: largest difference of the sorted values, relative to the largest magnitude.
    """

    index: int
    distance: float


class Index:
    """Tensors of one side, found by their contents.

    Args:
        values: tensors of any shape.
    """

    def __init__(self, values: Iterable[Array]) -> None:
        self._values = [np.asarray(value) for value in values]
        self._sorted: dict[int, tuple[Array, tuple[int, int, int]]] = {}
        self.fingerprints = [
            _fingerprint(*regular(value), size=int(value.size)) for value in self._values
        ]
        count = len(self.fingerprints)
        self._figures = np.array([p.figures for p in self.fingerprints]).reshape(count, 8)
        self._irregular = np.array([p.irregular for p in self.fingerprints]).reshape(count, 3)
        self._sizes = np.array([p.size for p in self.fingerprints], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._values)

    def _ordered(self, index: int) -> tuple[Array, tuple[int, int, int]]:
        if index not in self._sorted:
            self._sorted[index] = regular(self._values[index])
        return self._sorted[index]

    def find(self, value: Array | Contents, tolerance: float = TOLERANCE) -> list[Match]:
        """The tensors that hold the same multiset of values, nearest first.

        A tensor that holds every value the same number of times (a tiled or broadcast copy)
        counts too, after those of equal size.

        Args:
            value: of any shape, or its contents where they are known.
            tolerance: largest difference of the sorted values, relative to the largest magnitude.
        """
        known = value if isinstance(value, Contents) else contents(value)
        ordered, probe = known.ordered, known.told
        size = probe.size
        bounds = self._bounds(probe)
        matches: list[Match] = []
        for index in np.flatnonzero(bounds <= tolerance):
            distance = self._distance(ordered, probe, int(index))
            if distance <= tolerance:
                matches.append(Match(int(index), distance))
        matches.sort(key=lambda match: (self._sizes[match.index] != size, match.distance))
        return matches

    def nearest(self, value: Array) -> Match | None:
        """The tensor of equal size whose sorted values are closest; None if there is no such.

        Tensors that tell nothing (constants, masks) are left out, unless `value` is such a one.
        """
        known = contents(value)
        ordered, probe = known.ordered, known.told
        bounds = self._bounds(probe)
        best: Match | None = None
        for index in np.argsort(bounds, kind="stable"):
            if best is not None and bounds[index] >= best.distance:
                break
            if not np.isfinite(bounds[index]):
                break
            other = self.fingerprints[index]
            if other.size != probe.size or (probe.telling and not other.telling):
                continue
            distance = self._distance(ordered, probe, int(index))
            if best is None or distance < best.distance:
                best = Match(int(index), distance)
        return best

    def _bounds(self, probe: Fingerprint) -> Array:
        """Lower bounds of the distance to every tensor (count,), infinite where irregular ones."""
        if not len(self):
            return np.zeros(0)
        scale = probe.scale or 1.0
        with np.errstate(over="ignore"):
            # Of opposite huge values the difference is infinite, which is what is meant.
            bounds = np.abs(self._figures - probe.figures).max(axis=1) / scale
        # Fractions of counts: equal up to the rounding of one division.
        other = np.abs(self._irregular - np.array(probe.irregular)).max(axis=1) > 1e-12
        bounds[other] = np.inf
        small, large = np.minimum(self._sizes, probe.size), np.maximum(self._sizes, probe.size)
        bounds[(small == 0) != (large == 0)] = np.inf
        bounds[(small > 0) & (large % np.maximum(small, 1) != 0)] = np.inf
        return np.asarray(bounds)

    def _distance(self, ordered: Array, probe: Fingerprint, index: int) -> float:
        """Largest difference of the sorted values, relative to the scale of `probe`."""
        other, _ = self._ordered(index)
        if not ordered.size and not other.size:
            return 0.0
        small, large = (ordered, other) if ordered.size <= other.size else (other, ordered)
        if not small.size or large.size % small.size:
            return np.inf
        tiled = np.repeat(small, large.size // small.size)
        with np.errstate(over="ignore"):
            return float(np.abs(tiled - large).max() / (probe.scale or 1.0))


@dataclass(frozen=True)
class Alignment:
    """Which records of the port hold the values of each record of the reference.

    Attributes:
        matches: for each reference record, in order, its matches in the port, nearest first.
        telling: for each reference record, whether its values tell anything.
        tolerance: of the matches.
    """

    matches: tuple[tuple[Match, ...], ...]
    telling: tuple[bool, ...]
    tolerance: float

    def found(self, position: int) -> bool:
        """Whether the reference record at that position is in the port, or tells nothing."""
        return bool(self.matches[position]) or not self.telling[position]

    @property
    def fraction(self) -> float:
        """Part of the telling reference records that are found; 0.0 if none is telling."""
        told = [
            bool(found) for found, tell in zip(self.matches, self.telling, strict=True) if tell
        ]
        return sum(told) / len(told) if told else 0.0


def match(
    reference_records: Sequence[Recorded],
    port_records: Sequence[Recorded] | Index,
    tolerance: float = TOLERANCE,
    known: Alignment | None = None,
    changed: Set[int] = frozenset(),
) -> Alignment:
    """Align two float64 passes by value.

    Args:
        reference_records: of the reference.
        port_records: of the port, or their index where it was already made.
        tolerance: relative to each tensor's largest magnitude.
        known: alignment of the same records with the same index at the same tolerance, but that
            those at the positions `changed` had other values.
        changed: positions.
    """
    index = (
        port_records
        if isinstance(port_records, Index)
        else Index(record.value for record in port_records)
    )
    matches, telling = [], []
    for place, record in enumerate(reference_records):
        if known is not None and place not in changed:
            telling.append(known.telling[place])
            matches.append(known.matches[place])
            continue
        found = contents(record.value)
        telling.append(found.told.telling)
        matches.append(tuple(index.find(found, tolerance)) if found.told.telling else ())
    return Alignment(tuple(matches), tuple(telling), tolerance)


def matched_fraction(
    reference_records: Sequence[Recorded],
    port_records: Sequence[Recorded] | Index,
    tolerance: float = TOLERANCE,
) -> float:
    """Part of the reference's telling tensors that the port holds too: evidence for a mapping.

    Returns:
        0.0 (nothing found) to 1.0 (all found). A right port that fuses operations stays below 1.
    """
    return match(reference_records, port_records, tolerance).fraction
