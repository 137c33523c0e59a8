"""Changes of one call of an operation, most of them no repair of the catalogue.

Each knows which words tell a user the right thing to change. None is always allowed; a word that
is not listed is a wrong name, unless the evidence shows the very number that was planted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .ops import UNARY, Ops, Tensor

ACTIVATIONS = ("relu", "gelu", "silu", "softplus", "tanh", "sigmoid")
FLOAT = (
    *("add", "subtract", "multiply", "divide", "matmul", "scale", "offset", "negative", "slice"),
    *("pick", "transpose", "reshape", "concat", "stack", "sum", "mean", "max", "take", "where"),
    *("clip", "flip", "softmax", "conv", "pool", "upsample", *UNARY),
)
"""Operations whose value is a tensor of floats."""


@dataclass(frozen=True)
class Change:
    """One way to be wrong.

    Attributes:
        name: of the change.
        operations: names of the operations that it can be planted in.
        make: (operations, compute, arguments, options) -> the wrong value.
        causes: words that tell the truth about it.
        numbers: texts one of which the evidence must hold where another word is used.
    """

    name: str
    operations: tuple[str, ...]
    make: Callable[[Ops, Callable[..., Tensor], tuple[Any, ...], dict[str, Any]], Tensor]
    causes: frozenset[str] = frozenset()
    numbers: tuple[str, ...] = ()


CHANGES: list[Change] = []


def change(*operations: str, causes: str = "", numbers: tuple[str, ...] = ()):
    """Register a change of operations."""

    def register(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        name = make.__name__.replace("_", "-")
        CHANGES.append(Change(name, operations, make, frozenset(causes.split()), numbers))
        return make

    return register


def _ramp(o: Ops, x: Tensor, axis: int = -1) -> Tensor:
    size = x.shape[axis]
    shape = [1] * len(x.shape)
    shape[axis] = size
    return o.constant(np.linspace(0.6, 1.5, size).reshape(shape), x)


# Something more, that nobody has a word for.


@change(*FLOAT)
def a_wave_added(o, compute, a, k):
    y = compute(*a, **k)
    return y + 0.05 * o._sin(3.0 * y)


@change(*FLOAT)
def a_square_added(o, compute, a, k):
    y = compute(*a, **k)
    return y + 0.03 * y * y


@change("add", "matmul", "conv", "multiply", "concat", "softmax", "tanh", "mean", "slice", "take")
def weighed_by_a_ramp(o, compute, a, k):
    y = compute(*a, **k)
    return y * _ramp(o, y) if y.shape[-1] > 1 else y + 0.2 * y * y


@change("matmul", "conv", "add", "transpose", "gelu", "stack", causes="gradient-path")
def half_of_it_detached(o, compute, a, k):
    y = compute(*a, **k)
    return 0.5 * (y + o._stop(y))


@change(*FLOAT, causes="gradient-path")
def detached(o, compute, a, k):
    return o._stop(compute(*a, **k))


# Numbers.

SCALED = "activation-parameter attention-scale embedding residual norm-affine"


@change(*FLOAT, numbers=("1.07", "0.93457944", "0.9345794", "2.14", "1.1449"))
def scaled(o, compute, a, k):
    return compute(*a, **k) * 1.07


@change(*FLOAT, numbers=("0.13",))
def a_constant_added(o, compute, a, k):
    return compute(*a, **k) + 0.13


@change("scale", causes=SCALED, numbers=("1.3",))
def another_number(o, compute, a, k):
    return compute(a[0], a[1] * 1.3)


@change("scale", causes=SCALED + " reduction")
def no_number(o, compute, a, k):
    return a[0]


@change("offset", causes="norm-epsilon")
def another_epsilon(o, compute, a, k):
    return compute(a[0], a[1] * 300)


@change("matmul", "add", "tanh", "gelu", "relu", "mean", "softmax", "conv", causes="clipping")
def clipped(o, compute, a, k):
    return o._clip(compute(*a, **k), -0.4, 0.35)


@change("clip", causes="clipping")
def clipped_elsewhere(o, compute, a, k):
    return compute(a[0], a[1] * 0.7, a[2])


@change("clip", causes="clipping")
def not_clipped(o, compute, a, k):
    return a[0]


# Signs and functions.


@change(
    "add", "subtract", "matmul", "sum", "tanh", "scale", "softmax", "conv",
    causes="channel-order fused-order residual activation-parameter attention-scale",
    numbers=("-1", "-0.5", "negated", "twice", "no neg"),
)  # fmt: skip
def negated(o, compute, a, k):
    return -compute(*a, **k)


@change("negative", causes="residual", numbers=("-1", "no neg"))
def not_negated(o, compute, a, k):
    return a[0]


@change("sqrt", causes="norm-epsilon running-statistics reduction norm-axis activation-variant")
def square_for_root(o, compute, a, k):
    return o._square(a[0])


@change("sqrt", causes="running-statistics reduction activation-place activation-variant")
def no_root(o, compute, a, k):
    return a[0]


@change("square", causes="reduction norm-axis activation-variant")
def abs_for_square(o, compute, a, k):
    return o._abs(a[0])


@change("exp", "log", "sin", "cos", "abs", causes="activation-place activation-variant")
def no_function(o, compute, a, k):
    return a[0]


@change(*ACTIVATIONS, causes="activation-place cell-variant")
def no_activation(o, compute, a, k):
    return a[0]


@change(*ACTIVATIONS, causes="activation-place cell-variant")
def activation_twice(o, compute, a, k):
    return compute(compute(a[0]))


@change(*ACTIVATIONS)
def shifted_activation(o, compute, a, k):
    return compute(a[0] + 0.3)


@change(*ACTIVATIONS, causes="activation-parameter activation-variant", numbers=("1.2",))
def steeper_activation(o, compute, a, k):
    return compute(1.2 * a[0])


@change(*ACTIVATIONS, "sin", "cos", causes="activation-variant cell-variant")
def another_activation(o, compute, a, k):
    return o._softplus(a[0]) if compute.__name__ != "softplus" else o._relu(a[0])


@change("tanh", "sigmoid", causes="activation-variant cell-variant clipping")
def hard_activation(o, compute, a, k):
    return o._clip(a[0], -1.0, 1.0)


@change("tanh", "sigmoid", "gelu")
def arctan_like(o, compute, a, k):
    return a[0] / (1.0 + 0.3 * o._abs(a[0])) ** 2


# Operands.


@change("subtract", "divide", causes="residual norm-axis", numbers=("-1",))
def operands_exchanged(o, compute, a, k):
    return compute(a[1], a[0])


@change("matmul", causes="kernel-layout")
def weight_transposed(o, compute, a, k):
    w = a[1]
    return compute(a[0], o._swap(w) if w.shape[-1] == w.shape[-2] else o._flip(w, -1))


WITHOUT = "bias residual norm-affine position cell-variant norm-axis norm-epsilon gate-order"


@change("add", "subtract", causes=WITHOUT + " attention-scale")
def second_operand_left_out(o, compute, a, k):
    return a[0] + 0.0 * compute(*a)


@change("add", "subtract", causes=WITHOUT)
def first_operand_left_out(o, compute, a, k):
    return a[1] + 0.0 * compute(*a)


@change(
    "multiply",
    "divide",
    causes="norm-affine norm-axis residual activation-place mask "
    "reduction running-statistics cell-variant",
)
def second_factor_left_out(o, compute, a, k):
    return a[0] + 0.0 * compute(*a)


@change("add", causes="bias residual position norm-affine", numbers=("twice", "2"))
def second_operand_twice(o, compute, a, k):
    return compute(*a) + a[1]


@change("add", causes="residual bias")
def product_for_sum(o, compute, a, k):
    return a[0] * a[1]


@change("multiply", causes="cell-variant")
def sum_for_product(o, compute, a, k):
    return a[0] + a[1]


@change("multiply", "add", numbers=("relu",))
def larger_of_both(o, compute, a, k):
    return 0.5 * (a[0] + a[1] + o._abs(a[0] - a[1]))


# Places.


@change("slice", causes="fused-order gate-order channel-order position head-split cell-variant")
def sliced_one_off(o, compute, a, k):
    x, axis, start, stop = a
    shift = 1 if stop < x.shape[axis] else -1
    return compute(x, axis, start + shift, stop + shift) if start + shift >= 0 else compute(*a)


@change("slice", causes="fused-order gate-order channel-order position head-split cell-variant")
def another_slice(o, compute, a, k):
    x, axis, start, stop = a
    size = stop - start
    start = start + size if stop + size <= x.shape[axis] else max(start - size, 0)
    return compute(x, axis, start, start + size)


@change("pick", causes="reduction position initial-state cell-variant")
def picked_next(o, compute, a, k):
    x, axis, at = a
    return compute(x, axis, (at + 1) % x.shape[axis])


@change("pick", causes="reduction")
def mean_for_pick(o, compute, a, k):
    return o._mean(a[0], a[1])


ORDER = (
    "channel-order flatten-order head-split position fused-order gate-order kernel-layout "
    "initial-state"
)


@change("tanh", "gelu", "add", "concat", "take", "reshape", "stack", "conv", causes=ORDER)
def rolled(o, compute, a, k):
    y = compute(*a, **k)
    return o._roll(y, 1, -1)


@change("tanh", "gelu", "add", "concat", "take", "reshape", "stack", causes=ORDER)
def flipped(o, compute, a, k):
    return o._flip(compute(*a, **k), -1)


@change("conv", "take", "stack", "transpose", causes=ORDER + " padding")
def flipped_in_the_middle(o, compute, a, k):
    return o._flip(compute(*a, **k), 1)


@change("concat", "stack", causes=ORDER)
def joined_in_reverse(o, compute, a, k):
    return compute(list(a[0])[::-1], a[1])


@change("concat", "stack", causes=ORDER + " residual")
def one_part_twice(o, compute, a, k):
    return compute([a[0][0], *list(a[0])[:-1]], a[1])


@change("reshape", causes=ORDER)
def read_in_another_order(o, compute, a, k):
    x, shape = a
    return compute(o._flip(x, -1), shape) if len(x.shape) < 3 else o._flip(compute(x, shape), -2)


@change("reshape", "transpose", "slice", "matmul", "concat", "conv")
def two_features_exchanged(o, compute, a, k):
    y = compute(*a, **k)
    axis, size = len(y.shape) - 1, y.shape[-1]
    if size < 4:
        return o._flip(y, -1)
    parts = [(0, 1), (2, 3), (1, 2), (3, size)]
    return o._concat([o._slice(y, axis, *part) for part in parts], axis)


@change("add", "tanh", "matmul", "conv", "softmax", "stack")
def one_feature_wrong(o, compute, a, k):
    y = compute(*a, **k)
    size = y.shape[-1]
    spot = np.zeros(size)
    spot[size // 2] = 0.3
    return y + o.constant(spot, y)


# Sums.


@change("sum", causes="reduction attention-scale")
def mean_for_sum(o, compute, a, k):
    return o._mean(*a, **k)


@change("mean", causes="reduction")
def sum_for_mean(o, compute, a, k):
    return o._sum(*a, **k)


@change("max", "mean", "sum", causes="reduction")
def another_reduction(o, compute, a, k):
    return o._mean(*a, **k) if compute.__name__ == "max" else o._max(*a, **k)


@change("mean", "sum", causes="reduction norm-axis norm-epsilon")
def over_one_less(o, compute, a, k):
    """n - 1 for n."""
    axis = a[1] if isinstance(a[1], int) else a[1][0]
    n = a[0].shape[axis]
    return compute(*a, **k) * (n / (n - 1))


@change("sum", "mean")
def the_first_counted_twice(o, compute, a, k):
    x, axis = a[0], a[1] if isinstance(a[1], int) else a[1][0]
    first = o._slice(x, axis % len(x.shape), 0, 1)
    axis = axis % len(x.shape)
    return compute(o._concat([x, first], axis), *a[1:], **k)


@change("softmax", causes="softmax-axis")
def another_axis(o, compute, a, k):
    x, axis = a
    other = (axis - 1) % len(x.shape) or len(x.shape) - 1
    return compute(x, other if other != axis % len(x.shape) else 0)


@change("softmax")
def not_quite_a_softmax(o, compute, a, k):
    raised = o._exp(a[0])
    return raised / (1.0 + o._sum(raised, a[1], True))


@change("softmax", causes="attention-scale activation-parameter", numbers=("2", "0.5", "0.7071"))
def sharper_softmax(o, compute, a, k):
    return compute(2.0 * a[0], a[1])


@change("softmax", causes="activation-variant softmax-axis activation-place")
def sigmoid_for_softmax(o, compute, a, k):
    return o._sigmoid(a[0])


# Layers.


@change("where", causes="mask")
def mask_off_by_one(o, compute, a, k):
    return compute(o._roll(a[0], 1, -1), *a[1:])


@change("where", causes="mask")
def mask_left_out(o, compute, a, k):
    return a[1]


@change("where", causes="mask")
def mask_filled_otherwise(o, compute, a, k):
    return compute(a[0], a[1], -3.0)


@change("take", causes="position embedding")
def looked_up_one_off(o, compute, a, k):
    return compute(a[0], (a[1] + 1) % a[0].shape[0])


@change("conv", causes="padding")
def padded_on_the_other_side(o, compute, a, k):
    return compute(*a, **{**k, "pads": ((2, 0), (1, 1))})


@change("conv", causes="kernel-layout")
def kernel_flipped(o, compute, a, k):
    return compute(a[0], o._flip(a[1], 0), a[2], **k)


@change("conv", causes="bias")
def no_bias(o, compute, a, k):
    return compute(a[0], a[1], a[2] * 0.0, **k)


@change("pool", causes="reduction pool-count activation-variant")
def another_pool(o, compute, a, k):
    return compute(a[0], kind="avg" if k["kind"] == "max" else "max")


@change("upsample", causes="resize-alignment position flatten-order")
def upsampled_and_shifted(o, compute, a, k):
    return o._roll(compute(*a), 1, 1)
