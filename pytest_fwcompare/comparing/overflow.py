"""Overflow of float16, told from a fault: does the value itself lie beyond the range, and whose?

A sound network leaves the range of float16 soon: 65504 is the square of 256. Where the float64
value lies beyond it on both sides, both overflow or are lucky, and the working runs say nothing.
Where it does so in the port alone, the port's formula does what the reference's avoids (a softmax
whose maximum is not subtracted), which is a fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.errors import FwcompareError
from pytest_fwcompare.formats import Format, format_of
from pytest_fwcompare.judge.verdict import SEMANTIC_FACTOR, Assessment
from pytest_fwcompare.records import Verdict
from pytest_fwcompare.running.points import Point

if TYPE_CHECKING:
    from pytest_fwcompare.running.pair import Pair

FILL = 9e8
"""From here on a negative number that stands in many places fills what a mask covers. It becomes
minus infinity, as it is meant to."""


@dataclass(frozen=True)
class Beyond:
    """The first value of a side that its working dtype cannot hold.

    Attributes:
        place: of the operation, in words.
        size: the value's magnitude in float64.
    """

    place: str
    size: float


@dataclass(frozen=True)
class Overflow:
    """What of a nonfinite or inaccurate example is overflow.

    Attributes:
        excused: both sides' own values lie beyond the range.
        text: what was seen.
    """

    excused: bool
    text: str


def overflow_at(pair: Pair, point: Point, *, training: bool = False) -> Overflow | None:
    """Whether values beyond the range of the working dtype explain what an example shows.

    Returns:
        None where the dtype has range enough, or no value of the port lies beyond it.
    """
    made = format_of(pair.dtype)
    if not made.overflows:
        return None
    try:
        reference = pair.run("reference", point, "double", training=training, record=True)
        pair.expect(reference)
        port = pair.run("port", point, "double", training=training, record=True)
    except FwcompareError:
        return None  # what cannot be recorded is not excused
    ours, theirs = (first_beyond(run.recorded, made) for run in (reference, port))
    theirs = theirs or _among(made, "port", port.outputs, port.inputs, port.parameters)
    if theirs is None:
        return None
    ours = ours or _among(
        made, "reference", reference.outputs, reference.inputs, reference.parameters
    )
    # Without its size, so that all examples say the same.
    said = (
        f"overflow of {made.computed} at {theirs.place} of the port, whose float64 value is "
        f"beyond {made.largest:g}"
    )
    if ours is None:
        return Overflow(False, f"{said}, while no value of the reference is")
    return Overflow(
        True,
        f"{said}; so is the reference's at {ours.place}. That is no fault of the port: such "
        f"examples were judged in float64 alone",
    )


def first_beyond(records: Sequence[Recorded], made: Format) -> Beyond | None:
    """The first recorded value beyond the range, forward before backward."""
    for record in records:
        if size := _size(record.value, made):
            return Beyond(_words(record), size)
    for record in reversed(records):
        if record.gradient is not None and (size := _size(record.gradient, made)):
            return Beyond(f"the gradient of {_words(record)}", size)
    return None


def excused(assessments: Iterable[Assessment]) -> tuple[Assessment, ...]:
    """The assessments by what the shadows say alone."""
    return tuple(
        replace(item, verdict=_exact(item)) if _blames_the_dtype(item) else item
        for item in assessments
    )


def _blames_the_dtype(item: Assessment) -> bool:
    """NaN or infinity in exact arithmetic needs no narrow dtype."""
    return item.verdict == "precision" or (
        item.verdict == "nonfinite" and not item.float64_nonfinite
    )


def _exact(item: Assessment) -> Verdict:
    return "semantic" if item.semantic_ratio > SEMANTIC_FACTOR else "equivalent"


def _among(made: Format, role: str, *tensors: Mapping[str, Array]) -> Beyond | None:
    for group in tensors:
        for name, value in group.items():
            if value.dtype.kind == "f" and (size := _size(value, made)):
                return Beyond(name, size)
    return None


def _size(value: Array, made: Format) -> float:
    """The largest finite magnitude beyond the range, 0 if there is none but a mask's filling."""
    if value.dtype.kind != "f" or not value.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        beyond = value[np.isfinite(value) & (np.abs(value) > made.largest)]
    beyond = beyond[beyond > -FILL]
    return float(np.abs(beyond).max()) if beyond.size else 0.0


def _words(record: Recorded) -> str:
    return f"{record.operation} in {record.path!r}" if record.path else str(record.operation)
