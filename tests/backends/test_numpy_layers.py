"""Every layer of the NumPy reference: shapes as inferred, gradients as by differences."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.numpy import NumpyBackend
from pytest_fwcompare.networks import Layer, random_parameters
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.networks.graph import Graph, Input, Network
from pytest_fwcompare.networks.layers import (
    GLU,
    GRU,
    LSTM,
    Activation,
    AdaptiveAveragePool1D,
    AdaptiveAveragePool2D,
    Add,
    AveragePool1D,
    AveragePool2D,
    BatchNorm,
    Bidirectional,
    Concatenate,
    Conv1D,
    Conv2D,
    Conv3D,
    ConvTranspose1D,
    ConvTranspose2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePool,
    GlobalMaxPool,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LogSoftmax,
    MatMul,
    MaxPool1D,
    MaxPool2D,
    MultiHeadAttention,
    Multiply,
    Pad,
    Permute,
    PositionalEmbedding,
    PReLU,
    Reshape,
    RMSNorm,
    SeparableConv2D,
    SimpleRNN,
    Softmax,
    Upsample,
)
from pytest_fwcompare.networks.layers.elementwise import FUNCTIONS
from pytest_fwcompare.networks.sizes import resolve

ROW = (6,)
SEQUENCE = ("time", 4)
IMAGE = ("height", "width", 4)
VOLUME = ("depth", "height", "width", 2)

ONE_INPUT = {
    "dense": (Dense(3), ROW),
    "dense sequence": (Dense(3, use_bias=False), SEQUENCE),
    "conv1d": (Conv1D(5, 3), SEQUENCE),
    "conv1d causal": (Conv1D(5, 3, dilation=2, padding="causal"), SEQUENCE),
    "conv1d causal stride": (Conv1D(5, 3, stride=2, padding="causal"), SEQUENCE),
    "conv2d": (Conv2D(5, (3, 2), (2, 1), dilation=(1, 2)), IMAGE),
    "conv2d same": (Conv2D(6, 3, 2, groups=2, padding="same"), IMAGE),
    "conv2d same dilated": (Conv2D(6, (4, 3), 1, dilation=2, padding="same"), IMAGE),
    "conv2d explicit": (Conv2D(4, 3, 3, padding=((2, 0), (1, 3))), IMAGE),
    "conv2d 1x1": (Conv2D(4, 1, 2), IMAGE),
    "conv2d amount": (Conv2D(4, 3, groups=4, padding=1, use_bias=False), IMAGE),
    "conv3d": (Conv3D(4, (3, 2, 1), (1, 2, 3), padding="same"), VOLUME),
    "depthwise": (DepthwiseConv2D((3, 2), 3, 2, padding="same"), IMAGE),
    "depthwise dilated": (DepthwiseConv2D(3, dilation=2, use_bias=False), IMAGE),
    "separable": (SeparableConv2D(5, 3, 2, padding=1), IMAGE),
    "transpose 1d": (ConvTranspose1D(3, 3, 2), SEQUENCE),
    "transpose 1d same": (ConvTranspose1D(3, 2, 3, padding="same"), SEQUENCE),
    "transpose 2d same": (ConvTranspose2D(3, 4, (2, 1), padding="same"), IMAGE),
    "transpose 2d crop": (
        ConvTranspose2D(3, 3, 2, dilation=(1, 2), padding=((1, 0), (2, 1)), output_padding=1),
        IMAGE,
    ),
    "transpose 2d beyond": (ConvTranspose2D(3, 2, 3, output_padding=(2, 1)), IMAGE),
    "max pool 1d": (MaxPool1D(3, 2, padding="same"), SEQUENCE),
    "max pool 2d": (MaxPool2D((2, 3)), IMAGE),
    "max pool 2d overlap": (MaxPool2D(3, 2, padding=1), IMAGE),
    "average pool 1d": (AveragePool1D(2), SEQUENCE),
    "average pool 2d": (AveragePool2D(3, 2, padding="same"), IMAGE),
    "average pool 2d pad": (
        AveragePool2D(3, 1, padding=((1, 2), (0, 1)), count_include_pad=True), IMAGE),
    "global average": (GlobalAveragePool(), IMAGE),
    "global max": (GlobalMaxPool(), IMAGE),
    "adaptive 1d": (AdaptiveAveragePool1D(3), (9, 2)),
    "adaptive 2d": (AdaptiveAveragePool2D((2, 3)), (8, 6, 2)),
    "upsample nearest": (Upsample(3), IMAGE),
    "upsample bilinear": (Upsample(2, "bilinear"), IMAGE),
    "upsample corners": (Upsample(3, "bilinear", align_corners=True), SEQUENCE),
    "batch norm": (BatchNorm(1e-3), IMAGE),
    "batch norm row": (BatchNorm(use_scale=False), ROW),
    "layer norm": (LayerNorm(), SEQUENCE),
    "layer norm axes": (LayerNorm(1e-3, axes=2, use_shift=False), (5, 3, 2)),
    "group norm": (GroupNorm(2), IMAGE),
    "instance norm": (InstanceNorm(1e-2), IMAGE),
    "instance norm plain": (InstanceNorm(affine=False), SEQUENCE),
    "rms norm": (RMSNorm(), SEQUENCE),
    "rnn": (SimpleRNN(3), SEQUENCE),
    "rnn relu": (SimpleRNN(3, activation="relu", return_sequences=True), SEQUENCE),
    "lstm": (LSTM(3), SEQUENCE),
    "lstm reverse": (LSTM(3, reverse=True, return_sequences=True), SEQUENCE),
    "gru": (GRU(3, return_sequences=True), SEQUENCE),
    "gru before": (GRU(3, reset="before", reverse=True), SEQUENCE),
    "gru no bias": (GRU(3, use_bias=False), SEQUENCE),
    "bidirectional": (Bidirectional(GRU(3)), SEQUENCE),
    "bidirectional sum": (Bidirectional(LSTM(3, return_sequences=True), "sum"), SEQUENCE),
    "bidirectional average": (Bidirectional(SimpleRNN(3), "average"), SEQUENCE),
    "bidirectional multiply": (Bidirectional(SimpleRNN(3), "multiply"), SEQUENCE),
    "self attention": (MultiHeadAttention(2, 3), SEQUENCE),
    "causal attention": (MultiHeadAttention(3, 2, causal=True, use_bias=False), SEQUENCE),
    "positional": (PositionalEmbedding(20), SEQUENCE),
    "dropout": (Dropout(0.5), ROW),
    "flatten": (Flatten(), IMAGE),
    "reshape": (Reshape((2, -1, 2)), IMAGE),
    "permute": (Permute((3, 1, 2)), IMAGE),
    "pad zero": (Pad(((1, 0), (2, 3))), IMAGE),
    "pad reflect": (Pad(((2, 3),), "reflect"), SEQUENCE),
    "pad replicate": (Pad(((1, 2), (0, 3)), "replicate"), IMAGE),
    "softmax": (Softmax(1), SEQUENCE),
    "log softmax": (LogSoftmax(), SEQUENCE),
    "prelu": (PReLU(), SEQUENCE),
    "glu": (GLU(), SEQUENCE),
    "swiglu": (GLU("silu"), ROW),
    **{function: (Activation(function), ROW) for function in FUNCTIONS},
    "leaky_relu 0.3": (Activation("leaky_relu", 0.3), ROW),
    "elu 0.7": (Activation("elu", 0.7), ROW),
    "celu 0.7": (Activation("celu", 0.7), ROW),
}  # fmt: skip


def cross_attention() -> Network:
    query, memory = Input("query", ("time", 4)), Input("memory", ("source", 3))
    mask = Input("mask", ("source",), "bool")
    attention = MultiHeadAttention(2, 3)
    return Graph([query, memory, mask], [attention(query, memory, mask=mask)])


def two_inputs(layer: Layer, first: tuple, second: tuple) -> Network:
    x, y = Input("x", first), Input("y", second)
    return Graph([x, y], [layer(x, y)])


SEVERAL_INPUTS = {
    "cross attention": cross_attention,
    "add": lambda: two_inputs(Add(), IMAGE, (1, "width", 4)),
    "multiply": lambda: two_inputs(Multiply(), SEQUENCE, ("time", 1)),
    "concatenate": lambda: two_inputs(Concatenate(), SEQUENCE, ("time", 3)),
    "concatenate time": lambda: two_inputs(Concatenate(1), SEQUENCE, ("source", 4)),
    "matmul": lambda: two_inputs(MatMul(), SEQUENCE, (4, 2)),
    "matmul transposed": lambda: two_inputs(MatMul(True), SEQUENCE, ("source", 4)),
    "embedding": lambda: (
        lambda tokens: Graph([tokens], [Embedding(20, 3, padding_index=4)(tokens)])
    )(Input("tokens", ("time",), "int64")),
}
CASES = [*ONE_INPUT, *SEVERAL_INPUTS]


@cache
def network_of(case: str) -> Network:
    if case in SEVERAL_INPUTS:
        return SEVERAL_INPUTS[case]()
    layer, shape = ONE_INPUT[case]
    x = Input("x", shape)
    return Graph([x], [layer(x)])


@cache
def side_of(case: str):
    backend = NumpyBackend()
    network = network_of(case)
    model = backend.build(network, dtype="float64").model
    side = backend.adopt(model, dtype="float64", device="cpu", mode="eager", own=True)
    side.load(random_parameters(network, 1), "double")
    return side


def inputs_of(network: Network, sizes: dict[str, int], seed: int = 0) -> list[Argument]:
    generator = np.random.default_rng(seed)
    arguments = []
    for name, spec in network.inputs.items():
        shape = resolve(spec.shape, sizes)
        if spec.dtype == "bool":
            value = generator.random(shape) > 0.4
        elif spec.dtype == "int64":
            value = generator.integers(0, 20, shape)
        else:
            value = generator.normal(0, 1.3, shape)
        arguments.append(Argument(name, value))
    return arguments


def sizes_of(time: int = 5, height: int = 5, width: int = 6, depth: int = 3) -> dict[str, int]:
    return {
        "batch": 2,
        "time": time,
        "source": 4,
        "height": height,
        "width": width,
        "depth": depth,
    }


def test_every_layer_has_a_case() -> None:
    covered = {type(step.layer) for case in CASES for step in network_of(case).nodes}
    abstract = {"Conv", "ConvTranspose", "Pool", "MaxPool", "AveragePool", "Recurrent"}
    abstract |= {"AdaptiveAveragePool", "Amounts", "Padding"}
    missing = set(described.__all__) - {kind.__name__ for kind in covered} - abstract
    assert not missing


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=6, deadline=None)
@given(
    batch=st.integers(1, 3),
    time=st.integers(4, 9),
    source=st.integers(1, 4),
    height=st.integers(5, 9),
    width=st.integers(5, 9),
    depth=st.integers(3, 5),
)
def test_output_has_the_inferred_shape(case: str, **sizes: int) -> None:
    network, side = network_of(case), side_of(case)
    arguments = inputs_of(network, sizes)
    done = side.forward(arguments, precision="double", gradients=False)
    assert done.outputs["output"].shape == resolve(network.outputs["output"].shape, sizes)
    # Inference from concrete sizes says the same.
    step = network.nodes[0]
    shapes = [argument.value.shape for argument in arguments if argument.name != "mask"]
    assert step.layer.infer(*shapes) == done.outputs["output"].shape


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_central_differences(case: str) -> None:
    network, side = network_of(case), side_of(case)
    arguments = inputs_of(network, sizes_of(), seed=3)
    weights = random_parameters(network, 1)
    done = side.forward(arguments, precision="double")
    generator = np.random.default_rng(5)
    cotangent = generator.normal(size=done.outputs["output"].shape)
    gradients = done.backward({"output": cotangent})

    def value(moved_inputs: dict, moved_weights: dict) -> float:
        side.load(weights | moved_weights, "double")
        moved = [Argument(a.name, moved_inputs.get(a.name, a.value)) for a in arguments]
        run = side.forward(moved, precision="double", gradients=False)
        return float((run.outputs["output"] * cotangent).sum())

    leaves = [(True, a.name, a.value) for a in arguments if a.value.dtype.kind == "f"]
    leaves += [(False, name, weights[name]) for name in gradients.parameters]
    assert leaves
    for is_input, name, start in leaves:
        found = (gradients.inputs if is_input else gradients.parameters)[name]
        assert found.shape == start.shape
        assert found.dtype == np.float64
        for _ in range(2):
            direction = generator.normal(size=start.shape)
            if name.endswith("table") and case == "embedding":
                direction[4] = 0  # the padding row moves the output, but gets no gradient

            def moved(amount: float, is_input=is_input, name=name, at=start, d=direction) -> float:
                point = {name: at + amount * d}
                return value(point, {}) if is_input else value({}, point)

            h = 1e-4
            # Five-point stencil: error of order h^4.
            slope = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
            scale = np.abs(found * direction).sum() + 1e-9
            assert abs((found * direction).sum() - slope) <= 1e-8 * scale + 1e-9, name
    side.load(weights, "double")


@pytest.mark.parametrize("case", CASES)
def test_working_precision_stays_float32(case: str) -> None:
    network = network_of(case)
    backend = NumpyBackend()
    model = backend.build(network).model
    with backend.adopt(model, dtype="float32", device="cpu", mode="eager", own=True) as side:
        done = side.forward(inputs_of(network, sizes_of()), precision="working")
        assert done.outputs["output"].dtype == np.float32
        gradients = done.backward({"output": np.ones(done.outputs["output"].shape)})
        for value in (*gradients.inputs.values(), *gradients.parameters.values()):
            assert value.dtype == np.float32


def test_padding_row_gets_no_gradient() -> None:
    side = side_of("embedding")
    tokens = np.array([[4, 4, 1], [1, 2, 4]])
    done = side.forward([Argument("tokens", tokens)], precision="double")
    gradients = done.backward({"output": np.ones((2, 3, 3))})
    expected = np.zeros((20, 3))
    expected[1], expected[2] = 2, 1
    np.testing.assert_array_equal(gradients.parameters["embedding.table"], expected)
    assert np.any(done.outputs["output"][0, 0] != 0)
