"""What a standalone script needs of a torch side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pytest_fwcompare.backends.base import Argument


def keys(side: Any) -> dict[str, str]:
    """Parameters go by their own names."""
    return {parameter.name: parameter.name for parameter in side.parameters()}


def export(side: Any, arguments: Sequence[Argument], folder: Path, role: str) -> str:
    """Write the module as an exported program for these shapes."""
    positional, keywords = side.tensors(arguments, "working", False)
    program = torch.export.export(side.model.eval(), tuple(positional), keywords or None)
    torch.export.save(program, folder / f"{role}.pt2")
    return f"{role}.pt2"
