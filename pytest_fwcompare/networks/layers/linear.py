"""Dense layers and lookups: parameters that meet the last axis."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_fwcompare.networks import checks
from pytest_fwcompare.networks.base import Layer, ParameterSpec, Shape, show


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    """y = x @ kernel + bias over the last axis.

    Shapes: x (batch, ..., in) gives (batch, ..., units).

    Parameters: kernel (in, units), bias (units). The kernel is stored as in Keras and Flax, the
    transpose of torch's `Linear.weight`.

    Args:
        units: features of the output.
        use_bias: add a bias.
    """

    units: int
    use_bias: bool = True

    def __post_init__(self) -> None:
        checks.whole(self, "units", self.units)

    def _infer(self, *shapes: Shape) -> Shape:
        checks.features(self, shapes[0])
        return (*shapes[0][:-1], self.units)

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        fan_in = checks.features(self, shapes[0])
        specs = {"kernel": ParameterSpec((fan_in, self.units), "kernel", fan_in)}
        return specs | bias(self.use_bias, self.units)


@dataclass(frozen=True, eq=False)
class Embedding(Layer):
    """y[..., :] = table[x[...]]: rows of a table by token.

    Shapes: x (batch, ...) of integers in [0, vocabulary) gives (batch, ..., units).

    Parameters: table (vocabulary, units).

    Args:
        vocabulary: rows of the table.
        units: features of a row.
        padding_index: a token whose row gets no gradient, as torch's `padding_idx`. The forward
            pass reads the row like any other.
    """

    vocabulary: int
    units: int
    padding_index: int | None = None

    rank = (1, None)

    def __post_init__(self) -> None:
        checks.whole(self, "vocabulary", self.vocabulary)
        checks.whole(self, "units", self.units)
        if self.padding_index is not None:
            checks.whole(self, "padding_index", self.padding_index, 0)
            if self.padding_index >= self.vocabulary:
                raise self.error(
                    f"padding_index is a token below vocabulary={self.vocabulary}, got "
                    f"{self.padding_index}"
                )

    def _infer(self, *shapes: Shape) -> Shape:
        return (*shapes[0], self.units)

    def infer_dtype(self, *dtypes: str) -> str:
        if not dtypes[0].startswith(("int", "uint")):
            raise self.error(
                f"expected tokens, an input of integers, got {dtypes[0]}; write "
                f"Input(..., dtype='int64')"
            )
        return "float32"

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        return {"table": ParameterSpec((self.vocabulary, self.units), "table")}


@dataclass(frozen=True, eq=False)
class PositionalEmbedding(Layer):
    """y[:, t] = x[:, t] + table[t], a learned vector for each position.

    Shapes: x (batch, time, features) gives the same; time is at most `length`.

    Parameters: table (length, features).

    Args:
        length: longest time.
    """

    length: int

    rank = (3, 3)

    def __post_init__(self) -> None:
        checks.whole(self, "length", self.length)

    def _infer(self, *shapes: Shape) -> Shape:
        checks.features(self, shapes[0])
        time = shapes[0][1]
        if isinstance(time, int) and time > self.length:
            raise self.error(
                f"expected at most length={self.length} steps, got {time} in {show(shapes[0])}"
            )
        return shapes[0]

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        return {"table": ParameterSpec((self.length, checks.features(self, shapes[0])), "table")}


def bias(used: bool, size: int, name: str = "bias") -> dict[str, ParameterSpec]:
    """A bias where one is used."""
    return {name: ParameterSpec((size,), "bias")} if used else {}
