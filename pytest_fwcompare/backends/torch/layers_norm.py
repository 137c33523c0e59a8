"""Normalisation layers as torch modules."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pytest_fwcompare.backends.torch.lowering import Lowered, Source, Use, lower, renamed, without
from pytest_fwcompare.networks import layers as described


class BatchNorm(_BatchNorm):  # type: ignore[misc]
    """`torch.nn.BatchNorm*d` for any number of axes that stores the biased variance.

    torch's own stores the unbiased one; the description, Keras and Flax the biased one.
    """

    def _check_input_dim(self, x: torch.Tensor) -> None:
        """Any number of axes will do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            mean, variance = self.running_mean, self.running_var
        else:
            axes = [axis for axis in range(x.ndim) if axis != 1]
            variance, mean = torch.var_mean(x, axes, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance, self.momentum)
                self.num_batches_tracked.add_(1)
            if x.numel() == x.shape[1]:  # torch refuses a single value, whose result is the shift
                shape = (1, -1, *(1,) * (x.ndim - 2))
                y = (x - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
                y = y if self.weight is None else y * self.weight.view(shape)
                return y if self.bias is None else y + self.bias.view(shape)
            mean = variance = None
        return nn.functional.batch_norm(
            x, mean, variance, self.weight, self.bias, mean is None, 0.0, self.eps
        )


class GroupNorm(nn.GroupNorm):  # type: ignore[misc]
    """`torch.nn.GroupNorm` that also takes a single value a group, which torch's refuses."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight is None and self.bias is not None:
            # Backward through a shift without a scale: "tensor does not have a device".
            y = torch.group_norm(x, self.num_groups, None, None, self.eps)
            return y + self.bias.view(-1, *(1,) * (x.ndim - 2))
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class InstanceNorm(_InstanceNorm):  # type: ignore[misc]
    """`torch.nn.InstanceNorm*d` for any number of axes, also over a single cell."""

    def _check_input_dim(self, x: torch.Tensor) -> None:
        """Any number of axes will do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.group_norm(x, self.num_features, self.weight, self.bias, self.eps)


class FreeLayerNorm(nn.Module):  # type: ignore[misc]
    """A layer norm without parameters over axes whose sizes are not known beforehand."""

    def __init__(self, axes: int, eps: float) -> None:
        super().__init__()
        self.axes, self.eps = axes, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, x.shape[-self.axes :], eps=self.eps)


def _affine(scale: bool, shift: bool) -> tuple[Source, ...]:
    """Where scale and shift go, as far as they are used."""
    names = {"weight": "scale"} if scale else {}
    return renamed(**names, **({"bias": "shift"} if shift else {}))


@lower.register
def _(layer: described.BatchNorm, use: Use) -> Lowered:
    module = BatchNorm(use.features, layer.epsilon, layer.momentum)
    return Lowered(
        without(module, weight=layer.use_scale, bias=layer.use_shift),
        (
            *_affine(layer.use_scale, layer.use_shift),
            *renamed(running_mean="mean", running_var="variance"),
        ),
    )


@lower.register
def _(layer: described.LayerNorm, use: Use) -> Lowered:
    if not layer.use_scale and not layer.use_shift:
        return Lowered(FreeLayerNorm(layer.axes, layer.epsilon))
    module = nn.LayerNorm(use.shapes[0][-layer.axes :], layer.epsilon)
    return Lowered(
        without(module, weight=layer.use_scale, bias=layer.use_shift),
        _affine(layer.use_scale, layer.use_shift),
    )


@lower.register
def _(layer: described.GroupNorm, use: Use) -> Lowered:
    module = GroupNorm(layer.groups, use.features, layer.epsilon)
    return Lowered(
        without(module, weight=layer.use_scale, bias=layer.use_shift),
        _affine(layer.use_scale, layer.use_shift),
    )


@lower.register
def _(layer: described.InstanceNorm, use: Use) -> Lowered:
    module = InstanceNorm(use.features, layer.epsilon, affine=layer.affine)
    return Lowered(module, _affine(layer.affine, layer.affine))


@lower.register
def _(layer: described.RMSNorm, use: Use) -> Lowered:
    module = nn.RMSNorm(use.features, layer.epsilon, layer.use_scale)
    return Lowered(module, _affine(layer.use_scale, False))
