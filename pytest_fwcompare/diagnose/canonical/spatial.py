"""Pools as sums over windows, and padding made of slices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from pytest_fwcompare.diagnose.canonical.fold import Fold, View
from pytest_fwcompare.diagnose.operations.base import LAYOUTS, RESULT
from pytest_fwcompare.diagnose.operations.frameworks import window_options
from pytest_fwcompare.diagnose.operations.movement import moved
from pytest_fwcompare.diagnose.operations.spatial import pool

MODES = ("reflect", "edge", "symmetric", "circular")


def pools(view: View) -> Iterator[Fold]:
    """A sum over windows divided by their size, or by the count of cells that are not padding."""
    for anchor in view.named(("reduce_window_sum",)):
        found = window_options(view.graph.records[anchor])
        if found is None or not view.graph.inputs[anchor]:
            continue
        x, options = view.graph.inputs[anchor][0], dict(found[1])
        layouts, result = options.pop(LAYOUTS), options.pop(RESULT)
        options["function"] = "average"
        for end in view.graph.consumers[anchor]:
            for counted in (True, False):
                own = {**options, "count_include_pad": counted}
                fold = view.fold(end, (x,), "pool", "average_pool", own, pool, layouts, result)
                if fold is not None:
                    yield fold
                    break


def pads(view: View) -> Iterator[Fold]:
    """Reflected and repeated borders, joined of pieces, the whole padding at once."""
    for end in reversed(view.named(("concatenate", "cat", "concat", "concatv2"))):
        shape = view.value(end).shape
        if len(shape) < 3:
            continue
        for x in view.back(end, 14):
            found = _padded(view, x, end)
            if found is not None:
                yield found
                break


def _padded(view: View, x: int, end: int) -> Fold | None:
    before, after = view.value(x).shape, view.value(end).shape
    if len(before) != len(after):
        return None
    extra = [b - a for a, b in zip(before, after, strict=True)]
    grown = [axis for axis, more in enumerate(extra) if more]
    if not grown or len(grown) > 2 or min(extra) < 0 or max(extra) > 12:
        return None
    for sides in itertools.product(*(range(extra[axis] + 1) for axis in grown)):
        widths = [(0, 0)] * len(before)
        for axis, side in zip(grown, sides, strict=True):
            widths[axis] = (side, extra[axis] - side)
        for mode in MODES:
            options = {"move": "pad", "widths": tuple(widths), "mode": mode, "fill": 0.0}
            found = view.fold(end, (x,), "movement", "pad", options, moved)
            if found is not None:
                return found
    return None
