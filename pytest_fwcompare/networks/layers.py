"""Every layer a network can be described with. See `base` for the axis order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_fwcompare.networks.base import Layer

Amounts = int | tuple[int, ...]
"""One number for all spatial axes, or one for each."""

Padding = str | int | tuple[tuple[int, int], ...]
""""valid", "same", "causal" (1D only), one amount for all sides, or (before, after) an axis."""


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    """y = x @ kernel + bias over the last axis. kernel (in, units), bias (units)."""

    units: int
    use_bias: bool = True


@dataclass(frozen=True, eq=False)
class Conv(Layer):
    """Cross-correlation. kernel (*kernel_size, in / groups, filters), bias (filters).

    "same": output size ceil(n / stride); total = max((out - 1) stride + dilation (k - 1) + 1 - n, 0);
    before = total // 2, after = total - before. "causal": dilation (k - 1) before, none after.
    """

    filters: int
    kernel_size: Amounts
    stride: Amounts = 1
    dilation: Amounts = 1
    groups: int = 1
    padding: Padding = "valid"
    use_bias: bool = True


class Conv1D(Conv): ...


class Conv2D(Conv): ...


class Conv3D(Conv): ...


@dataclass(frozen=True, eq=False)
class DepthwiseConv2D(Layer):
    """kernel (h, w, in, multiplier); output feature c * multiplier + m; bias (in * multiplier)."""

    kernel_size: Amounts
    multiplier: int = 1
    stride: Amounts = 1
    dilation: Amounts = 1
    padding: Padding = "valid"
    use_bias: bool = True


@dataclass(frozen=True, eq=False)
class SeparableConv2D(Layer):
    """Depthwise then 1x1: depthwise_kernel (h, w, in, multiplier), pointwise_kernel
    (in * multiplier, filters), bias (filters) at the end only."""

    filters: int
    kernel_size: Amounts
    multiplier: int = 1
    stride: Amounts = 1
    dilation: Amounts = 1
    padding: Padding = "valid"
    use_bias: bool = True


@dataclass(frozen=True, eq=False)
class ConvTranspose(Layer):
    """full[i * stride + k * dilation] += x[i] @ kernel[k]; then `padding` is cropped off.

    kernel (*kernel_size, in, filters), bias (filters). full has (n - 1) stride + dilation (k - 1)
    + 1 cells, plus output_padding at the end (after cropping these show the cells beyond).
    "valid" crops nothing; "same" gives n * stride cells, cropping total = max(dilation (k - 1) + 1
    - stride, 0), before = total // 2.
    """

    filters: int
    kernel_size: Amounts
    stride: Amounts = 1
    dilation: Amounts = 1
    padding: Padding = "valid"
    output_padding: Amounts = 0
    use_bias: bool = True


class ConvTranspose1D(ConvTranspose): ...


class ConvTranspose2D(ConvTranspose): ...


@dataclass(frozen=True, eq=False)
class Pool(Layer):
    """Windows over the spatial axes; stride None means the pool size; floor at the end."""

    pool_size: Amounts
    stride: Amounts | None = None
    padding: Padding = "valid"


class MaxPool1D(Pool): ...


class MaxPool2D(Pool): ...


@dataclass(frozen=True, eq=False)
class AveragePool(Pool):
    """count_include_pad: divide by the window's size; otherwise by its cells inside the input."""

    count_include_pad: bool = False


class AveragePool1D(AveragePool): ...


class AveragePool2D(AveragePool): ...


class GlobalAveragePool(Layer): ...


class GlobalMaxPool(Layer): ...


@dataclass(frozen=True, eq=False)
class AdaptiveAveragePool(Layer):
    """Mean over equal windows, `output_size` of them an axis; sizes must divide."""

    output_size: Amounts


class AdaptiveAveragePool1D(AdaptiveAveragePool): ...


class AdaptiveAveragePool2D(AdaptiveAveragePool): ...


@dataclass(frozen=True, eq=False)
class BatchNorm(Layer):
    """scale (x - mean) / sqrt(variance + epsilon) + shift over the last axis.

    Parameters scale, shift (features); buffers mean, variance (features). In training mode batch
    statistics are used, and running = (1 - momentum) running + momentum batch.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1
    use_scale: bool = True
    use_shift: bool = True


@dataclass(frozen=True, eq=False)
class LayerNorm(Layer):
    """Normalises over the last `axes` axes. scale, shift of their shape."""

    epsilon: float = 1e-5
    axes: int = 1
    use_scale: bool = True
    use_shift: bool = True


@dataclass(frozen=True, eq=False)
class GroupNorm(Layer):
    """Normalises each of `groups` contiguous groups of features over space. scale, shift (features)."""

    groups: int
    epsilon: float = 1e-5
    use_scale: bool = True
    use_shift: bool = True


@dataclass(frozen=True, eq=False)
class InstanceNorm(Layer):
    """Normalises each feature over space. scale, shift (features) where affine."""

    epsilon: float = 1e-5
    affine: bool = True


@dataclass(frozen=True, eq=False)
class RMSNorm(Layer):
    """scale x / sqrt(mean(x^2) + epsilon) over the last axis. scale (features)."""

    epsilon: float = 1e-6
    use_scale: bool = True


@dataclass(frozen=True, eq=False)
class Embedding(Layer):
    """Rows of table (vocabulary, units); the row padding_index gets no gradient."""

    vocabulary: int
    units: int
    padding_index: int | None = None


@dataclass(frozen=True, eq=False)
class Recurrent(Layer):
    units: int
    use_bias: bool = True
    return_sequences: bool = False
    reverse: bool = False
    """Reads from the last step to the first; a returned sequence is in the order of the input."""


@dataclass(frozen=True, eq=False)
class SimpleRNN(Recurrent):
    """h' = f(x @ kernel + h @ recurrent_kernel + bias), f "tanh" or "relu"."""

    activation: Literal["tanh", "relu"] = "tanh"


class LSTM(Recurrent):
    """Gates input, forget, cell, output in this order: kernel (in, 4 units), recurrent_kernel
    (units, 4 units), bias (4 units). c' = f c + i g, h' = o tanh(c')."""


@dataclass(frozen=True, eq=False)
class GRU(Recurrent):
    """Gates reset, update, new in this order: kernel (in, 3 units), recurrent_kernel
    (units, 3 units), bias (3 units). h' = (1 - z) n + z h.

    reset "after": n = tanh(x W + b + r (h U + recurrent_bias)), recurrent_bias (3 units) for all
    gates. reset "before": n = tanh(x W + b + (r h) U), no recurrent_bias.
    """

    reset: Literal["after", "before"] = "after"


@dataclass(frozen=True, eq=False)
class Bidirectional(Layer):
    """`layer` forwards and in reverse; parameters "forward.*" and "backward.*".

    A sequence of the reverse direction is in the order of the input. merge: "concatenate"
    (forward first), "sum", "average", "multiply".
    """

    layer: Recurrent
    merge: Literal["concatenate", "sum", "average", "multiply"] = "concatenate"


@dataclass(frozen=True, eq=False)
class MultiHeadAttention(Layer):
    """Called as attention(query, memory=None, mask=None): softmax(q k / sqrt(size)) v.

    query_kernel, key_kernel, value_kernel (in, heads * size), output_kernel (heads * size,
    features of query); biases query_bias, ... Head h owns columns h * size .. (h + 1) * size.
    mask (batch, source) is True where attended to; causal forbids later steps. A row with nothing
    to attend to gives output_bias + 0 (weights of zero).
    """

    heads: int
    size: int
    causal: bool = False
    use_bias: bool = True


@dataclass(frozen=True, eq=False)
class PositionalEmbedding(Layer):
    """x + table[:time]; table (length, features)."""

    length: int


@dataclass(frozen=True, eq=False)
class Dropout(Layer):
    """The identity in inference; in training zeroes at `rate` and divides by 1 - rate."""

    rate: float


class Flatten(Layer):
    """(batch, ...) to (batch, product) in canonical (features last) C order."""


@dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """(batch, *shape), canonical C order; one size may be -1."""

    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Permute(Layer):
    """Axes after the batch in another order, counted from 1: (2, 1) swaps time and features."""

    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Pad(Layer):
    """(before, after) for each spatial axis; zero, reflect (edge not repeated) or replicate."""

    amounts: tuple[tuple[int, int], ...]
    mode: Literal["zero", "reflect", "replicate"] = "zero"


@dataclass(frozen=True, eq=False)
class Upsample(Layer):
    """Each spatial axis (one or two) times `factor`.

    nearest: cell i reads i // factor. bilinear: place (i + 0.5) / factor - 0.5 clamped to the
    input, or, with align_corners, i (n - 1) / (n factor - 1).
    """

    factor: int
    mode: Literal["nearest", "bilinear"] = "nearest"
    align_corners: bool = False


class Add(Layer):
    """Sum of two or more inputs of broadcastable shape."""


class Multiply(Layer):
    """Product of two or more inputs of broadcastable shape."""


@dataclass(frozen=True, eq=False)
class Concatenate(Layer):
    axis: int = -1


@dataclass(frozen=True, eq=False)
class MatMul(Layer):
    """x @ y over the last two axes; transpose_second: x @ y^T."""

    transpose_second: bool = False


@dataclass(frozen=True, eq=False)
class Softmax(Layer):
    axis: int = -1


@dataclass(frozen=True, eq=False)
class LogSoftmax(Layer):
    axis: int = -1


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """An elementwise function by name; `alpha` where it has a parameter.

    relu, relu6, tanh, sigmoid, silu, mish, gelu (erf), gelu_tanh, softplus, softsign,
    leaky_relu (alpha: slope below zero, default 0.01), elu (alpha (exp(x) - 1) below zero, 1.0),
    celu (alpha (exp(x / alpha) - 1), 1.0), selu, hard_sigmoid (clip(x / 6 + 1/2, 0, 1)),
    hard_silu (x hard_sigmoid(x)).
    """

    function: str
    alpha: float | None = None


class PReLU(Layer):
    """max(x, 0) + slope min(x, 0); slope (features)."""


@dataclass(frozen=True, eq=False)
class GLU(Layer):
    """First half of the last axis times gate(second half); gate "sigmoid" (GLU), "silu" (SwiGLU)."""

    gate: Literal["sigmoid", "silu"] = "sigmoid"
