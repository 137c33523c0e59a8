"""What changed in a case against its entry in the baseline."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pytest_fwcompare.gate.baseline import Baseline, Entry
from pytest_fwcompare.gate.conditions import ulp_of
from pytest_fwcompare.gate.entries import changes_of, environment_of, sensitivity_of
from pytest_fwcompare.gate.whose import whose_doing
from pytest_fwcompare.recording import SEVERITY
from pytest_fwcompare.records import Change, Comparison, Drift

DOUBLE = 2.0**-53

FEW = 16.0
"""Roundings that a figure may consist of by chance: another order of a sum, another processor."""

SHOWN = 1.25
"""Growth from which a change is kept in the record."""

MOST = 20
"""Changes that are kept."""


def drift_of(
    comparison: Comparison, baseline: Baseline, case: str, axes: str, limit: float
) -> Drift:
    """How a comparison differs from the baseline's entry of its case, which must be there.

    Args:
        comparison: of this run.
        baseline: recorded before.
        case: key of the entry.
        axes: the part of the case's id that names them.
        limit: factor from which a change counts.
    """
    entry = baseline.cases[case]
    changes = [change for change in _changes(comparison, entry) if change.times > SHOWN]
    changes.sort(key=lambda change: -change.times)
    versions = changes_of(baseline.environment(case), environment_of(comparison))
    moved, whose = whose_doing(entry.digest, comparison, versions)
    if entry.examples != comparison.examples.count:
        whose += f"; {entry.examples} examples were judged then, {comparison.examples.count} now"
    return Drift(
        case=case,
        axes=axes,
        verdict=entry.verdict,
        gap=entry.gap,
        reference_noise=entry.noise["reference"],
        port_noise=entry.noise["port"],
        limit=limit,
        changes=tuple(changes[:MOST]),
        moved=moved,
        whose=whose,
        versions=versions,
    )


def _changes(comparison: Comparison, entry: Entry) -> Iterator[Change]:
    """Every figure against the baseline's, whether it grew or not."""
    if SEVERITY.index(comparison.verdict) > SEVERITY.index(entry.verdict):
        text = f"{entry.verdict} -> {comparison.verdict}"
        yield Change("verdict", math.nan, math.nan, math.inf, text)
    if comparison.verdict == "error":
        return  # nothing was measured
    unit = ulp_of(comparison.dtype) / 2
    finite = [row for row in comparison.tensors if math.isfinite(row.jitter)]
    jitter = max((row.jitter for row in finite), default=0.0)
    # What rounding costs, in each precision, and as this network amplifies it.
    amplified = max(1.0, jitter / unit)
    yield _grown("gap", entry.gap, comparison.gap, FEW * DOUBLE * amplified)
    ours = max((row.reference_noise for row in comparison.tensors), default=0.0)
    least = max(4 * unit, jitter)
    yield _grown("noise of the reference", entry.noise["reference"], ours, least)
    # A port that becomes as noisy as the reference is has lost nothing.
    yield _grown("noise of the port", entry.noise["port"], comparison.noise, max(least, ours))
    yield from _tensors(comparison, entry, unit)
    yield from _sensitivity(comparison, entry)


def _tensors(comparison: Comparison, entry: Entry, unit: float) -> Iterator[Change]:
    """Distances in units in the last place, and tensors that are no longer compared."""
    rows = {row.name: row for row in comparison.tensors}
    for name, before in entry.ulp.items():
        if name not in rows:
            text = "no longer compared"
            yield Change(f"tensor {name}", before, math.nan, math.inf, text)
            continue
        row = rows[name]
        spread = max(x for x in (row.jitter, row.reference_noise, 0.0) if math.isfinite(x))
        # Two programs that are both right are apart by what each of them loses.
        yield _grown(f"ulp of {name}", before, row.ulp, max(4.0, 2 * spread / (2 * unit)))


def _sensitivity(comparison: Comparison, entry: Entry) -> Iterator[Change]:
    """Controls that noticed less than before: the gate itself got blunter."""
    before, after = entry.sensitivity, sensitivity_of(comparison.controls)
    if before is None or comparison.verdict != "equivalent":
        return  # controls are tried after a pass only
    if after is None:
        yield Change("controls", before.tried, 0, math.inf, f"{before.tried} tried -> none tried")
        return
    if after.uncovered > before.uncovered:
        text = f"{before.uncovered} parameters not covered -> {after.uncovered}"
        yield Change("coverage", before.uncovered, after.uncovered, math.inf, text)
    missed = before.tried - before.noticed, after.tried - after.noticed
    if missed[1] > missed[0]:
        text = f"{missed[0]} disturbances not noticed -> {missed[1]}"
        yield Change("controls", *missed, math.inf, text)
    times = before.least / after.least if after.least > 0 else math.inf
    text = f"least ratio of a disturbance {before.least:.3g} -> {after.least:.3g}"
    # Beyond a thousand times what rounding explains nothing goes unnoticed.
    blunt = math.isfinite(before.least) and after.least < 1000
    yield Change("sensitivity", before.least, after.least, times if blunt else 1.0, text)


def _grown(figure: str, before: float, after: float, least: float) -> Change:
    """How often the old figure, or what rounding makes of it, is contained in the new one."""
    if not math.isfinite(before):
        times = 0.0  # nothing is worse
    else:
        times = after / max(before, least) if math.isfinite(after) else math.inf
    return Change(figure, before, after, times, f"{before:.3g} -> {after:.3g}")
