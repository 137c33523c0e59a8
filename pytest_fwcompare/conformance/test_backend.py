"""Every layer of a backend against the NumPy float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

import pytest

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.registry import require
from pytest_fwcompare.conformance.cases import CASES, Case
from pytest_fwcompare.conformance.observe import Bench, Observation, gaps, jitter, opened
from pytest_fwcompare.networks import random_parameters

LARGEST_GAP = 1e-12
"""In float64, relative to the largest value of a tensor."""

LARGEST_NOTED_GAP = 1e-7
"""The same where the backend says that the framework keeps a constant in float32."""

NOISE_FACTOR = 64.0
"""Rounding may cost that much more than one rounding of inputs and weights does."""

HALF_ULP = 2.0**-24
"""Half a unit in the last place of one in float32."""


@dataclass(frozen=True)
class Expected:
    """What the reference gives for one set of inputs."""

    inputs: dict[str, Array]
    observation: Observation
    jitter: dict[str, float]


@cache
def expected(case: Case) -> tuple[Expected, ...]:
    """The reference at each of the case's sizes."""
    network = case.network()
    values = random_parameters(network, 0)
    with ExitStack() as stack:
        bench = opened(stack, require("numpy"), network, "float64")
        found = []
        for sizes in case.sizes:
            inputs = case.inputs(sizes)
            spread = jitter(bench, values, inputs, HALF_ULP, share=1.0)
            found.append(Expected(inputs, bench.observe(inputs), spread))
        return tuple(found)


def check(case: Case, framework: str, dtype: str, share: float, limit: Limit) -> float:
    """Build, fill, run at each size; the largest gap.

    Raises:
        AssertionError: a gap is above its limit.
        ModelError: a weight read back is not the one that was written.
    """
    backend = require(framework)
    if not backend.can_build:
        pytest.skip(f"{framework} does not build described networks")
    if dtype not in backend.dtypes:
        pytest.skip(f"{framework} does not compute in {dtype}")
    worst = 0.0
    network = case.network()
    with ExitStack() as stack:
        bench = opened(stack, backend, network, dtype)
        for sizes, known in zip(case.sizes, expected(case), strict=True):
            found = gaps(known.observation, bench.observe(known.inputs), share)
            if not backend.can_differentiate:
                found = {name: gap for name, gap in found.items() if name.startswith("output ")}
            for name, gap in found.items():
                allowed = limit(bench, known, name)
                assert gap <= allowed, (
                    f"{framework}, {case.name} at {dict(sizes)}, {dtype}: {name} differs from "
                    f"the float64 reference by {gap:.2g} of its largest value, allowed is "
                    f"{allowed:.2g}"
                )
            worst = max(worst, *found.values())
    return worst


Limit = Callable[[Bench, Expected, str], float]


def _gap_limit(bench: Bench, known: Expected, name: str) -> float:
    return LARGEST_NOTED_GAP if bench.built.notices else LARGEST_GAP


def _noise_limit(bench: Bench, known: Expected, name: str) -> float:
    return NOISE_FACTOR * max(known.jitter.get(name, 0.0), HALF_ULP)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_parameters(case: Case, framework: str) -> None:
    """Every native parameter and buffer has a place, every canonical one is used."""
    backend = require(framework)
    if not backend.can_build:
        pytest.skip(f"{framework} does not build described networks")
    network = case.network()
    with Bench(backend, network, "float32") as bench:
        placed = [placement.parameter for placement in bench.built.placements]
        native = [parameter.name for parameter in bench.side.parameters()]
        assert sorted(placed) == sorted(native), "placements and parameters differ"
        used = {source for placed in bench.built.placements for source in placed.sources}
        assert used == set(network.parameters()), "canonical parameters left out or unknown"
        trainable = {parameter.name: parameter.trainable for parameter in bench.side.parameters()}
        for placement in bench.built.placements:
            for source in placement.sources:
                assert trainable[placement.parameter] == network.parameters()[source].trainable, (
                    f"{placement.parameter}: a buffer taken for a parameter, or the other way"
                )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float64(
    case: Case, framework: str, record_property: Callable[[str, object], None]
) -> None:
    """Outputs and all gradients are those of the reference, to rounding in float64."""
    worst = check(case, framework, "float64", 1e-3, _gap_limit)
    record_property("fwcompare.gap", worst)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_float32(
    case: Case, framework: str, record_property: Callable[[str, object], None]
) -> None:
    """Outputs and all gradients are those of the reference, to what rounding costs in float32."""
    worst = check(case, framework, "float32", 1.0, _noise_limit)
    record_property("fwcompare.noise", worst)
