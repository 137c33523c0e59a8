"""Composite functions of torch run call by call, so that what is inside them can be recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F


@cache
def opened(function: Callable[..., Any]) -> Callable[..., Any]:
    """A Python function of `torch.nn.functional` that does not hand itself over to a mode.

    Each such function first asks `has_torch_function` whether a mode is on, and if so becomes one
    opaque call. The same code with another answer runs on, and its inner calls reach the mode.
    """
    assert isinstance(function, FunctionType)
    scope = {**function.__globals__}
    scope |= {name: _never for name in scope if name.startswith("has_torch_function")}
    opened = FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


def gradients(*arguments: Any, **options: Any) -> tuple[torch.Tensor | None, ...]:
    """`torch.autograd.grad` under a mode that stays on.

    A backward pass runs Python code, too: of custom functions, and of checkpoints, which run
    their part of the model again.
    """
    found: tuple[torch.Tensor | None, ...] = opened(torch.autograd.grad)(*arguments, **options)
    return found


def _never(*_: Any) -> bool:
    return False


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """`scaled_dot_product_attention` by the formula of its documentation.

    A row with nothing to attend to gives zeros, as torch's own does since 2.5.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    factor = 1 / math.sqrt(query.size(-1)) if scale is None else scale
    scores = (query @ key.transpose(-2, -1)) * factor
    if is_causal:
        keep = torch.ones(query.size(-2), key.size(-2), dtype=torch.bool, device=query.device)
        scores = scores.masked_fill(~keep.tril(), -math.inf)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.softmax(scores, -1)
    if attn_mask is not None or is_causal:
        empty = (scores == -math.inf).all(-1, keepdim=True)
        if bool(empty.any()):
            weights = weights.masked_fill(empty, 0.0)
    if dropout_p > 0:
        weights = torch.dropout(weights, dropout_p, True)
    return weights @ value


EXPOSED: dict[Callable[..., Any], Callable[..., Any]] = {
    F.scaled_dot_product_attention: attention,
    **{
        function: opened(function)
        for function in (
            F.multi_head_attention_forward,
            F.normalize,
            F.local_response_norm,
            F.tanhshrink,
            F.softmin,
        )
    },
}
"""By torch's function, the one that is run in its place while recording."""
