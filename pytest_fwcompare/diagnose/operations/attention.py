"""Softmax, masks and scaled dot-product attention."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.operations.base import Arguments, Guess, normalised, rule


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) over its sum along an axis; NaN where all of it is -inf, as torch has it."""
    shifted = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=axis, keepdims=True))


def _softmaxes(record: Recorded) -> Iterator[Guess]:
    x = record.arguments[0]
    log = normalised(record.operation).startswith("log")
    dim = record.attributes.get("dim", record.attributes.get("axis", -1))
    axes = [dim] if isinstance(dim, int) and not isinstance(dim, bool) else []
    for axis in [*axes, *range(x.ndim - 1, -1, -1)]:
        yield (x,), {"axis": int(axis) % max(x.ndim, 1), "log": log}


@rule("softmax", "softmax", "log_softmax", "logsoftmax", guesses=_softmaxes)
def softmax_of(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Softmax or its logarithm along options["axis"], of x over options["temperature"]."""
    x = arguments[0] / options.get("temperature", 1.0)
    axis = options["axis"]
    if not options.get("log"):
        return softmax(x, axis)
    if options.get("log_last"):
        return np.asarray(np.log(softmax(x, axis)))
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def _fills(record: Recorded) -> Iterator[Guess]:
    """masked_fill(x, mask, value): a tensor, a mask and a number."""
    if len(record.arguments) < 2:
        return
    x, mask = record.arguments[:2]
    fills = [v for v in record.attributes.values() if isinstance(v, (int, float))]
    where = np.broadcast_to(np.asarray(mask, bool), record.value.shape)
    if where.any():
        fills.append(float(record.value[where].flat[0]))
    for fill in fills:
        yield (x, mask), {"fill": float(fill)}


@rule("mask", "masked_fill", guesses=_fills)
def masked_fill(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """X with options["fill"] where the mask is true (false, if "inverted")."""
    x, mask = arguments
    where = np.asarray(mask, bool)
    if options.get("inverted"):
        where = ~where
    return np.where(where, options["fill"], x)


def _choices(record: Recorded) -> Iterator[Guess]:
    if len(record.arguments) == 3:
        yield record.arguments, {}
    elif len(record.arguments) == 2:
        mask, x = record.arguments
        where = np.broadcast_to(np.asarray(mask, bool), record.value.shape)
        if where.any() and (~where).any():
            yield (mask, x), {"fill": float(record.value[~where].flat[0])}
            yield (mask, x), {"fill": float(record.value[where].flat[0]), "fill_first": True}


@rule("where", "where", "select", "selectv2", "select_n", guesses=_choices)
def where(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """One of two tensors, or of a tensor and options["fill"], by a condition."""
    condition = np.asarray(arguments[0], bool)
    if options.get("inverted"):
        condition = ~condition
    if len(arguments) == 3:
        return np.where(condition, arguments[1], arguments[2])
    if options.get("fill_first"):
        return np.where(condition, options["fill"], arguments[1])
    return np.where(condition, arguments[1], options["fill"])


def _attentions(record: Recorded) -> Iterator[Guess]:
    attributes = record.attributes
    scale = attributes.get("scale")
    width = record.arguments[0].shape[-1]
    options = {
        "scale": float(scale) if scale is not None else 1 / math.sqrt(width),
        "causal": bool(attributes.get("is_causal", False)),
    }
    yield record.arguments, options
    yield record.arguments, {**options, "causal": True}


@rule("attention", "scaled_dot_product_attention", guesses=_attentions)
def attention(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Attention of q (..., time, dim) to k, v (..., source, dim), with a mask as fourth."""
    q, k, v = arguments[:3]
    if k.shape[:-2] != q.shape[:-2] and k.ndim > 2 and q.shape[-3] % k.shape[-3] == 0:
        times = q.shape[-3] // k.shape[-3]
        k, v = np.repeat(k, times, axis=-3), np.repeat(v, times, axis=-3)
    scores = q @ np.swapaxes(k, -1, -2) * options["scale"]
    fill = options.get("fill", -np.inf)
    if options["causal"]:
        shift = options.get("shift", 0)
        kept = np.tril(np.ones(scores.shape[-2:], bool), shift)
        scores = np.where(kept, scores, fill)
    if len(arguments) > 3 and not options.get("unmasked"):
        mask = arguments[3]
        if options.get("boolean", mask.dtype == bool or np.isin(mask, (0.0, 1.0)).all()):
            kept = np.asarray(mask, bool)
            scores = np.where(~kept if options.get("inverted") else kept, scores, fill)
        else:
            scores = scores + mask
    return np.asarray(softmax(scores, options.get("axis", -1)) @ v)
