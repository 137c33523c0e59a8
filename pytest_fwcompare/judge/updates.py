"""Judges what two optimizers add to the same weights, given the same gradients. Pure NumPy."""

from __future__ import annotations

from pytest_fwcompare.judge.distances import Array, finite_maximum, unit_roundoff
from pytest_fwcompare.judge.verdict import DOUBLE, Assessment, Observed, assess

CORRECTION_LOSS = 1e2
"""Roundings that an update may lose in working precision: bias corrections 1 - beta^t cancel."""


def judge_update(
    name: str,
    exact: tuple[Array, Array],
    working: tuple[Array, Array],
    jitter: float,
    size: float,
    dtype: str,
) -> Assessment:
    """Judge the update of one tensor.

    An update is the difference of two weights, so it is known to a rounding of the weight: that is
    no loss of the optimizer's.

    Args:
        name: of the row.
        exact: what the reference's and the port's optimizer add in float64, (*shape).
        working: the same in the working dtype.
        jitter: how far the reference's update moves when its gradients are rounded.
        size: largest magnitude of the weight.
        dtype: working dtype.
    """
    rounding = max(jitter, 4 * DOUBLE * size)
    found = assess(Observed(name, "update", *exact, *exact, rounding), dtype)
    if found.verdict != "equivalent":
        return found
    allowed = CORRECTION_LOSS * unit_roundoff(dtype) * finite_maximum(exact[0])
    return assess(Observed(name, "update", *exact, *working, max(jitter, allowed), size), dtype)
