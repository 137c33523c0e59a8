"""What needs a GPU is skipped without one, each test with the reason of its framework."""

from __future__ import annotations

import pytest

from pytest_fwcompare.backends import registry

FRAMEWORKS = ("torch", "jax", "tensorflow", "keras")


def obstacle(name: str) -> str | None:
    """Why a framework cannot use a GPU here, or None."""
    backend = registry.backend(name)
    if reason := backend.unavailable():
        return reason
    names = backend.device_names()
    return None if "cuda:0" in names else f"{name} sees no CUDA device, only {', '.join(names)}"


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
