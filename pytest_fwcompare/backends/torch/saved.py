"""Saved forms of torch models."""

from __future__ import annotations

from typing import Any

import torch


def fill(model: Any, path: str) -> None:
    """Load a state dict from a file into a module; nothing in the file is run.

    Args:
        model: a `torch.nn.Module` of the same parameters.
        path: of a file written by `torch.save(module.state_dict(), path)`.
    """
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
