"""Each side against itself, before anybody is accused: two equal calls, and its own eager mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_fwcompare.backends.base import Precision
from pytest_fwcompare.formats import format_of
from pytest_fwcompare.judge.distances import finite_maximum, same_nonfinite, unit_roundoff
from pytest_fwcompare.judge.verdict import PRECISION_FACTOR
from pytest_fwcompare.records import Verdict
from pytest_fwcompare.running.observation import parallel
from pytest_fwcompare.running.observing import Observer
from pytest_fwcompare.running.points import Point, Run

if TYPE_CHECKING:
    from pytest_fwcompare.running.pair import Pair

SELF_DIFFERENCE = 168.0
"""Two equal calls may differ by the order of a threaded sum, not by more: in float32 1e-5 of the
largest value; in roundings of the working dtype."""

RANDOM_SHARE = 1e-3
"""What a shadow draws at random it differs by as much as its side does. Sums that a GPU forms in
another order each time differ in a shadow, too, but by the roundings of float64: 2e-9 as much."""

SWITCHES = {
    "torch": "torch.use_deterministic_algorithms(True)",
    "tensorflow": "tf.config.experimental.enable_op_determinism()",
    "jax": "XLA_FLAGS=--xla_gpu_deterministic_ops=true",
}
"""How each is asked for operations that repeat themselves."""

MOVED = 3
"""Draws of the jitter that a mode is held against."""

NEIGHBOURS = 2
"""Nearby points at which a difference of modes must show too."""

ROLES = ("reference", "port")

KINDS = ("output", "input gradient", "parameter gradient", "buffer")
"""Of tensors in a run, as `parallel` names them."""


@dataclass(frozen=True)
class Unsteady:
    """A side that is not what it is compared as.

    Attributes:
        role: whose it is.
        verdict: of the comparison.
        text: what was seen, with its size.
    """

    role: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Apart:
    """The tensor in which two runs of one side are farthest apart, relative to its largest value.

    Attributes:
        name: of the tensor; "" where nothing differs.
        size: inf where one run is finite and the other is not.
    """

    name: str = ""
    size: float = 0.0


def farthest(one: Run, two: Run, kinds: Sequence[str] = KINDS) -> Apart:
    """Where two runs of one side differ most, in tensors of those kinds."""
    worst = Apart()
    # Gradients that cancel leave rounding of the size of what cancelled.
    peak = max((finite_maximum(value) for value in one.parameters.values()), default=0.0)
    for key, value, other in parallel(one, two):
        kind, _, name = key.partition(":")
        if kind not in kinds:
            continue
        scale = finite_maximum(value)
        scale = max(scale, peak if "gradient" in kind else 0.0) or 1.0
        with np.errstate(invalid="ignore"):
            size = finite_maximum(np.asarray(value, float) - np.asarray(other, float)) / scale
        if not same_nonfinite(value, other):
            size = float("inf")
        if size > worst.size:
            worst = Apart(f"output {name}" if kind == "output" else name, size)
    return worst


def repeats(pair: Pair, role: str, point: Point, precision: Precision = "working") -> Apart:
    """How far two equal calls of one side are apart."""
    once, again = (pair.run(role, point, precision) for _ in range(2))
    return farthest(once, again)


def allowed(dtype: str) -> float:
    """What two equal calls may differ by and still be called the same."""
    return SELF_DIFFERENCE * max(unit_roundoff(dtype), unit_roundoff("float32"))


def between_calls(
    pair: Pair, role: str, point: Point, note: Callable[[str], None]
) -> Unsteady | float | None:
    """What two equal calls of one side say.

    Args:
        pair: both sides.
        role: the side.
        point: where.
        note: told of a difference that is no more than rounding.

    Returns:
        The size of the difference where the side draws random numbers, as its shadow does too. An
        `Unsteady` where the shadow repeats itself: then sums are formed in another order each
        time, or memory is read that nobody wrote. None where there is no more than rounding.
    """
    apart = repeats(pair, role, point)
    if apart.size == 0.0:
        return None
    framework = pair.opened(role).side.framework
    said = (
        f"the {role} is non-deterministic: two equal calls of {framework} differ by "
        f"{apart.size:.2g} of the largest value of {apart.name}"
    )
    if apart.size <= allowed(pair.dtype):
        note(said)
        return None
    shadow = repeats(pair, role, point, "double")
    if shadow.size >= RANDOM_SHARE * min(apart.size, 1.0):
        return apart.size
    how = f" ({SWITCHES[framework]})" if framework in SWITCHES else ""
    same = f"is the same to {shadow.size:.2g}" if shadow.size else "repeats itself"
    return Unsteady(
        role,
        "precision",
        f"{said}, while its float64 shadow {same}. Nobody else is judged by such figures; "
        f"ask {framework} for deterministic operations{how} and compare again",
    )


def unlike_eager(pair: Pair, role: str, point: Point, mode: str) -> Unsteady | None:
    """A side whose mode computes another function than its own eager mode.

    It must show at nearby points too: at a kink (a tie of max pooling, relu at zero) each may
    choose a subgradient of its own.

    Args:
        pair: both sides.
        role: the side.
        point: where.
        mode: "graph" or "compiled".
    """
    found = _apart_from_eager(pair, role, point, mode)
    for seed in range(1, NEIGHBOURS + 1):
        if found is None:
            break
        found = _apart_from_eager(pair, role, pair.near(point, seed), mode)
    return found


def _apart_from_eager(pair: Pair, role: str, point: Point, mode: str) -> Unsteady | None:
    side = pair.opened(role).side
    switched = side.eagerly()
    if switched is None:
        return None
    in_mode = pair.run(role, point, "working")
    with switched:
        eager = pair.run(role, point, "working")
    apart = farthest(eager, in_mode)
    made = format_of(pair.dtype)
    if apart.size <= PRECISION_FACTOR * made.roundoff:
        return None
    noise = _excused(pair, role, point, eager, in_mode)
    if apart.size <= PRECISION_FACTOR * max(noise, made.roundoff):
        return None
    explained = max(noise, made.roundoff)
    seen = (
        f"the {role} in mode {mode!r} is not what {side.framework} computes in its own eager "
        f"mode: {apart.name} differs by {apart.size:.2g} of its largest value, where rounding to "
        f"{pair.dtype} explains {explained:.2g}. "
    )
    if farthest(eager, in_mode, ("output", "buffer")).size <= PRECISION_FACTOR * explained:
        why = (
            f"Its outputs agree, so it is the backward pass that mode {mode!r} makes of the same "
            f"model: a fault of {side.framework}'s, or of a derivative that the model defines. "
            f"The other side is not accused; eager mode says how the two compare"
        )
    else:
        why = (
            "Code that asks whether it is being traced, or that a trace freezes (Python state, "
            "shapes, random numbers), does this. The other side is not accused; eager mode says "
            "how the two compare"
        )
    return Unsteady(role, "semantic", seen + why)


def _excused(pair: Pair, role: str, point: Point, eager: Run, in_mode: Run) -> float:
    """What rounding may cost here: the jitter, or the smaller of both modes' own noise."""
    shadow = pair.run(role, point, "double")
    noise = min(farthest(shadow, eager).size, farthest(shadow, in_mode).size)
    reference = pair.run("reference", point, "double")
    pair.expect(reference)
    moved = Observer(pair, MOVED).jitter(point, reference, MOVED, False)
    scales = {key: finite_maximum(value) for key, value, _ in parallel(reference, reference)}
    jitter = max((size / (scales[key] or 1.0) for key, size in moved.items()), default=0.0)
    return max(noise, jitter)
