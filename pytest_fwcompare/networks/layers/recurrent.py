"""Recurrent layers: a cell applied step by step, from a state of zeros."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pytest_fwcompare.networks import checks
from pytest_fwcompare.networks.base import Layer, ParameterSpec, Shape, show
from pytest_fwcompare.networks.layers.linear import bias


@dataclass(frozen=True, eq=False)
class Recurrent(Layer):
    """What recurrent layers share; not a layer by itself.

    Shapes: x (batch, time, in) gives the last state (batch, units), or all (batch, time, units).
    The state before the first step is zero. The kernels of a cell's gates lie side by side on the
    last axis, gate by gate.

    Args:
        units: size of the state.
        use_bias: add biases.
        return_sequences: give the state after every step instead of the last one.
        reverse: read from the last step to the first; a returned sequence is in the order of the
            input, and the last state is the one after reading the first step.
    """

    units: int
    use_bias: bool = True
    return_sequences: bool = False
    reverse: bool = False

    rank = (3, 3)
    gates: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not self.gates:
            raise self.error("it is no cell by itself; use SimpleRNN, LSTM or GRU")
        checks.whole(self, "units", self.units)

    def _infer(self, *shapes: Shape) -> Shape:
        batch, time, _ = shapes[0]
        checks.features(self, shapes[0])
        checks.nonempty(self, "time", time, f"in shape {show(shapes[0])}; it needs a step")
        return (batch, time, self.units) if self.return_sequences else (batch, self.units)

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        inputs, wide = checks.features(self, shapes[0]), self.gates * self.units
        return {
            "kernel": ParameterSpec((inputs, wide), "kernel", inputs),
            "recurrent_kernel": ParameterSpec((self.units, wide), "kernel", self.units),
        } | bias(self.use_bias, wide)


@dataclass(frozen=True, eq=False)
class SimpleRNN(Recurrent):
    """h' = f(x @ kernel + h @ recurrent_kernel + bias).

    Parameters: kernel (in, units), recurrent_kernel (units, units), bias (units). Frameworks with
    two biases (torch) hold their sum in it. Shapes and arguments: see `Recurrent`.

    Args:
        activation: f, "tanh" or "relu".
    """

    activation: Literal["tanh", "relu"] = "tanh"

    gates = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice(self, "activation", self.activation, ("tanh", "relu"))


class LSTM(Recurrent):
    """Gates input i, forget f, cell g, output o, in this order (torch's and Keras').

    [i f g o] = x @ kernel + h @ recurrent_kernel + bias; c' = sigmoid(f) c + sigmoid(i) tanh(g);
    h' = sigmoid(o) tanh(c'). No peepholes, nothing added to the forget gate.

    Parameters: kernel (in, 4 units), recurrent_kernel (units, 4 units), bias (4 units).
    Shapes and arguments: see `Recurrent`.
    """

    gates = 4


@dataclass(frozen=True, eq=False)
class GRU(Recurrent):
    """Gates reset r, update z, new n, in this order (torch's; Keras has update first).

    h' = (1 - z) n + z h, r and z = sigmoid(x @ kernel + bias + h @ recurrent_kernel +
    recurrent_bias) of their gate.

    reset "after" (torch, Keras reset_after=True, cuDNN): n = tanh(x @ W + b + r (h @ U + rb)).
    reset "before" (Cho et al. 2014, arXiv:1406.1078): n = tanh(x @ W + b + (r h) @ U), and there
    is no recurrent_bias.

    Parameters: kernel (in, 3 units), recurrent_kernel (units, 3 units), bias (3 units),
    recurrent_bias (3 units; reset "after" only). Shapes and arguments: see `Recurrent`.

    Args:
        reset: whether the reset gate acts after or before the product with the recurrent kernel.
    """

    reset: Literal["after", "before"] = "after"

    gates = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice(self, "reset", self.reset, ("after", "before"))

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        recurrent = bias(self.use_bias and self.reset == "after", 3 * self.units, "recurrent_bias")
        return super()._parameters(*shapes) | recurrent


@dataclass(frozen=True, eq=False)
class Bidirectional(Layer):
    """`layer` once forwards and once in reverse, with parameters of their own, then merged.

    A sequence of the reverse direction is in the order of the input; its last state is the one
    after reading the first step.

    Shapes: as `layer`, with 2 units features for "concatenate" (forward first). Parameters: those
    of the layer as "forward.kernel", ..., "backward.kernel", ...

    Args:
        layer: a SimpleRNN, LSTM or GRU with reverse=False.
        merge: "concatenate", "sum", "average" or "multiply".
    """

    layer: Recurrent
    merge: Literal["concatenate", "sum", "average", "multiply"] = "concatenate"

    rank = (3, 3)

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Recurrent):
            raise self.error(f"expected a SimpleRNN, LSTM or GRU layer, got {self.layer!r}")
        if self.layer.reverse:
            raise self.error("its layer has reverse=True; it reverses a copy by itself")
        checks.choice(self, "merge", self.merge, ("concatenate", "sum", "average", "multiply"))

    @property
    def directions(self) -> dict[str, Recurrent]:
        """The layer of each direction by its prefix, "forward" and "backward"."""
        return {"forward": self.layer, "backward": replace(self.layer, reverse=True)}

    def _infer(self, *shapes: Shape) -> Shape:
        one = self.layer.infer(*shapes)
        return (*one[:-1], 2 * self.layer.units) if self.merge == "concatenate" else one

    def _parameters(self, *shapes: Shape) -> dict[str, ParameterSpec]:
        specs = self.layer.parameters(*shapes)
        return {
            f"{prefix}.{name}": spec for prefix in self.directions for name, spec in specs.items()
        }
