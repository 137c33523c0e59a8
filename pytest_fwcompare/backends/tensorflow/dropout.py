"""TensorFlow's and Keras' dropout in a pass whose masks are shared with the other side."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import tensorflow as tf

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.dropout import current

NAMES = ("dropout", "stateless_dropout", "dropout_v2")
"""Functions with the arguments `x`, `rate` and `noise_shape`. Keras ends in the second."""


@contextmanager
def shared_dropout() -> Iterator[None]:
    """Ask the other side's stream what to keep, in all that is called or traced in the block."""
    draws = current()
    if draws is None:
        yield
        return
    draws.begin()
    with ExitStack() as stack:
        for module in _modules():
            for name in NAMES:
                function = getattr(module, name, None)
                if function is not None and "rate" in inspect.signature(function).parameters:
                    stack.enter_context(patch.object(module, name, _shared(function)))
        yield


def _modules() -> list[Any]:
    """Each name space that has the functions: `tf.nn` and those that older code imports."""
    found = {
        id(module): module
        for space in (tf.nn, tf.compat.v2.nn, tf.compat.v1.nn)
        for module in (space, getattr(space, "experimental", None))
        if module is not None
    }
    return list(found.values())


def _shared(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def dropout(*args: Any, **keywords: Any) -> Any:
        given = signature.bind(*args, **keywords).arguments
        rate, draws = given.get("rate"), current()
        # A rate that is a tensor, or one by the old name of `keep_prob`, is left alone.
        if draws is None or not isinstance(rate, (int, float)) or not 0 < rate < 1:
            return function(*args, **keywords)
        value = tf.convert_to_tensor(given["x"])
        noise = _noise(value, given.get("noise_shape"))
        if noise is None:
            return function(*args, **keywords)
        factor = tf.numpy_function(
            functools.partial(_factor, draws.site(), noise, 1.0 - rate, _scope()),
            [tf.stop_gradient(value)],
            value.dtype,
            name="dropout_factor",
        )
        factor.set_shape([size if size == 1 else None for size in noise])
        made = value * factor
        made.set_shape(value.shape)
        return made

    return dropout


def _noise(value: Any, shape: Any) -> tuple[int | None, ...] | None:
    """The shape of the mask; None for an axis of the input, or as a whole if it is a tensor."""
    if shape is None:
        return (None,) * value.shape.rank if value.shape.rank is not None else None
    sizes = tf.get_static_value(shape) if tf.is_tensor(shape) else shape
    if sizes is None or len(sizes) != value.shape.rank:
        return None
    # Only ones say something: all others are the sizes of the input.
    return tuple(
        1 if size is not None and int(tf.get_static_value(size) or 0) == 1 else None
        for size in sizes
    )


def _scope() -> str:
    return "" if tf.executing_eagerly() else str(tf.compat.v1.get_default_graph().get_name_scope())


def _factor(
    site: int, noise: Sequence[int | None], kept: float, place: str, value: Array
) -> Array:
    """Called back by the graph with what goes into the dropout."""
    draws = current()
    shape = tuple(1 if axis == 1 else size for axis, size in zip(noise, value.shape, strict=True))
    if draws is None:
        return np.ones(shape, value.dtype)
    return draws.factor(site, value, shape, kept, place).astype(value.dtype)
