"""Running statistics: another momentum, another divisor, and what neither explains."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.diagnose import BufferChange, diagnose

RNG = np.random.default_rng(0)
OLD, BATCH = RNG.uniform(0.5, 1.5, 6), RNG.uniform(0.5, 1.5, 6)
LAYERS = [
    Parameter(
        "bn.running_var", (6,), "float32", False, "bn", "BatchNorm2d", "running_var",
        {"momentum": 0.1},
    )
]  # fmt: skip


def step(share, factor=1.0):
    return (1 - share) * OLD + share * factor * BATCH


def changed(obtained, expected=None):
    expected = step(0.1) if expected is None else expected
    change = BufferChange(OLD, expected.astype(np.float32), obtained.astype(np.float32))
    return diagnose([], [], buffer_mismatch={"bn.running_var": change}, reference_layers=LAYERS)


def test_another_momentum_is_solved_for():
    found = changed(step(0.9))
    assert (found.culprit, found.cause) == ("bn", "running-statistics")
    assert "momentum 0.9 (reference 0.1)" in found.evidence[0]


@pytest.mark.parametrize(
    ("expected", "obtained", "words"),
    [(24 / 23, 1.0, "biased (divided by n)"), (1.0, 24 / 23, "unbiased (divided by n - 1)")],
)
def test_the_divisor_of_the_variance_is_told(expected, obtained, words):
    found = changed(step(0.1, obtained), step(0.1, expected))
    assert found.cause == "running-statistics"
    assert words in found.evidence[0]
    assert "n=24" in found.evidence[0]


def test_a_buffer_that_is_never_updated_is_told():
    assert "not updated by the port" in changed(OLD).evidence[0]


def test_another_statistic_is_not_explained():
    found = changed(step(0.1) + 0.01 * RNG.normal(size=6))
    assert found.culprit == "bn"
    assert found.cause is None
    assert found.tried == ("another momentum", "the biased or unbiased variance")
