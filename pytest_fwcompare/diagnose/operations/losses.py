"""Losses of two tensors, element by element; their reductions are operations of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.operations.base import Arguments


def loss(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """The loss that options["function"] names.

    "picked": x (batch, classes, ...) of log-probabilities at the target's classes, or weighted by
    its probabilities, negated; "smoothing" spreads a part over all classes.
    "binary_cross_entropy" of probabilities, limited to [clip, 1 - clip] if "clip" is given, with
    "inside" added under the logarithms; "..._with_logits" of logits, "positive" weighs the ones.
    "kl_div": of log-probabilities x from target probabilities.
    """
    name = options["function"]
    x, target = np.asarray(arguments[0], np.float64), np.asarray(arguments[1])
    if name == "picked":
        return _picked(x, target, options)
    if name == "kl_div":
        log = target if options.get("log_target") else np.log(np.where(target > 0, target, 1.0))
        weights = np.exp(target) if options.get("log_target") else target
        return np.asarray(weights * (log - x))
    clip, inside = options.get("clip", 0.0), options.get("inside", 0.0)
    positive = options.get("positive", 1.0)
    if name == "binary_cross_entropy_with_logits" and not (clip or inside):
        return np.asarray(
            positive * target * np.logaddexp(0, -x) + (1 - target) * np.logaddexp(0, x)
        )
    p = 1 / (1 + np.exp(-x)) if name == "binary_cross_entropy_with_logits" else x
    p = np.clip(p, clip, 1 - clip) if clip else p
    first, second = np.log(p + inside), np.log(1 - p + inside)
    if name == "binary_cross_entropy" and not (clip or inside):
        # torch limits the logarithms.
        first, second = np.maximum(first, -100.0), np.maximum(second, -100.0)
    return np.asarray(-positive * target * first - (1 - target) * second)


def _picked(x: Array, target: Array, options: Mapping[str, Any]) -> Array:
    axis, smoothing = options["axis"], options.get("smoothing", 0.0)
    if target.ndim == x.ndim:
        weights = np.asarray(target, np.float64)
    else:
        classes = np.arange(x.shape[axis]).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        weights = (np.expand_dims(target, axis) == classes).astype(np.float64)
    weights = (1 - smoothing) * weights + smoothing / x.shape[axis]
    return np.asarray(-(weights * x).sum(axis=axis))
