"""Helpers of the tests: the corpus of known ports, and comparisons to render."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def ports() -> ModuleType:
    """The package `ports` beside the checkout: families of right and wrong ports."""
    if not (SHARED / "ports" / "__init__.py").is_file():
        pytest.skip("the corpus of known ports is not here (../shared/ports beside the checkout)")
    if str(SHARED) not in sys.path:
        sys.path.append(str(SHARED))
    return importlib.import_module("ports")
