"""Values of the NumPy reference against loops written from the docstrings, one cell at a time."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from pytest_fwcompare.backends.numpy import NumpyNetwork
from pytest_fwcompare.networks import Layer, layers, random_parameters
from pytest_fwcompare.networks.graph import Graph, Input, Sequential

RNG = np.random.default_rng(7)


def computed(layer: Layer, *inputs: np.ndarray, mask: np.ndarray | None = None):
    """Output and parameters (by their name within the layer) in float64."""
    nodes = [Input(f"x{i}", value.shape[1:]) for i, value in enumerate(inputs)]
    given = list(nodes)
    keywords = {}
    if mask is not None:
        keywords["mask"] = Input("mask", mask.shape[1:], "bool")
        given.append(keywords["mask"])
    network = Graph(given, [layer(*nodes, **keywords)])
    model = NumpyNetwork(network, random_parameters(network, 3), dtype="float64")
    output = model(*inputs, *([] if mask is None else [mask]))
    return output, {name.partition(".")[2]: value for name, value in model.weights.items()}


def assert_same(obtained: np.ndarray, expected: np.ndarray) -> None:
    assert obtained.shape == expected.shape
    np.testing.assert_allclose(
        obtained, expected, rtol=0, atol=1e-13 * max(1, np.abs(expected).max())
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("padding", "stride", "dilation", "groups", "before", "out"),
    [
        ("valid", 1, 1, 1, 0, 5),
        # n = 7, k = 3: total = (4 - 1) 2 + 3 - 7 = 2
        ("same", 2, 1, 1, 1, 4),
        # total = (4 - 1) 2 + 5 - 7 = 4
        ("same", 2, 2, 2, 2, 4),
        # total = (3 - 1) 3 + 3 - 7 = 2
        ("same", 3, 1, 4, 1, 3),
        ("causal", 1, 2, 1, 4, 7),
        ("causal", 2, 1, 2, 2, 4),
        (2, 2, 1, 2, 2, 5),
        (((1, 3),), 2, 2, 1, 1, 4),
    ],
)
def test_conv1d_cell_by_cell(padding, stride, dilation, groups, before, out) -> None:
    x = RNG.normal(size=(2, 7, 4))
    layer = layers.Conv1D(8, 3, stride, dilation, groups, padding)
    obtained, weights = computed(layer, x)
    kernel, expected = weights["kernel"], np.zeros((2, out, 8))
    assert kernel.shape == (3, 4 // groups, 8)
    for b, i, f in product(range(2), range(out), range(8)):
        group = f // (8 // groups)
        total = weights["bias"][f]
        for k, c in product(range(3), range(4 // groups)):
            cell = i * stride + k * dilation - before
            if 0 <= cell < 7:
                total += x[b, cell, group * (4 // groups) + c] * kernel[k, c, f]
        expected[b, i, f] = total
    assert_same(obtained, expected)


def test_same_padding_puts_the_odd_cell_after() -> None:
    x = np.arange(1.0, 5.0).reshape(1, 4, 1)
    layer = layers.Conv1D(1, 3, 2, padding="same", use_bias=False)
    obtained, weights = computed(layer, x)
    a, b, c = weights["kernel"].ravel()
    # n = 4: total = (2 - 1) 2 + 3 - 4 = 1, before 0, after 1.
    assert_same(obtained.ravel(), np.array([a + 2 * b + 3 * c, 3 * a + 4 * b]))


def test_depthwise_conv_cell_by_cell() -> None:
    x = RNG.normal(size=(2, 5, 4, 3))
    obtained, weights = computed(layers.DepthwiseConv2D((2, 3), 2, dilation=(2, 1)), x)
    expected = np.zeros((2, 3, 2, 6))
    for b, i, j, c, m in product(range(2), range(3), range(2), range(3), range(2)):
        expected[b, i, j, 2 * c + m] = weights["bias"][2 * c + m] + sum(
            x[b, i + 2 * k, j + q, c] * weights["kernel"][k, q, c, m]
            for k, q in product(range(2), range(3))
        )
    assert_same(obtained, expected)


def test_separable_conv_is_depthwise_then_pointwise() -> None:
    x = RNG.normal(size=(1, 4, 4, 2))
    obtained, weights = computed(layers.SeparableConv2D(3, 3, 2), x)
    expected = np.zeros((1, 2, 2, 3))
    for i, j, f in product(range(2), range(2), range(3)):
        total = weights["bias"][f]
        for c, m in product(range(2), range(2)):
            middle = sum(
                x[0, i + k, j + q, c] * weights["depthwise_kernel"][k, q, c, m]
                for k, q in product(range(3), range(3))
            )
            total += middle * weights["pointwise_kernel"][2 * c + m, f]
        expected[0, i, j, f] = total
    assert_same(obtained, expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "padding", "extra", "before", "out"),
    [
        (3, 2, 1, "valid", 0, 0, 9),
        (3, 2, 1, "same", 0, 0, 8),
        (4, 2, 1, "same", 0, 1, 8),
        (5, 1, 1, "same", 0, 2, 4),
        (2, 3, 1, "same", 0, 0, 12),
        (3, 2, 2, 1, 1, 1, 10),
        (3, 2, 1, ((2, 1),), 1, 2, 7),
        (2, 3, 1, "valid", 2, 0, 13),
    ],
)
def test_conv_transpose_cell_by_cell(
    kernel, stride, dilation, padding, extra, before, out
) -> None:
    x = RNG.normal(size=(2, 4, 3))
    layer = layers.ConvTranspose1D(2, kernel, stride, dilation, padding, extra)
    obtained, weights = computed(layer, x)
    expected = np.zeros((2, out, 2)) + weights["bias"]
    for b, i, k, c, f in product(range(2), range(4), range(kernel), range(3), range(2)):
        cell = i * stride + k * dilation - before
        if 0 <= cell < out:
            expected[b, cell, f] += x[b, i, c] * weights["kernel"][k, c, f]
    assert_same(obtained, expected)


@pytest.mark.parametrize("include", [False, True])
def test_pooling_cell_by_cell(include: bool) -> None:
    x = RNG.normal(size=(2, 6, 5, 2)) - 5  # below zero, where padding with zeros would show
    padding = ((1, 0), (2, 1))
    maximum, _ = computed(layers.MaxPool2D((2, 3), 2, padding), x)
    average, _ = computed(layers.AveragePool2D((2, 3), 2, padding, count_include_pad=include), x)
    for b, i, j, c in product(range(2), range(3), range(3), range(2)):
        cells = [
            x[b, 2 * i + k - 1, 2 * j + q - 2, c]
            for k, q in product(range(2), range(3))
            if 0 <= 2 * i + k - 1 < 6 and 0 <= 2 * j + q - 2 < 5
        ]
        assert maximum[b, i, j, c] == max(cells)
        count = 6 if include else len(cells)
        assert math.isclose(average[b, i, j, c], sum(cells) / count, rel_tol=1e-14)
    assert maximum.shape == average.shape == (2, 3, 3, 2)


def test_upsample_bilinear_reads_half_pixel_centres() -> None:
    x = np.array([1.0, 3.0, 7.0]).reshape(1, 3, 1)
    obtained, _ = computed(layers.Upsample(2, "bilinear"), x)
    # Places (i + 0.5) / 2 - 0.5: -0.25 (clamped), 0.25, 0.75, 1.25, 1.75, 2.25 (clamped).
    assert_same(obtained.ravel(), np.array([1.0, 1.5, 2.5, 4.0, 6.0, 7.0]))
    obtained, _ = computed(layers.Upsample(2, "bilinear", align_corners=True), x)
    # Places i 2 / 5.
    assert_same(obtained.ravel(), np.array([1.0, 1.8, 2.6, 3.8, 5.4, 7.0]))
    obtained, _ = computed(layers.Upsample(3, "bilinear", align_corners=True), x[:, :1])
    assert_same(obtained.ravel(), np.ones(3))
    obtained, _ = computed(layers.Upsample(2), x)
    assert_same(obtained.ravel(), np.array([1.0, 1, 3, 3, 7, 7]))


def test_pad_modes() -> None:
    x = np.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    for mode, expected in (
        ("zero", [0, 0, 1, 2, 3, 0]),
        ("reflect", [3, 2, 1, 2, 3, 2]),
        ("replicate", [1, 1, 1, 2, 3, 3]),
    ):
        obtained, _ = computed(layers.Pad(((2, 1),), mode), x)
        assert_same(obtained.ravel(), np.array(expected, float))


def test_norms_from_their_formulas() -> None:
    x = RNG.normal(2, 3, size=(2, 3, 2, 4))
    epsilon = 0.1

    def normalised(axes):
        mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
        return (x - mean) / np.sqrt(variance + epsilon)

    for layer, axes in (
        (layers.LayerNorm(epsilon), (3,)),
        (layers.LayerNorm(epsilon, axes=2), (2, 3)),
        (layers.InstanceNorm(epsilon), (1, 2)),
        (layers.GroupNorm(4, epsilon), (1, 2)),
        (layers.GroupNorm(1, epsilon), (1, 2, 3)),
    ):
        obtained, weights = computed(layer, x)
        assert_same(obtained, normalised(axes) * weights["scale"] + weights["shift"])
    obtained, weights = computed(layers.GroupNorm(2, epsilon), x)
    for group in range(2):
        part = x[..., 2 * group : 2 * group + 2]
        mean, variance = part.mean((1, 2, 3), keepdims=True), part.var((1, 2, 3), keepdims=True)
        own = slice(2 * group, 2 * group + 2)
        assert_same(
            obtained[..., own],
            (part - mean) / np.sqrt(variance + epsilon) * weights["scale"][own]
            + weights["shift"][own],
        )
    obtained, weights = computed(layers.BatchNorm(epsilon), x)
    deviation = np.sqrt(weights["variance"] + epsilon)
    assert_same(obtained, (x - weights["mean"]) / deviation * weights["scale"] + weights["shift"])
    obtained, weights = computed(layers.RMSNorm(epsilon), x)
    assert_same(obtained, weights["scale"] * x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon))


def test_lstm_step_by_step() -> None:
    x = RNG.normal(size=(2, 4, 3))
    obtained, w = computed(layers.LSTM(2, return_sequences=True), x)
    h, c, expected = np.zeros((2, 2)), np.zeros((2, 2)), []
    for t in range(4):
        z = x[:, t] @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"]
        i, f, g, o = z[:, :2], z[:, 2:4], z[:, 4:6], z[:, 6:]
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        expected.append(h)
    assert_same(obtained, np.stack(expected, 1))


@pytest.mark.parametrize("reset", ["after", "before"])
def test_gru_step_by_step_in_reverse(reset) -> None:
    x = RNG.normal(size=(2, 4, 3))
    layer = layers.GRU(2, return_sequences=True, reverse=True, reset=reset)
    obtained, w = computed(layer, x)
    kernel, bias = np.split(w["kernel"], 3, 1), np.split(w["bias"], 3)
    inner = np.split(w["recurrent_kernel"], 3, 1)
    second = np.split(w.get("recurrent_bias", np.zeros(6)), 3)
    assert ("recurrent_bias" in w) == (reset == "after")
    h, expected = np.zeros((2, 2)), np.zeros((2, 4, 2))
    for t in reversed(range(4)):
        r, z = (
            sigmoid(x[:, t] @ kernel[q] + bias[q] + h @ inner[q] + second[q]) for q in range(2)
        )
        mixed = r * (h @ inner[2] + second[2]) if reset == "after" else (r * h) @ inner[2]
        n = np.tanh(x[:, t] @ kernel[2] + bias[2] + mixed)
        h = (1 - z) * n + z * h
        expected[:, t] = h
    assert_same(obtained, expected)
    last, _ = computed(layers.GRU(2, reverse=True, reset=reset), x)
    assert_same(last, expected[:, 0])


def test_bidirectional_is_both_directions_side_by_side() -> None:
    x = RNG.normal(size=(2, 4, 3))
    obtained, w = computed(layers.Bidirectional(layers.SimpleRNN(2, return_sequences=True)), x)
    for direction, times, part in (
        ("forward", range(4), slice(0, 2)),
        ("backward", range(3, -1, -1), slice(2, 4)),
    ):
        h = np.zeros((2, 2))
        for t in times:
            h = np.tanh(
                x[:, t] @ w[f"{direction}.kernel"]
                + h @ w[f"{direction}.recurrent_kernel"]
                + w[f"{direction}.bias"]
            )
            assert_same(obtained[:, t, part], h)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_row_by_row(causal: bool) -> None:
    query, memory = RNG.normal(size=(2, 4, 5)), RNG.normal(size=(2, 3, 6))
    mask = np.array([[True, False, True], [False, False, True]])
    layer = layers.MultiHeadAttention(2, 3, causal=causal)
    obtained, w = computed(layer, query, memory, mask=mask)
    expected = np.zeros((2, 4, 5)) + w["output_bias"]
    for b, t, head in product(range(2), range(4), range(2)):
        own = slice(3 * head, 3 * head + 3)
        q = (query[b, t] @ w["query_kernel"] + w["query_bias"])[own]
        seen = [s for s in range(3) if mask[b, s] and (s <= t or not causal)]
        if not seen:
            continue  # nothing to attend to: output_bias alone
        k = (memory[b, seen] @ w["key_kernel"] + w["key_bias"])[:, own]
        v = (memory[b, seen] @ w["value_kernel"] + w["value_bias"])[:, own]
        powers = np.exp(k @ q / math.sqrt(3))
        expected[b, t] += powers / powers.sum() @ v @ w["output_kernel"][own]
    assert_same(obtained, expected)
    if causal:
        assert_same(obtained[1, 0], w["output_bias"])


def test_elementwise_layers_from_their_formulas() -> None:
    x = RNG.normal(size=(3, 6))
    obtained, w = computed(layers.PReLU(), x)
    assert_same(obtained, np.maximum(x, 0) + w["slope"] * np.minimum(x, 0))
    assert_same(computed(layers.GLU(), x)[0], x[:, :3] * sigmoid(x[:, 3:]))
    assert_same(computed(layers.GLU("silu"), x)[0], x[:, :3] * x[:, 3:] * sigmoid(x[:, 3:]))
    powers = np.exp(x)
    assert_same(computed(layers.Softmax(), x)[0], powers / powers.sum(1, keepdims=True))
    assert_same(computed(layers.LogSoftmax(), x)[0], x - np.log(powers.sum(1, keepdims=True)))


def test_training_mode_uses_batch_statistics_and_moves_buffers() -> None:
    network = Sequential([layers.BatchNorm(1e-3, momentum=0.2)], input_shape=("time", 3))
    model = NumpyNetwork(network, random_parameters(network, 0), dtype="float64")
    before = {name: value.copy() for name, value in model.weights.items()}
    x = RNG.normal(2, 3, size=(4, 5, 3))
    model.training = True
    output = model(x)
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    w = model.weights
    expected = (x - mean) / np.sqrt(variance + 1e-3) * w["batch_norm.scale"]
    assert_same(output, expected + w["batch_norm.shift"])
    assert_same(w["batch_norm.mean"], 0.8 * before["batch_norm.mean"] + 0.2 * mean)
    assert_same(w["batch_norm.variance"], 0.8 * before["batch_norm.variance"] + 0.2 * variance)


def test_dropout_in_training_keeps_the_mean() -> None:
    network = Sequential([layers.Dropout(0.25)], input_shape=(10000,))
    model = NumpyNetwork(network)
    x = np.ones((2, 10000), np.float32)
    np.testing.assert_array_equal(model(x), x)
    model.training = True
    output = model(x)
    assert set(np.unique(output)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(output.mean() - 1) < 0.02
