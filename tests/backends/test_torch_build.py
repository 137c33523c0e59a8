"""Described networks that together use every layer, against the NumPy reference."""

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("autograd")

from pytest_fwcompare.backends import registry  # noqa: E402
from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.networks import Graph, Input, Sequential  # noqa: E402
from pytest_fwcompare.networks import layers as d  # noqa: E402

IMAGE, TIME = (7, 6, 4), (7, 4)


def one(layer, shape=IMAGE, dtype="float32"):
    return (
        Sequential([layer], shape, dtype, high=5)
        if dtype != "float32"
        else Sequential([layer], shape)
    )


def attention(causal, memory, mask):
    query = Input("query", (5, 6))
    given = {}
    if memory:
        given["memory"] = Input("memory", (4, 3))
    if mask:
        given["mask"] = Input("mask", (4 if memory else 5,), "bool")
    layer = d.MultiHeadAttention(2, 4, causal=causal)
    return Graph([query, *given.values()], layer(query, **given))


def joined(layer, *shapes):
    nodes = [Input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    return Graph(nodes, layer(*nodes))


CASES = {
    "dense": one(d.Dense(3), (4,)),
    "dense-space": one(d.Dense(3, use_bias=False)),
    "conv1d-causal": one(d.Conv1D(3, 3, dilation=2, padding="causal"), TIME),
    "conv1d-valid": one(d.Conv1D(3, 2, stride=2, use_bias=False), TIME),
    "conv2d-same": one(d.Conv2D(6, (4, 3), padding="same")),
    "conv2d-same-stride": one(d.Conv2D(6, 3, stride=2, groups=2, padding="same")),
    "conv2d-explicit": one(d.Conv2D(3, 2, dilation=(2, 1), padding=((1, 2), (0, 3)))),
    "conv2d-number": one(d.Conv2D(3, 3, padding=2)),
    "conv3d": one(d.Conv3D(3, 2, stride=(1, 2, 1), padding="same"), (4, 5, 3, 2)),
    "depthwise": one(d.DepthwiseConv2D((3, 2), multiplier=3, padding="same")),
    "depthwise-valid": one(d.DepthwiseConv2D(2, stride=2)),
    "separable": one(d.SeparableConv2D(5, 3, multiplier=2, stride=2, padding="same")),
    "transpose1d": one(d.ConvTranspose1D(3, 4, stride=3, padding="same", output_padding=1), TIME),
    "transpose2d": one(d.ConvTranspose2D(3, 3, stride=2, padding=1, output_padding=1)),
    "transpose2d-same": one(d.ConvTranspose2D(3, (3, 2), stride=(2, 4), padding="same")),
    "transpose2d-uneven": one(
        d.ConvTranspose2D(3, 3, stride=2, dilation=2, padding=((0, 2), (1, 0)), output_padding=1)
    ),
    "maxpool1d": one(d.MaxPool1D(3, 2, padding=1), TIME),
    "maxpool2d-same": one(d.MaxPool2D(2, padding="same")),
    "maxpool2d-uneven": one(d.MaxPool2D((3, 2), 2, padding=((2, 0), (1, 0)))),
    "averagepool1d": one(d.AveragePool1D(2, 3, padding="same"), TIME),
    "averagepool2d": one(d.AveragePool2D(3, 2, padding=1, count_include_pad=True)),
    "averagepool2d-inside": one(d.AveragePool2D(3, 2, padding=1)),
    "averagepool2d-same": one(d.AveragePool2D((2, 3), padding="same", count_include_pad=True)),
    "averagepool2d-uneven": one(d.AveragePool2D(3, 2, padding=((2, 0), (1, 2)))),
    "global-average": one(d.GlobalAveragePool()),
    "global-max": one(d.GlobalMaxPool(), TIME),
    "adaptive1d": one(d.AdaptiveAveragePool1D(2), (6, 4)),
    "adaptive2d": one(d.AdaptiveAveragePool2D((3, 2)), (6, 4, 3)),
    "batchnorm": one(d.BatchNorm(1e-3)),
    "batchnorm-shift": one(d.BatchNorm(use_scale=False), (4,)),
    "batchnorm-scale": one(d.BatchNorm(use_shift=False), TIME),
    "layernorm": one(d.LayerNorm(1e-3, axes=2)),
    "layernorm-shift": one(d.LayerNorm(use_scale=False), TIME),
    "layernorm-free": Sequential(
        [d.LayerNorm(axes=2, use_scale=False, use_shift=False)], ("t", 4)
    ),
    "groupnorm": one(d.GroupNorm(2, 1e-3)),
    "groupnorm-shift": one(d.GroupNorm(2, use_scale=False)),
    "groupnorm-flat": one(d.GroupNorm(2, use_shift=False), (12,)),
    "instancenorm": one(d.InstanceNorm(1e-3)),
    "instancenorm-plain": one(d.InstanceNorm(affine=False), (1, 4)),
    "rmsnorm": one(d.RMSNorm(1e-3)),
    "embedding": Graph(
        [tokens := Input("tokens", (6,), "int64", high=5)],
        d.PositionalEmbedding(8)(d.Embedding(5, 3, padding_index=1)(tokens)),
    ),
    "rnn": one(d.SimpleRNN(3), TIME),
    "rnn-relu": one(d.SimpleRNN(3, activation="relu", return_sequences=True, reverse=True), TIME),
    "lstm": one(d.LSTM(3, reverse=True), TIME),
    "lstm-no-bias": one(d.LSTM(3, use_bias=False, return_sequences=True), TIME),
    "gru": one(d.GRU(3, return_sequences=True), TIME),
    "gru-before": one(d.GRU(3, reset="before", reverse=True, return_sequences=True), TIME),
    "gru-no-bias": one(d.GRU(3, use_bias=False), TIME),
    "bidirectional": one(d.Bidirectional(d.LSTM(3, return_sequences=True)), TIME),
    "bidirectional-last": one(d.Bidirectional(d.GRU(3), "average"), TIME),
    "bidirectional-multiply": one(
        d.Bidirectional(d.SimpleRNN(3, return_sequences=True), "multiply"), TIME
    ),
    "bidirectional-before": one(d.Bidirectional(d.GRU(3, reset="before"), "sum"), TIME),
    "attention": attention(False, False, False),
    "attention-causal": attention(True, False, True),
    "attention-cross": attention(False, True, True),
    "flatten": one(d.Flatten()),
    "reshape": one(d.Reshape((6, -1, 2))),
    "permute": one(d.Permute((3, 1, 2))),
    "pad-zero": one(d.Pad(((1, 2), (0, 3)))),
    "pad-reflect": one(d.Pad(((1, 2), (0, 3)), "reflect")),
    "pad-replicate": one(d.Pad(((1, 2),), "replicate"), TIME),
    "pad-four-axes": one(d.Pad(((1, 2), (0, 1), (1, 1), (2, 0)), "reflect"), (3, 2, 3, 4, 2)),
    "upsample": one(d.Upsample(3)),
    "upsample-power": one(d.Upsample(2), TIME),
    "upsample-bilinear": one(d.Upsample(3, "bilinear")),
    "upsample-corners": one(d.Upsample(2, "bilinear", align_corners=True), TIME),
    "add": joined(d.Add(), IMAGE, (1, 6, 4), IMAGE),
    "multiply": joined(d.Multiply(), TIME, TIME),
    "concatenate": joined(d.Concatenate(1), IMAGE, (2, 6, 4)),
    "matmul": joined(d.MatMul(), (5, 4), (4, 3)),
    "matmul-transposed": joined(d.MatMul(True), (5, 4), (3, 4)),
    "softmax": one(d.Softmax(-2)),
    "log-softmax": one(d.LogSoftmax(1)),
    "prelu": one(d.PReLU(), TIME),
    "glu": one(d.GLU()),
    "swiglu": one(d.GLU("silu"), (4,)),
    "dropout": one(d.Dropout(0.5)),
    **{name: one(d.Activation(name), (40,)) for name in d.elementwise.FUNCTIONS},
    "celu-alpha": one(d.Activation("celu", 0.4), (40,)),
}
"""Every layer, every option that changes the lowering."""


def mixed():
    """Values that go between both axis orders: residuals, shared layers, axes, two outputs."""
    image, bias = Input("image", (6, 8, 3)), Input("bias", (1, 1, 4))
    shared, softmax = d.Conv2D(4, 3, padding="same", name="type"), d.Softmax(-1)
    x = shared(d.Dense(3)(image))
    y = d.Activation("silu")(d.Add()(x, bias))
    z = d.Concatenate(-1)(y, softmax(x), d.Permute((2, 1, 3))(d.Permute((2, 1, 3))(y)))
    z = d.GLU()(d.BatchNorm()(z))
    flat = d.Dense(5)(d.Flatten()(d.MaxPool2D(2)(z)))
    return Graph([image, bias], {"map": d.LogSoftmax(2)(z), "scores": softmax(flat)})


CASES["mixed"] = mixed()


def parameters(network, seed=0):
    """Random canonical parameters; variances are positive."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.uniform(0.5, 1.5, spec.shape)
        if spec.role == "variance"
        else rng.normal(size=spec.shape) / np.sqrt(spec.fan_in)
        for name, spec in network.parameters().items()
    }


def inputs(network, seed=1, batch=3):
    """Canonical random inputs by name; the first row of a mask is empty."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, spec in network.inputs.items():
        shape = tuple({"batch": batch}.get(s, 5) if isinstance(s, str) else s for s in spec.shape)
        if spec.dtype == "bool":
            found[name] = rng.random(shape) < 0.6
            found[name][0] = False
        elif spec.dtype.startswith("int"):
            found[name] = rng.integers(0, 5, shape)
        else:
            found[name] = 2 * rng.normal(size=shape)
    return found


class Run:
    """A network built in a framework, run once in float64 with given canonical weights."""

    def __init__(self, framework, network, weights, values, *, training=False, record=False):
        backend = registry.backend(framework)
        self.built = backend.build(network, dtype="float64")
        self.side = backend.adopt(
            self.built.model, dtype="float64", device="cpu", mode="eager", own=True
        )
        self.weights, self.placements = weights, self.built.placements
        native = {
            p.parameter: p.transform.apply(*(weights[s] for s in p.sources))
            for p in self.placements
        }
        for precision in ("working", "double"):
            self.side.load(native, precision)
        arguments = [
            Argument(name, value.transpose(self.built.input_axes.get(name, range(value.ndim))))
            for name, value in values.items()
        ]
        self.run = self.side.forward(
            arguments, precision="double", training=training, record=record
        )
        self.outputs = {
            name: self.canonical(value, self.built.output_axes.get(name))
            for name, value in self.run.outputs.items()
        }

    @staticmethod
    def canonical(value, axes):
        return value if axes is None else value.transpose(np.argsort(axes))

    def backward(self, cotangents):
        native = {
            name: value.transpose(self.built.output_axes.get(name, range(value.ndim)))
            for name, value in cotangents.items()
        }
        found = self.run.backward(native)
        inputs = {
            name: self.canonical(value, self.built.input_axes.get(name))
            for name, value in found.inputs.items()
        }
        pulled = {name: np.zeros_like(value) for name, value in self.weights.items()}
        for p in self.placements:
            gradient = found.parameters.get(p.parameter)
            if gradient is not None:
                shapes = [self.weights[s].shape for s in p.sources]
                parts = p.transform.adjoint(gradient, *shapes)
                for source, part in zip(p.sources, parts, strict=True):
                    pulled[source] += part
        return inputs, pulled


def distance(expected, obtained, scale=None):
    """Largest difference over the largest expected magnitude."""
    assert expected.shape == obtained.shape
    if not expected.size:
        return 0.0
    return float(np.abs(expected - obtained).max() / (scale or np.abs(expected).max() or 1.0))


def both(network, **options):
    """The network on the NumPy reference and in torch, with the same weights and inputs."""
    weights, values = parameters(network), inputs(network)
    return [Run(name, network, weights, values, **options) for name in ("numpy", "torch")]


@pytest.mark.parametrize("name", CASES)
def test_every_layer_agrees_with_the_reference_forward_and_backward(name):
    network = CASES[name]
    expected, obtained = both(network)
    assert not obtained.side.leaks
    assert not obtained.side.rounded_constants
    assert {p.parameter for p in obtained.placements} == {
        p.name for p in obtained.side.parameters()
    }
    assert list(expected.outputs) == list(obtained.outputs)
    for key, value in expected.outputs.items():
        assert distance(value, obtained.outputs[key]) < 1e-13, key
    rng = np.random.default_rng(2)
    cotangents = {key: rng.normal(size=v.shape) for key, v in expected.outputs.items()}
    for left, right in zip(
        expected.backward(cotangents), obtained.backward(cotangents), strict=True
    ):
        # The gradient of an attention's key bias is zero: only the size of the others tells.
        scale = max((np.abs(v).max() for v in left.values() if v.size), default=1.0) or 1.0
        for key, value in left.items():
            assert distance(value, right[key], scale) < 1e-12, key


def test_every_described_layer_is_among_the_cases():
    used = {type(layer) for network in CASES.values() for layer in network.layers.values()}
    shared = (d.Conv, d.ConvTranspose, d.Pool, d.MaxPool, d.AveragePool, d.AdaptiveAveragePool)
    kinds = [getattr(d, name) for name in d.__all__]
    wanted = {k for k in kinds if isinstance(k, type) and hasattr(k, "infer")}
    assert wanted - used == {*shared, d.Recurrent}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("dense", lambda w: w.T.reshape(w.shape)),
        ("conv2d-same", lambda w: w[::-1]),
        ("depthwise", lambda w: w[..., ::-1]),
        ("lstm", lambda w: np.roll(w, 3, -1)),
        ("gru", lambda w: np.roll(w, 3, -1)),
        ("attention", lambda w: np.roll(w, 1, -1)),
    ],
)
def test_a_kernel_copied_wrongly_shows(name, wrong):
    network = CASES[name]
    weights, values = parameters(network), inputs(network)
    expected = Run("numpy", network, weights, values)
    kernel = next(key for key in weights if key.endswith("kernel"))
    obtained = Run("torch", network, {**weights, kernel: wrong(weights[kernel])}, values)
    assert distance(expected.outputs["output"], obtained.outputs["output"]) > 1e-3


def test_axis_orders_are_those_of_torch():
    built = registry.backend("torch").build(CASES["conv2d-same"])
    assert built.input_axes == {"x": (0, 3, 1, 2)}
    assert built.output_axes == {"output": (0, 3, 1, 2)}
    assert built.model(torch.zeros(2, 4, 7, 6)).shape == (2, 6, 7, 6)
    built = registry.backend("torch").build(CASES["mixed"])
    # A dense layer reads the image first; the bias goes to a sum that goes to a concatenation.
    assert built.input_axes == {}
    assert built.output_axes == {"map": (0, 3, 1, 2)}
    assert registry.backend("torch").build(CASES["lstm"]).input_axes == {}


def test_a_built_network_can_be_trained_saved_copied_and_inspected():
    state = torch.random.get_rng_state()
    built = registry.backend("torch").build(CASES["mixed"])
    assert torch.equal(torch.random.get_rng_state(), state)
    model = built.model
    assert not model.training
    # Named as described, but for a name that torch.nn.Module has for itself.
    assert isinstance(model.get_submodule("type_"), torch.nn.Conv2d)
    assert {p.parameter for p in built.placements} <= set(model.state_dict())
    x, bias = torch.randn(2, 6, 8, 3), torch.randn(2, 1, 1, 4)
    before = model(x, bias)["scores"]
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x, bias=bias)["scores"], before)
    optimiser = torch.optim.SGD(model.train().parameters(), 0.1)
    model(x, bias)["scores"].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimiser.step()
    assert not torch.equal(model.eval()(x, bias)["scores"], before)
    with pytest.raises(TypeError, match=r"expected the inputs image, bias, got 1 by position"):
        model(x)


@pytest.mark.parametrize("batch", [1, 4])
def test_batch_norm_in_training_keeps_the_biased_variance(batch):
    network = one(d.BatchNorm(momentum=0.2), (4,))
    weights, values = parameters(network), inputs(network, batch=batch)
    obtained = Run("torch", network, weights, values, training=True)
    x = values["x"]
    mean, variance = x.mean(0), x.var(0)
    scale, shift = weights["batch_norm.scale"], weights["batch_norm.shift"]
    wanted = scale * (x - mean) / np.sqrt(variance + 1e-5) + shift
    assert distance(wanted, obtained.outputs["output"]) < 1e-12
    buffers = obtained.run.buffers()
    kept = 0.8 * weights["batch_norm.variance"] + 0.2 * variance
    assert distance(kept, buffers["batch_norm.running_var"]) < 1e-14
    held = obtained.side.read()["batch_norm.running_var"]
    assert np.array_equal(held, weights["batch_norm.variance"])


def test_a_layer_that_torch_does_not_know_is_named():
    class Strange(d.Flatten):
        pass

    class Own(type(d.Flatten()).__mro__[1]):
        pass

    assert registry.backend("torch").build(one(Strange(name="fine"))).placements == ()
    with pytest.raises(ValueError, match=r"torch: no lowering for Own 'odd'"):
        registry.backend("torch").build(one(Own(name="odd")))
