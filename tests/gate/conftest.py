"""Baselines and digests made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import samples

from pytest_fwcompare.gate.baseline import Baseline
from pytest_fwcompare.gate.entries import entry_of
from pytest_fwcompare.records import Comparison, Digest, Fingerprint

PASSES = [
    f"{role} {precision} {group}"
    for role in ("reference", "port")
    for precision in ("float64", "working")
    for group in ("outputs", "gradients")
]


def digest(**moved: float) -> Digest:
    """Fingerprints of norm 2; "port_float64=1e-3" moves both of the port's shadow's."""
    passes = {name: Fingerprint(2.0, (0.5, -0.25)) for name in PASSES}
    for name in passes:
        role, precision, _ = name.split(" ")
        far = moved.get(f"{role}_{precision}", 0.0)
        passes[name] = Fingerprint(2.0 * (1 + far), (0.5, -0.25))
    points = {
        word: Fingerprint(3.0, (0.125 + moved.get(word, 0.0), 0.0))
        for word in ("inputs", "weights")
    }
    return Digest(**points, passes=passes)


def baseline_of(comparisons: dict[str, Comparison], axes: str = "cpu-float32-eager") -> Baseline:
    """The baseline that an update with these comparisons writes."""
    made = {case: entry_of(comparison, axes) for case, comparison in comparisons.items()}
    return Baseline(
        {case: entry for case, (entry, _) in made.items()},
        {entry.environment: facts for entry, facts in made.values()},
    )


@pytest.fixture
def comparison() -> Callable[..., Comparison]:
    """A passed comparison with a digest and the fields given."""

    def make(**fields: Any) -> Comparison:
        return dataclasses.replace(samples.equivalent(), **{"digest": digest(), **fields})

    return make
