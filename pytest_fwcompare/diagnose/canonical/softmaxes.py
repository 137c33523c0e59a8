"""Softmax, its logarithm and log-sum-exp written out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.diagnose.canonical.fold import Fold, View
from pytest_fwcompare.diagnose.operations.attention import softmax_of
from pytest_fwcompare.diagnose.operations.norms import reduce

SUMS = ("reduce_sum", "sum")


def softmaxes(view: View) -> Iterator[Fold]:
    """Folds around every exponential whose sum is used."""
    for anchor in view.named(("exp",)):
        if not any(view.name(p) in SUMS for p in view.graph.consumers[anchor]):
            continue
        found = _around(view, anchor)
        if found is not None:
            yield found


def _around(view: View, anchor: int) -> Fold | None:
    shape = view.value(anchor).shape
    sources = [p for p in view.back(anchor, 5) if view.value(p).shape == shape]
    for end in view.onward(anchor, 6):
        value = view.value(end)
        if not np.isfinite(value).any():
            continue
        for x in sources:
            whole = value.shape == shape
            found = _softmax(view, x, end) if whole else _logsumexp(view, x, end)
            if found is not None:
                return found
    return None


def _softmax(view: View, x: int, end: int) -> Fold | None:
    value = view.value(end)
    log = bool((value[np.isfinite(value)] < 0).any())
    for axis in range(value.ndim - 1, -1, -1):
        with np.errstate(all="ignore"):
            total = (np.exp(value) if log else value).sum(axis=axis)
        if not np.allclose(total[np.isfinite(total)], 1.0, atol=1e-9):
            continue
        name = "log_softmax" if log else "softmax"
        found = view.fold(end, (x,), "softmax", name, {"axis": axis, "log": log}, softmax_of)
        if found is not None:
            return found
    return None


def _logsumexp(view: View, x: int, end: int) -> Fold | None:
    given, value = view.value(x), view.value(end)
    for axes, keep in reduced_axes(given.shape, value.shape):
        options = {"function": "logsumexp", "axes": axes, "keepdims": keep}
        found = view.fold(end, (x,), "reduction", "logsumexp", options, reduce)
        if found is not None:
            return found
    return None


def reduced_axes(
    before: tuple[int, ...], after: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Sets of axes by which a reduction leads from one shape to another; whether they are kept."""
    from pytest_fwcompare.diagnose.operations.norms import axis_sets

    for axes in axis_sets(len(before)):
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(before))
        dropped = tuple(size for axis, size in enumerate(before) if axis not in axes)
        if dropped == after:
            yield axes, False
        if kept == after:
            yield axes, True
