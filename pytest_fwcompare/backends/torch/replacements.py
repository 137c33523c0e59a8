"""Where torch itself keeps a float32 number, or takes one from the dtype, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


def hardsigmoid(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    """relu6(x + 3) / 6; torch's own backward pass multiplies by a float32 sixth (3e-8)."""
    result = F.relu6(input + 3) / 6
    return input.copy_(result) if inplace else result


def celu(input: torch.Tensor, alpha: float = 1.0, inplace: bool = False) -> torch.Tensor:
    """By way of elu; torch's own backward pass rounds alpha to float32 (2e-9)."""
    result = F.elu(input / alpha) * alpha
    return input.copy_(result) if inplace else result


REPLACED: dict[Callable[..., Any], Callable[..., Any]] = {
    F.hardsigmoid: hardsigmoid,
    F.celu: celu,
    torch.celu: celu,
}
"""By torch's function, the same function with constants of float64."""

RMS_NORM = ("input", "normalized_shape", "weight", "eps")


def with_defaults(
    operation: str, args: tuple[Any, ...], kwargs: dict[str, Any], working: torch.dtype
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Fill in arguments whose default torch takes from the dtype: from the working dtype.

    A model whose epsilon is that of float32 is another function with that of float64.
    """
    if operation == "rms_norm":
        given = {**dict(zip(RMS_NORM, args, strict=False)), **kwargs}
        if given.get("eps") is None:
            # Half precisions are computed in float32, and get its epsilon.
            wide = working if working is torch.float64 else torch.float32
            given["eps"] = real_finfo(wide).eps
        return (), given
    if operation == "nan_to_num" and len(args) < 3:
        limits = real_finfo(working)
        ends = {"posinf": limits.max, "neginf": limits.min}
        return args, {**{k: v for k, v in ends.items() if kwargs.get(k) is None}, **kwargs}
    return args, kwargs


real_finfo = torch.finfo


def finfo_of(working: torch.dtype) -> Callable[..., Any]:
    """`torch.finfo` of a shadow: asked about float64, it answers for the working dtype."""

    def finfo(dtype: torch.dtype | None = None) -> Any:
        if dtype is None:
            return real_finfo(working)
        return real_finfo(working if dtype is torch.float64 else dtype)

    return finfo
