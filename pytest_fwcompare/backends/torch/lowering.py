"""What it takes to turn one described layer into a torch module."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import nn

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.networks.base import Layer, Shape
from pytest_fwcompare.weights.transforms import Identity, Transform

Source = tuple[str, str, Transform]
"""Name within the torch module, canonical name within the layer, and how to get there."""


@dataclass(frozen=True)
class Use:
    """Where a layer is used.

    Attributes:
        shapes: canonical shapes of its inputs, batch included.
        first: whether it is given features before space (batch, features, *space), torch's own
            order for images.
    """

    shapes: tuple[Shape, ...]
    first: bool

    @property
    def rank(self) -> int:
        """Axes of the first input."""
        return len(self.shapes[0])

    @property
    def features(self) -> int:
        """Size of the last canonical axis of the first input."""
        size = self.shapes[0][-1]
        assert isinstance(size, int)
        return size

    def axis(self, axis: int) -> int:
        """Where torch has a canonical axis."""
        if not self.first:
            return axis
        axis %= self.rank
        return 1 if axis == self.rank - 1 else axis + 1


@dataclass(frozen=True)
class Lowered:
    """A torch module for one layer, and where its parameters come from."""

    module: nn.Module
    sources: tuple[Source, ...] = ()


@singledispatch
def lower(layer: Layer, use: Use) -> Lowered:
    """The torch module that does what the layer describes.

    Raises:
        UsageError: torch has no lowering for such a layer.
    """
    raise UsageError(
        f"torch: no lowering for {layer.label}. A new layer needs a function registered with "
        f"pytest_fwcompare.backends.torch.lowering.lower"
    )


def renamed(**names: str) -> tuple[Source, ...]:
    """Parameters that are only called otherwise: torch's name = canonical name."""
    return tuple((native, canonical, Identity()) for native, canonical in names.items())


def without(module: nn.Module, **kept: bool) -> nn.Module:
    """The module without those of its parameters that the layer does not have."""
    for name, wanted in kept.items():
        if not wanted and isinstance(getattr(module, name, None), torch.Tensor):
            module.register_parameter(name, None)
    return module
