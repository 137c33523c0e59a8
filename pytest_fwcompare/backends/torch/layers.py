"""Dense layers, lookups, elementwise layers and those that move values, as torch modules."""

from __future__ import annotations

import torch
from torch import nn

from pytest_fwcompare.backends.torch.lowering import Lowered, Use, lower, renamed
from pytest_fwcompare.backends.torch.replacements import celu, hardsigmoid
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.weights.transforms import Transpose

SOFTPLUS_THRESHOLD = 40.0
"""Above it torch gives x itself; its default of 20 is off by exp(-20) = 2e-9 in float64."""


@lower.register
def _(layer: described.Dense, use: Use) -> Lowered:
    module = nn.Linear(use.features, layer.units, layer.use_bias)
    bias = renamed(bias="bias") if layer.use_bias else ()
    return Lowered(module, (("weight", "kernel", Transpose((1, 0))), *bias))


@lower.register
def _(layer: described.Embedding, use: Use) -> Lowered:
    module = nn.Embedding(layer.vocabulary, layer.units, layer.padding_index)
    return Lowered(module, renamed(weight="table"))


class PositionalEmbedding(nn.Module):  # type: ignore[misc]
    """x (batch, time, features) plus the first rows of weight (length, features)."""

    def __init__(self, length: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight[: x.shape[1]]


@lower.register
def _(layer: described.PositionalEmbedding, use: Use) -> Lowered:
    return Lowered(PositionalEmbedding(layer.length, use.features), renamed(weight="table"))


class HardSigmoid(nn.Hardsigmoid):  # type: ignore[misc]
    """`torch.nn.Hardsigmoid` without its float32 constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return hardsigmoid(x, self.inplace)


class CELU(nn.CELU):  # type: ignore[misc]
    """`torch.nn.CELU` without its float32 constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return celu(x, self.alpha, self.inplace)


@lower.register
def _(layer: described.Activation, use: Use) -> Lowered:
    made: dict[str, nn.Module] = {
        "relu": nn.ReLU(),
        "relu6": nn.ReLU6(),
        "leaky_relu": nn.LeakyReLU(layer.parameter),
        "elu": nn.ELU(layer.parameter),
        "selu": nn.SELU(),
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU("tanh"),
        "silu": nn.SiLU(),
        "mish": nn.Mish(),
        "tanh": nn.Tanh(),
        "sigmoid": nn.Sigmoid(),
        "hard_sigmoid": HardSigmoid(),
        "hard_silu": nn.Hardswish(),
        "softplus": nn.Softplus(threshold=SOFTPLUS_THRESHOLD),
        "softsign": nn.Softsign(),
    }
    if layer.function == "celu":
        return Lowered(CELU(layer.parameter))
    return Lowered(made[layer.function])


@lower.register
def _(layer: described.PReLU, use: Use) -> Lowered:
    return Lowered(nn.PReLU(use.features), renamed(weight="slope"))


class SwiGLU(nn.Module):  # type: ignore[misc]
    """First half of an axis times silu of the second."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = x.chunk(2, self.dim)
        return value * nn.functional.silu(gate)


@lower.register
def _(layer: described.GLU, use: Use) -> Lowered:
    return Lowered((nn.GLU if layer.gate == "sigmoid" else SwiGLU)(use.axis(-1)))


@lower.register
def _(layer: described.Softmax, use: Use) -> Lowered:
    return Lowered(nn.Softmax(use.axis(layer.axis)))


@lower.register
def _(layer: described.LogSoftmax, use: Use) -> Lowered:
    return Lowered(nn.LogSoftmax(use.axis(layer.axis)))


@lower.register
def _(layer: described.Dropout, use: Use) -> Lowered:
    return Lowered(nn.Dropout(layer.rate))


class Add(nn.Module):  # type: ignore[misc]
    """Sum of all inputs."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total


class Multiply(nn.Module):  # type: ignore[misc]
    """Product of all inputs."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        total = values[0]
        for value in values[1:]:
            total = total * value
        return total


class MatMul(nn.Module):  # type: ignore[misc]
    """x @ y, or x @ y^T."""

    def __init__(self, transpose_second: bool) -> None:
        super().__init__()
        self.transpose_second = transpose_second

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x @ (y.mT if self.transpose_second else y)


class Concatenate(nn.Module):  # type: ignore[misc]
    """Inputs one after the other along an axis."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return torch.cat(values, self.dim)


class Reshape(nn.Module):  # type: ignore[misc]
    """(batch, ...) to (batch, *shape)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = self.shape
        if -1 in sizes and x.shape[0] == 0:  # torch cannot infer a size from nothing
            known = torch.Size(size for size in sizes if size != -1).numel()
            sizes = tuple(x[:1].shape[1:].numel() // known if s == -1 else s for s in sizes)
        return x.reshape(x.shape[0], *sizes)


class Permute(nn.Module):  # type: ignore[misc]
    """Axes in another order, the batch included as axis 0."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.dims)


class Flatten(nn.Flatten):  # type: ignore[misc]
    """(batch, ...) to (batch, product), also for (batch,)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(1) if x.ndim == 1 else super().forward(x)


@lower.register
def _(layer: described.Add, use: Use) -> Lowered:
    return Lowered(Add())


@lower.register
def _(layer: described.Multiply, use: Use) -> Lowered:
    return Lowered(Multiply())


@lower.register
def _(layer: described.MatMul, use: Use) -> Lowered:
    return Lowered(MatMul(layer.transpose_second))


@lower.register
def _(layer: described.Concatenate, use: Use) -> Lowered:
    return Lowered(Concatenate(use.axis(layer.axis)))


@lower.register
def _(layer: described.Flatten, use: Use) -> Lowered:
    return Lowered(Flatten())


@lower.register
def _(layer: described.Reshape, use: Use) -> Lowered:
    return Lowered(Reshape(tuple(layer.shape)))


@lower.register
def _(layer: described.Permute, use: Use) -> Lowered:
    return Lowered(Permute((0, *layer.axes)))
