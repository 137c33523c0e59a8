"""Names the odd dropout: with it changed so, both sides agree."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_fwcompare.dropout.masks import Key, Site, Table

if TYPE_CHECKING:
    from pytest_fwcompare.running.pair import Pair
    from pytest_fwcompare.running.points import Point

AGREE = 1e-7
"""Difference of outputs in float64 from which on they do not agree; TensorFlow's GELU has 5e-9."""

MOST = 24
"""Sets of changes that are tried, smallest first."""


@dataclass(frozen=True)
class Change:
    """One dropout made another.

    Attributes:
        role: whose.
        site: which.
        kept: probability to keep a cell instead; 1 leaves the dropout out.
        said: what the port has differently.
    """

    role: str
    site: Site
    kept: float
    said: str

    @property
    def key(self) -> tuple[str, Key]:
        """Role and dropout."""
        return self.role, self.site.key


@dataclass(frozen=True)
class Dropped:
    """What was found.

    Attributes:
        place: path of the reference's layer, None where the framework does not tell.
        evidence: sentences with numbers.
    """

    place: str | None
    evidence: tuple[str, ...]


def explain_dropout(pair: Pair, point: Point) -> Dropped | None:
    """The fewest changed dropouts with which both sides agree; None if there are none.

    A rate of the port is given to the reference; a dropout that the other side lacks is left out.
    """
    masks = pair.masks
    if masks is None:
        return None
    before: float | None = None
    waiting: deque[tuple[Change, ...]] = deque([()])
    try:
        for _ in range(MOST):
            if not waiting:
                break
            changes = waiting.popleft()
            masks.changes = {change.key: change.kept for change in changes}
            apart = _apart(pair, point)
            if not changes:
                before = apart
            if apart is not None and apart <= AGREE:
                return _told(changes, before, apart) if changes else None
            known = set(masks.changes)
            waiting += [(*changes, more) for more in _oddities(masks.table(point.rng_seed), known)]
    finally:
        masks.changes = {}
    return None


def _told(changes: tuple[Change, ...], before: float | None, after: float) -> Dropped:
    places = [change.site.place for change in changes if change.role == "reference"]
    was = "not finite" if before is None else f"{before:.1e}"
    return Dropped(
        next(filter(None, places), None),
        (
            *(change.said for change in changes),
            f"so changed, the outputs in training mode differ by {after:.1e} of the largest "
            f"value, before by {was}",
        ),
    )


def _apart(pair: Pair, point: Point) -> float | None:
    """Largest relative difference of the outputs of both shadows in training mode."""
    expected = pair.run("reference", point, "double", training=True, backward=False).outputs
    obtained = pair.run("port", point, "double", training=True, backward=False).outputs
    worst = 0.0
    for name, value in expected.items():
        if value.dtype.kind != "f" or value.shape != obtained[name].shape or not value.size:
            continue
        scale = float(np.abs(value).max()) or 1.0
        apart = float(np.abs(value - obtained[name]).max()) / scale
        if not np.isfinite(apart):
            return None
        worst = max(worst, apart)
    return worst


def _oddities(table: Table, known: set[tuple[str, Key]]) -> list[Change]:
    """What may be odd: the first dropout of each side that the other has differently.

    Those behind it are given other tensors because of it, so nothing can be said of them.
    """
    left = [site for site in table.port.values() if ("port", site.key) not in known]
    same = {site.source: site for site in left if site.exact and site.source is not None}
    found = []
    for key, site in table.reference.items():
        theirs = same.get(key)
        if ("reference", key) in known or (theirs is not None and theirs.kept == site.kept):
            continue
        said = f"the reference drops {_where(site)} at rate {_rate(site.kept)}, the port"
        if theirs is not None:
            said = f"{said} at {_rate(theirs.kept)}"
            return [Change("reference", site, theirs.kept, said)]
        found.append(Change("reference", site, 1.0, f"{said} does not"))
        break
    for site in left:
        if site.source is None or not site.exact:
            said = f"the port drops {_where(site)} at rate {_rate(site.kept)}, the reference"
            found.append(Change("port", site, 1.0, f"{said} does not"))
            break
    return found


def _where(site: Site) -> str:
    return f"at {site.place}" if site.place else f"a tensor of shape {site.value.shape}"


def _rate(kept: float) -> str:
    return f"{round(1 - kept, 12):g}"
