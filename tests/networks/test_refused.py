"""Descriptions that do not fit: each gives one error: where, what came, what was wanted."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.errors import NetworkError, UsageError
from pytest_fwcompare.networks import (
    GLU,
    GRU,
    LSTM,
    Activation,
    AdaptiveAveragePool2D,
    Add,
    AveragePool1D,
    BatchNorm,
    Bidirectional,
    Concatenate,
    Conv,
    Conv1D,
    Conv2D,
    ConvTranspose2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Embedding,
    Flatten,
    Graph,
    GroupNorm,
    Input,
    InstanceNorm,
    LayerNorm,
    MatMul,
    MaxPool2D,
    MultiHeadAttention,
    Pad,
    Permute,
    Pool,
    PositionalEmbedding,
    Recurrent,
    Reshape,
    Sequential,
    Softmax,
    Upsample,
)

X, Y = Input("x", (4,)), Input("y", ("time", 4))
IMAGE = Input("image", (8, 8, 3))


def chain(*layers, shape=(8, 8, 3), dtype="float32"):
    return lambda: Sequential(layers, input_shape=shape, input_dtype=dtype)


def cycle():
    layer = Dense(4)
    node = layer(X)
    object.__setattr__(node, "inputs", (Dense(4)(node),))
    return Graph([X], [node])


def shared_with_other_features():
    layer = Dense(3, name="shared")
    return Graph([X], [layer(layer(X))])


BAD = {
    "no layers": (
        lambda: Sequential([], input_shape=(2,)),
        "network 'network': it has no layers",
    ),
    "no input shape": (
        lambda: Sequential([Dense(2)]),
        "network 'network': Sequential needs the shape of its input, without the batch: "
        "Sequential([...], input_shape=(28, 28, 1))",
    ),
    "class for a layer": (
        lambda: Sequential([Dense(2), Flatten], input_shape=(2,)),
        "network 'network': expected a layer at position 1, got <class "
        "'pytest_fwcompare.networks.layers.shaping.Flatten'>; write it with parentheses",
    ),
    "shape is a number": (
        lambda: Input("x", 3),
        "Input 'x': expected a tuple of sizes, got 3; write (3,)",
    ),
    "shape is a word": (
        lambda: Input("x", "time"),
        "Input 'x': expected a tuple of sizes, got 'time'; write ('time',)",
    ),
    "size below zero": (
        lambda: Input("x", (3, -1)),
        "Input 'x': TensorSpec: a size is an integer of at least 0 or the name of a free size, "
        "got -1",
    ),
    "free size is no word": (
        lambda: Input("x", ("time steps", 2)),
        "Input 'x': the name of a free size is a word, got 'time steps' in (batch, time steps, 2)",
    ),
    "batch in the middle": (
        lambda: Input("x", (3, "batch")),
        "Input 'x': 'batch' names the first axis only, got shape (3, batch)",
    ),
    "unknown input dtype": (
        lambda: Input("x", (3,), "complex64"),
        "Input 'x': dtype is float32 (it stands for the working dtype), int32 or int64 for "
        "tokens, or bool for a mask, got 'complex64'",
    ),
    "unknown input option": (
        lambda: Input("x", (3,), colour="red"),
        "Input 'x': TensorSpec.__init__() got an unexpected keyword argument 'colour'",
    ),
    "unknown input kind": (
        lambda: Input("x", (3,), kind="odd"),
        "Input 'x': TensorSpec: unknown kind 'odd'",
    ),
    "input name": (
        lambda: Input("my input", (3,)),
        "Input: expected a name of letters, digits and underscores that starts with a letter, "
        "got 'my input'",
    ),
    "layer name": (
        chain(Flatten(name="a.b")),
        "Flatten: expected a name of letters, digits and underscores that starts with a letter, "
        "got 'a.b'",
    ),
    "duplicate layers": (
        chain(Dense(2, name="fc"), Dense(3, name="fc")),
        "network 'network': two layers are called 'fc': Dense(name='fc', units=2, use_bias=True) "
        "and Dense(name='fc', units=3, use_bias=True); give one another name",
    ),
    "layer named as input": (
        chain(Dense(2, name="x")),
        "network 'network': Dense 'x' has the name of an input; rename one",
    ),
    "two inputs of a name": (
        lambda: Graph([X, Input("x", (3,))], [Dense(2)(X)]),
        "network 'network': two inputs are called 'x'",
    ),
    "no inputs": (lambda: Graph([], [Dense(2)(X)]), "network 'network': it has no inputs"),
    "no outputs": (lambda: Graph([X], []), "network 'network': it has no outputs"),
    "no named outputs": (lambda: Graph([X], {}), "network 'network': it has no outputs"),
    "input that is none": (
        lambda: Graph([Dense(2)(X)], [Dense(2)(X)]),
        "network 'network': inputs are made by Input(...), got Dense",
    ),
    "output that is none": (
        lambda: Graph([X], {"y": Dense(2)}),
        "network 'network': output 'y' is not a node but Dense(name='', units=2, use_bias=True); "
        "call the layer on a node",
    ),
    "output name": (
        lambda: Graph([X], {"a b": Dense(2)(X)}),
        "network 'network', output: expected a name of letters",
    ),
    "output is an input": (
        lambda: Graph([X], {"y": Dense(2)(X), "again": X}),
        "network 'network': output 'again' is the input 'x' itself; an output comes from a layer",
    ),
    "nothing but an input": (lambda: Graph([X], [X]), "network 'network': it has no layers"),
    "disconnected input": (
        lambda: Graph([X, Y], [Dense(2)(X)]),
        "network 'network': no output depends on Input 'y'; leave it out or connect it",
    ),
    "undeclared input": (
        lambda: Graph([X], [Dense(2)(Y)]),
        "network 'network': its outputs depend on Input 'y', which is not among its inputs (x)",
    ),
    "cycle": (
        cycle,
        "network 'network': Dense depends on its own output; a network has no cycles",
    ),
    "shared layer": (
        shared_with_other_features,
        "Dense 'shared': used twice with inputs that need different parameters: kernel (4, 3) at "
        "first, (3, 3) now, for input (batch, 3); use two layers",
    ),
    "called on an array": (
        lambda: Dense(2)(np.ones(3)),
        "Dense: expected nodes made by Input(...) or by calling a layer, got ndarray",
    ),
    "too many inputs": (
        lambda: Graph([X], [Dense(2)(X, X)]),
        "Dense 'dense': expected 1 input, got 2",
    ),
    "too few inputs": (
        lambda: Graph([X], [Add()(X)]),
        "Add 'add': expected at least 2 inputs, got 1",
    ),
    "unknown keyword": (
        lambda: Graph([X], [Dense(2)(X, mask=X)]),
        "Dense 'dense': unknown keyword input 'mask'; it takes: none",
    ),
    "mask of floats": (
        lambda: Graph([Y], [MultiHeadAttention(1, 4)(Y, mask=Y)]),
        "MultiHeadAttention 'multi_head_attention': expected a mask of bool and shape "
        "(batch, time), True where attended to, got float32 of shape (batch, time, 4)",
    ),
    "floats to an embedding": (
        chain(Embedding(9, 4), shape=("time",)),
        "Embedding 'embedding': expected tokens, an input of integers, got float32; write "
        "Input(..., dtype='int64')",
    ),
    "tokens to a dense layer": (
        chain(Dense(2), shape=(3,), dtype="int64"),
        "Dense 'dense': expected an input of floats, got int64; tokens go through an Embedding",
    ),
    "mixed dtypes": (
        lambda: (
            lambda y: Graph([X, y], [Concatenate()(X, y)])
        )(Input("y", (4,), "int64")),
        "Concatenate 'concatenate': expected inputs of one dtype, got float32, int64",
    ),
    "rank of an image": (
        chain(Conv2D(4, 3), shape=(8, 3)),
        "Conv2D 'conv2d': expected an input of 4 axes (batch, 2 spatial, features), got 3 in "
        "shape (batch, 8, 3)",
    ),
    "rank of a sequence": (
        chain(LSTM(4), shape=(8, 8, 3)),
        "LSTM 'lstm': expected an input of 3 axes, batch included, got 4 in shape "
        "(batch, 8, 8, 3)",
    ),
    "rank of a pool": (
        chain(MaxPool2D(2), shape=(8, 3)),
        "MaxPool2D 'max_pool2d': expected an input of 4 axes",
    ),
    "free features": (
        chain(Flatten(), Dense(2), shape=("time", 3)),
        "Dense 'dense': expected a known number of features on the last axis, got the free size "
        "'3*time' in shape (batch, 3*time)",
    ),
    "input groups": (
        chain(Conv2D(4, 3, groups=2)),
        "Conv2D 'conv2d': expected a number of input features that groups=2 divides, got 3 in "
        "shape (batch, 8, 8, 3)",
    ),
    "filter groups": (
        lambda: Conv2D(3, 3, groups=2),
        "Conv2D: filters=3 is not a multiple of groups=2",
    ),
    "window beyond the input": (
        chain(Conv2D(4, 5, dilation=3)),
        "Conv2D 'conv2d': a window covers 13 cells, but spatial axis 1 of shape "
        "(batch, 8, 8, 3) has 8 with padding 'valid'",
    ),
    "pool beyond the input": (
        chain(MaxPool2D((2, 9))),
        "MaxPool2D 'max_pool2d': a window covers 9 cells, but spatial axis 2 of shape "
        "(batch, 8, 8, 3) has 8 with padding 'valid'",
    ),
    "pool padding": (
        lambda: MaxPool2D(2, padding=2),
        "MaxPool2D: padding is below the pool size 2, so that every window has a cell of the "
        "input, got 2",
    ),
    "unknown padding": (
        lambda: Conv2D(4, 3, padding="causal"),
        "Conv2D: padding is one of valid, same, a number, or (before, after) for each of 2 "
        "spatial axes, got 'causal'",
    ),
    "half a padding": (
        lambda: Conv2D(4, 3, padding=(1, 1)),
        "Conv2D: padding is (before, after) for each of 2 spatial axes, got (1, 1)",
    ),
    "kernel of other axes": (
        lambda: Conv2D(4, (3, 3, 3)),
        "Conv2D: kernel_size is one number or 2 of them, one a spatial axis, got (3, 3, 3)",
    ),
    "zero stride": (
        lambda: Conv1D(4, 3, stride=0),
        "Conv1D: stride is an integer of at least 1, got 0",
    ),
    "fractional units": (
        lambda: Dense(2.0),
        "Dense: units is an integer of at least 1, got 2.0",
    ),
    "multiplier": (
        lambda: DepthwiseConv2D(3, 0),
        "DepthwiseConv2D: multiplier is an integer of at least 1, got 0",
    ),
    "base class": (
        lambda: Conv(4, 3),
        "Conv: it has no number of spatial axes; use one of Conv1D, Conv2D, Conv3D",
    ),
    "pool base class": (lambda: Pool(2), "Pool: it has no number of spatial axes; use MaxPool1D"),
    "recurrent base class": (lambda: Recurrent(2), "Recurrent: it is no cell by itself"),
    "output padding": (
        lambda: ConvTranspose2D(4, 3, 2, output_padding=2),
        "ConvTranspose2D: output_padding is below the stride or the dilation, got 2 with stride "
        "2, dilation 1",
    ),
    "all cropped": (
        chain(ConvTranspose2D(4, 1, padding=4)),
        "ConvTranspose2D 'conv_transpose2d': spatial axis 1 would have 0 cells after cropping 4 "
        "from shape (batch, 8, 8, 3)",
    ),
    "adaptive": (
        chain(AdaptiveAveragePool2D((4, 3))),
        "AdaptiveAveragePool2D 'adaptive_average_pool2d': output_size=(4, 3) does not divide "
        "spatial axis 2 of shape (batch, 8, 8, 3); sizes must be multiples of it",
    ),
    "unknown activation": (
        lambda: Activation("swish"),
        "Activation: unknown function 'swish'; the functions are relu, relu6, leaky_relu",
    ),
    "alpha of none": (
        lambda: Activation("relu", 0.1),
        "Activation: relu has no alpha; leaky_relu, elu, celu have, got alpha=0.1",
    ),
    "alpha of celu": (
        lambda: Activation("celu", 0.0),
        "Activation: alpha of celu divides, so it is above 0, got 0",
    ),
    "rate": (lambda: Dropout(1.0), "Dropout: rate is a number in [0.0, 1.0), got 1.0"),
    "epsilon": (
        lambda: LayerNorm("small"),
        "LayerNorm: epsilon is a number at least 0.0, got 'small'",
    ),
    "momentum": (lambda: BatchNorm(momentum=1.5), "BatchNorm: momentum is a number in [0.0, "),
    "layer norm axes": (
        chain(LayerNorm(axes=4)),
        "LayerNorm 'layer_norm': normalises axes=4 axes beside the batch, got 3",
    ),
    "layer norm free": (
        chain(LayerNorm(axes=2), shape=("time", 3)),
        "LayerNorm 'layer_norm': expected known sizes on the last 2 axes",
    ),
    "norm groups": (
        chain(GroupNorm(2)),
        "GroupNorm 'group_norm': expected a number of features that groups=2 divides, got 3",
    ),
    "instance norm without space": (
        chain(InstanceNorm(), shape=(3,)),
        "InstanceNorm 'instance_norm': expected an input of at least 3 axes, batch included, got "
        "2",
    ),
    "reflect": (
        chain(Pad(((8, 0), (0, 0)), "reflect")),
        "Pad 'pad': reflect padding of (8, 0) needs at least 9 cells on spatial axis 1, got 8",
    ),
    "pad axes": (
        chain(Pad(((1, 1),))),
        "Pad 'pad': amounts has 1 pairs, got 2 spatial axes in shape (batch, 8, 8, 3)",
    ),
    "pad mode": (
        lambda: Pad(((1, 1),), "wrap"),
        "Pad: mode is one of zero, reflect, replicate, got 'wrap'",
    ),
    "reshape": (
        chain(Reshape((7, -1))),
        "Reshape 'reshape': expected 7 values an example for shape (7, -1), got 192 in "
        "(batch, 8, 8, 3)",
    ),
    "two unknown sizes": (
        lambda: Reshape((-1, -1)),
        "Reshape: at most one size is -1, got (-1, -1)",
    ),
    "reshape of a free size": (
        chain(Reshape((6,)), shape=("time", 3)),
        "Reshape 'reshape': expected a shape with -1 whose other sizes divide 3, since the free "
        "sizes of (batch, time, 3) are not known, got (6,)",
    ),
    "permute": (
        lambda: Permute((0, 1)),
        "Permute: axes names each axis after the batch once, from 1, got (0, 1)",
    ),
    "permute rank": (
        chain(Permute((2, 1))),
        "Permute 'permute': axes=(2, 1) needs 2 axes after the batch, got 3",
    ),
    "align corners": (
        lambda: Upsample(2, align_corners=True),
        "Upsample: align_corners goes with mode 'bilinear', got mode 'nearest'",
    ),
    "broadcast": (
        lambda: (lambda y: Graph([X, y], [Add()(X, y)]))(Input("y", (3,))),
        "Add 'add': expected sizes that are equal or 1, got 4, 3 on axis 1 of (batch, 4), "
        "(batch, 3)",
    ),
    "broadcast rank": (
        lambda: Graph([X, Y], [Add()(X, Y)]),
        "Add 'add': expected inputs of the same number of axes, got (batch, 4), (batch, time, 4)",
    ),
    "broadcast free sizes": (
        lambda: (lambda z: Graph([Y, z], [Add()(Y, z)]))(Input("z", ("source", 4))),
        "Add 'add': expected sizes that are equal or 1, got time, source on axis 1",
    ),
    "concatenate": (
        lambda: (lambda z: Graph([Y, z], [Concatenate()(Y, z)]))(Input("z", ("source", 4))),
        "Concatenate 'concatenate': expected inputs that differ on axis -1 only, got "
        "(batch, time, 4), (batch, source, 4)",
    ),
    "axis": (
        lambda: Softmax(0),
        "Softmax: axis 0 is the batch, along which nothing is computed",
    ),
    "axis from the end": (
        chain(Softmax(-4)),
        "Softmax 'softmax': axis -4 is the batch or does not exist in shape (batch, 8, 8, 3)",
    ),
    "matmul": (
        lambda: Graph([Y], [MatMul()(Y, Y)]),
        "MatMul 'mat_mul': expected shapes (batch, ..., m, k) and (batch, ..., k, n), got "
        "(batch, time, 4) and (batch, time, 4)",
    ),
    "odd glu": (
        chain(GLU()),
        "GLU 'glu': expected an even number of features, got 3 in shape (batch, 8, 8, 3)",
    ),
    "gate": (lambda: GLU("relu"), "GLU: gate is one of sigmoid, silu, got 'relu'"),
    "padding index": (
        lambda: Embedding(9, 4, padding_index=9),
        "Embedding: padding_index is a token below vocabulary=9, got 9",
    ),
    "positions": (
        chain(PositionalEmbedding(4), shape=(5, 3)),
        "PositionalEmbedding 'positional_embedding': expected at most length=4 steps, got 5",
    ),
    "no steps": (
        chain(GRU(4), shape=(0, 3)),
        "GRU 'gru': time would have 0 cells in shape (batch, 0, 3); it needs a step",
    ),
    "reset": (lambda: GRU(4, reset="never"), "GRU: reset is one of after, before, got 'never'"),
    "cell of a bidirectional": (
        lambda: Bidirectional(Dense(2)),
        "Bidirectional: expected a SimpleRNN, LSTM or GRU layer, got Dense(",
    ),
    "reversed bidirectional": (
        lambda: Bidirectional(GRU(2, reverse=True)),
        "Bidirectional: its layer has reverse=True; it reverses a copy by itself",
    ),
    "count_include_pad by position": (
        lambda: AveragePool1D(2, 2, True),
        "AveragePool1D: padding is an integer of at least 0, got True",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_descriptions_are_refused(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(NetworkError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, UsageError)
