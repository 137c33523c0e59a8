"""What dropout keeps in a pass in training mode: one stream for both sides.

The framework's own random numbers are of no use to a comparison: no two frameworks draw alike. So
while a comparison trains, each backend asks here what to keep. The reference gets numbers that
depend on the point alone. A dropout of the port gets those of the reference's dropout that was
given the same tensor, turned into the port's axes. Both working passes repeat what their shadow
was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from pytest_fwcompare.backends.base import Array, Precision
from pytest_fwcompare.dropout.alignment import Fit, fit, turned

Key = tuple[int, int]
"""Number of the call in the code, and how often it had run before in this pass (loops)."""

KEPT_POINTS = 8
"""Points whose tables are kept."""

ALONE = 1 << 30
"""Marks the random numbers of a dropout that the other side does not have."""


@dataclass(frozen=True)
class Site:
    """One dropout of one pass.

    Attributes:
        key: which one.
        value: what goes in, float64.
        kept: probability that a cell is kept.
        uniform: random numbers in [0, 1), broadcast to `value`; cells below `kept` are kept.
        place: path of the layer, "" where the framework does not tell.
        source: the reference's dropout whose numbers these are; None if there is none.
        exact: the same tensor goes into both.
    """

    key: Key
    value: Array
    kept: float
    uniform: Array
    place: str = ""
    source: Key | None = None
    exact: bool = True


@dataclass
class Table:
    """The dropouts of both shadows at one point, in order."""

    reference: dict[Key, Site] = field(default_factory=dict)
    port: dict[Key, Site] = field(default_factory=dict)

    @property
    def asked(self) -> bool:
        """Whether any side drops anything."""
        return bool(self.reference or self.port)


class Masks:
    """The dropouts of a pair, by point.

    Attributes:
        changes: by role and dropout, another probability to keep a cell, to prove a cause.
    """

    def __init__(self) -> None:
        self.tables: dict[tuple[int, ...], Table] = {}
        self.changes: Mapping[tuple[str, Key], float] = {}

    def table(self, seed: Sequence[int]) -> Table:
        """What both sides asked for at a point; empty if none has run."""
        return self.tables.get(tuple(seed), Table())

    def draws(self, role: str, precision: Precision, seed: Sequence[int]) -> Draws:
        """For one pass of one side."""
        key = tuple(seed)
        table = self.tables.pop(key, None) or Table()
        self.tables[key] = table
        while len(self.tables) > KEPT_POINTS:
            del self.tables[next(iter(self.tables))]
        if precision == "double":
            setattr(table, role, {})
        return Draws(self, table, role, precision == "double", key)


class Draws:
    """Answers the dropouts of one pass of one side."""

    def __init__(
        self, masks: Masks, table: Table, role: str, decides: bool, seed: tuple[int, ...]
    ) -> None:
        self.masks, self.table, self.role, self.decides = masks, table, role, decides
        self.seed = seed
        self._next = 0
        self._seen: dict[int, list[bytes]] = {}
        self._first: dict[tuple[tuple[int, ...], bytes], Key] = {}

    def begin(self) -> None:
        """The model's code starts anew: a trace counts as the call does that it stands for."""
        self._next = 0

    def site(self) -> int:
        """A number for the next dropout in the code."""
        self._next += 1
        return self._next - 1

    def factor(
        self, site: int, value: Array, noise: Sequence[int], kept: float, place: str = ""
    ) -> Array:
        """What dropout multiplies its input by: 0, or 1 / kept.

        Args:
            site: from `site`.
            value: what goes in.
            noise: shape of the mask; an axis of one is kept or dropped as a whole.
            kept: probability that a cell is kept, above zero.
            place: path of the layer, where known.

        Returns:
            Float64 array of shape `noise`.
        """
        value = np.array(value, np.float64)  # a view of the framework's memory would not last
        noise = tuple(noise)
        key = self._key(site, value)
        known: dict[Key, Site] = getattr(self.table, self.role)
        if self.decides and key not in known:
            known[key] = self._decide(key, value, noise, kept, place)
        found = known.get(key)
        if found is None or found.uniform.shape != noise:
            uniform = self._stream(key, noise)
        else:
            uniform = found.uniform
        kept = self.masks.changes.get((self.role, key), kept)
        return np.where(uniform < kept, 1.0 / kept, 0.0)

    def _key(self, site: int, value: Array) -> Key:
        """A call that is run again on the same tensor (a checkpoint) is the same dropout."""
        seen = self._seen.setdefault(site, [])
        content = value.tobytes()
        if content not in seen:
            seen.append(content)
        return site, seen.index(content)

    def _decide(
        self, key: Key, value: Array, noise: tuple[int, ...], kept: float, place: str
    ) -> Site:
        if self.role == "reference":
            # Equal tensors are dropped alike: nothing could tell which of two the port means.
            first = self._first.setdefault((noise, value.tobytes()), key)
            return Site(key, value, kept, self._stream(first, noise), place)
        found = self._counterpart(value, noise)
        if found is None:
            return Site(key, value, kept, self._stream((key[0] + ALONE, key[1]), noise), place)
        site, exact, uniform = found
        return Site(key, value, kept, uniform, place, site.key, exact)

    def _counterpart(
        self, value: Array, noise: tuple[int, ...]
    ) -> tuple[Site, bool, Array] | None:
        """The reference's dropout of the same tensor, or of the one most like it."""
        taken = {site.source for site in self.table.port.values()}
        best: tuple[Site, Fit, Array] | None = None
        for site in self.table.reference.values():
            found = fit(site.value, value)
            if found is None:
                continue
            uniform = turned(site.uniform, site.value, value, found.axes)
            if uniform is None or uniform.shape != noise:
                continue
            rank = (found.exact, site.key not in taken, found.score)
            if best is None or rank > (best[1].exact, best[0].key not in taken, best[1].score):
                best = site, found, uniform
        return None if best is None else (best[0], best[1].exact, best[2])

    def _stream(self, key: Key, noise: tuple[int, ...]) -> Array:
        return np.random.default_rng([*key, *self.seed]).random(noise)


_current: Draws | None = None


def current() -> Draws | None:
    """Who answers the dropouts of the pass under way; None leaves them to the framework.

    Of the whole process, not of a thread: frameworks call back from threads of their own.
    """
    return _current


@contextmanager
def sharing(draws: Draws | None) -> Iterator[None]:
    """Answer the dropouts of the passes in the block."""
    global _current
    before, _current = _current, draws
    try:
        yield
    finally:
        _current = before
