"""Names the odd dropout: with it changed so, both sides agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_fwcompare.dropout.masks import Key, Site, Table

if TYPE_CHECKING:
    from pytest_fwcompare.pair import Pair
    from pytest_fwcompare.points import Point

AGREE = 1e-7
"""Difference of outputs in float64 from which on they do not agree; TensorFlow's GELU has 5e-9."""

MOST = 12
"""Dropouts that are changed one after the other."""

Change = tuple[str, Key]
"""Role and dropout."""


@dataclass(frozen=True)
class Dropped:
    """What was found.

    Attributes:
        place: path of the reference's layer, None where the framework does not tell.
        port_place: of the port's.
        evidence: sentences with numbers.
    """

    place: str | None
    port_place: str | None
    evidence: tuple[str, ...]


def explain_dropout(pair: Pair, point: Point) -> Dropped | None:
    """Change one dropout after the other until both sides agree; None if they never do.

    A rate of the port is given to the reference; a dropout that the other side lacks is left out.
    """
    masks = pair.masks
    if masks is None:
        return None
    masks.changes = {}
    try:
        before = _apart(pair, point)
        if before is None or before <= AGREE:
            return None
        changed: dict[Change, tuple[float, str, Site]] = {}
        while len(changed) < MOST:
            found = _oddity(masks.table(point.rng_seed), set(changed))
            if found is None:
                return None
            change, kept, said, site = found
            changed[change] = kept, said, site
            masks.changes = {c: k for c, (k, _, _) in changed.items()}
            apart = _apart(pair, point)
            if apart is not None and apart <= AGREE:
                return _told(changed, before, apart)
        return None
    finally:
        masks.changes = {}


def _told(changed: dict[Change, tuple[float, str, Site]], before: float, after: float) -> Dropped:
    places = {
        role: next((s.place for (r, _), (_, _, s) in changed.items() if r == role), "")
        for role in ("reference", "port")
    }
    sentences = [said for _, said, _ in changed.values()]
    return Dropped(
        places["reference"] or None,
        places["port"] or None,
        (
            *sentences,
            f"so changed, the outputs in training mode differ by {after:.1e} of the largest "
            f"value, before by {before:.1e}",
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


def _oddity(table: Table, known: set[Change]) -> tuple[Change, float, str, Site] | None:
    """The first dropout, in the order of the reference, that the other side has differently."""
    for key, site in table.reference.items():
        if ("reference", key) in known:
            continue
        theirs = [s for s in table.port.values() if s.source == key]
        if not theirs:
            said = (
                f"the reference drops {_where(site)} at rate {_rate(site.kept)}, the port does not"
            )
            return ("reference", key), 1.0, said, site
        kept = theirs[0].kept
        if kept != site.kept:
            said = f"the reference drops {_where(site)} at rate {_rate(site.kept)}, the port at"
            return ("reference", key), kept, f"{said} {_rate(kept)}", site
    for key, site in table.port.items():
        if ("port", key) not in known and (site.source is None or not site.exact):
            said = (
                f"the port drops {_where(site)} at rate {_rate(site.kept)}, the reference does not"
            )
            return ("port", key), 1.0, said, site
    return None


def _where(site: Site) -> str:
    return f"at {site.place}" if site.place else f"a tensor of shape {site.value.shape}"


def _rate(kept: float) -> str:
    return f"{round(1 - kept, 12):g}"
