"""Corpora of ports with known faults as inputs of `compare`: ours, and one beside this."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest_fwcompare as fwc

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT.parent / "shared"


def load(name: str = "ports") -> ModuleType:
    """The corpus package, such as "tests.corpus"; frameworks are imported family by family."""
    # Set before TensorFlow is imported: its oneDNN build corrupts memory in some float32
    # gradients, and its start-up log hides the figures.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if name == "ports" and not (CORPUS / "ports").is_dir():
        sys.exit(f"the corpus is not there: {CORPUS / 'ports'}; try --corpus tests.corpus")
    # Behind what is there: `tests/corpus` must not be taken for this module.
    sys.path += [str(ROOT), str(CORPUS)]
    return importlib.import_module(name)


def specs(case) -> dict[str, fwc.TensorSpec]:
    """The inputs of a case."""
    dtypes = {"tokens": "int64", "mask": "bool"}
    return {
        name: fwc.TensorSpec(
            spec.shape,
            dtype=dtypes.get(spec.kind, "float32"),
            kind=spec.kind,
            high=spec.high,
            axes=spec.axes,
            port_axes=spec.port_axes,
        )
        for name, spec in case.inputs.items()
    }


def output_specs(case) -> dict[str, fwc.TensorSpec] | None:
    """Axis letters of the outputs, where a case gives them."""
    if case.output_axes is None:
        return None
    return {
        f"output{index}": fwc.TensorSpec(("any",) * len(axes), axes=axes, port_axes=port_axes)
        for index, (axes, port_axes) in enumerate(
            zip(case.output_axes, case.port_output_axes, strict=True)
        )
    }
