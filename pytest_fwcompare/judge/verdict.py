"""The judge: one tensor, four runs of it, one verdict. Pure NumPy.

Each side ran in the working dtype and as its float64 shadow. What differs between the shadows is
no rounding; how far a side is from its own shadow is its noise; how far the reference's shadow
moves when inputs and weights move by half a unit in the last place is the jitter, which is what
any backward-stable program may lose here (Higham, Accuracy and Stability, section 1.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pytest_fwcompare.formats import format_of
from pytest_fwcompare.judge.distances import (
    Array,
    Difference,
    difference,
    finite_maximum,
    same_lost,
    unit_roundoff,
)
from pytest_fwcompare.judge.measures import Measured, is_exact, is_small, measure, measure_together
from pytest_fwcompare.records import TensorRow, Verdict

SEMANTIC_FACTOR = 4.0
"""Gap over jitter from which the shadows compute different functions. Right ports stay below
0.13 (below 1e-3 once rounded constants are restored), faults reach 46 and more."""

HIDDEN_FACTOR = 1e4
"""Gap over the rounding of float64 itself from which something differs that float32 hides."""

PRECISION_FACTOR = 32.0
"""Port's noise over max(reference's noise, jitter) from which accuracy is lost. Right ports stay
below 7, a half-precision detour or one-pass variance reaches 1e3 and more."""

DROWNING_FACTOR = 1e3
"""Port's noise over the gap from which the gap is what an unstable formula loses in float64."""

DOUBLE = unit_roundoff("float64")

SATURATED = 2.0**-38
"""Share of a pass's largest gradient below which a gradient says nothing. Behind a saturated
tanh, 1 - y^2 is one rounding of y or zero, as the framework's tanh happens to round, and inputs of
a thousand times unit scale multiply it; the jitter is zero there."""

Kind = Literal["output", "input gradient", "parameter gradient", "buffer", "update"]

GRADIENTS: tuple[Kind, ...] = ("input gradient", "parameter gradient")
"""Where infinity and NaN both say no more than that the pass overflowed."""


@dataclass(frozen=True)
class Observed:
    """Four runs of one tensor in one example, in the reference's axis order.

    Attributes:
        name: "output scores", "gradient of fc.weight", ...
        kind: what it is.
        reference64, port64: float64 shadows, (*shape).
        reference, port: working precision, (*shape).
        jitter: max|ref64(moved) - ref64| over the draws, absolute; None if it was not drawn.
        peak: largest magnitude among tensors of the same origin (all gradients of one pass): a
            tensor that is zero but for cancellation is as noisy as what cancelled.
        origin: what the pass began with: the largest cotangent, times the largest input where
            that is above one.
    """

    name: str
    kind: Kind
    reference64: Array
    port64: Array
    reference: Array
    port: Array
    jitter: float | None
    peak: float = 0.0
    origin: float = 0.0


@dataclass(frozen=True)
class Assessment:
    """What one example says of one tensor; `gap`, noises and `jitter` are relative to scale.

    Attributes:
        jitter: NaN if it was not drawn.
        semantic_ratio: gap over what rounding the working dtype can explain.
        hidden_ratio: gap over what rounding of float64 can explain.
        precision_ratio: port's noise over what is unavoidable here.
        float64_nonfinite: the NaN or infinity shows in the shadows too.
    """

    name: str
    kind: Kind
    verdict: Verdict
    gap: float
    reference_noise: float
    port_noise: float
    jitter: float
    ulp: float
    semantic_ratio: float
    hidden_ratio: float
    precision_ratio: float
    difference: Difference
    float64_nonfinite: bool = False

    @property
    def hidden(self) -> bool:
        """Something differs in exact arithmetic, though the working dtype could not tell."""
        return self.verdict == "equivalent" and self.hidden_ratio > HIDDEN_FACTOR

    @property
    def settled(self) -> bool:
        """Whether the jitter, if it was not drawn, could change nothing: it only excuses."""
        return self.verdict == "equivalent" and not self.hidden

    @property
    def severity(self) -> float:
        """Orders assessments of one verdict: how far beyond its limit."""
        if self.verdict == "precision":
            return self.precision_ratio
        return float("inf") if self.verdict == "nonfinite" else self.semantic_ratio

    def row(self, example: int) -> TensorRow:
        """The row of the record."""
        return TensorRow(
            name=self.name,
            kind=self.kind,
            verdict=self.verdict,
            gap=self.gap,
            reference_noise=self.reference_noise,
            port_noise=self.port_noise,
            jitter=self.jitter,
            ulp=self.ulp,
            index=self.difference.index,
            expected=self.difference.expected,
            obtained=self.difference.obtained,
            example=example,
        )


def assess(observed: Observed, dtype: str = "float32") -> Assessment:
    """Judge one tensor of one example.

    Args:
        observed: the four runs, all of one shape.
        dtype: working dtype.
    """
    if is_exact(observed):
        return _assess_exact(observed)
    return _judge(observed, measure(observed), dtype)


def assess_all(observed: Iterable[Observed], dtype: str = "float32") -> tuple[Assessment, ...]:
    """Judge all tensors of one example, small ones together.

    Args:
        observed: the tensors; a large one is let go before the next is asked for.
        dtype: working dtype.
    """
    found: list[Assessment | None] = []
    small: list[tuple[int, Observed]] = []
    for place, item in enumerate(observed):
        if is_small(item):
            small.append((place, item))
            found.append(None)
        else:
            found.append(assess(item, dtype))
    if small:
        measures = measure_together([item for _, item in small])
        for (place, item), measured in zip(small, measures, strict=True):
            found[place] = _judge(item, measured, dtype)
    return tuple(item for item in found if item is not None)


def _judge(observed: Observed, measured: Measured, dtype: str) -> Assessment:
    """The rule."""
    unit = unit_roundoff(dtype)
    gap, ours, theirs, working, scale, nonfinite64, nonfinite = measured
    if (nonfinite or nonfinite64) and observed.kind in GRADIENTS:
        nonfinite64 = not same_lost(observed.reference64, observed.port64)
        nonfinite = not same_lost(observed.reference, observed.port)
    # Cancelled terms leave rounding of the size of what cancelled, whatever is left of them.
    floor = max(scale, observed.peak)
    # Where every gradient is below the rounding of what the pass began with, as when all units are
    # saturated (1 - tanh^2 is zero where 1 / cosh^2 is 1e-19), rounding of that is all they are.
    if observed.peak < 16 * unit * observed.origin:
        floor = max(floor, observed.origin)
    jitter = 0.0 if observed.jitter is None else observed.jitter
    unavoidable = max(jitter, DOUBLE * floor)
    # Nor is what is left of them a measure of anything.
    if scale < 16 * unit * observed.peak:
        scale = observed.peak
    semantic_ratio = gap.size / max(unavoidable, 4 * DOUBLE * floor, SATURATED * observed.peak)
    hidden_ratio = gap.size / max(jitter * DOUBLE / unit, DOUBLE * floor)
    # What is smaller than the smallest numbers of the dtype is lost on the way.
    precision_ratio = theirs / max(ours, jitter, unit * floor, format_of(dtype).graininess)
    shown = gap
    verdict: Verdict = "equivalent"
    if nonfinite or nonfinite64:
        verdict = "nonfinite"
        shown = gap if nonfinite64 else difference(observed.reference, observed.port)
    elif semantic_ratio > SEMANTIC_FACTOR and not (
        theirs > DROWNING_FACTOR * gap.size
        and (
            precision_ratio > PRECISION_FACTOR
            or (observed.jitter is not None and ours > DROWNING_FACTOR * gap.size)
        )
    ):
        verdict = "semantic"
    elif precision_ratio > PRECISION_FACTOR:
        verdict = "precision"
        shown = difference(observed.port64, observed.port)
    elif observed.jitter is None and hidden_ratio <= HIDDEN_FACTOR:
        # Ratios of examples with and without a jitter are held against each other.
        semantic_ratio = gap.size / max(ours, unit * floor)
    return Assessment(
        name=observed.name,
        kind=observed.kind,
        verdict=verdict,
        gap=gap.size / scale,
        reference_noise=ours / scale,
        port_noise=theirs / scale,
        jitter=math.nan if observed.jitter is None else jitter / scale,
        ulp=working / (2 * unit * scale),
        semantic_ratio=semantic_ratio,
        hidden_ratio=hidden_ratio,
        precision_ratio=precision_ratio,
        difference=shown,
        float64_nonfinite=nonfinite64,
    )


def _assess_exact(observed: Observed) -> Assessment:
    """Integers and booleans: equal in exact arithmetic, or another function."""
    found = difference(observed.reference64, observed.port64)
    wrong = found.size > 0
    # An index chosen between two values that rounding moves past each other is no fault.
    settled = not observed.jitter
    scale = finite_maximum(observed.reference64) or 1.0
    return Assessment(
        name=observed.name,
        kind=observed.kind,
        verdict="semantic" if wrong and settled else "equivalent",
        gap=found.size / scale,
        reference_noise=0.0,
        port_noise=0.0,
        jitter=math.nan if observed.jitter is None else observed.jitter / scale,
        ulp=0.0,
        semantic_ratio=float("inf") if wrong and settled else 0.0,
        hidden_ratio=0.0,
        precision_ratio=0.0,
        difference=found,
    )


def moved(value: Array, dtype: str, rng: np.random.Generator) -> Array:
    """The values moved at random by at most half a unit in the last place of the working dtype.

    Args:
        value: (*shape) float64.
        dtype: working dtype.
        rng: source of the moves.
    """
    if value.dtype.kind != "f":
        return value
    wide = value.astype(np.float64, copy=False)
    made = format_of(dtype)
    step = made.roundoff * rng.uniform(-1.0, 1.0, wide.shape)
    if made.computed != "float16":  # the others' smallest numbers are far below anything computed
        return np.asarray(wide * (1.0 + step))
    magnitude = np.where(wide == 0.0, 0.0, np.maximum(np.abs(wide), made.least))
    return np.asarray(wide + magnitude * step)


HAIR = 1e-4
"""Relative size of the move that tells a kink from a fault."""


def hair(dtype: str) -> float:
    """Relative size of a move that the working dtype can tell from none."""
    return max(HAIR, 8 * unit_roundoff(dtype))


def nudged(value: Array, size: float, rng: np.random.Generator) -> Array:
    """The point moved by a hair: every value by about `size` of the tensor's own scale.

    Large against the working dtype's rounding, small against everything else, so that a kink
    (a zero of relu, a tie of max) is left behind and a smooth difference stays.

    Args:
        value: (*shape) float64.
        size: relative size of the move.
        rng: source of the moves.
    """
    if value.dtype.kind != "f":
        return value
    wide = value.astype(np.float64, copy=False)
    spread = float(np.sqrt(np.mean(wide * wide))) if wide.size else 0.0
    step = rng.standard_normal(wide.shape) * (size * (spread or 1.0))
    # A move must be exact in the working dtype too, or the sides would get different points.
    return np.asarray((wide + step).astype(np.float32).astype(np.float64))
