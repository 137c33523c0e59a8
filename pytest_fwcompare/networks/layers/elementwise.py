"""Layers that compute cell by cell, or over one axis without parameters of its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_fwcompare.networks import checks
from pytest_fwcompare.networks.base import Layer, ParameterSpec, Shape, join, show
from pytest_fwcompare.networks.layers.shaping import check_axis, find_axis

ALPHAS = {"leaky_relu": 0.01, "elu": 1.0, "celu": 1.0}
"""Functions with a parameter and its default."""

FUNCTIONS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "gelu_tanh", "silu", "mish",
    "tanh", "sigmoid", "hard_sigmoid", "hard_silu", "softplus", "softsign",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """An elementwise function by name.

    relu: max(x, 0). relu6: min(max(x, 0), 6). tanh. sigmoid: 1 / (1 + exp(-x)). silu: x
    sigmoid(x). mish: x tanh(softplus(x)). gelu: x (1 + erf(x / sqrt(2))) / 2. gelu_tanh: x (1 +
    tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. softplus: log(1 + exp(x)). softsign: x / (1 +
    |x|). leaky_relu: alpha x below zero. elu: alpha (exp(x) - 1) below zero. celu: alpha (exp(x /
    alpha) - 1) below zero. selu: 1.0507009873554804934193349852946 times elu with alpha
    1.6732632423543772848170429916717 (Klambauer et al. 2017, arXiv:1706.02515). hard_sigmoid:
    min(max(x / 6 + 1/2, 0), 1). hard_silu: x hard_sigmoid(x).

    At a kink the derivative is that of the flat side (relu, relu6, hard_sigmoid, hard_silu, whose
    upper side has 1), else that of the side below zero (leaky_relu, elu, selu), as in torch.

    Args:
        function: one of these names.
        alpha: parameter of leaky_relu (default 0.01), elu (1.0) and celu (1.0, not 0).
    """

    function: str
    alpha: float | None = None

    rank = (1, None)

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise self.error(
                f"unknown function {self.function!r}; the functions are {join(FUNCTIONS)}"
            )
        if self.alpha is None:
            return
        if self.function not in ALPHAS:
            raise self.error(
                f"{self.function} has no alpha; {join(ALPHAS)} have, got alpha={self.alpha!r}"
            )
        checks.real(self, "alpha", self.alpha, 0.0)
        if self.function == "celu" and not self.alpha:
            raise self.error("alpha of celu divides, so it is above 0, got 0")

    @property
    def parameter(self) -> float:
        """`alpha`, or its default."""
        return ALPHAS.get(self.function, 0.0) if self.alpha is None else float(self.alpha)


@dataclass(frozen=True, eq=False)
class PReLU(Layer):
    """y = max(x, 0) + slope min(x, 0), one slope for each feature (He et al., arXiv:1502.01852).

    Shapes: x (batch, ..., features) gives the same. Parameters: slope (features). At zero both
    derivatives, by x and by the slope, are those of the lower side: slope and 0.
    """

    def _infer(self, *shapes: Shape) -> Shape:
        checks.features(self, shapes[0])
        return shapes[0]

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        return {"slope": ParameterSpec((checks.features(self, shapes[0]),), "slope")}


@dataclass(frozen=True, eq=False)
class GLU(Layer):
    """y = x[..., : n/2] gate(x[..., n/2 :]).

    Shapes: x (batch, ..., n), n even, gives (batch, ..., n / 2). Dauphin et al. 2016,
    arXiv:1612.08083; Shazeer 2020, arXiv:2002.05202.

    Args:
        gate: "sigmoid" (GLU, torch's order of halves) or "silu" (SwiGLU).
    """

    gate: Literal["sigmoid", "silu"] = "sigmoid"

    def __post_init__(self) -> None:
        checks.choice(self, "gate", self.gate, ("sigmoid", "silu"))

    def _infer(self, *shapes: Shape) -> Shape:
        features = checks.features(self, shapes[0])
        if features % 2:
            raise self.error(
                f"expected an even number of features, got {features} in shape {show(shapes[0])}"
            )
        return (*shapes[0][:-1], features // 2)


@dataclass(frozen=True, eq=False)
class Dropout(Layer):
    """The identity in inference; in training zeroes cells at `rate`, divides the rest by 1 - rate.

    Args:
        rate: share of cells that are zeroed, in [0, 1).
    """

    rate: float

    rank = (1, None)

    def __post_init__(self) -> None:
        checks.real(self, "rate", self.rate, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Add(Layer):
    """Sum of two or more inputs of the same rank; sizes of 1 are broadcast."""

    arity = (2, None)
    rank = (1, None)

    def _infer(self, *shapes: Shape) -> Shape:
        return checks.broadcast(self, shapes)


@dataclass(frozen=True, eq=False)
class Multiply(Layer):
    """Product of two or more inputs of the same rank; sizes of 1 are broadcast."""

    arity = (2, None)
    rank = (1, None)

    def _infer(self, *shapes: Shape) -> Shape:
        return checks.broadcast(self, shapes)


@dataclass(frozen=True, eq=False)
class MatMul(Layer):
    """x @ y over the last two axes.

    Shapes: x (batch, ..., m, k) and y (batch, ..., k, n), or (batch, ..., n, k) if transposed,
    give (batch, ..., m, n); the axes before are equal.

    Args:
        transpose_second: x @ y^T.
    """

    transpose_second: bool = False

    arity = (2, 2)
    rank = (3, None)

    def _infer(self, *shapes: Shape) -> Shape:
        first, second = shapes
        inner, outer = (-1, -2) if self.transpose_second else (-2, -1)
        if len(first) != len(second) or first[:-2] != second[:-2] or first[-1] != second[inner]:
            wanted = "(batch, ..., n, k)" if self.transpose_second else "(batch, ..., k, n)"
            raise self.error(
                f"expected shapes (batch, ..., m, k) and {wanted}, got {show(first)} and "
                f"{show(second)}"
            )
        return (*first[:-1], second[outer])


@dataclass(frozen=True, eq=False)
class Softmax(Layer):
    """y = exp(x - max) / sum(exp(x - max)) along an axis.

    Args:
        axis: not the batch (0); negative ones count from the end.
    """

    axis: int = -1

    def __post_init__(self) -> None:
        check_axis(self, self.axis)

    def _infer(self, *shapes: Shape) -> Shape:
        find_axis(self, self.axis, shapes[0])
        return shapes[0]


@dataclass(frozen=True, eq=False)
class LogSoftmax(Layer):
    """y = x - max - log(sum(exp(x - max))) along an axis.

    Args:
        axis: not the batch (0); negative ones count from the end.
    """

    axis: int = -1

    def __post_init__(self) -> None:
        check_axis(self, self.axis)

    def _infer(self, *shapes: Shape) -> Shape:
        find_axis(self, self.axis, shapes[0])
        return shapes[0]
