"""Brings recorded passes to one vocabulary, whatever framework and style they were written in.

A layer norm may be one call, nine primitives of JAX or a user's own lines. What nine operations
compute together is folded into one where the recorded values prove it: the formula, given the
recorded input, gives the recorded result. Repairs then know one norm, one softmax, one GELU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.canonical.activations import activations
from pytest_fwcompare.diagnose.canonical.fold import Fold, View, apply
from pytest_fwcompare.diagnose.canonical.loops import loops, opened
from pytest_fwcompare.diagnose.canonical.losses import taken_apart
from pytest_fwcompare.diagnose.canonical.norms import norms
from pytest_fwcompare.diagnose.canonical.numbers import with_numbers
from pytest_fwcompare.diagnose.canonical.reductions import means, reductions
from pytest_fwcompare.diagnose.canonical.softmaxes import softmaxes
from pytest_fwcompare.diagnose.canonical.spatial import pads, pools

RECOGNISERS: tuple[Callable[[View], Iterator[Fold]], ...] = (
    loops,
    norms,
    softmaxes,
    pools,
    pads,
    means,
    reductions,
    activations,
)
"""What is looked for, in order: large patterns before what they are made of."""


def canonical(
    records: Sequence[Recorded], parameters: Mapping[str, Array] | None = None
) -> list[Recorded]:
    """The records with constants told from tensors, and known patterns folded into one.

    Keras' paths "block/norm" are written "block.norm", as those of all others.

    Args:
        records: of one float64 pass.
        parameters: float64 values by name.
    """
    dotted = [replace(r, path=r.path.replace("/", ".")) if "/" in r.path else r for r in records]
    made = with_numbers(taken_apart(dotted), parameters or {})
    for recogniser in RECOGNISERS:
        view = View(made, parameters or {})
        folds: dict[int, Fold] = {}
        taken: set[int] = set()
        for fold in recogniser(view):
            if fold.end in folds or fold.end in taken:
                continue
            folds[fold.end] = fold
            taken |= view.inside(fold)
        if folds:
            made = apply(view, folds)
        if recogniser is loops:
            made = opened(made)
    return made
