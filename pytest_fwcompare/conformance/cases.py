"""Small networks that together have every layer with every option, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.networks import Graph, Input, Network, Sequential
from pytest_fwcompare.networks import layers as nn
from pytest_fwcompare.networks.base import Layer
from pytest_fwcompare.networks.layers.elementwise import ALPHAS, FUNCTIONS

Sizes = Mapping[str, int]
"""Values of free sizes by name."""


@dataclass(frozen=True, eq=False)
class Case:
    """One network with the sizes it is run at.

    Attributes:
        name: unique; the layer's name first.
        network: makes the description.
        sizes: values of the free sizes, one mapping a run.
    """

    name: str
    network: Callable[[], Network]
    sizes: tuple[Sizes, ...] = ({"batch": 2},)

    def inputs(self, sizes: Sizes, seed: int = 0) -> dict[str, Array]:
        """Inputs by name: standard normal floats, tokens, masks with an empty and a full row."""
        rng = np.random.default_rng([seed, *self.name.encode()])
        values = {}
        for name, spec in self.network().inputs.items():
            shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
            value: Array
            if spec.dtype == "bool":
                value = rng.random(shape) < 0.6
                value[0], value[-1] = True, False
            elif spec.dtype.startswith("float"):
                # Exact in float32, so that every dtype sees the same numbers.
                value = rng.standard_normal(shape).astype(np.float32)
            else:
                value = rng.integers(int(spec.low or 0), int(spec.high or 2), shape)
            values[name] = value.astype(spec.dtype)
        return values


def one(
    name: str,
    layer: Callable[[], Layer],
    shape: Sequence[int | str],
    *sizes: Sizes,
    others: Sequence[Sequence[int | str]] = (),
) -> Case:
    """A case of a single layer on one input, or on several."""

    def network() -> Network:
        nodes = [Input(f"x{i}", given) for i, given in enumerate((shape, *others))]
        return Graph(nodes, layer()(*nodes))

    return Case(name, network, tuple({"batch": 2} | dict(each) for each in sizes or ({},)))


SPACE = ("height", "width")
ODD_EVEN = ({"height": 7, "width": 6}, {"height": 8, "width": 9})
TIMES: tuple[Sizes, ...] = ({"time": 7}, {"time": 8})


def _time(features: int = 4) -> tuple[int | str, ...]:
    return ("time", features)


def _image(features: int = 4) -> tuple[int | str, ...]:
    return (*SPACE, features)


CONVOLUTIONS = [
    one("conv1d", lambda: nn.Conv1D(5, 3), _time(), *TIMES),
    one("conv1d-same-stride", lambda: nn.Conv1D(5, 3, stride=2, padding="same"), _time(), *TIMES),
    one("conv1d-causal", lambda: nn.Conv1D(5, 3, dilation=2, padding="causal"), _time(), *TIMES),
    one(
        "conv1d-causal-stride-dilation",
        lambda: nn.Conv1D(5, 3, stride=2, dilation=2, padding="causal"),
        _time(),
        *TIMES,
    ),
    one("conv1d-explicit", lambda: nn.Conv1D(5, 4, padding=((3, 1),)), _time(), *TIMES),
    one("conv1d-groups", lambda: nn.Conv1D(6, 2, groups=2, use_bias=False), _time(), *TIMES),
    one(
        "conv1d-causal-groups",
        lambda: nn.Conv1D(6, 2, groups=2, stride=2, padding="causal"),
        _time(),
        *TIMES,
    ),
    one("conv2d", lambda: nn.Conv2D(5, (3, 2)), _image(), *ODD_EVEN),
    one("conv2d-1x1-stride", lambda: nn.Conv2D(5, 1, stride=2), _image(), *ODD_EVEN),
    one(
        "conv2d-same-stride",
        lambda: nn.Conv2D(5, 3, stride=2, padding="same"),
        _image(),
        *ODD_EVEN,
    ),
    one(
        "conv2d-same-even-kernel",
        lambda: nn.Conv2D(5, (2, 4), stride=(1, 3), padding="same"),
        _image(),
        *ODD_EVEN,
    ),
    one("conv2d-number", lambda: nn.Conv2D(5, 3, padding=1, stride=2), _image(), *ODD_EVEN),
    one(
        "conv2d-explicit",
        lambda: nn.Conv2D(5, 3, padding=((0, 1), (2, 0)), dilation=(1, 2)),
        _image(),
        *ODD_EVEN,
    ),
    one(
        "conv2d-same-dilation",
        lambda: nn.Conv2D(5, 3, dilation=2, padding="same"),
        _image(),
        *ODD_EVEN,
    ),
    one(
        "conv2d-same-stride-dilation",
        lambda: nn.Conv2D(5, 3, stride=(2, 3), dilation=2, padding="same"),
        _image(),
        *ODD_EVEN,
    ),
    one(
        "conv2d-groups-same",
        lambda: nn.Conv2D(6, 3, groups=2, stride=2, padding="same"),
        _image(),
        *ODD_EVEN,
    ),
    one("conv2d-depthwise-groups", lambda: nn.Conv2D(8, 3, groups=4), _image(), *ODD_EVEN),
    one("conv3d", lambda: nn.Conv3D(3, (2, 3, 2), stride=(1, 2, 1), padding="same"), (4, 5, 3, 2)),
    one("conv3d-dilation", lambda: nn.Conv3D(3, 2, dilation=2, padding=1), (4, 5, 3, 2)),
    one("conv3d-groups", lambda: nn.Conv3D(4, 2, groups=2), (4, 5, 3, 2)),
    one("depthwise", lambda: nn.DepthwiseConv2D(3, 2), _image(3), *ODD_EVEN),
    one(
        "depthwise-same-stride",
        lambda: nn.DepthwiseConv2D((3, 2), 2, stride=2, padding="same"),
        _image(3),
        *ODD_EVEN,
    ),
    one(
        "depthwise-unequal-stride",
        lambda: nn.DepthwiseConv2D(3, stride=(1, 2), padding="same", use_bias=False),
        _image(3),
        *ODD_EVEN,
    ),
    one(
        "depthwise-stride-dilation",
        lambda: nn.DepthwiseConv2D((3, 2), 2, stride=2, dilation=2, padding=1),
        _image(3),
        *ODD_EVEN,
    ),
    one(
        "separable",
        lambda: nn.SeparableConv2D(5, 3, 2, padding="same", stride=2),
        _image(3),
        *ODD_EVEN,
    ),
    one(
        "separable-dilation",
        lambda: nn.SeparableConv2D(5, (2, 3), dilation=2, padding=((1, 0), (0, 2))),
        _image(3),
        *ODD_EVEN,
    ),
]

TRANSPOSED = [
    one("conv-transpose1d", lambda: nn.ConvTranspose1D(5, 3, stride=2), _time(), *TIMES),
    one(
        "conv-transpose1d-crop",
        lambda: nn.ConvTranspose1D(5, 4, stride=3, padding=((0, 2),), output_padding=1),
        _time(),
        *TIMES,
    ),
    one(
        "conv-transpose1d-gap",
        lambda: nn.ConvTranspose1D(5, 2, stride=3, padding="same"),
        _time(),
        *TIMES,
    ),
    one(
        "conv-transpose1d-short",
        lambda: nn.ConvTranspose1D(5, 2, stride=4, padding=((1, 0),)),
        _time(),
        *TIMES,
    ),
    one(
        "conv-transpose2d",
        lambda: nn.ConvTranspose2D(5, (3, 2), stride=2, use_bias=False),
        _image(3),
        *ODD_EVEN,
    ),
    one(
        "conv-transpose2d-same",
        lambda: nn.ConvTranspose2D(5, (4, 3), stride=2, padding="same"),
        _image(3),
        *ODD_EVEN,
    ),
    one(
        "conv-transpose2d-torch",
        lambda: nn.ConvTranspose2D(5, 3, stride=2, padding=1, output_padding=1),
        _image(3),
        *ODD_EVEN,
    ),
    one(
        "conv-transpose2d-beyond",
        lambda: nn.ConvTranspose2D(5, 3, stride=(2, 3), output_padding=(1, 2)),
        _image(3),
        *ODD_EVEN,
    ),
    one(
        "conv-transpose2d-dilation",
        lambda: nn.ConvTranspose2D(5, (3, 2), stride=(2, 1), dilation=2, padding=((3, 1), (0, 2))),
        _image(3),
        *ODD_EVEN,
    ),
    one(
        "conv-transpose2d-same-dilation",
        lambda: nn.ConvTranspose2D(5, 3, stride=2, dilation=2, padding="same", output_padding=1),
        _image(3),
        *ODD_EVEN,
    ),
]

POOLING = [
    one("max-pool1d", lambda: nn.MaxPool1D(3, 2, padding="same"), _time(), *TIMES),
    one("max-pool2d", lambda: nn.MaxPool2D(2), _image(), *ODD_EVEN),
    one("max-pool2d-explicit", lambda: nn.MaxPool2D(3, 2, padding=1), _image(), *ODD_EVEN),
    one(
        "max-pool2d-uneven",
        lambda: nn.MaxPool2D((3, 2), (1, 2), padding=((2, 0), (0, 1))),
        _image(),
        *ODD_EVEN,
    ),
    one("max-pool2d-same", lambda: nn.MaxPool2D((3, 4), 2, padding="same"), _image(), *ODD_EVEN),
    one("average-pool1d", lambda: nn.AveragePool1D(3, 2), _time(), *TIMES),
    one(
        "average-pool1d-same-count",
        lambda: nn.AveragePool1D(4, 3, padding="same", count_include_pad=True),
        _time(),
        *TIMES,
    ),
    one(
        "average-pool2d-same", lambda: nn.AveragePool2D(3, 2, padding="same"), _image(), *ODD_EVEN
    ),
    one("average-pool2d-explicit", lambda: nn.AveragePool2D(3, 2, padding=1), _image(), *ODD_EVEN),
    one(
        "average-pool2d-count",
        lambda: nn.AveragePool2D((3, 2), 1, padding=((1, 2), (0, 1)), count_include_pad=True),
        _image(),
        *ODD_EVEN,
    ),
    one("global-average-pool1d", nn.GlobalAveragePool, _time(), *TIMES),
    one("global-average-pool2d", nn.GlobalAveragePool, _image(), *ODD_EVEN),
    one("global-max-pool2d", nn.GlobalMaxPool, _image(), *ODD_EVEN),
    one("global-max-pool3d", nn.GlobalMaxPool, (2, 3, 2, 4)),
    one("adaptive-average-pool1d", lambda: nn.AdaptiveAveragePool1D(3), _time(), {"time": 6}),
    one(
        "adaptive-average-pool2d",
        lambda: nn.AdaptiveAveragePool2D((2, 3)),
        _image(),
        {"height": 4, "width": 9},
        {"height": 2, "width": 3},
    ),
    one("upsample1d", lambda: nn.Upsample(3), _time(), *TIMES),
    one("upsample2d", lambda: nn.Upsample(2), _image(), *ODD_EVEN),
    one("upsample1d-linear", lambda: nn.Upsample(3, "bilinear"), _time(), {"time": 1}, *TIMES),
    one("upsample2d-bilinear", lambda: nn.Upsample(2, "bilinear"), _image(), *ODD_EVEN),
    one(
        "upsample2d-align-corners",
        lambda: nn.Upsample(3, "bilinear", align_corners=True),
        _image(),
        {"height": 1, "width": 5},
    ),
]

NORMALISATION = [
    one("batch-norm", lambda: nn.BatchNorm(epsilon=1e-3), _image(), *ODD_EVEN),
    one("batch-norm-plain", lambda: nn.BatchNorm(use_scale=False, use_shift=False), (4,)),
    one("layer-norm", lambda: nn.LayerNorm(epsilon=1e-3), _time(5), *TIMES),
    one("layer-norm-axes", lambda: nn.LayerNorm(axes=2, use_shift=False), (3, 4, 5)),
    one("layer-norm-plain", lambda: nn.LayerNorm(use_scale=False, use_shift=False), (5,)),
    one("group-norm", lambda: nn.GroupNorm(2, epsilon=1e-3), _image(6), *ODD_EVEN),
    one("group-norm-flat", lambda: nn.GroupNorm(2, use_scale=False), (8,)),
    one("instance-norm", lambda: nn.InstanceNorm(epsilon=1e-3), _image(), *ODD_EVEN),
    one("instance-norm-plain", lambda: nn.InstanceNorm(affine=False), _time(), *TIMES),
    one("rms-norm", lambda: nn.RMSNorm(epsilon=1e-3), _time(5), *TIMES),
    one("rms-norm-plain", lambda: nn.RMSNorm(use_scale=False), (5,)),
]


def _both(merge: Any) -> Layer:
    return nn.Bidirectional(nn.SimpleRNN(3, return_sequences=True), merge)


RECURRENT = [
    one("simple-rnn", lambda: nn.SimpleRNN(5), _time(), *TIMES),
    one(
        "simple-rnn-relu",
        lambda: nn.SimpleRNN(5, activation="relu", use_bias=False, return_sequences=True),
        _time(),
        *TIMES,
    ),
    one("lstm", lambda: nn.LSTM(5), _time(), {"time": 1}, *TIMES),
    one("lstm-reverse", lambda: nn.LSTM(5, reverse=True, return_sequences=True), _time(), *TIMES),
    one("gru", lambda: nn.GRU(5, return_sequences=True), _time(), *TIMES),
    one("gru-reverse", lambda: nn.GRU(5, reverse=True), _time(), *TIMES),
    one("gru-before", lambda: nn.GRU(5, reset="before"), _time(), *TIMES),
    one("gru-plain", lambda: nn.GRU(5, use_bias=False), _time(), *TIMES),
    one("bidirectional", lambda: nn.Bidirectional(nn.LSTM(3)), _time(), *TIMES),
    one(
        "bidirectional-sequence",
        lambda: nn.Bidirectional(nn.GRU(3, return_sequences=True)),
        _time(),
        *TIMES,
    ),
    one("bidirectional-sum", lambda: _both("sum"), _time(), {"time": 4}),
    one("bidirectional-average", lambda: _both("average"), _time(), {"time": 4}),
    one("bidirectional-multiply", lambda: _both("multiply"), _time(), {"time": 4}),
]


def _attention(*, cross: bool, masked: bool, causal: bool, use_bias: bool = True) -> Network:
    query = Input("query", ("time", 6))
    inputs, memory, mask = [query], None, None
    if cross:
        memory = Input("memory", ("source", 4))
        inputs.append(memory)
    if masked:
        mask = Input("mask", ("source" if cross else "time",), "bool")
        inputs.append(mask)
    layer = nn.MultiHeadAttention(2, 3, causal=causal, use_bias=use_bias)
    return Graph(inputs, layer(query, memory, mask=mask))


ATTENTION = [
    Case(
        "-".join(["attention", *words]),
        partial(_attention, **{word: word in words for word in ("cross", "masked", "causal")}),
        ({"batch": 3, "time": 5, "source": 4}, {"batch": 2, "time": 3, "source": 6}),
    )
    for words in (
        (),
        ("causal",),
        ("masked",),
        ("masked", "causal"),
        ("cross",),
        ("cross", "causal"),
        ("cross", "masked"),
        ("cross", "masked", "causal"),
    )
] + [
    Case(
        "attention-plain",
        partial(_attention, cross=True, masked=False, causal=False, use_bias=False),
        ({"batch": 2, "time": 3, "source": 4},),
    )
]


def _tokens(layer: Layer) -> Network:
    return Sequential([layer], ("time",), "int64", low=0, high=5)


def _shared() -> Network:
    x, y = Input("x", (5,)), Input("y", (5,))
    dense = nn.Dense(4)
    hidden = nn.Add()(dense(x), nn.Activation("tanh")(dense(y)))
    return Graph([x, y], {"sum": hidden, "scores": nn.Softmax()(nn.Dense(3)(hidden))})


def _shared_attention() -> Network:
    x, mask = Input("x", ("time", 4)), Input("mask", ("time",), "bool")
    attention = nn.MultiHeadAttention(2, 2, causal=True)
    return Graph([x, mask], [attention(attention(x), mask=mask), attention(x)])


def _names() -> Network:
    """Names that a framework may want for itself."""
    words = ("variables", "name", "layers", "forward", "call", "trainable", "dtypes", "serve")
    return Sequential([nn.Dense(4, name=word) for word in words], (4,))


def _helpers() -> Network:
    """Names that a backend may give to layers that it adds."""
    words = ("conv", "conv_pad", "conv_stride", "conv_crop")
    layers = [
        nn.Conv1D(4, 2, stride=2, dilation=2, padding=((1, 1),), name=word) for word in words[:2]
    ]
    other = [nn.ConvTranspose1D(4, 3, padding=1, name=word) for word in words[2:]]
    return Sequential([*layers, *other], ("time", 4), input_name="conv_in_order")


SHAPING = [
    one("dense", lambda: nn.Dense(5), (4,)),
    one("dense-sequence", lambda: nn.Dense(5, use_bias=False), _time(), *TIMES),
    Case("embedding", lambda: _tokens(nn.Embedding(5, 3)), ({"batch": 2, "time": 6},)),
    Case(
        "embedding-padding",
        lambda: _tokens(nn.Embedding(5, 3, padding_index=2)),
        ({"batch": 3, "time": 6},),
    ),
    one("positional-embedding", lambda: nn.PositionalEmbedding(9), _time(), *TIMES),
    one("dropout", lambda: nn.Dropout(0.5), (4,)),
    one("flatten", nn.Flatten, (3, 2, 4)),
    one("reshape", lambda: nn.Reshape((4, -1)), (3, 2, 4)),
    one("reshape-free", lambda: nn.Reshape((-1, 2)), _time(), *TIMES),
    one("permute", lambda: nn.Permute((3, 1, 2)), (3, 2, 4)),
    one("permute-time", lambda: nn.Permute((2, 1)), _time(), *TIMES),
    one("pad", lambda: nn.Pad(((1, 2), (0, 3))), _image(), *ODD_EVEN),
    one("pad-reflect", lambda: nn.Pad(((1, 2), (0, 3)), "reflect"), _image(), *ODD_EVEN),
    one("pad-replicate", lambda: nn.Pad(((1, 2), (0, 9)), "replicate"), _image(), *ODD_EVEN),
    one("pad1d", lambda: nn.Pad(((2, 1),)), _time(), *TIMES),
    one("pad1d-reflect", lambda: nn.Pad(((2, 1),), "reflect"), _time(), *TIMES),
    one("pad3d", lambda: nn.Pad(((2, 1), (0, 1), (1, 0))), (2, 3, 2, 2)),
    one("pad3d-replicate", lambda: nn.Pad(((2, 1), (0, 1), (1, 0)), "replicate"), (2, 3, 2, 2)),
    one("add", nn.Add, _time(), {"time": 3}, others=[(1, 4), _time()]),
    one("multiply", nn.Multiply, _time(), {"time": 3}, others=[_time(1)]),
    one("concatenate", nn.Concatenate, _time(), {"time": 3}, others=[_time(2)]),
    one("concatenate-axis", lambda: nn.Concatenate(1), (3, 2, 4), others=[(2, 2, 4)]),
    one("matmul", nn.MatMul, (3, 4), others=[(4, 2)]),
    one("matmul-transposed", lambda: nn.MatMul(True), (2, 3, 4), others=[(2, 5, 4)]),
    one("softmax", nn.Softmax, _time(), *TIMES),
    one("softmax-axis", lambda: nn.Softmax(1), (3, 2, 4)),
    one("log-softmax", nn.LogSoftmax, _time(), *TIMES),
    one("log-softmax-axis", lambda: nn.LogSoftmax(-2), (3, 2, 4)),
    one("prelu", nn.PReLU, _image(), *ODD_EVEN),
    one("prelu-flat", nn.PReLU, (4,)),
    one("glu", nn.GLU, _time(6), *TIMES),
    one("glu-silu", lambda: nn.GLU("silu"), (6,)),
    Case("shared", _shared),
    Case("shared-attention", _shared_attention, ({"batch": 3, "time": 4},)),
    Case("names", _names),
    Case("names-of-helpers", _helpers, ({"batch": 2, "time": 9},)),
]

ACTIVATIONS = [
    one(f"activation-{name}", partial(nn.Activation, name), (31,)) for name in FUNCTIONS
] + [
    one(f"activation-{name}-alpha", partial(nn.Activation, name, 0.375), (31,)) for name in ALPHAS
]

CASES: list[Case] = [
    *CONVOLUTIONS,
    *TRANSPOSED,
    *POOLING,
    *NORMALISATION,
    *RECURRENT,
    *ATTENTION,
    *SHAPING,
    *ACTIVATIONS,
]
"""All cases."""


def case(name: str) -> Case:
    """The case of that name."""
    return next(each for each in CASES if each.name == name)


def covered() -> set[type[Layer]]:
    """Classes of the layers that the cases have."""
    return {type(layer) for each in CASES for layer in each.network().layers.values()}
