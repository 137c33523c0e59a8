"""Ports that others wrote: skipped with a reason where their packages are missing."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Their own warnings are not ours to fix."""
    for item in items:
        if "realports" in item.path.parts:
            item.add_marker(pytest.mark.filterwarnings("ignore"))
            item.add_marker("realports")


def _require(*modules: str) -> None:
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed (make realports installs it)")
    # Nothing is loaded from the network: all models are small and random.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@pytest.fixture(scope="session")
def transformers_models():
    """Builders of the torch and the TensorFlow classes of transformers."""
    _require("torch", "tensorflow", "transformers", "tf_keras")
    from realports import transformers_models

    return transformers_models


@pytest.fixture(scope="session")
def keras_hub_models():
    """Builders of keras-hub backbones beside the torch classes of transformers."""
    _require("torch", "keras", "transformers", "keras_hub")
    from realports import keras_hub_models

    return keras_hub_models
