"""Devices that are really two, without a GPU: JAX and TensorFlow make a second one of the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACEMENT = "tests/cuda/test_placement.py"


def test_everything_is_on_the_device_that_was_asked_for():
    """In a process of its own: devices are counted when a framework starts."""
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "cuda", PLACEMENT],
        cwd=ROOT,
        env=os.environ | {"FWCOMPARE_CUDA_TESTS_ON": "second", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "failed" not in done.stdout
