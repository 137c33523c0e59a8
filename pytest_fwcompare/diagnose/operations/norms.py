"""Normalisations over axes, over groups, and by running statistics; reductions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.operations.base import Arguments, Guess, normalised, rule


def _affine(record: Recorded, shape: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Scale and shift among the arguments after the first, which may lack either."""
    rest = [a.reshape(shape) for a in record.arguments[1:] if a.size == int(np.prod(shape))]
    if len(rest) >= 2:
        yield {"weight": rest[0], "bias": rest[1]}
    if len(rest) == 1:
        yield {"weight": rest[0], "bias": None}
        yield {"weight": None, "bias": rest[0]}
    if not rest:
        yield {"weight": None, "bias": None}


def _eps(record: Recorded) -> float:
    for key in ("eps", "epsilon", "variance_epsilon"):
        value = record.attributes.get(key)
        if isinstance(value, (int, float)):
            return float(value)
    return 1e-5


def _layer_norms(record: Recorded) -> Iterator[Guess]:
    x = record.arguments[0]
    shapes = [
        tuple(v) if isinstance(v, (list, tuple)) else (v,)
        for key in ("normalized_shape",)
        if (v := record.attributes.get(key)) is not None
    ]
    counts = [len(shape) for shape in shapes] or range(1, x.ndim)
    centred = normalised(record.operation) != "rms_norm"
    for count in counts:
        axes = tuple(range(x.ndim - count, x.ndim))
        for affine in _affine(record, x.shape[x.ndim - count :]):
            epsilons = (_eps(record), float(np.finfo(np.float64).eps), 1e-6, 1e-12, 1e-3)
            for eps in epsilons:
                yield (x,), {"axes": axes, "eps": eps, "centred": centred, **affine}


def _group_norms(record: Recorded) -> Iterator[Guess]:
    x = record.arguments[0]
    channels = x.shape[1]
    shape = (1, channels) + (1,) * (x.ndim - 2)
    given = record.attributes.get("num_groups")
    single = normalised(record.operation) == "instance_norm"
    counts = [channels] if single else [given] if given else range(1, channels + 1)
    for groups in counts:
        if channels % groups == 0:
            for affine in _affine(record, shape):
                yield (x,), {"groups": groups, "eps": _eps(record), "centred": True, **affine}


def _batch_norms(record: Recorded) -> Iterator[Guess]:
    """F.batch_norm(input, running_mean, running_var, weight, bias): in evaluation or training."""
    x, *rest = record.arguments
    shape = (1, x.shape[1]) + (1,) * (x.ndim - 2)
    rows = [a.reshape(shape) for a in rest if a.size == x.shape[1]]
    options = {"eps": _eps(record), "centred": True, "weight": None, "bias": None}
    axes = (0, *range(2, x.ndim))
    for order in itertools.permutations(range(min(len(rows), 4))):
        chosen = [rows[index] for index in order]
        names = ("mean", "variance", "weight", "bias")[: len(chosen)]
        yield (x,), {**options, "axes": axes, **dict(zip(names, chosen, strict=True))}
    if len(rows) in (0, 2, 4):
        weight, bias = (rows[-2], rows[-1]) if len(rows) > 1 else (None, None)
        yield (x,), {**options, "axes": axes, "weight": weight, "bias": bias}


def normalise(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """(x - mean) / sqrt(variance + eps) * weight + bias.

    Options: "axes" of the statistics, or "groups" of channels (axis 1), or given "mean" and
    "variance"; "centred" False leaves the mean out (root mean square); "ddof"; "summed" leaves out
    the division by the count; "outside" adds eps after the root.
    """
    x = arguments[0]
    original = x.shape
    if groups := options.get("groups"):
        x = x.reshape(x.shape[0], groups, -1)
        axes: tuple[int, ...] = (2,)
    else:
        axes = tuple(options["axes"])
    if options.get("variance") is not None:
        mean, variance = options["mean"], options["variance"]
    else:
        mean = x.mean(axis=axes, keepdims=True) if options["centred"] else 0.0
        count = int(np.prod([x.shape[axis] for axis in axes]))
        squares = ((x - mean) ** 2).sum(axis=axes, keepdims=True)
        variance = squares if options.get("summed") else squares / (count - options.get("ddof", 0))
    eps = options["eps"]
    root = np.sqrt(variance) + eps if options.get("outside") else np.sqrt(variance + eps)
    value = ((x - mean) / root).reshape(original)
    if options["weight"] is not None:
        value = value * (options["weight"] + options.get("weight_offset", 0.0))
    if options["bias"] is not None:
        value = value + options["bias"]
    return np.asarray(value)


rule("norm", "layer_norm", "native_layer_norm", "rms_norm", guesses=_layer_norms)(normalise)
rule("norm", "group_norm", "native_group_norm", "instance_norm", guesses=_group_norms)(normalise)
rule("norm", "batch_norm", "native_batch_norm", guesses=_batch_norms)(normalise)


REDUCTIONS: dict[str, Any] = {
    "mean": np.mean,
    "sum": np.sum,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
}

REDUCTION_NAMES = {
    **{name: name for name in REDUCTIONS},
    "amax": "max",
    "amin": "min",
    "reduce_mean": "mean",
    "reduce_sum": "sum",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_prod": "prod",
    "var": "var",
    "std": "std",
    "norm": "norm",
    "linalg_norm": "norm",
    "vector_norm": "norm",
    "linalg_vector_norm": "norm",
    "logsumexp": "logsumexp",
    "var_mean": "var",
    "std_mean": "std",
    "adaptive_avg_pool1d": "mean",
    "adaptive_avg_pool2d": "mean",
    "adaptive_max_pool1d": "max",
    "adaptive_max_pool2d": "max",
}


def axis_sets(rank: int) -> list[tuple[int, ...]]:
    """All non-empty sets of axes, small ones first."""
    return [
        axes for count in range(1, rank + 1) for axes in itertools.combinations(range(rank), count)
    ]


def _reductions(record: Recorded) -> Iterator[Guess]:
    x, value = record.arguments[0], record.value
    if len(record.arguments) > 1:
        return
    base = REDUCTION_NAMES[normalised(record.operation)]
    for axes in axis_sets(x.ndim):
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        dropped = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
        for keepdims, shape in ((False, dropped), (True, kept)):
            if shape == value.shape:
                options = {"function": base, "axes": axes, "keepdims": keepdims}
                yield (x,), options
                if base in ("var", "std"):
                    yield (x,), {**options, "ddof": 1}


@rule("reduction", *REDUCTION_NAMES, guesses=_reductions)
def reduce(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """One figure along axes; "ddof" for variances."""
    x, axes, keep = arguments[0], options["axes"], options["keepdims"]
    name = options["function"]
    if name in ("var", "std"):
        return np.asarray(
            getattr(np, name)(x, axis=axes, keepdims=keep, ddof=options.get("ddof", 0))
        )
    if name == "norm":
        return np.asarray(np.sqrt((x * x).sum(axis=axes, keepdims=keep)))
    if name == "logsumexp":
        return (
            np.asarray(np.logaddexp.reduce(x, axis=axes, keepdims=keep))
            if len(axes) == 1
            else (np.log(np.exp(x).sum(axis=axes, keepdims=keep)))
        )
    return np.asarray(REDUCTIONS[name](x, axis=axes, keepdims=keep))


def _differences(record: Recorded) -> Iterator[Guess]:
    for axis in range(record.arguments[0].ndim):
        yield record.arguments[:1], {"axis": axis}


@rule("difference", "diff", guesses=_differences)
def difference(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Differences of neighbours along an axis."""
    return np.asarray(np.diff(arguments[0], axis=options["axis"]))


def _cumulative(record: Recorded) -> Iterator[Guess]:
    for exclusive, reverse in itertools.product((False, True), repeat=2):
        for axis in range(record.arguments[0].ndim):
            options = {"axis": axis, "exclusive": exclusive, "reverse": reverse}
            yield record.arguments[:1], options


@rule("cumulative", "cumsum", guesses=_cumulative)
def cumulate(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Running sum along an axis: "reverse" from its end, "exclusive" without the own place."""
    x, axis = np.asarray(arguments[0], np.float64), options["axis"]
    turned = np.flip(x, axis) if options.get("reverse") else x
    made = np.cumsum(turned, axis=axis)
    made = made - turned if options.get("exclusive") else made
    return np.asarray(np.flip(made, axis) if options.get("reverse") else made)


def _weight_norms(record: Recorded) -> Iterator[Guess]:
    """A direction and a length for each index along an axis, or one length for all."""
    if len(record.arguments) != 2:
        return
    v, g = record.arguments
    for axis in range(v.ndim):
        others = tuple(other for other in range(v.ndim) if other != axis)
        if g.size == v.shape[axis]:
            yield (v, g), {"axes": others}
    yield (v, g), {"axes": tuple(range(v.ndim))}


@rule("weight norm", "weight_norm", "weight_norm_interface", guesses=_weight_norms)
def weight_norm(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """G v / |v|, the length taken over axes (Salimans and Kingma 2016); as it is without axes."""
    v, g = arguments
    if options["axes"]:
        v = v / np.sqrt(np.square(v).sum(axis=options["axes"], keepdims=True))
    return np.asarray(v * g if options.get("scaled", True) else v)
