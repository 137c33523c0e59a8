"""Is it Keras or the backend? Judges what several implementations of one layer gave.

The layer's documented formula in NumPy is taken as right where there is one; else what most of
Keras' own backends give. Gradients at points where the function has none (a ReLU at 0, a tie of a
pooling) are no evidence against anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.records import Answer, Attribution

TOLERANCE = 2e-7
"""Relative difference in float64 up to which two implementations are one function; see `align`."""

AMPLIFIED = 1e3
"""What float32 loses, taken down to float64, may have grown by that."""

COARSE_FACTOR = 32.0
"""What computed in a narrower dtype here and there although float64 was asked for is told from
another function only beyond that many times its noise."""

NOISE_FACTOR = 64.0
"""Noise in the working dtype that many times that of the formula is no rounding any more."""

LEAST_NOISE = 1e3
"""In roundings of the working dtype: noise below is never held against anybody."""

CLEAR = 8.0
"""An error must be that many times beyond what a coarse answer can tell for it to be a witness."""

KINK = 0.3
"""Share of a difference that the derivative itself jumps by where it is a kink."""

VANISHED = 1e-6
"""Share of the largest gradient below which another one is not told from zero."""

LOST = 1e-9
"""Share of what went in below which nothing that comes out is told from zero."""

COARSE_VANISHED = 1e-2
"""The same for gradients that were computed in float32."""


@dataclass(frozen=True)
class Given:
    """What one implementation gave on the same inputs, weights and cotangents.

    Attributes:
        who: as in `Answer`.
        outputs: in float64, by name.
        gradients: in float64, by "input 0", ... and "weight 0", ...
        working: outputs in the working dtype.
        reason: why it gave nothing.
        coarse: True if it may have computed in float32 where float64 was asked for.
    """

    who: str
    outputs: Mapping[str, Array] = field(default_factory=dict)
    gradients: Mapping[str, Array] = field(default_factory=dict)
    working: Mapping[str, Array] = field(default_factory=dict)
    reason: str = ""
    coarse: bool = False


def judge(
    layer: str,
    kind: str,
    documented: str,
    own: Given,
    formula: Given | None,
    raw: Given | None,
    others: Sequence[Given],
    near: Sequence[Mapping[str, Array]] = (),
    roundoff: float = 2.0**-24,
    notes: Sequence[str] = (),
    sizes: tuple[float, float] = (0.0, 0.0),
) -> Attribution:
    """Whose fault it is.

    Args:
        layer: path of the layer.
        kind: its class.
        documented: the class whose documentation `formula` follows; "" for none.
        own: the layer as it is, on the backend of this process.
        formula: the documented formula in NumPy; None if none is known.
        raw: the same in raw operations of the backend of this process.
        others: the layer on Keras' other backends.
        near: gradients of the implementation taken as right, at points moved by a hair.
        roundoff: unit roundoff of the working dtype.
        notes: kept in the record.
        sizes: largest magnitude of the inputs and of the cotangents. What comes out at a
            billionth of that is what saturation or cancellation left: rounding, mostly.
    """
    keras = [own, *others]
    right = _right(formula, keras)
    meter = None if right is None else Meter(right, near, roundoff, sizes)
    given = [one for one in (own, raw, formula, *others) if one is not None]
    answers = {one.who: _answer(one, meter) for one in given}
    answers |= {one.who: _witness(answers[one.who], answers[own.who], one) for one in others}
    wrong = [one for one in keras if answers[one.who].agrees is False]
    agree = [one for one in keras if answers[one.who].agrees]
    said = list(notes)
    fault: Literal["port", "keras", "backend", "undecided"] = "undecided"
    if right is None:
        said.append("nothing to hold it against: no formula, and no backends that agree")
    elif own in wrong:
        fault = "backend" if agree else "keras"
        if not agree and len(wrong) < 2:
            fault = "undecided"
            said.append("no other backend of Keras could tell: it may be Keras or its backend")
        if raw is not None and fault != "keras":
            said += _of_raw(answers[raw.who], _backend(own))
    elif own in agree:
        fault = "port" if formula is not None else "undecided"
        if formula is None and not wrong:
            said.append("the same on every backend, but no formula is known to hold it against")
        if wrong:
            names = " and ".join(_backend(one) for one in wrong)
            said.append(f"on {names} Keras gives something else")
    return Attribution(
        layer,
        kind,
        documented,
        fault,
        tuple(_backend(one) for one in wrong) if fault == "backend" else (),
        tuple(answers.values()),
        tuple(said),
    )


def _of_raw(answer: Answer, backend: str) -> list[str]:
    """Whether the same formula goes wrong without Keras, where Keras is wrong on a backend."""
    if answer.agrees:
        return [f"raw {backend} gives what is documented: the fault is in what Keras makes of it"]
    return [f"{answer.who} gives something else, too, with no Keras in it"] * (
        answer.agrees is False
    )


def _backend(given: Given) -> str:
    return given.who.removeprefix("keras on ")


def _right(formula: Given | None, keras: Sequence[Given]) -> Given | None:
    """The formula, else what most of Keras' backends give, the own one first."""
    if formula is not None and formula.outputs:
        return formula
    ran = sorted((one for one in keras if one.outputs), key=lambda one: not one.gradients)
    for one in ran:
        meter = Meter(one)
        alike = [other for other in ran if meter.forward(other) <= meter.limit(other)]
        if len(alike) > 1 and len(alike) > len(ran) / 2:
            return one
    return None


@dataclass(frozen=True)
class Meter:
    """Measures answers against what is taken as right.

    Attributes:
        right: that.
        near: its gradients at points moved by a hair.
        roundoff: unit roundoff of the working dtype.
        sizes: of what went in, forward and backward.
    """

    right: Given
    near: Sequence[Mapping[str, Array]] = ()
    roundoff: float = 2.0**-24
    sizes: tuple[float, float] = (0.0, 0.0)

    def limit(self, given: Given) -> float:
        """Relative difference up to which an answer is the same function."""
        if not (given.coarse or self.right.coarse):
            # A saturated layer amplifies rounding in float64 as it does in float32.
            return max(TOLERANCE, AMPLIFIED * 2.0**-29 * _own_noise(self.right))
        return COARSE_FACTOR * max(_own_noise(given), 4 * 2.0**-24)

    def noise_limit(self) -> float:
        """Noise in the working dtype up to which nobody is blamed."""
        return max(LEAST_NOISE * self.roundoff, NOISE_FACTOR * self.noise(self.right))

    def forward(self, given: Given) -> float:
        """Largest relative difference of the outputs; infinite for other tensors."""
        return _largest(
            _gap(given.outputs.get(name), value, LOST * self.sizes[0])
            for name, value in self.right.outputs.items()
        )

    def noise(self, given: Given) -> float:
        """The same for the outputs in the working dtype, 0 where there are none."""
        return _largest(
            _gap(given.working[name], value)
            for name, value in self.right.outputs.items()
            if name in given.working
        )

    def backward(self, given: Given) -> float | None:
        """Largest relative difference of the gradients where the function has them."""
        expected, obtained = self.right.gradients, given.gradients
        both = [name for name in expected if name in obtained]
        if not both:
            return None
        peak = max(float(np.abs(expected[name]).max(initial=0.0)) for name in both)
        coarse = given.coarse or self.right.coarse
        least = max(peak * (COARSE_VANISHED if coarse else VANISHED), LOST * self.sizes[1])
        return _largest(
            _gradient_gap(
                obtained[name],
                expected[name],
                [gradients[name] for gradients in self.near if name in gradients],
                least,
            )
            for name in both
        )


def _answer(given: Given, meter: Meter | None) -> Answer:
    if not given.outputs or meter is None:
        return Answer(given.who, None, reason=given.reason)
    forward, backward = meter.forward(given), meter.backward(given)
    noise, limit = meter.noise(given), meter.limit(given)
    # Small tensors have gradients that are sums of many rounded terms.
    backward_limit = 4 * limit if given.coarse else limit
    wrong = ""
    if not forward <= limit:
        wrong = "other outputs"
    elif backward is not None and not backward <= backward_limit:
        wrong = "other gradients"
    elif not noise <= max(meter.noise_limit(), limit):
        wrong = "other outputs in the working dtype"
    return Answer(given.who, not wrong, forward, backward, noise, wrong or given.reason)


def _witness(answer: Answer, own: Answer, given: Given) -> Answer:
    """A coarse answer that agrees is no witness against an error that it could not tell."""
    if not given.coarse or not answer.agrees or own.agrees is not False:
        return answer
    error = own.forward if own.reason == "other outputs" else own.backward
    reach = COARSE_FACTOR * max(_own_noise(given), 4 * 2.0**-24)
    if own.reason == "other outputs in the working dtype":
        return answer
    if own.reason == "other gradients" and answer.backward is None:
        return replace(answer, agrees=None, reason="it has no gradients")
    if error is not None and error < CLEAR * reach:
        return replace(answer, agrees=None, reason="it computes in float32, too coarse to tell")
    return answer


def _own_noise(given: Given) -> float:
    """Difference of an implementation's outputs in the working dtype from those in float64."""
    return _largest(
        _gap(given.working[name], value)
        for name, value in given.outputs.items()
        if name in given.working
    )


def _gradient_gap(obtained: Array, expected: Array, near: Sequence[Array], least: float) -> float:
    if obtained.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0.0)), least) or 1.0
    with np.errstate(invalid="ignore"):
        apart = np.abs(obtained - expected)
    if near:
        values = np.stack([expected, *near])
        jump = values.max(axis=0) - values.min(axis=0)
        apart = np.where(jump >= KINK * apart, 0.0, apart)
    return _finite(float(apart.max(initial=0.0)) / scale)


def _gap(obtained: Array | None, expected: Array, least: float = 0.0) -> float:
    """Largest difference relative to the largest expected magnitude, or to `least`."""
    if obtained is None or obtained.shape != expected.shape:
        return float("inf")
    if not np.array_equal(np.isfinite(obtained), np.isfinite(expected)):
        return float("inf")
    regular = np.isfinite(expected)
    scale = max(float(np.abs(expected[regular]).max(initial=0.0)), least) or 1.0
    return _finite(float(np.abs(obtained[regular] - expected[regular]).max(initial=0.0)) / scale)


def _finite(value: float) -> float:
    return float("inf") if value != value else value


def _largest(values: Iterable[float]) -> float:
    return max(values, default=0.0)
