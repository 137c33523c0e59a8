"""The change against a baseline, in sentences."""

from __future__ import annotations

from pytest_fwcompare.records import Comparison, Drift

MOST_CHANGES = 4


def drift_sentences(comparison: Comparison) -> list[str]:
    """What moved against the baseline and whose doing it was; nothing if there is none."""
    drift = comparison.drift
    if drift is None:
        return []
    if drift.verdict is None:
        return drift.whose.splitlines() or [f"{drift.baseline} had no such case"]
    if not drift.changes:
        return [f"none against {drift.baseline}"]
    return [f"against {drift.baseline}: {changes(drift)}", drift.whose]


def changes(drift: Drift) -> str:
    """The figures that moved, the worst first."""
    told = [f"{change.figure} {change.text}" for change in drift.changes[:MOST_CHANGES]]
    more = len(drift.changes) - MOST_CHANGES
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")
