"""Activations written out: GELU by its formula, SiLU as x * sigmoid(x), a clip by two limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.canonical.fold import Fold, View, sampled
from pytest_fwcompare.diagnose.operations import same
from pytest_fwcompare.diagnose.operations.elementwise import ACTIVATIONS, SYNONYMS, activate

ANCHORS = (
    *("erf", "erfc", "tanh", "sigmoid", "logistic", "exp", "expm1", "log1p", "logaddexp"),
    *("select_n", "selectv2", "where", "maximum", "minimum", "max", "min", "softplus", "relu"),
    *("relu6", "clip", "clamp", "abs", "hardtanh", "leaky_relu"),
)
"""Operations of which one is in every activation that is written out."""

FORMULAS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gelu", {"approximate": "none"}),
    ("gelu", {"approximate": "tanh"}),
    ("gelu", {"approximate": "sigmoid"}),
    ("silu", {}),
    ("mish", {}),
    ("selu", {}),
    ("elu", {}),
    ("softplus", {}),
    ("logsigmoid", {}),
    ("hard_silu", {}),
    ("hard_silu", {"slope": 0.2}),
    ("hard_sigmoid", {}),
    ("hard_sigmoid", {"slope": 0.2}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("softsign", {}),
    ("tanhshrink", {}),
    ("relu", {}),
)

PLAIN = frozenset((*ACTIVATIONS, *SYNONYMS, "elu", "selu"))


def activations(view: View) -> Iterator[Fold]:
    """Activations that several operations compute, the widest first."""
    done: set[int] = set()
    for anchor in view.named(ANCHORS):
        if anchor in done:
            continue
        found = _around(view, anchor)
        if found is not None:
            done |= view.inside(found)
            yield found


def _around(view: View, anchor: int) -> Fold | None:
    for end in [*view.onward(anchor, 8), anchor]:
        value = view.value(end)
        if value.shape != view.value(anchor).shape or value.size < 2:
            continue
        places = [p for p in view.back(end, 8) if view.value(p).shape == value.shape]
        for x in places:
            if end != anchor and anchor not in view.between([x], end):
                continue
            single = view.graph.inputs[end] == (x,)
            if single and view.name(end) in PLAIN and not _is_limit(view, end):
                continue
            found = _formula(view, x, end)
            if found is not None:
                return found
    return None


def _is_limit(view: View, place: int) -> bool:
    return view.name(place) in ("maximum", "minimum", "max", "min")


def _formula(view: View, x: int, end: int) -> Fold | None:
    value, given = view.value(end).reshape(-1), view.value(x).reshape(-1)
    where = sampled(value)
    few, wanted = given[where], value[where]
    if not np.isfinite(few).all():
        return None
    # Where nothing is below zero, a formula says no more than the identity.
    told = (few < 0).any() and not np.array_equal(few, wanted)
    formulas = [*FORMULAS, *_fitted(few, wanted)] if told else []
    for name, options in [*formulas, *_limits(view, x, end), *_caps(view, x, end)]:
        with np.errstate(all="ignore"):
            tried = np.asarray(ACTIVATIONS[name](few, **options))
        if not same(tried, wanted):
            continue
        if view.graph.inputs[end] == (x,) and view.name(end) == name:
            return None
        fold = view.fold(end, (x,), "activation", name, {"function": name, **options}, activate)
        if fold is not None:
            return fold
    return _slopes(view, x, end)


def _slopes(view: View, x: int, end: int) -> Fold | None:
    """A leaky ReLU whose slopes are a parameter, as Keras writes PReLU."""
    if view.name(end) not in ("add", "addv2", "sub", "where", "selectv2", "select_n"):
        return None
    held = list(view.held(view.between([x], end)).values())
    given, value = view.value(x), view.value(end)
    if len(held) != 1 or held[0].ndim > given.ndim or not (given < 0).any():
        return None
    try:
        slopes = np.broadcast_to(held[0], given.shape)
    except ValueError:
        return None
    if not same(np.where(given >= 0, given, slopes * given), value):
        return None
    options = {"function": "leaky_relu", "negative_slope": held[0]}
    return view.fold(end, (x,), "activation", "prelu", options, activate)


def _fitted(x: Array, value: Array) -> Iterator[tuple[str, dict[str, Any]]]:
    """Formulas with one number, as the most negative element tells it."""
    low = int(np.argmin(x))
    if x[low] >= 0:
        return
    slope = float(value[low] / x[low])
    alpha = float(value[low] / np.expm1(x[low]))
    yield "leaky_relu", {"negative_slope": _short(slope)}
    yield "elu", {"alpha": _short(alpha)}
    far, height = float(-x[low]), float(value[low])
    if far * far > 2 * height > 0:
        # Beyond delta: height = delta (far - delta / 2), and that over beta.
        yield "huber", {"delta": _short(far - (far * far - 2 * height) ** 0.5)}
        yield "smooth_l1", {"beta": _short(2 * (far - height))}


def _short(number: float) -> float:
    """The number with few digits, if that is what it is."""
    for digits in range(1, 8):
        short = float(f"{number:.{digits}g}")
        if abs(short - number) <= 1e-12 * abs(number):
            return short
    return number


def _caps(view: View, x: int, end: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """A soft cap by a number on the way."""
    between = view.between([x], end)
    if not any(view.name(p) == "tanh" for p in between):
        return
    for number in _numbers(view, between):
        if number > 0:
            yield "soft_cap", {"cap": number}
            yield "soft_cap", {"cap": _short(1 / number)}


def _numbers(view: View, region: set[int]) -> list[float]:
    """Numbers that operations of a region hold."""
    return sorted(
        {
            float(n)
            for p in region
            for n in view.graph.records[p].attributes.values()
            if isinstance(n, (int, float)) and not isinstance(n, bool)
        }
    )


def _limits(view: View, x: int, end: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """A clip by the numbers that the operations on the way hold, or that the value shows."""
    between = view.between([x], end)
    if not any(_is_limit(view, p) or view.name(p) in ("clip", "clamp") for p in between):
        return
    numbers = _numbers(view, between)
    if len(numbers) > 1:
        yield "clamp", {"min": numbers[0], "max": numbers[-1]}
    for number in numbers:
        yield "clamp", {"min": number}
        yield "clamp", {"max": number}
