"""Both sides on one example as a few numbers, by which a later run tells which side moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.records import Digest, Fingerprint
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Run

WAVES = (0.7548776662466927, 0.5698402909980532)
"""Steps of the two waves: powers of the plastic number's inverse, whose multiples never align."""

DIGITS = 12
CHUNK = 1 << 20
"""Values that are weighed at a time."""

PRECISIONS: dict[str, Literal["double", "working"]] = {"float64": "double", "working": "working"}


def digest_of(pair: Pair, example: Example) -> Digest:
    """The digest of both sides on an example.

    Args:
        pair: ready to be run.
        example: the first one, which every run judges.
    """
    point = pair.point(example)
    passes = {}
    for precision, at in PRECISIONS.items():
        reference = pair.run("reference", point, at)
        pair.expect(reference)
        for role, run in (("reference", reference), ("port", pair.run("port", point, at))):
            passes[f"{role} {precision} outputs"] = fingerprint(run.outputs.values())
            if pair.backward:
                passes[f"{role} {precision} gradients"] = fingerprint(_gradients(run))
    # The weights the reference came with too: other examples are judged with them.
    weights = [point.weights or {}, pair.given]
    return Digest(
        fingerprint(point.inputs.values()),
        fingerprint(value for values in weights for value in values.values()),
        dict(sorted(passes.items())),
    )


def _gradients(run: Run) -> Iterator[np.ndarray]:
    """One after the other: those of a large network are not held at once."""
    for group in (run.inputs, run.parameters):
        yield from group.values()


def fingerprint(arrays: Iterable[np.ndarray]) -> Fingerprint:
    """Norm and two projections of all finite values, in order.

    The projections are relative to the norm, and all have twelve digits: sums in another order
    give the same ones, all but always.

    Args:
        arrays: of any shapes and real dtypes.
    """
    square, sums, start = 0.0, np.zeros(len(WAVES)), 0
    for array in arrays:
        flat = np.asarray(array).reshape(-1)
        for begin in range(0, flat.size, CHUNK):
            values = flat[begin : begin + CHUNK].astype(np.float64)
            values[~np.isfinite(values)] = 0.0
            places = np.arange(start, start + values.size, dtype=np.float64)
            square += float(np.square(values).sum())
            sums += [float((values * np.cos(1.0 + step * places)).sum()) for step in WAVES]
            start += values.size
    norm = square**0.5
    turned = (round(float(total) / norm, DIGITS) if norm else 0.0 for total in sums)
    return Fingerprint(_short(norm), tuple(_short(value) for value in turned))


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") + 0.0  # no negative zero
