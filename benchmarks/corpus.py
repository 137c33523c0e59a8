"""The corpus of ports with known faults that lies beside the checkout, as inputs of `compare`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest_fwcompare as fwc

CORPUS = Path(__file__).resolve().parents[2] / "shared"


def load() -> ModuleType:
    """The corpus package; its frameworks are imported family by family."""
    # Set before TensorFlow is imported: its oneDNN build corrupts memory in some float32
    # gradients, and its start-up log hides the figures.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not (CORPUS / "ports").is_dir():
        sys.exit(f"the corpus is not there: {CORPUS / 'ports'}")
    sys.path.insert(0, str(CORPUS))
    import ports

    return ports


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
