"""Pooling and interpolation over space."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
from pytest_fwcompare.diagnose.operations.linear import windows
from pytest_fwcompare.diagnose.operations.movement import pad


def _pools(record: Recorded) -> Iterator[Guess]:
    name = normalised(record.operation)
    attributes, x = record.attributes, record.arguments[0]
    rank = next((int(c) for c in name if c.isdigit()), x.ndim - 2)
    function = "max" if "max" in name else "lp" if name.startswith("lp") else "average"
    sizes = attributes.get("kernel_size", attributes.get("window_shape"))
    if sizes is None:
        # As global or adaptive pools with a divisible size have it.
        ratios = [
            a // max(b, 1)
            for a, b in zip(x.shape[-rank:], record.value.shape[-rank:], strict=True)
        ]
        sizes = ratios
    kernel = tuple(int(k) for k in spread(sizes, rank))
    stride = spread(attributes.get("stride") or kernel, rank)
    options = {
        "function": function,
        "kernel": kernel,
        "stride": tuple(int(s) for s in stride),
        "dilation": tuple(int(d) for d in spread(attributes.get("dilation", 1), rank)),
        "padding": pairs(attributes.get("padding", 0), rank),
        "count_include_pad": bool(attributes.get("count_include_pad", True)),
        "ceil": bool(attributes.get("ceil_mode", False)),
        "divisor": attributes.get("divisor_override"),
    }
    yield (x,), options
    for amount in range(3):
        for counted in (True, False):
            padding = ((amount, amount),) * rank
            yield (x,), {**options, "padding": padding, "count_include_pad": counted}


@rule(
    "pool",
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d", "max_pool2d", "max_pool3d"),
    *("boolean_dispatch", "max_pool1d_with_indices", "max_pool2d_with_indices"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d"),
    *("adaptive_max_pool2d",),
    guesses=_pools,
)
def pool(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Average or maximum over windows of x (batch, channels, *space)."""
    x = arguments[0]
    kernel, stride, dilation = options["kernel"], options["stride"], options["dilation"]
    rank = len(kernel)
    lead = ((0, 0),) * (x.ndim - rank)
    padding = [list(p) for p in options["padding"]]
    extra = [0] * rank
    if options.get("ceil"):
        for axis in range(rank):
            size = x.shape[x.ndim - rank + axis] + sum(padding[axis])
            reach = (kernel[axis] - 1) * dilation[axis] + 1
            places = math.ceil((size - reach) / stride[axis]) + 1
            if (places - 1) * stride[axis] >= size - padding[axis][1]:
                places -= 1
            extra[axis] = max((places - 1) * stride[axis] + reach - size, 0)
    widths = (*lead, *((b, a + e) for (b, a), e in zip(padding, extra, strict=True)))
    over = tuple(range(-rank, 0))
    if options["function"] == "max":
        cells = windows(pad(x, widths, fill=-np.inf), kernel, stride, dilation)
        return np.asarray(cells.max(axis=over))
    total = windows(pad(x, widths), kernel, stride, dilation).sum(axis=over)
    if options.get("divisor"):
        return np.asarray(total / options["divisor"])
    counted = np.ones_like(x)
    if options["count_include_pad"]:
        counted = pad(counted, (*lead, *(tuple(p) for p in padding)), fill=1.0)
        widths = (*lead, *((0, e) for e in extra))
    cells = windows(pad(counted, widths), kernel, stride, dilation)
    return np.asarray(total / cells.sum(axis=over))


def resize_matrix(size: int, wanted: int, mode: str, alignment: str) -> Array:
    """Interpolation along one axis: (wanted, size).

    Args:
        size: of the axis before.
        wanted: after.
        mode: "nearest", "linear", "cubic" (a = -0.75) or "catmull" (a = -0.5).
        alignment: where output place i lies on the input. "corners": i (size-1)/(wanted-1);
            "half": (i + 1/2) size/wanted - 1/2; "edges": i size/wanted; "smooth": as "half", each
            place as wide as the places of the output are apart (antialiasing).
    """
    steps = np.arange(wanted, dtype=np.float64)
    if alignment == "corners":
        place = steps * ((size - 1) / (wanted - 1) if wanted > 1 else 0.0)
    elif alignment in ("half", "smooth"):
        place = (steps + 0.5) * (size / wanted) - 0.5
    else:
        place = steps * (size / wanted)
    if mode == "nearest":
        chosen = np.floor(place + (0.5 if alignment != "edges" else 0.0) + 1e-12)
        index = np.clip(chosen, 0, size - 1).astype(int)
        return np.asarray(np.eye(size)[index])
    if alignment == "smooth":
        distance = place[:, None] - np.arange(size)
        weights = _kernel(distance / max(size / wanted, 1.0), mode)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))
    reach = 2 if mode in ("cubic", "catmull") else 1
    if mode == "linear":
        place = np.clip(place, 0.0, size - 1.0)
    start = np.floor(place).astype(int)
    matrix = np.zeros((wanted, size))
    for offset in range(1 - reach, reach + 1):
        weight = _kernel(place - (start + offset), mode)
        index = np.clip(start + offset, 0, size - 1)
        np.add.at(matrix, (np.arange(wanted), index), weight)
    return matrix


def _kernel(distance: Array, mode: str) -> Array:
    """Weight of a sample at that distance: Keys' cubic, or the triangle."""
    d = np.abs(distance)
    if mode == "linear":
        return np.asarray(np.maximum(1.0 - d, 0.0))
    a = -0.75 if mode == "cubic" else -0.5
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _resizes(record: Recorded) -> Iterator[Guess]:
    x, value = record.arguments[0], record.value
    rank = x.ndim - 2
    named = str(record.attributes.get("mode", "nearest"))
    mode = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(named, named)
    alignments = ["corners"] if record.attributes.get("align_corners") else []
    alignments += ["smooth"] if record.attributes.get("antialias") else []
    first = "edges" if mode == "nearest" else "half"
    mode = "nearest" if mode == "nearest-exact" else mode
    for alignment in (*alignments, first, "half", "corners", "edges"):
        for each in (mode, "linear", "nearest", "cubic", "catmull"):
            yield (
                (x,),
                {"mode": each, "alignment": alignment, "sizes": value.shape[2:], "rank": rank},
            )


@rule(
    "resize", "interpolate", "upsample", "upsample_nearest", "upsample_bilinear", guesses=_resizes
)
def resize(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Inputs x (batch, channels, *space) at other sizes of space."""
    value = arguments[0]
    for axis, wanted in enumerate(options["sizes"], start=2):
        matrix = resize_matrix(value.shape[axis], wanted, options["mode"], options["alignment"])
        value = np.moveaxis(np.tensordot(value, matrix, axes=([axis], [1])), -1, axis)
    return np.asarray(value)
