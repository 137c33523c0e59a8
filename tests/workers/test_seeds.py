"""What a factory draws in a worker, where two runs must be equal."""

from __future__ import annotations

from typing import Any

import torch

import pytest_fwcompare as fwc
from workers import models

INPUTS = {"x": fwc.TensorSpec(("batch", 3))}


def compared(**keywords: Any) -> fwc.Comparison:
    there = fwc.in_worker("torch@w", models.unseeded)
    keywords = {"inputs": INPUTS, "weights": "given", "examples": 1, **keywords}
    return fwc.compare(there, models.unseeded, **keywords)


def test_a_factory_draws_in_a_worker_what_it_draws_here() -> None:
    first, second = (compared(deterministic=True) for _ in range(2))
    assert first.verdict == "equivalent", "the worker and this process draw the same"
    assert first.digest == second.digest is not None
    torch.manual_seed(12345)  # factories of other tests leave both processes in one state
    assert compared().verdict == "semantic", "otherwise they are two models"
