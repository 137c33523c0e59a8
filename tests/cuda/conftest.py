"""What needs a GPU is skipped without one, each test with the reason of its framework.

`FWCOMPARE_CUDA_TESTS_ON=cpu` runs the same tests on the CPU, except what only a GPU can show: so
nothing trivial is wrong with them the day that a GPU is at hand.
"""

from __future__ import annotations

import os

import pytest

from pytest_fwcompare.backends import registry

FRAMEWORKS = ("torch", "jax", "tensorflow", "keras", "keras@torch", "keras@jax")

DEVICE = os.environ.get("FWCOMPARE_CUDA_TESTS_ON", "cuda")


def obstacle(name: str) -> str | None:
    """Why a framework cannot use the device here, or None."""
    backend = registry.backend(name)
    if reason := backend.unavailable():
        return reason
    names = backend.device_names()
    if DEVICE == "cpu" or "cuda:0" in names:
        return None
    return f"{name} sees no CUDA device, only {', '.join(names)}"


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    """Each framework that sees a GPU."""
    name: str = request.param
    if reason := obstacle(name):
        pytest.skip(reason)
    return name


@pytest.fixture
def gpu_torch():
    """torch, where it sees a GPU."""
    if reason := obstacle("torch"):
        pytest.skip(reason)
    import torch

    return torch
