"""Gradients of torch losses by the outputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.torch.twin import to_numpy


def gradients(loss: Any, outputs: Sequence[Array], targets: Sequence[Array]) -> list[Array]:
    """Gradient of loss(*outputs, *targets) by each output, float64."""
    with torch.enable_grad():
        tensors = [torch.from_numpy(np.array(value)).requires_grad_() for value in outputs]
        others = [torch.from_numpy(np.array(value)) for value in targets]
        others = [t.double() if t.is_floating_point() else t for t in others]
        value = loss(*tensors, *others)
        found = torch.autograd.grad(value, tensors, allow_unused=True)
    return [
        np.zeros(tuple(t.shape)) if g is None else to_numpy(g).astype(np.float64)
        for t, g in zip(tensors, found, strict=True)
    ]
