"""Products with weights: linear, matmul, convolutions, transposed convolutions, embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.operations.base import (
    Arguments,
    Guess,
    normalised,
    pairs,
    rule,
    spread,
)
from pytest_fwcompare.diagnose.operations.movement import pad


@rule("linear", "linear")
def linear(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Inputs x (..., in) times weight (out, in) transposed, plus bias (out,)."""
    x, weight = arguments[:2]
    # As one matrix product: NumPy multiplies stacks of matrices without BLAS.
    value = (x.reshape(-1, x.shape[-1]) @ weight.T).reshape(*x.shape[:-1], weight.shape[0])
    if len(arguments) > 2:
        value = value + options.get("bias_factor", 1.0) * arguments[2]
    return np.asarray(value)


def _addmm(record: Recorded) -> Iterator[Guess]:
    if len(record.arguments) == 3:
        yield record.arguments, dict(record.attributes)


@rule("addmm", "addmm", "baddbmm", guesses=_addmm)
def addmm(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Bias + left @ right."""
    bias, left, right = arguments
    return np.asarray(options.get("beta", 1) * bias + options.get("alpha", 1) * (left @ right))


def _products(record: Recorded) -> Iterator[Guess]:
    equation = next(
        (v for v in record.attributes.values() if isinstance(v, str) and "," in v), None
    )
    if equation is not None:
        yield record.arguments, {"equation": equation}
    if len(record.arguments) == 2:
        yield record.arguments, {}
        yield record.arguments[::-1], {}


@rule(
    "matmul",
    *("matmul", "bmm", "mm", "mv", "dot", "einsum", "batchmatmulv2", "inner", "rmatmul"),
    guesses=_products,
)
def matmul(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Matrix product, or the product that options["equation"] names."""
    if equation := options.get("equation"):
        return np.asarray(np.einsum(equation.replace(" ", ""), *arguments, optimize=True))
    return np.asarray(arguments[0] @ arguments[1])


def windows(
    x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Array:
    """Windows of x (..., *space): (..., *places, *kernel), already strided and dilated."""
    rank = len(kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    axes = tuple(range(x.ndim - rank, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=axes)
    lead = (slice(None),) * (x.ndim - rank)
    steps = tuple(slice(None, None, s) for s in stride)
    return view[(*lead, *steps, *(slice(None, None, d) for d in dilation))]


def _conv_options(record: Recorded, rank: int) -> dict[str, Any]:
    attributes = record.attributes
    stride = spread(attributes.get("stride", 1) or 1, rank)
    dilation = spread(attributes.get("dilation", 1) or 1, rank)
    kernel = record.arguments[1].shape[2:]
    amount = attributes.get("padding", 0)
    if isinstance(amount, str):
        total = [
            (k - 1) * d if amount == "same" else 0 for k, d in zip(kernel, dilation, strict=True)
        ]
        padding = tuple((t // 2, t - t // 2) for t in total)
    else:
        padding = pairs(amount, rank)
    return {
        "stride": tuple(int(s) for s in stride),
        "dilation": tuple(int(d) for d in dilation),
        "padding": padding,
        "groups": int(attributes.get("groups", 1) or 1),
        "mode": "constant",
    }


def _convolutions(record: Recorded) -> Iterator[Guess]:
    if "data_format" in record.attributes:
        return  # TensorFlow's
    x, weight = record.arguments[:2]
    rank = weight.ndim - 2
    options = _conv_options(record, rank)
    yield record.arguments, options
    groups = x.shape[1] // weight.shape[1] if weight.shape[1] else 1
    for stride, dilation in itertools.product((1, 2, 3), (1, 2, 3, 4)):
        for amount in range(4):
            yield (
                record.arguments,
                {
                    **options,
                    "groups": groups,
                    "stride": (stride,) * rank,
                    "dilation": (dilation,) * rank,
                    "padding": ((amount, amount),) * rank,
                },
            )


@rule("convolution", "conv1d", "conv2d", "conv3d", "convolution", guesses=_convolutions)
def convolution(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Inputs x (batch, in, *space) with weight (out, in / groups, *kernel), bias (out,)."""
    x, weight = arguments[:2]
    kernel = weight.shape[2:]
    widths = ((0, 0), (0, 0), *options["padding"])
    cells = windows(
        pad(x, widths, options["mode"]), kernel, options["stride"], options["dilation"]
    )
    groups = options["groups"]
    rank = len(kernel)
    if weight.shape[0] % groups or weight.shape[1] * groups != x.shape[1]:
        raise ValueError("groups do not fit")
    parts = []
    for part, taps in zip(
        np.split(cells, groups, axis=1), np.split(weight, groups, axis=0), strict=True
    ):
        over = [1, *range(part.ndim - rank, part.ndim)]
        made = np.tensordot(part, taps, axes=(over, [1, *range(2, taps.ndim)]))
        parts.append(np.moveaxis(made, -1, 1))
    value = np.concatenate(parts, axis=1)
    if len(arguments) > 2:
        bias = arguments[2].reshape((1, -1) + (1,) * rank)
        value = value + options.get("bias_factor", 1.0) * bias
    return np.asarray(value)


def _transposed(record: Recorded) -> Iterator[Guess]:
    x, weight = record.arguments[:2]
    rank = weight.ndim - 2
    options = _conv_options(record, rank)
    extra = spread(record.attributes.get("output_padding", 0), rank)
    for more in (extra, *itertools.product((0, 1, 2), repeat=rank)):
        crop = tuple((p, p - int(e)) for (p, _), e in zip(options["padding"], more, strict=True))
        yield record.arguments, {**options, "crop": crop}
    # Not named: what the sizes leave open.
    reach = [
        (size - 1) * s + d * (k - 1) + 1
        for size, s, d, k in zip(
            x.shape[2:], options["stride"], options["dilation"], weight.shape[2:], strict=True
        )
    ]
    excess = [full - size for full, size in zip(reach, record.value.shape[2:], strict=True)]
    for before in itertools.product(*(range(max(e, 0) + 1) for e in excess)):
        crop = tuple((b, e - b) for b, e in zip(before, excess, strict=True))
        yield record.arguments, {**options, "crop": crop}


@rule(
    "transposed convolution",
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    guesses=_transposed,
)
def transposed_convolution(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """The adjoint of a convolution: x (batch, in, *space), weight (in, out / groups, *kernel).

    The full output is cropped by options["crop"] (before, after) on each axis.
    """
    x, weight = arguments[:2]
    stride, dilation, groups = options["stride"], options["dilation"], options["groups"]
    kernel = weight.shape[2:]
    rank = len(kernel)
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
    spaced = np.zeros((*x.shape[:2], *sizes))
    spaced[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
    # Grouped weight (in, out/groups) as (out, in/groups) of a plain convolution, flipped.
    blocks = [np.swapaxes(block, 0, 1) for block in np.split(weight, groups, axis=0)]
    plain = np.concatenate(blocks, axis=0)
    if options.get("flip", True):
        plain = np.flip(plain, tuple(range(2, plain.ndim)))
    around = tuple(((k - 1) * d,) * 2 for k, d in zip(kernel, dilation, strict=True))
    whole = convolution(
        (spaced, plain),
        {
            "stride": (1,) * rank,
            "dilation": dilation,
            "padding": around,
            "groups": groups,
            "mode": "constant",
        },
    )
    crop = ((0, 0), (0, 0), *((-before, -after) for before, after in options["crop"]))
    value = pad(whole, crop)
    if len(arguments) > 2:
        bias = arguments[2].reshape((1, -1) + (1,) * rank)
        value = value + options.get("bias_factor", 1.0) * bias
    return value


def _lookups(record: Recorded) -> Iterator[Guess]:
    if len(record.arguments) < 2:
        return
    first, second = record.arguments[:2]
    options = {"padding_idx": record.attributes.get("padding_idx")}
    # Indices are whole numbers; torch.nn.functional.embedding has them first, F.embedding's
    # ATen operation last.
    if second.ndim == 2 and np.array_equal(first, np.round(first)):
        yield (first, second), options
    if first.ndim == 2:
        yield (second, first), options


@rule(
    "embedding",
    *("embedding", "gather", "take", "gatherv2", "resourcegather", "index_select"),
    guesses=_lookups,
)
def embedding(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Rows of a table (count, dim) at indices of any shape."""
    indices, table = arguments
    return np.asarray(table[indices.astype(np.int64)] * options.get("scale", 1.0))


PRODUCTS = (
    *("matmul", "bmm", "mm", "einsum", "baddbmm", "rmatmul", "dot", "dot_general"),
    *("batchmatmulv2", "batchmatmulv3", "batchmatmul"),
)


def is_product(name: str) -> bool:
    """Whether an operation of that name multiplies tensors along a shared axis."""
    return normalised(name) in PRODUCTS


def _rows(record: Recorded) -> Iterator[Guess]:
    """x[indices]: rows along the first axis."""
    if len(record.arguments) != 2:
        return
    x, indices = record.arguments
    if indices.dtype.kind not in "iu" and not np.array_equal(indices, np.round(indices)):
        return
    if x.ndim and x.shape[1:] == record.value.shape[indices.ndim :]:
        yield (x, indices), {"axis": 0}


@rule("rows", "getitem", "index_select", "gather", "gatherv2", "take", guesses=_rows)
def rows(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Entries of x along an axis, at indices of any shape."""
    x, indices = arguments
    return np.asarray(np.take(x, indices.astype(np.int64), axis=options["axis"]))


def _added(record: Recorded) -> Iterator[Guess]:
    """index_add(x, indices, values), unsorted_segment_sum(values, indices)."""
    places = [
        number
        for number, a in enumerate(record.arguments)
        if a.ndim and a.size == len(a) and np.array_equal(a, np.round(a))
    ]
    for number in places:
        indices = record.arguments[number].reshape(-1)
        others = [a for n, a in enumerate(record.arguments) if n != number]
        start = others[0] if len(others) == 2 else np.zeros(record.value.shape)
        if start.shape == record.value.shape and others:
            yield (start, indices, others[-1]), {"sum": True}


@rule(
    "scattered sum",
    *("index_add", "scatter-add", "scatter_add", "unsortedsegmentsum", "segmentsum"),
    guesses=_added,
)
def scattered_sum(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Rows of values (count, ...) added to those of x that indices (count,) name."""
    start, indices, values = arguments
    made = np.array(start, np.float64)
    np.add.at(made, indices.astype(np.int64), values)
    return made


def _placings(record: Recorded) -> Iterator[Guess]:
    """torch.scatter: what is filled, places along an axis, what is put there."""
    if len(record.arguments) != 3:
        return
    start, places, values = record.arguments
    whole = np.array_equal(places, np.round(places))
    if not whole or start.shape != record.value.shape or places.shape != values.shape:
        return
    for axis in range(start.ndim):
        yield (start, places, values), {"axis": axis}


@rule("placed", "scatter", "put_along_axis", guesses=_placings)
def placed(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Values put into an array at places along an axis."""
    start, places, values = arguments
    made = np.array(start, np.float64)
    np.put_along_axis(made, places.astype(np.int64), values, options["axis"])
    return made
