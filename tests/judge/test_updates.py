"""The judge of optimizer updates and the wrong ones it must reject."""

from __future__ import annotations

import numpy as np

from pytest_fwcompare.judge.updates import judge_update


def judged(port64, port, jitter=1e-9, size=1.0):
    exact = np.array([1e-3, -2e-3, 0.0])
    return judge_update(
        "update of w",
        (exact, exact + port64),
        (exact.astype(np.float32) * 1.0, exact + port),
        jitter,
        size,
        "float32",
    ).verdict


def test_updates_are_known_to_a_rounding_of_the_weight():
    assert judged(0.0, 0.0) == "equivalent"
    assert judged(0.0, 6e-8) == "equivalent"
    assert judged(0.0, 1e-4) == "precision"
    assert judged(1e-5, 1e-5) == "semantic"
    assert judged(np.array([0, 0, 1e-5]), 0.0) == "semantic"
    assert judged(np.array([0, 0, np.nan]), 0.0) == "nonfinite"
