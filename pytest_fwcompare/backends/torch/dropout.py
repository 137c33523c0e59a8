"""torch's dropout in a pass whose masks are shared with the other side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from pytest_fwcompare.backends.torch.binding import transformed
from pytest_fwcompare.backends.torch.exposed import attention, opened
from pytest_fwcompare.dropout import Draws

ELEMENTS = {F.dropout, torch.dropout, torch.dropout_}
CHANNELS = {F.dropout1d, F.dropout2d, F.dropout3d, torch.feature_dropout, torch.feature_dropout_}
"""Functions that drop whole channels: all axes of the mask behind the second are one."""

MULTI_HEAD = opened(F.multi_head_attention_forward)

NAMES = ("input", "p", "training", "inplace")
IN_PLACE = (torch.dropout_, torch.feature_dropout_)
BATCHED = {F.dropout1d: 3, F.dropout3d: 5}
"""Axes of an input with a batch; one less is a single example, whose channels come first."""


class SharedDropout(TorchFunctionMode):  # type: ignore[misc]
    """Asks `draws` what every dropout keeps.

    Args:
        draws: of this pass.
        path: tells the module that is running, for messages; None if nobody knows.
    """

    def __init__(self, draws: Draws, path: Callable[[], str] | None) -> None:
        super().__init__()
        self.draws, self.path = draws, path

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        if func in ELEMENTS or func in CHANNELS:
            return self._dropped(func, args, keywords)
        if func is F.multi_head_attention_forward:
            with self:
                return MULTI_HEAD(*args, **keywords)
        if func is F.scaled_dot_product_attention and _rate_of_attention(args, keywords):
            with self:
                return attention(*args, **keywords)
        return func(*args, **keywords)

    def _dropped(
        self, func: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]
    ) -> Any:
        given = {**dict(zip(_names(func), args, strict=False)), **keywords}
        value, rate = given["input"], float(given.get("p", 0.5))
        training = given.get("training", given.get("train", True))
        # Within vmap a tensor has no values of its own.
        if not training or not 0.0 < rate < 1.0 or transformed(value):
            return func(*args, **keywords)
        shape = tuple(value.shape)
        noise = shape
        if func in CHANNELS:
            axes = 1 if value.dim() < BATCHED.get(func, 0) else 2
            noise = shape[:axes] + (1,) * (len(shape) - axes)
        array = value.detach().to("cpu", torch.float64).numpy()
        draws, place = self.draws, self.path() if self.path is not None else ""
        factor = draws.factor(draws.site(), array, noise, 1.0 - rate, place)
        mask = torch.from_numpy(factor).to(value.device, value.dtype)
        if given.get("inplace", False) or func in IN_PLACE:
            return value.mul_(mask)
        return value * mask


def _names(func: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the positional arguments; torch's own functions have no place for `inplace`."""
    return ("input", "p", "train") if not hasattr(func, "__code__") else NAMES


def _rate_of_attention(args: Sequence[Any], keywords: Mapping[str, Any]) -> float:
    return float(args[4] if len(args) > 4 else keywords.get("dropout_p", 0.0))
