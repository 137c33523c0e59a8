"""TensorFlow's and JAX's own names, axis orders and attributes for operations that torch has too.

The implementations are those of the other files, in torch's axis order; a guess says by which axes
the recorded arrays were transposed to it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.operations.attention import where
from pytest_fwcompare.diagnose.operations.base import LAYOUTS, RESULT, Axes, Guess, rule
from pytest_fwcompare.diagnose.operations.elementwise import activate
from pytest_fwcompare.diagnose.operations.linear import (
    convolution,
    embedding,
    matmul,
    transposed_convolution,
)
from pytest_fwcompare.diagnose.operations.norms import normalise
from pytest_fwcompare.diagnose.operations.spatial import pool, resize

Pads = tuple[tuple[int, int], ...]


def channels_first(rank: int) -> Axes:
    """Axes that bring (batch, *space, channels) to (batch, channels, *space)."""
    return (0, rank - 1, *range(1, rank - 1))


def channels_last(rank: int) -> Axes:
    """Axes that bring (batch, channels, *space) to (batch, *space, channels)."""
    return (0, *range(2, rank), 1)


def same_padding(
    sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Pads:
    """Amounts of padding "SAME": what is odd goes behind."""
    made = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        made.append((total // 2, total - total // 2))
    return tuple(made)


def _is_last(record: Recorded) -> bool:
    """Whether TensorFlow's channels are the last axis."""
    return not str(record.attributes.get("data_format", "")).startswith("NC")


def _spatial(record: Recorded, key: str, rank: int) -> tuple[int, ...]:
    """Entries for the axes of space of an attribute with one entry an axis."""
    entries = record.attributes.get(key) or (1,) * (rank + 2)
    return tuple(entries[1:-1] if _is_last(record) else entries[2:])


def _layouts(record: Recorded, rank: int) -> tuple[Axes | None, Axes | None]:
    """Layout of the tensor and of the result of one TensorFlow operation over space."""
    return (channels_first(rank), channels_last(rank)) if _is_last(record) else (None, None)


def _transposed(value: Array, axes: Axes | None) -> Array:
    return value if axes is None else value.transpose(axes)


def _tensorflow_convolutions(record: Recorded) -> Iterator[Guess]:
    """Conv2D, Conv3D, DepthwiseConv2dNative: x and a kernel (*space, in / groups, out)."""
    x, kernel = record.arguments[:2]
    if "data_format" not in record.attributes:
        return
    rank = kernel.ndim - 2
    own, result = _layouts(record, x.ndim)
    x = _transposed(x, own)
    stride, dilation = _spatial(record, "strides", rank), _spatial(record, "dilations", rank)
    order: Axes | None = (rank + 1, rank, *range(rank))
    weight = kernel.transpose(order)
    if record.operation.startswith("Depthwise"):
        # (h, w, in, times): every input channel has its own kernels, one after the other.
        weight = kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
        order = None
    reach = kernel.shape[:rank]
    padding = record.attributes.get("padding")
    pads: Pads = ((0, 0),) * rank
    if padding == "SAME":
        pads = same_padding(x.shape[2:], reach, stride, dilation)
    elif padding == "EXPLICIT":
        flat = record.attributes.get("explicit_paddings", ())
        each = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
        pads = tuple(each[1:-1] if _is_last(record) else each[2:])
    options = {
        "stride": stride,
        "dilation": dilation,
        "padding": pads,
        "groups": x.shape[1] // weight.shape[1],
        "mode": "constant",
        LAYOUTS: (own, order),
        RESULT: result,
    }
    yield (x, weight), options


rule(
    "convolution",
    *("conv2d", "conv3d", "depthwiseconv2dnative"),
    guesses=_tensorflow_convolutions,
)(convolution)


def _tensorflow_transposed(record: Recorded) -> Iterator[Guess]:
    """Conv2DBackpropInput of a kernel (*space, out, in) and x: a transposed convolution."""
    floats = [a for a in record.arguments if a.dtype.kind == "f"]
    kernel, x = floats[-2:]
    rank = kernel.ndim - 2
    own, result = _layouts(record, x.ndim)
    x = _transposed(x, own)
    order = (rank + 1, rank, *range(rank))
    stride, dilation = _spatial(record, "strides", rank), _spatial(record, "dilations", rank)
    full = [
        (n - 1) * s + d * (k - 1) + 1
        for n, s, d, k in zip(x.shape[2:], stride, dilation, kernel.shape[:rank], strict=True)
    ]
    sizes = record.value.shape[1:-1] if result else record.value.shape[2:]
    excess = [a - b for a, b in zip(full, sizes, strict=True)]
    for before in dict.fromkeys(
        [tuple(max(e, 0) // 2 for e in excess), *itertools.product((0, 1, 2), repeat=rank)]
    ):
        options = {
            "stride": stride,
            "dilation": dilation,
            "padding": ((0, 0),) * rank,
            "groups": 1,
            "mode": "constant",
            "crop": tuple((b, e - b) for b, e in zip(before, excess, strict=True)),
            LAYOUTS: (own, order),
            RESULT: result,
        }
        yield (x, kernel.transpose(order)), options


rule(
    "transposed convolution",
    *("conv2dbackpropinput", "conv2dbackpropinputv2", "conv3dbackpropinputv2"),
    guesses=_tensorflow_transposed,
)(transposed_convolution)


def _tensorflow_pools(record: Recorded) -> Iterator[Guess]:
    x = record.arguments[0]
    rank = x.ndim - 2
    own, result = _layouts(record, x.ndim)
    x = _transposed(x, own)
    kernel, stride = _spatial(record, "ksize", rank), _spatial(record, "strides", rank)
    pads: Pads = ((0, 0),) * rank
    if record.attributes.get("padding") == "SAME":
        pads = same_padding(x.shape[2:], kernel, stride, (1,) * rank)
    options = {
        "function": "max" if "max" in record.operation.lower() else "average",
        "kernel": kernel,
        "stride": stride,
        "dilation": (1,) * rank,
        "padding": pads,
        "count_include_pad": False,
        "ceil": False,
        "divisor": None,
        LAYOUTS: (own,),
        RESULT: result,
    }
    yield (x,), options


rule(
    "pool",
    *("maxpool", "avgpool", "maxpoolv2", "maxpool3d", "avgpool3d"),
    guesses=_tensorflow_pools,
)(pool)


def _tensorflow_resizes(record: Recorded) -> Iterator[Guess]:
    x = record.arguments[0]
    sizes = record.value.shape[1:-1]
    name = record.operation.lower()
    mode = "nearest" if "nearest" in name else "cubic" if "cubic" in name else "linear"
    facts = record.attributes
    first = "corners" if facts.get("align_corners") else "half"
    first = first if facts.get("half_pixel_centers") or first == "corners" else "edges"
    own, result = channels_first(x.ndim), channels_last(x.ndim)
    for alignment in dict.fromkeys((first, "half", "corners", "edges")):
        for each in dict.fromkeys((mode, "catmull")):
            options = {
                "mode": each,
                "alignment": alignment,
                "sizes": sizes,
                "rank": x.ndim - 2,
                LAYOUTS: (own,),
                RESULT: result,
            }
            yield (x.transpose(own),), options


rule(
    "resize",
    *("resizebilinear", "resizenearestneighbor", "resizebicubic"),
    guesses=_tensorflow_resizes,
)(resize)


def _tensorflow_products(record: Recorded) -> Iterator[Guess]:
    """MatMul and BatchMatMul with factors that may be transposed."""
    facts, floats = record.attributes, [a for a in record.arguments if a.dtype.kind == "f"]
    if len(floats) != 2:
        return
    turned: list[Axes | None] = []
    for argument, keys in zip(
        floats, (("transpose_a", "adj_x"), ("transpose_b", "adj_y")), strict=True
    ):
        swapped = (*range(argument.ndim - 2), argument.ndim - 1, argument.ndim - 2)
        turned.append(swapped if any(facts.get(key) for key in keys) else None)
    given = tuple(_transposed(a, axes) for a, axes in zip(floats, turned, strict=True))
    yield given, {LAYOUTS: tuple(turned)}


rule(
    "matmul",
    *("matmul", "batchmatmulv2", "batchmatmulv3", "batchmatmul"),
    guesses=_tensorflow_products,
)(matmul)


def _fused_norms(record: Recorded) -> Iterator[Guess]:
    """FusedBatchNorm: x, scale, offset, mean, variance; statistics of the batch in training."""
    x, scale, offset, *statistics = record.arguments
    own, result = _layouts(record, x.ndim)
    x = _transposed(x, own)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    options: dict[str, Any] = {
        "eps": float(record.attributes.get("epsilon", 1e-4)),
        "centred": True,
        "weight": scale.reshape(shape),
        "bias": offset.reshape(shape),
        "axes": (0, *range(2, x.ndim)),
        LAYOUTS: (own,),
        RESULT: result,
    }
    if len(statistics) == 2 and not record.attributes.get("is_training"):
        mean, variance = (s.reshape(shape) for s in statistics)
        yield (x,), {**options, "mean": mean, "variance": variance}
    yield (x,), options


rule("norm", "fusedbatchnorm", "fusedbatchnormv2", "fusedbatchnormv3", guesses=_fused_norms)(
    normalise
)


def _equation(numbers: Any, left: int, right: int) -> str:
    """Dimension numbers of dot_general as an equation: batch, rest of left, rest of right."""
    (left_sum, right_sum), (left_batch, right_batch) = numbers
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    names: list[dict[int, str]] = [{}, {}]
    for one, other in [*zip(left_batch, right_batch, strict=True)]:
        names[0][one] = names[1][other] = next(letters)
    batch = [names[0][axis] for axis in left_batch]
    for one, other in zip(left_sum, right_sum, strict=True):
        names[0][one] = names[1][other] = next(letters)
    rest: list[str] = []
    for side, count in enumerate((left, right)):
        for axis in range(count):
            if axis not in names[side]:
                names[side][axis] = next(letters)
                rest.append(names[side][axis])
    words = ["".join(names[s][a] for a in range(c)) for s, c in enumerate((left, right))]
    return f"{words[0]},{words[1]}->{''.join(batch + rest)}"


def _dots(record: Recorded) -> Iterator[Guess]:
    left, right = record.arguments
    numbers = record.attributes.get("dimension_numbers")
    if numbers is not None:
        yield record.arguments, {"equation": _equation(numbers, left.ndim, right.ndim)}


rule("matmul", "dot_general", guesses=_dots)(matmul)


def _jax_convolutions(record: Recorded) -> Iterator[Guess]:
    """conv_general_dilated; a dilated left side makes it a transposed convolution."""
    layout = _jax_layout(record)
    if layout is None or any(step != 1 for step in layout["lhs_dilation"]):
        return
    options = {
        "stride": layout["stride"],
        "dilation": layout["dilation"],
        "padding": layout["padding"],
        "groups": layout["groups"],
        "mode": "constant",
        LAYOUTS: layout["layouts"],
        RESULT: layout["result"],
    }
    yield layout["arguments"], options


def _jax_layout(record: Recorded) -> dict[str, Any] | None:
    facts, (x, kernel) = record.attributes, record.arguments[:2]
    numbers = facts.get("dimension_numbers")
    if numbers is None:
        return None
    rank = x.ndim - 2
    ones = (1,) * rank
    left, right, out = (tuple(spec) for spec in numbers)
    return {
        "arguments": (x.transpose(left), kernel.transpose(right)),
        "layouts": (left, right),
        "result": tuple(int(axis) for axis in np.argsort(out)),
        "stride": tuple(facts.get("window_strides") or ones),
        "dilation": tuple(facts.get("rhs_dilation") or ones),
        "lhs_dilation": tuple(facts.get("lhs_dilation") or ones),
        "padding": tuple(tuple(pair) for pair in facts.get("padding") or ((0, 0),) * rank),
        "groups": int(facts.get("feature_group_count", 1) or 1),
    }


def _jax_transposed(record: Recorded) -> Iterator[Guess]:
    layout = _jax_layout(record)
    if layout is None or all(step == 1 for step in layout["lhs_dilation"]):
        return
    if layout["groups"] != 1 or any(step != 1 for step in layout["stride"]):
        return
    x, kernel = layout["arguments"]
    space = tuple(range(2, kernel.ndim))
    reach = [(k - 1) * d for k, d in zip(kernel.shape[2:], layout["dilation"], strict=True)]
    crop = tuple(
        (full - low, full - high)
        for full, (low, high) in zip(reach, layout["padding"], strict=True)
    )
    options = {
        "stride": layout["lhs_dilation"],
        "dilation": layout["dilation"],
        "padding": ((0, 0),) * len(space),
        "groups": 1,
        "mode": "constant",
        "crop": crop,
        LAYOUTS: (layout["layouts"][0], None),
        RESULT: layout["result"],
    }
    yield (x, np.flip(np.swapaxes(kernel, 0, 1), space)), options


rule("convolution", "conv_general_dilated", guesses=_jax_convolutions)(convolution)
rule("transposed convolution", "conv_general_dilated", guesses=_jax_transposed)(
    transposed_convolution
)


def _window_maxima(record: Recorded) -> Iterator[Guess]:
    """reduce_window_max over the axes of space, wherever they are."""
    found = window_options(record)
    if found is not None:
        x, options = found
        yield (x,), {**options, "function": "max"}


def window_options(record: Recorded) -> tuple[Array, dict[str, Any]] | None:
    """X in torch's axis order and the options of a pool, from a reduction over windows."""
    facts, x = record.attributes, record.arguments[0]
    windows = facts.get("window_dimensions")
    if windows is None or any(step != 1 for step in facts.get("base_dilation") or ()):
        return None
    over = [axis for axis, size in enumerate(windows) if size > 1] or list(range(x.ndim))[-2:]
    if len(over) == 1 and x.ndim > 2 and x.ndim - over[0] <= 3 and x.shape[over[0]] == 0:
        return None
    rest = [axis for axis in range(x.ndim) if axis not in over]
    own = (*rest, *over)
    options = {
        "kernel": tuple(windows[axis] for axis in over),
        "stride": tuple(facts["window_strides"][axis] for axis in over),
        "dilation": tuple((facts.get("window_dilation") or (1,) * x.ndim)[a] for a in over),
        "padding": tuple(tuple(facts["padding"][axis]) for axis in over),
        "count_include_pad": True,
        "ceil": False,
        "divisor": None,
        LAYOUTS: (own,),
        RESULT: tuple(int(axis) for axis in np.argsort(own)),
    }
    return x.transpose(own), options


rule("pool", "reduce_window_max", "reduce_window", guesses=_window_maxima)(pool)


def _selections(record: Recorded) -> Iterator[Guess]:
    """JAX's select_n(which, first, second): the second where `which` is true."""
    if len(record.arguments) == 3:
        condition, first, second = record.arguments
        yield (condition, second, first), {}


rule("where", "select_n", guesses=_selections)(where)


def _jax_lookups(record: Recorded) -> Iterator[Guess]:
    """JAX's gather of whole rows: indices have a last axis of one."""
    if len(record.arguments) != 2:
        return
    table, indices = record.arguments
    if table.ndim == 2 and indices.shape[-1:] == (1,):
        yield (indices[..., 0], table), {}


rule("embedding", "gather", guesses=_jax_lookups)(embedding)


def _limits(record: Recorded) -> Iterator[Guess]:
    """JAX's clamp(low, x, high)."""
    for number, argument in enumerate(record.arguments):
        if argument.shape == record.value.shape:
            others = [
                float(a) for n, a in enumerate(record.arguments) if n != number and a.size == 1
            ]
            if len(others) == 2:
                low, high = min(others), max(others)
                yield (argument,), {"function": "clamp", "min": low, "max": high}


rule("activation", "clamp", "clipbyvalue", "clip_by_value", guesses=_limits)(activate)


def _powers(record: Recorded) -> Iterator[Guess]:
    power = record.attributes.get("y")
    if power == 2:
        yield record.arguments[:1], {"function": "square"}


rule("activation", "integer_pow", guesses=_powers)(activate)


def _unchanged(record: Recorded) -> Iterator[Guess]:
    if record.arguments[0].shape == record.value.shape:
        yield record.arguments[:1], {"function": "identity", "rate": 0.0}


rule(
    "activation",
    *("stopgradient", "identity", "preventgradient", "ensureshape", "copy_p", "snapshot"),
    *("checknumerics", "optimization_barrier", "reduce_precision"),
    guesses=_unchanged,
)(activate)


def sum_of(arguments: Sequence[Array], options: Mapping[str, Any]) -> Array:
    """Sum of any number of tensors of one shape."""
    return np.asarray(sum(arguments))


def _sums(record: Recorded) -> Iterator[Guess]:
    yield record.arguments, {}


rule("sum of several", "addn", guesses=_sums)(sum_of)
