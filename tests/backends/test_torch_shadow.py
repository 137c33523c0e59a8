import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from pytest_fwcompare.backends import registry  # noqa: E402
from pytest_fwcompare.backends.base import Argument  # noqa: E402

X = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)


class Runs(nn.Module):
    """Runs a function of its input and of a weight."""

    def __init__(self, function, **attributes):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1.3, 1.7, 8))
        self.function = function
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x * self.weight)


def shadow(model, value=X, dtype="float32", **options):
    side = registry.backend("torch").adopt(
        model, dtype=dtype, device="cpu", mode="eager", own=False
    )
    return side, side.forward([Argument("x", value)], precision="double", **options)


def wanted(function, value=X):
    """The function in plain float64 NumPy, of the input times the weight."""
    weight = torch.linspace(-1.3, 1.7, 8).numpy().astype(np.float64)
    return function(value.astype(np.float64) * weight)


def narrow_norm(_, x):
    y = x.to(torch.float32)
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def numpy_norm(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def autocast(_, x):
    with torch.autocast("cpu", torch.bfloat16):
        return x @ x.mT


DETOURS = {
    "to a dtype": (narrow_norm, numpy_norm),
    "half": (lambda m, x: x.half().float() * 3, lambda x: 3 * x),
    "bfloat16": (lambda m, x: x.bfloat16() + 1, lambda x: x + 1),
    "type by name": (lambda m, x: x.type("torch.FloatTensor") + 1, lambda x: x + 1),
    "type by class": (lambda m, x: x.type(torch.HalfTensor) + 1, lambda x: x + 1),
    "to by keyword": (lambda m, x: x.to(dtype=torch.float16) + 1, lambda x: x + 1),
    "to another tensor": (lambda m, x: x.to(m.constant) + 1, lambda x: x + 1),
    "type as": (lambda m, x: x.type_as(m.constant) + 1, lambda x: x + 1),
    "softmax dtype": (
        lambda m, x: F.softmax(x, -1, dtype=torch.float32),
        lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    ),
    "autocast": (autocast, lambda x: x @ x.T),
    "factory": (
        lambda m, x: x + torch.full((8,), 0.1, dtype=torch.float32),
        lambda x: x + 0.1,
    ),
    "default dtype": (lambda m, x: x + torch.tensor(0.1), lambda x: x + 0.1),
    "arange": (
        lambda m, x: x + 0.1 * torch.arange(8, dtype=torch.float32),
        lambda x: x + 0.1 * np.arange(8),
    ),
    "plain attribute": (lambda m, x: x / torch.sqrt(m.constant), lambda x: x / math.sqrt(1e-5)),
    "attribute in a list": (lambda m, x: x * m.listed[0], lambda x: x * math.sqrt(2)),
    "numpy number": (lambda m, x: x * m.number, lambda x: x * 0.1),
    "numpy array": (lambda m, x: x * torch.tensor(m.array), lambda x: x * (1 / 3)),
    "out": (lambda m, x: torch.add(x, 1, out=torch.empty_like(x)) * 0.1, lambda x: (x + 1) * 0.1),
}


def constants():
    return {
        "constant": torch.tensor(1e-5),
        "listed": [torch.tensor([math.sqrt(2)])],
        "number": np.float32(0.1),
        "array": np.full(8, 1 / 3, np.float32),
    }


@pytest.mark.parametrize("name", DETOURS)
def test_narrow_detours_are_closed(name):
    function, reference = DETOURS[name]
    gradients = name != "out"
    side, done = shadow(Runs(function, **constants()), gradients=gradients)
    expected = wanted(reference)
    assert done.outputs["output"].dtype == np.float64
    assert np.abs(done.outputs["output"] - expected).max() < 4e-15 * np.abs(expected).max()
    assert side.leaks == []
    assert side.rounded_constants == []


@pytest.mark.parametrize("name", ["to a dtype", "half", "default dtype", "plain attribute"])
def test_without_the_mode_these_models_do_leak(name):
    function, reference = DETOURS[name]
    model = Runs(function, **constants()).double()
    obtained = model(torch.from_numpy(X).double()).detach().numpy()
    expected = wanted(reference)
    assert np.abs(obtained - expected).max() > 1e-10 * np.abs(expected).max()


def test_gradients_pass_the_closed_detours():
    side, done = shadow(Runs(narrow_norm))
    gradient = done.backward({"output": np.ones((3, 8))}).inputs["x"]
    step = np.zeros_like(X, dtype=np.float64)
    step[1, 2] = 1e-6
    ends = [
        side.forward([Argument("x", X + sign * step)], precision="double").outputs["output"].sum()
        for sign in (1, -1)
    ]
    assert abs((ends[0] - ends[1]) / 2e-6 - gradient[1, 2]) < 1e-8 * np.abs(gradient).max()


class Opaque(torch.autograd.Function):
    """Computes in NumPy's float32, which no mode of torch can see."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.numpy().astype(np.float32))

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Inner(nn.Module):
    def forward(self, x):
        return Opaque.apply(x) + 1


def test_a_detour_through_numpy_is_named_with_its_place():
    side, done = shadow(nn.Sequential(nn.Linear(8, 8), Inner()))
    assert done.outputs["output"].dtype == np.float64
    assert side.leaks == ["add was given float32 in module '1'"]


class Wraps(nn.Module):
    """Hands out float32 behind the mode's back."""

    def forward(self, x):
        with torch._C.DisableTorchFunction():
            return x.float()


@pytest.mark.parametrize(
    ("layers", "leak"),
    [
        ([nn.Linear(8, 8), Wraps()], "the model returned float32 in the model's own forward"),
        ([nn.Linear(8, 8), Wraps(), nn.Tanh()], "tanh was given float32 in module '2'"),
    ],
)
def test_what_escapes_the_mode_is_a_leak_with_its_place(layers, leak):
    side, done = shadow(nn.Sequential(*layers))
    assert done.outputs["output"].dtype == np.float64
    assert side.leaks == [leak]
    side.forward([Argument("x", X)], precision="working")
    assert side.leaks == [leak]


def test_a_float32_table_that_nothing_restores_is_named():
    table = torch.sin(torch.arange(8) * 0.37)
    side, done = shadow(Runs(lambda m, x: x + m.table, table=table))
    assert side.leaks == []
    assert side.rounded_constants == [
        "float32 constant of shape (8,) used by add in the model's own forward"
    ]
    expected = wanted(lambda x: x + table.numpy().astype(np.float64))
    assert np.array_equal(done.outputs["output"], expected)


def test_loaded_weights_and_buffers_are_never_restored():
    model = Runs(lambda m, x: x * m.scale)
    model.register_buffer("scale", torch.tensor(0.1))
    _, done = shadow(model)
    expected = wanted(lambda x: x * np.float64(np.float32(0.1)))
    assert np.array_equal(done.outputs["output"], expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_what_follows_the_dtype_follows_the_working_one(dtype):
    kind = getattr(torch, dtype)
    tiny = np.full((3, 8), 1e-4)
    side, done = shadow(Runs(lambda m, x: x + torch.finfo(x.dtype).eps), tiny, dtype)
    weight = side.read()["weight"].astype(np.float64)
    expected = tiny * weight + torch.finfo(kind).eps
    assert np.abs(done.outputs["output"] - expected).max() < 1e-18
    _, done = shadow(Runs(lambda m, x: F.rms_norm(x, (8,))), tiny, dtype)
    epsilon = torch.finfo(torch.float64 if dtype == "float64" else torch.float32).eps
    x = tiny * weight
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    assert np.abs(done.outputs["output"] - expected).max() < 1e-14
    assert torch.finfo(torch.float64).bits == 64
    _, done = shadow(Runs(lambda m, x: torch.nan_to_num(x / 0)), dtype=dtype)
    assert done.outputs["output"].max() == torch.finfo(kind).max


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (F.hardsigmoid, lambda x: np.where(np.abs(x) < 3, 1 / 6, 0.0)),
        (lambda x: F.celu(x, 0.3), lambda x: np.where(x > 0, 1.0, np.exp(x / 0.3))),
        (lambda x: torch.celu(x, 0.3), lambda x: np.where(x > 0, 1.0, np.exp(x / 0.3))),
        (lambda x: F.celu(x.clone(), 0.3, inplace=True), None),
    ],
)
def test_constants_that_torch_itself_rounds(function, slope):
    _, done = shadow(nn.Sequential(nn.Identity(), Applies(function)))
    gradient = done.backward({"output": np.ones((3, 8))}).inputs["x"]
    x = X.astype(np.float64)
    slope = slope or (lambda x: np.where(x > 0, 1.0, np.exp(x / 0.3)))
    assert np.abs(gradient - slope(x)).max() < 1e-15
    assert np.allclose(done.outputs["output"], function(torch.from_numpy(x)).numpy(), rtol=1e-14)


class Applies(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_bits_are_those_of_float32():
    def exponent(_, x):
        bits = x.detach().view(torch.int32)
        return x * ((bits >> 23) & 255).sub(127)

    _, done = shadow(Runs(exponent))
    expected = wanted(lambda x: x * np.floor(np.log2(np.abs(x))))
    assert np.abs(done.outputs["output"] - expected).max() < 1e-14


def sizes(spec, rng):
    """Values for one input of the corpus."""
    shape = tuple(
        {"batch": 3, "time": 5}.get(s, 7) if isinstance(s, str) else s for s in spec.shape
    )
    if spec.kind == "tokens":
        return rng.integers(0, spec.high, shape)
    if spec.kind == "mask":
        keep = rng.random(shape) < 0.6
        keep[..., 0] = True
        return keep
    value = rng.normal(size=shape).astype(np.float32)
    return {"positive": np.abs(value), "grid": np.round(2 * value) / 2}.get(spec.kind, value)


@pytest.mark.parametrize("family", ["lstm_classifier", "mixer", "seq2seq_attention", "ties"])
def test_the_shadow_is_the_reference_built_in_float64(ports, family):
    rng = np.random.default_rng(4)
    for case in ports.load_family(family):
        model = case.make_reference("float32")
        wide = case.make_reference("float64")
        wide.load_state_dict(model.state_dict())
        values = {name: sizes(spec, rng) for name, spec in case.inputs.items()}
        side = registry.backend("torch").adopt(
            model, dtype="float32", device="cpu", mode="eager", own=False
        )
        done = side.forward(
            [Argument(name, value) for name, value in values.items()], precision="double"
        )
        tensors = [torch.from_numpy(value) for value in values.values()]
        outputs = wide(*(t.double() if t.is_floating_point() else t for t in tensors))
        outputs = outputs if isinstance(outputs, (tuple, list)) else [outputs]
        for obtained, expected in zip(done.outputs.values(), outputs, strict=True):
            reference = expected.detach().numpy()
            assert np.abs(obtained - reference).max() <= 1e-14 * np.abs(reference).max()
        gradients = done.backward({k: np.ones(v.shape) for k, v in done.outputs.items()})
        sum(output.sum() for output in outputs).backward()
        for name, parameter in wide.named_parameters():
            reference = parameter.grad.numpy()
            scale = np.abs(reference).max()
            assert np.abs(gradients.parameters[name] - reference).max() <= 1e-14 * scale
        assert side.leaks == side.rounded_constants == []
