"""Helpers of the tests: the corpus of known ports, and comparisons to render."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# On a busy machine drawing is slow, and so is what is tested: neither says anything.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Equal weights in equal tests, fixtures included, whatever ran before them.

    Keras draws the seeds of its layers from `random`. A process of its own is left to chance only
    by what it does itself.
    """
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    if tensorflow := sys.modules.get("tensorflow"):
        tensorflow.random.set_seed(0)


@pytest.fixture(scope="session")
def ports() -> ModuleType:
    """The package `ports` beside the checkout: families of right and wrong ports."""
    if not (SHARED / "ports" / "__init__.py").is_file():
        pytest.skip("the corpus of known ports is not here (../shared/ports beside the checkout)")
    if str(SHARED) not in sys.path:
        sys.path.append(str(SHARED))
    return importlib.import_module("ports")
