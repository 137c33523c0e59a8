"""What fails a test: `--fwcompare-fail-on=semantic,precision,drift>3x,noise>8ulp`.

Read by every run of pytest, so nothing here imports NumPy.

    conditions = condition {("," | space) condition}
    condition  = verdict | "drift" [">" number "x"] | "noise" ">" number ["ulp" | "x"]
               | "gap" ">" number | "ulp" ">" number
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.formats import format_of

if TYPE_CHECKING:
    from pytest_fwcompare.records import Comparison

VERDICTS = ("semantic", "precision", "subgradient", "nonfinite", "error")
DEFAULT = ("semantic", "precision", "nonfinite", "error")
DRIFT_FACTOR = 2.0
"""Growth from which a figure has drifted, where the option names none."""

UNITS = {"drift": ("x",), "noise": ("ulp", "x", ""), "gap": ("",), "ulp": ("",)}
WRITTEN = {
    "drift": "drift or drift>2x",
    "noise": "noise>8ulp, noise>3x (times the reference's) or noise>1e-6",
    "gap": "gap>1e-9",
    "ulp": "ulp>100",
}
NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WORD = re.compile(r"[^\s,>]*")


class Condition(NamedTuple):
    """One thing that fails a test.

    Attributes:
        what: a verdict, or "drift", "noise", "gap", "ulp".
        limit: the figure that must be exceeded; NaN for a verdict.
        unit: "x", "ulp", or "" for a plain number.
    """

    what: str
    limit: float = math.nan
    unit: str = ""

    def __str__(self) -> str:
        return self.what if self.what in VERDICTS else f"{self.what}>{self.limit:g}{self.unit}"


def parse(text: str, source: str) -> tuple[Condition, ...]:
    """The conditions that an option names.

    Args:
        text: what was given.
        source: how messages call the option.

    Raises:
        UsageError: with the place of what cannot be read, and what may stand there.
    """
    reader = _Reader(text, source)
    found = []
    while reader.skip_separators():
        found.append(reader.condition())
    if not found:
        raise UsageError(f"{source}: expected at least one condition, got {text!r}")
    return tuple(dict.fromkeys(found))


class _Reader:
    """Reads conditions from left to right and knows where it is."""

    def __init__(self, text: str, source: str) -> None:
        self._text, self._source, self._at = text, source, 0

    def skip_separators(self) -> bool:
        """Go to the next condition; False at the end."""
        while self._at < len(self._text) and self._text[self._at] in ", \t\n":
            self._at += 1
        return self._at < len(self._text)

    def condition(self) -> Condition:
        start, what = self._at, self._take(WORD)
        if what in VERDICTS:
            if self._next(">"):
                raise self._error(start, f"{what} is a verdict and takes no limit")
            return Condition(what)
        if what not in UNITS:
            raise self._error(start, _unknown(what))
        if not self._next(">"):
            if what == "drift":
                return Condition(what, DRIFT_FACTOR, "x")
            raise self._error(self._at, f"{what} needs a limit; write {WRITTEN[what]}")
        place, digits = self._at, self._take(NUMBER)
        if not digits:
            raise self._error(place, f"expected a number; write {WRITTEN[what]}")
        place, unit = self._at, self._take(WORD)
        if unit not in UNITS[what]:
            raise self._error(place, f"{what} has no unit {unit!r}; write {WRITTEN[what]}")
        if what == "drift" and float(digits) < 1:
            raise self._error(start, "a factor below 1 would fail what did not change")
        return Condition(what, float(digits), unit)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return match.group() if match else ""

    def _next(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        return True

    def _error(self, place: int, reason: str) -> UsageError:
        pointed = f"{self._text[:place]} >>> {self._text[place:]}"
        return UsageError(f"{self._source}: character {place + 1}: {reason} (at {pointed!r})")


def _unknown(what: str) -> str:
    known = (*VERDICTS, *UNITS)
    near = difflib.get_close_matches(what, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown verdict or figure {what!r}; there are {', '.join(known)}{hint}"


def verdicts(conditions: Iterable[Condition]) -> tuple[str, ...]:
    """Those among the conditions that are verdicts."""
    return tuple(condition.what for condition in conditions if condition.what in VERDICTS)


def drift_limit(conditions: Iterable[Condition]) -> float:
    """The factor from which a change is drift; the default one where drift fails nothing."""
    named = [condition.limit for condition in conditions if condition.what == "drift"]
    return min(named, default=DRIFT_FACTOR)


def exceeded(comparison: Comparison, conditions: Iterable[Condition]) -> list[str]:
    """What of the conditions a comparison meets, verdicts left out, a sentence each."""
    checks = {"drift": _drift, "noise": _noise, "gap": _gap, "ulp": _ulp}
    said = (
        checks[condition.what](comparison, condition)
        for condition in conditions
        if condition.what in checks
    )
    return [text for text in said if text]


def _drift(comparison: Comparison, condition: Condition) -> str:
    drift = comparison.drift
    if drift is not None and drift.verdict is None:
        return f"no baseline: {drift.whose}" if drift.whose else ""
    changes = () if drift is None else drift.changes
    moved = [change for change in changes if change.times > condition.limit]
    if not moved:
        return ""
    return f"{condition}: {moved[0].figure} {moved[0].text}"


def _noise(comparison: Comparison, condition: Condition) -> str:
    noise = comparison.noise
    if condition.unit == "ulp":
        figure = noise / ulp_of(comparison.dtype)
        shown = f"{figure:.3g} ulp of {comparison.dtype}"
    elif condition.unit == "x":
        ours = max((row.reference_noise for row in comparison.tensors), default=0.0)
        # No side can be less noisy than one rounding.
        figure = noise / max(ours, ulp_of(comparison.dtype) / 2)
        shown = f"{figure:.3g} times the reference's"
    else:
        figure, shown = noise, f"{noise:.3g}"
    return f"{condition}: the port's noise is {shown}" if figure > condition.limit else ""


def _gap(comparison: Comparison, condition: Condition) -> str:
    gap = comparison.gap
    return f"{condition}: the gap is {gap:.3g}" if gap > condition.limit else ""


def _ulp(comparison: Comparison, condition: Condition) -> str:
    worst = max(comparison.tensors, key=lambda row: row.ulp, default=None)
    if worst is None or not worst.ulp > condition.limit:
        return ""
    return f"{condition}: {worst.name} is {worst.ulp:.3g} ulp apart in {comparison.dtype}"


def ulp_of(dtype: str) -> float:
    """The unit in the last place of 1."""
    return 2 * format_of(dtype).roundoff
