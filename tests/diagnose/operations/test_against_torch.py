"""NumPy implementations reproduce torch, and refuse what they do not reproduce."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

from pytest_fwcompare.backends.base import Recorded  # noqa: E402
from pytest_fwcompare.diagnose.operations import attempt, normalised, understand  # noqa: E402

RNG = np.random.default_rng(8)
X = RNG.normal(size=(2, 4, 6, 7))
SIGNAL = RNG.normal(size=(2, 4, 9))
ROWS = RNG.normal(size=(3, 5, 8))
SQUARE = RNG.normal(size=(2, 3, 5, 5))


def t(value):
    return torch.from_numpy(np.array(value))


def normal(*shape):
    return RNG.normal(size=shape)


ROW8, ROW8B = normal(8), normal(8)
CHANNELS = [np.abs(normal(4)) + 0.1 for _ in range(4)]
KERNEL, GROUPED, BIAS = normal(6, 4, 3, 2), normal(8, 2, 3, 3), normal(6)
UP = normal(4, 5, 3, 3)
TABLE = normal(9, 5)
INDEX = RNG.integers(0, 9, size=(3, 4))
MASK = RNG.random((3, 5, 8)) < 0.4

OPERATIONS = {
    "linear": ("linear", F.linear, (ROWS, normal(6, 8), BIAS), {}),
    "linear without bias": ("linear", F.linear, (ROWS, normal(6, 8)), {}),
    "matmul": ("matmul", torch.matmul, (SQUARE, normal(2, 3, 5, 4)), {}),
    "addmm": ("addmm", torch.addmm, (normal(4), normal(3, 5), normal(5, 4)), {}),
    "conv1d": ("conv1d", F.conv1d, (SIGNAL, normal(3, 4, 3)), {"stride": 2, "padding": 2}),
    "conv2d": ("conv2d", F.conv2d, (X, KERNEL, BIAS), {"padding": (1, 2), "dilation": (2, 1)}),
    "conv2d same": ("conv2d", F.conv2d, (X, normal(6, 4, 5, 3)), {"padding": "same"}),
    "conv2d grouped": ("conv2d", F.conv2d, (X, GROUPED), {"groups": 2, "padding": 1}),
    "transposed": (
        "conv_transpose2d", F.conv_transpose2d, (X, UP, normal(5)),
        {"stride": 2, "padding": 1, "output_padding": 1},
    ),
    "transposed grouped": (
        "conv_transpose1d", F.conv_transpose1d, (SIGNAL, normal(4, 3, 4)),
        {"stride": 3, "groups": 2, "dilation": 2},
    ),
    "embedding": ("embedding", lambda i, w: F.embedding(i.long(), w), (INDEX, TABLE), {}),
    "layer norm": (
        "layer_norm", lambda x, w, b, eps: F.layer_norm(x, (8,), w, b, eps),
        (ROWS, ROW8, ROW8B), {"eps": 1e-3},
    ),
    "rms norm": (
        "rms_norm", lambda x, w, eps: F.rms_norm(x, (8,), w, eps), (ROWS, ROW8), {"eps": 1e-6}
    ),
    "group norm": (
        "group_norm",
        lambda x, w, b, num_groups: F.group_norm(x, num_groups, w, b),
        (X, CHANNELS[0], CHANNELS[1]), {"num_groups": 2},
    ),
    "instance norm": ("instance_norm", F.instance_norm, (X,), {}),
    "batch norm": ("batch_norm", F.batch_norm, (X, *CHANNELS), {"eps": 1e-3}),
    "batch norm of the batch": (
        "batch_norm", lambda x: F.batch_norm(x, None, None, training=True), (X,), {}
    ),
    "average pool": ("avg_pool2d", F.avg_pool2d, (X, ), {
        "kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True,
        "count_include_pad": False,
    }),
    "average pool counted": ("avg_pool2d", F.avg_pool2d, (X, ), {
        "kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True,
    }),
    "max pool": ("max_pool2d", F.max_pool2d, (X,), {
        "kernel_size": (3, 2), "stride": 2, "padding": 1, "dilation": (1, 2),
    }),
    "adaptive pool": ("adaptive_avg_pool2d", F.adaptive_avg_pool2d, (X,), {"output_size": (3, 7)}),
    "global pool": ("adaptive_avg_pool2d", F.adaptive_avg_pool2d, (X,), {"output_size": 1}),
    "bilinear": ("interpolate", F.interpolate, (X,), {"size": (9, 5), "mode": "bilinear"}),
    "bilinear corners": ("interpolate", F.interpolate, (X,), {
        "scale_factor": 2, "mode": "bilinear", "align_corners": True,
    }),
    "bicubic": ("interpolate", F.interpolate, (X,), {"size": (12, 14), "mode": "bicubic"}),
    "nearest": ("interpolate", F.interpolate, (X,), {"size": (9, 5), "mode": "nearest"}),
    "nearest exact": ("interpolate", F.interpolate, (X,), {
        "size": (9, 5), "mode": "nearest-exact",
    }),
    "softmax": ("softmax", torch.softmax, (ROWS,), {"dim": 1}),
    "log softmax": ("log_softmax", torch.log_softmax, (100 * ROWS,), {"dim": -1}),
    "masked fill": (
        "masked_fill", lambda x, m, value: x.masked_fill(m.bool(), value), (ROWS, MASK),
        {"value": -np.inf},
    ),
    "where": ("where", lambda m, x, y: torch.where(m.bool(), x, y), (MASK, ROWS, -ROWS), {}),
    "attention": (
        "scaled_dot_product_attention",
        lambda q, k, v, is_causal: F.scaled_dot_product_attention(q, k, v, is_causal=is_causal),
        (SQUARE, normal(2, 3, 5, 5), normal(2, 3, 5, 4)), {"is_causal": True},
    ),
    "gelu": ("gelu", F.gelu, (ROWS,), {"approximate": "tanh"}),
    "leaky": ("leaky_relu", F.leaky_relu, (ROWS,), {"negative_slope": 0.3}),
    "prelu": ("prelu", F.prelu, (X, CHANNELS[0]), {}),
    "selu": ("selu", F.selu, (ROWS,), {}),
    "celu": ("celu", F.celu, (ROWS,), {"alpha": 0.7}),
    "hardtanh": ("hardtanh", F.hardtanh, (ROWS,), {"min_val": -0.3, "max_val": 0.8}),
    "relu6": ("relu6", F.relu6, (9 * ROWS,), {}),
    "softplus": ("softplus", F.softplus, (30 * ROWS,), {"beta": 1.5, "threshold": 20}),
    "mish": ("mish", F.mish, (ROWS,), {}),
    "hard swish": ("hardswish", F.hardswish, (5 * ROWS,), {}),
    "softshrink": ("softshrink", F.softshrink, (ROWS,), {"lambd": 0.4}),
    "clamp": ("clamp", torch.clamp, (ROWS,), {"min": -0.5, "max": None}),
    "subtraction of a number": ("rsub", lambda x: 1.0 - x, (ROWS,), {}),
    "number over tensor": ("__rtruediv__", lambda x: 2.5 / x, (ROWS,), {}),
    "scaled sum": ("add", lambda x, y, alpha: torch.add(x, y, alpha=alpha), (ROWS, -ROWS**2), {
        "alpha": 2.5,
    }),
    "power": ("pow", torch.pow, (np.abs(ROWS),), {"exponent": 0.3}),
    "mean": ("mean", torch.mean, (X,), {"dim": (2, 3), "keepdim": True}),
    "standard deviation": ("std", torch.std, (X,), {"dim": 1}),
    "variance": ("var", lambda x, dim: x.var(dim, unbiased=False), (X,), {"dim": -1}),
    "log-sum-exp": ("logsumexp", torch.logsumexp, (ROWS,), {"dim": -1}),
    "permute": ("permute", lambda x, dims: x.permute(dims), (X,), {"dims": (2, 0, 3, 1)}),
    "reshape of zeros": ("reshape", lambda x, shape: x.relu().reshape(shape), (ROWS,), {
        "shape": (15, 8),
    }),
    "slice": ("getitem", lambda x: x[:, 1:3], (X,), {}),
    "index": ("getitem", lambda x: x[:, -1], (X,), {}),
    "strided": ("getitem", lambda x: x[..., ::2], (X,), {}),
    "concatenation": ("cat", lambda x, y: torch.cat([x, y], 1), (X, X[:, :2]), {}),
    "stack": ("stack", lambda x, y: torch.stack([x, y], 1), (X, -X), {}),
    "flip": ("flip", lambda x, dims: x.flip(dims), (X,), {"dims": (2,)}),
    "roll": ("roll", lambda x: x.roll(2, 3), (X,), {}),
    "expand": ("expand", lambda x: x.expand(2, 4, 6, 7), (X[:, :1],), {}),
    "pixel shuffle": ("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), (X,), {}),
    "reflected": ("pad", F.pad, (X,), {"pad": (2, 1, 0, 3), "mode": "reflect"}),
    "padded": ("pad", F.pad, (X,), {"pad": (2, 1), "mode": "constant", "value": 0.5}),
    "differences": ("diff", torch.diff, (X,), {"dim": 2}),
}  # fmt: skip


def record(name, value, arguments, attributes):
    return Recorded(0, "", name, np.asarray(value), (), (), attributes, arguments)


@pytest.mark.parametrize("case", OPERATIONS)
def test_torch_is_reproduced(case):
    name, function, arguments, attributes = OPERATIONS[case]
    value = function(*map(t, arguments), **attributes).numpy()
    if case == "reshape of zeros":
        arguments = (np.maximum(arguments[0], 0),)
    operation = understand(record(name, value, arguments, attributes))
    assert operation is not None
    np.testing.assert_allclose(operation.compute(), value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", OPERATIONS)
def test_another_value_is_not_understood(case):
    name, function, arguments, attributes = OPERATIONS[case]
    value = function(*map(t, arguments), **attributes).numpy()
    factor = 1 + 1e-3 * np.cos(np.arange(value.size)).reshape(value.shape)
    assert understand(record(name, value * factor, arguments, attributes)) is None


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("knobs", [
    {"batch_first": True}, {"bidirectional": True, "batch_first": True}, {"num_layers": 2},
    {"bias": False, "num_layers": 2, "bidirectional": True},
])  # fmt: skip
def test_recurrent_layers_are_reproduced(kind, knobs):
    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(8, 3, **knobs).double()
    x = t(ROWS)
    with torch.no_grad():
        outputs, states = layer(x)
    batch = ROWS.shape[0] if knobs.get("batch_first") else ROWS.shape[1]
    zero = np.zeros((layer.num_layers * (2 if layer.bidirectional else 1), batch, 3))
    initial = (zero, zero) if kind == "LSTM" else (zero,)
    weights = tuple(w.detach().numpy() for w in layer._flat_weights)
    name = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}[kind]
    last = states if kind == "LSTM" else (states,)
    for value in (outputs, *last):
        operation = understand(record(name, value.numpy(), (ROWS, *initial, *weights), {}))
        assert operation is not None
        assert operation.kind == "recurrent"
    broken = outputs.numpy() + 1e-3 * np.sin(np.arange(outputs.numel())).reshape(outputs.shape)
    assert understand(record(name, broken, (ROWS, *initial, *weights), {})) is None


def test_changes_that_do_not_fit_give_nothing():
    value = torch.softmax(t(ROWS), -1).numpy()
    operation = understand(record("softmax", value, (ROWS,), {"dim": -1}))
    assert attempt(operation, axis=7) is None
    assert attempt(operation, [ROWS[:, :1]]).shape == (3, 1, 8)


def test_names_are_free_of_namespaces():
    assert normalised("torch.nn.functional.relu_") == "relu"
    assert normalised("aten::__rsub__") == "rsub"
    assert normalised("LayerNorm") == "layernorm"


def test_unknown_operations_and_bare_records_are_not_understood():
    assert understand(record("mystery", np.sin(ROWS) + 1, (ROWS,), {})) is None
    assert understand(record("relu", ROWS, (), {})) is None
