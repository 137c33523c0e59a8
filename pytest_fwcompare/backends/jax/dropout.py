"""The dropout layers of flax and equinox in a pass whose masks are shared with the other side."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any
from unittest.mock import patch

import jax
import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.dropout import Draws, current

LAYERS = {
    "flax.nnx": "Dropout",
    "flax.linen": "Dropout",
    "equinox.nn": "Dropout",
}
"""Layers that draw with `jax.random.bernoulli`, by the module that has them."""


@contextmanager
def shared_dropout() -> Iterator[None]:
    """Ask the other side's stream what to keep, in all that is called or traced in the block."""
    draws = current()
    if draws is None:
        yield
        return
    draws.begin()
    watch = Watch()
    with ExitStack() as stack:
        for module, name in LAYERS.items():
            layer = getattr(sys.modules.get(module), name, None)
            if layer is not None:
                stack.enter_context(patch.object(layer, "__call__", _shared(layer, watch)))
        stack.enter_context(
            patch.object(jax.random, "bernoulli", watch.instead(jax.random.bernoulli))
        )
        yield


class Watch:
    """Notes of which shape the mask is that a layer draws, and lets it keep all.

    Attributes:
        asked: for each layer that is running, innermost last, the shapes that it drew.
    """

    def __init__(self) -> None:
        self.asked: list[list[tuple[int, ...]]] = []

    def instead(self, draw: Callable[..., Any]) -> Callable[..., Any]:
        """Stands in for `jax.random.bernoulli`."""

        @wraps(draw)
        def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, **keywords: Any) -> Any:
            if not self.asked or shape is None:
                return draw(key, p, shape, **keywords)
            self.asked[-1].append(tuple(shape))
            return jax.numpy.ones(tuple(shape), bool)

        return bernoulli


def _shared(layer: Any, watch: Watch) -> Callable[..., Any]:
    """The layer's own call says whether it drops, at which rate and along which axes."""
    call = layer.__call__
    takes_key = "key" in inspect.signature(call).parameters

    @wraps(call)
    def dropout(self: Any, x: Any, *args: Any, **keywords: Any) -> Any:
        if takes_key and keywords.get("key") is None:
            keywords["key"] = jax.random.key(0)  # never drawn from
        watch.asked.append([])
        try:
            made = call(self, x, *args, **keywords)
        finally:
            asked = watch.asked.pop()
        rate = getattr(self, "rate", getattr(self, "p", None))
        draws = current()
        if (
            len(asked) != 1
            or draws is None
            or not isinstance(rate, (int, float))
            or not 0 < rate < 1
        ):
            return made
        return dropped(x, 1.0 - rate, asked[0], draws)

    return dropout


def dropped(x: Any, kept: float, noise: Sequence[int], draws: Draws) -> Any:
    """An array with what `draws` does not keep set to zero, the rest divided by `kept`.

    Args:
        x: what goes in.
        kept: probability that a cell is kept.
        noise: shape of the mask.
        draws: of the pass under way; later passes of a compiled program ask theirs.
    """
    factor = jax.pure_callback(
        partial(_factor, draws.site(), tuple(noise), kept),
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.lax.stop_gradient(x),
        vmap_method="broadcast_all",
    )
    return x * factor


def is_factor(equation: Any) -> bool:
    """Whether an equation asks for what is kept: its answer has the dtype of what it is given."""
    callback = getattr(equation.params.get("callback"), "callback_func", None)
    return getattr(callback, "func", None) is _factor


def _factor(site: int, noise: tuple[int, ...], kept: float, value: Any) -> Array:
    """Called back by the program with what goes into the dropout; under vmap with more axes."""
    value, draws = np.asarray(value), current()
    if draws is None:
        return np.ones(value.shape, value.dtype)
    batch = value.shape[: value.ndim - len(noise)]
    factor = draws.factor(site, value, (*batch, *noise), kept)
    return np.broadcast_to(factor, value.shape).astype(value.dtype)
