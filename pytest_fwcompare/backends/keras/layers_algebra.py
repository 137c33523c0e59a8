"""Further Keras layers composed of `keras.ops`: lookups, products, gates, attention masks."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from pytest_fwcompare.backends.keras.layers_custom import Configured, registered


@registered
class PaddedEmbedding(keras.layers.Embedding):  # type: ignore[misc]
    """An embedding whose row `padding_index` is read but gets no gradient."""

    def __init__(
        self, input_dim: int, output_dim: int, padding_index: int, **options: Any
    ) -> None:
        super().__init__(input_dim, output_dim, **options)
        self.padding_index = padding_index

    def call(self, inputs: Any) -> Any:
        """Look up."""
        rows = super().call(inputs)
        is_padding = ops.expand_dims(ops.equal(inputs, self.padding_index), -1)
        return ops.where(is_padding, ops.stop_gradient(rows), rows)

    def get_config(self) -> dict[str, Any]:
        """What the layer was made with."""
        return {**super().get_config(), "padding_index": self.padding_index}


@registered
class PositionTable(Configured):
    """x + table[:time]."""

    def __init__(self, length: int, **common: Any) -> None:
        super().__init__(options={"length": length}, **common)
        self.length = length

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the input."""
        return input_shape

    def build(self, input_shape: Any) -> None:
        """Make the table."""
        self.table = self.add_weight(
            shape=(self.length, input_shape[-1]), name="table", initializer="uniform"
        )

    def call(self, x: Any) -> Any:
        """Add."""
        return x + ops.convert_to_tensor(self.table)[: ops.shape(x)[1]]


@registered
class MatrixProduct(Configured):
    """x @ y or x @ y^T over the last two axes."""

    def __init__(self, transpose_second: bool = False, **common: Any) -> None:
        super().__init__(options={"transpose_second": transpose_second}, **common)
        self.transpose_second = transpose_second

    def call(self, values: Any) -> Any:
        """Multiply the two inputs."""
        x, y = values
        return ops.matmul(x, ops.swapaxes(y, -1, -2) if self.transpose_second else y)


@registered
class LogSoftmax(Configured):
    """Logarithm of the softmax along an axis."""

    def __init__(self, axis: int = -1, **common: Any) -> None:
        super().__init__(options={"axis": axis}, **common)
        self.axis = axis

    def call(self, x: Any) -> Any:
        """Compute."""
        return ops.log_softmax(x, axis=self.axis)


@registered
class GatedUnit(Configured):
    """First half of the features times the gate, "sigmoid" or "silu", of the second."""

    def __init__(self, gate: str = "sigmoid", **common: Any) -> None:
        super().__init__(options={"gate": gate}, **common)
        self.gate = gate

    def call(self, x: Any) -> Any:
        """Gate."""
        value, gate = ops.split(x, 2, axis=-1)
        return value * {"sigmoid": ops.sigmoid, "silu": ops.silu}[self.gate](gate)


@registered
class CELU(Configured):
    """x above zero, alpha (exp(x / alpha) - 1) below.

    The derivative of Keras' own `celu` on TensorFlow is 2 at zero.
    """

    def __init__(self, alpha: float = 1.0, **common: Any) -> None:
        super().__init__(options={"alpha": alpha}, **common)
        self.alpha = alpha

    def call(self, x: Any) -> Any:
        """Compute."""
        below = self.alpha * ops.expm1(ops.minimum(x, 0.0) / self.alpha)
        return ops.where(x > 0, x, below)


@registered
class PlainRMSNorm(Configured):
    """x / sqrt(mean(x^2) + epsilon) over the features; Keras' own always has a scale."""

    def __init__(self, epsilon: float, **common: Any) -> None:
        super().__init__(options={"epsilon": epsilon}, **common)
        self.epsilon = epsilon

    def call(self, x: Any) -> Any:
        """Normalise."""
        mean_square = ops.mean(ops.square(x), axis=-1, keepdims=True)
        return x * ops.rsqrt(mean_square + self.epsilon)


@registered
class ReverseTime(Configured):
    """A sequence from its last step to its first."""

    def __init__(self, **common: Any) -> None:
        super().__init__(options={}, **common)

    def call(self, x: Any) -> Any:
        """Reverse."""
        return ops.flip(x, axis=1)


@registered
class AttentionMask(Configured):
    """(batch, target, source), or one target for all, from a mask (batch, source)."""

    def __init__(self, causal: bool = False, **common: Any) -> None:
        super().__init__(options={"causal": causal}, **common)
        self.causal = causal

    def call(self, mask: Any, query: Any) -> Any:
        """Combine."""
        allowed = ops.expand_dims(mask, 1)
        if not self.causal:
            return allowed
        target, source = ops.arange(ops.shape(query)[1]), ops.arange(ops.shape(mask)[1])
        return ops.logical_and(allowed, ops.expand_dims(target, 1) >= source)


@registered
class EmptyRowAttention(keras.layers.MultiHeadAttention):  # type: ignore[misc]
    """Attention that gives weights of zero where nothing may be attended to.

    Keras' own gives equal weights to all steps there, masked ones included.
    """

    def _compute_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        attention_mask: Any = None,
        *more: Any,
        **named: Any,
    ) -> Any:
        heads, scores = super()._compute_attention(
            query, key, value, attention_mask, *more, **named
        )
        if attention_mask is None:
            return heads, scores
        some = ops.any(attention_mask, axis=-1)[..., None, None]
        return ops.where(some, heads, ops.zeros_like(heads)), scores


@registered  # type: ignore[untyped-decorator]
def gelu_tanh(x: Any) -> Any:
    """The tanh form of GELU."""
    return keras.activations.gelu(x, approximate=True)
