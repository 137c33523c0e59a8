"""Whose doing a change was: each side held against what it gave when the baseline was recorded.

The reference runs in the same environment as the port. If both sides give other values than
before, it is the environment that changed; if only one does, it is that side, or the framework
under it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from pytest_fwcompare.records import Comparison, Digest, Fingerprint

Moved = Literal["", "nothing", "port", "reference", "both", "inputs"]
Versions = Mapping[str, tuple[str, str]]

STILL = 1e-10
"""Relative change of a fingerprint that is none: its own rounding, and the order of sums."""

MUCH_MORE = 100.0
"""A side that moved so much more than the other did it; the other one's move is rounding."""

MOST_VERSIONS = 6
"""Changed versions that a sentence names."""


def whose_doing(
    before: Digest | None, comparison: Comparison, versions: Versions
) -> tuple[Moved, str]:
    """Which side moved, and a sentence that says so.

    Args:
        before: the baseline's digest; None if it has none.
        comparison: of this run.
        versions: what changed of the environment, by "torch version".
    """
    after = comparison.digest
    if before is None or after is None:
        return "", "whose doing it was is not known: there is no digest of both sides"
    for what in ("inputs", "weights"):
        if distance(getattr(before, what), getattr(after, what)) > STILL:
            return "inputs", (
                f"whose doing it was cannot be told: the {what} are other ones than the "
                f"baseline's; {_named(versions)}"
            )
    ours, theirs = _moves("reference", before, after), _moves("port", before, after)
    far, farther = (max(moves.values(), default=0.0) for moves in (ours, theirs))
    if not ours and not theirs:
        return "nothing", (
            f"both sides give what they gave on the first example; {_named(versions)}"
        )
    if farther > MUCH_MORE * far:
        mine = _of(comparison.port, versions)
        return "port", f"only the port moved: {_how(theirs)}; {_blame('port', mine)}"
    if far > MUCH_MORE * farther:
        mine = _of(comparison.reference, versions)
        return "reference", (
            f"only the reference moved: {_how(ours)}; {_blame('reference', mine)}"
        )
    if versions:
        return "both", f"both sides moved, as the environment did: {_listed(versions)}"
    return "both", (
        "both sides moved, though no version or flag did: another processor or number of "
        "threads, or both models were changed"
    )


def distance(before: Fingerprint, after: Fingerprint) -> float:
    """Largest change of a fingerprint, relative to its norm."""
    scale = max(before.norm, after.norm)
    if not scale or not math.isfinite(scale):
        return 0.0 if before.norm == after.norm else math.inf
    # Projections are kept relative to their own norm.
    pairs = zip(before.projections, after.projections, strict=False)
    turned = (abs(b * after.norm - a * before.norm) for a, b in pairs)
    return max(abs(before.norm - after.norm), *turned) / scale


def _moves(role: str, before: Digest, after: Digest) -> dict[str, float]:
    """How far the passes of a side moved, by "float64 outputs"; those that stayed are left out."""
    found = {}
    for name in dict.fromkeys((*before.passes, *after.passes)):
        if not name.startswith(f"{role} "):
            continue
        pair = before.passes.get(name), after.passes.get(name)
        moved = math.inf if None in pair else distance(*pair)  # type: ignore[arg-type]
        if moved > STILL:
            found[name.removeprefix(f"{role} ")] = moved
    return found


def _how(moves: Mapping[str, float]) -> str:
    """Another function, or the same one computed otherwise."""
    exact = {name: moved for name, moved in moves.items() if name.startswith("float64")}
    largest = max((exact or moves).values())
    by = f"by {largest:.2g}" if math.isfinite(largest) else "to other tensors"
    if exact:
        where = "outputs" if any(name.endswith("outputs") for name in exact) else "gradients alone"
        return f"its float64 shadow too, {by} ({where}), so it computes another function now"
    return f"its float64 shadow did not, so it computes the same function in another way ({by})"


def _of(framework: str, versions: Versions) -> dict[str, tuple[str, str]]:
    """The changes that this side's framework is part of; host facts concern both."""
    return {
        name: change
        for name, change in versions.items()
        if name.partition(" ")[0] in (framework, "host")
    }


def _blame(role: str, versions: Versions) -> str:
    if versions:
        return f"since the baseline {_listed(versions)}, or the {role} was changed"
    return f"nothing under it was upgraded, so the {role} was changed"


def _named(versions: Versions) -> str:
    return _listed(versions) if versions else "no version or flag changed"


def _listed(versions: Versions) -> str:
    told = [f"{name} {before} -> {after}" for name, (before, after) in versions.items()]
    more = len(told) - MOST_VERSIONS
    return ", ".join(told[:MOST_VERSIONS]) + (f" and {more} more" if more > 0 else "")
