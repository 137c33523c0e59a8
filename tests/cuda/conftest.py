"""What needs a GPU is skipped without one, each test with the reason of its framework.

`FWCOMPARE_CUDA_TESTS_ON=cpu` runs the same tests on the CPU, except what only a GPU can show: so
nothing trivial is wrong with them the day that a GPU is at hand. `=second` runs them on a second
CPU device of JAX and TensorFlow, which is called cuda:0 then.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pytest_fwcompare.backends import registry

FRAMEWORKS = ("torch", "jax", "tensorflow", "keras", "keras@torch", "keras@jax")

ON = os.environ.get("FWCOMPARE_CUDA_TESTS_ON", "cuda")

DEVICE = "cpu" if ON == "cpu" else "cuda"

if ON == "second":
    sys.path.insert(0, str(Path(__file__).parent))
    import standin

    standin.install()


def obstacle(name: str) -> str | None:
    """Why a framework cannot use the device here, or None."""
    if ON == "second" and (name == "torch" or "@" in name):
        return f"{name} has no second device without a GPU"
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
