"""Composite functions of torch run call by call, so that what is inside them can be recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def gradients(
    outputs: Sequence[torch.Tensor],
    wanted: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    hooked: Sequence[torch.Tensor] = (),
) -> Sequence[torch.Tensor | None]:
    """A backward pass under a mode that stays on.

    It runs Python code, too: of custom functions, and of checkpoints, which run their part of the
    model again.

    Args:
        outputs: where it begins.
        wanted: tensors whose gradients are returned, None where nothing depends on one.
        cotangents: of the outputs.
        hooked: leaves whose gradients are taken by their hooks, see `one_by_one`.
    """
    if not hooked:
        found: Sequence[torch.Tensor | None] = opened(torch.autograd.grad)(
            outputs, wanted, cotangents, allow_unused=True
        )
        return found
    opened(torch.autograd.backward)(outputs, cotangents, inputs=[*wanted, *hooked])
    return [tensor.grad for tensor in wanted]


@contextmanager
def one_by_one(
    leaves: Mapping[str, torch.Tensor], take: Callable[[str, torch.Tensor], None]
) -> Iterator[dict[str, None]]:
    """In the block, every gradient that a leaf accumulates is taken and let go.

    Args:
        leaves: by name.
        take: called with the name and the gradient once it is complete.

    Yields:
        Names of the leaves that had no gradient, once the block is left.
    """
    missing = dict.fromkeys(leaves)

    def hook(name: str) -> Callable[[torch.Tensor], None]:
        def taken(leaf: torch.Tensor) -> None:
            assert leaf.grad is not None
            gradient, leaf.grad = leaf.grad, None
            missing.pop(name)
            take(name, gradient)

        return taken

    handles = [
        leaf.register_post_accumulate_grad_hook(hook(name)) for name, leaf in leaves.items()
    ]
    try:
        yield missing
    finally:
        for handle in handles:
            handle.remove()


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
