"""A corpus of our own: networks ported by hand between frameworks, with known faults.

Every module of this folder is a family with a list `CASES`; importing the package imports none.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from .common import Fault, Input, PortCase

# Set before a family imports TensorFlow or Keras, which read them once.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

HELPERS = ("common", "conftest", "truth")

FAMILIES = tuple(
    sorted(
        path.stem
        for path in Path(__file__).parent.glob("*.py")
        if path.stem not in HELPERS and not path.stem.startswith(("_", "test_"))
    )
)
"""Names of the families: the modules of this folder."""


def load_family(family: str) -> list[PortCase]:
    """The cases of one family; imports the frameworks that it needs."""
    if family not in FAMILIES:
        raise KeyError(f"no family {family!r}; there are {', '.join(FAMILIES)}")
    cases: list[PortCase] = importlib.import_module(f".{family}", __name__).CASES
    return cases


__all__ = ["FAMILIES", "Fault", "Input", "PortCase", "load_family"]
