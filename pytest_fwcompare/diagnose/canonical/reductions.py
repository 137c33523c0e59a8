"""Means, variances and lengths of vectors written out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.diagnose.canonical.fold import Fold, View
from pytest_fwcompare.diagnose.canonical.softmaxes import reduced_axes
from pytest_fwcompare.diagnose.operations.norms import reduce

SUMS = ("reduce_sum", "sum")
MEANS = (*SUMS, "mean", "reduce_mean")


def means(view: View) -> Iterator[Fold]:
    """A sum divided by the count of what it sums."""
    for total in view.named(SUMS):
        for x in view.graph.inputs[total][:1]:
            for end in view.graph.consumers[total]:
                if view.name(end) not in (
                    "div",
                    "truediv",
                    "realdiv",
                    "divide",
                    "mul",
                    "multiply",
                ):
                    continue
                yield from _reduced(view, x, end, ("mean",))


def _reduced(view: View, x: int, end: int, names: tuple[str, ...]) -> Iterator[Fold]:
    given, value = view.value(x), view.value(end)
    for axes, keep in reduced_axes(given.shape, value.shape):
        for name in names:
            for ddof in (0, 1) if name in ("var", "std") else (0,):
                options = {"function": name, "axes": axes, "keepdims": keep}
                if name in ("var", "std"):
                    options["ddof"] = ddof
                with np.errstate(all="ignore"):
                    found = view.fold(end, (x,), "reduction", name, options, reduce)
                if found is not None:
                    yield found
                    return


def reductions(view: View) -> Iterator[Fold]:
    """Variances, deviations and lengths: a mean or sum of squares, and its root."""
    for total in view.named(MEANS):
        if view.name(total) in ("var", "std"):
            continue
        names = ("norm", "var", "std")
        ends = [p for p in view.onward(total, 3) if view.value(p).size == view.value(total).size]
        for end in [*ends, total]:
            found = None
            for x in view.back(total, 6):
                if view.graph.inputs[total] == (x,) and end == total:
                    continue
                if view.value(x).size <= view.value(end).size or view.value(x).ndim > 5:
                    continue
                found = next(_reduced(view, x, end, names), None)
                if found is not None:
                    break
            if found is not None:
                yield found
                break
