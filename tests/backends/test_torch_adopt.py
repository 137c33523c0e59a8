import collections
import dataclasses
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from pytest_fwcompare.backends import registry  # noqa: E402
from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.backends.torch import passes as torch_passes  # noqa: E402
from pytest_fwcompare.errors import (  # noqa: E402
    FrameworkUnavailable,
    ModelError,
    OutOfMemory,
    UsageError,
)

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def adopt(model, dtype="float32", own=False):
    backend = registry.backend("torch")
    return backend.adopt(model, dtype=dtype, device="cpu", mode="eager", own=own)


def argument(value=X, name="x", keyword=False):
    return Argument(name, np.asarray(value), keyword)


def run(model, *values, precision="working", dtype="float32", **options):
    side = adopt(model, dtype)
    arguments = [argument(value, f"x{i}") for i, value in enumerate(values or (X,))]
    return side, side.forward(arguments, precision=precision, **options)


def scripted(*layers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(*layers))


class Returns(nn.Module):
    """Gives what a function makes of its linear layer's output."""

    def __init__(self, function=lambda y: y):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.function = function

    def forward(self, *inputs, **keywords):
        return self.function(self.linear(inputs[0]), **keywords)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 4, padding_idx=0)
        self.register_buffer("positions", torch.ones(3, 4), persistent=False)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.table.weight
        self.norm.weight.requires_grad_(False)

    def forward(self, tokens, keep):
        x = self.norm(self.table(tokens) + self.positions)
        return self.head(x.masked_fill(~keep[..., None], 0.0))


TOKENS = np.array([[0, 1, 2], [3, 4, 1]])
KEEP = np.array([[True, False, True], [True, True, True]])


def test_only_modules_of_torch_are_its_own():
    backend = registry.backend("torch")
    assert backend.owns(nn.Linear(1, 1))
    assert backend.owns(scripted(nn.Linear(1, 1)))
    assert not backend.owns(nn.Linear)
    assert not backend.owns(torch.zeros(1))
    keras = type("Dense", (nn.Module,), {"__module__": "keras.src.layers"})
    assert not backend.owns(keras())


def test_what_cannot_be_had_is_said():
    backend = registry.backend("torch")
    model = nn.Linear(1, 1)
    with pytest.raises(
        UsageError, match=r"torch: no working dtype 'int8'; its dtypes are float32"
    ):
        backend.adopt(model, dtype="int8", device="cpu", mode="eager", own=False)
    with pytest.raises(UsageError, match=r"torch: no mode 'fast'; its modes are eager, graph"):
        backend.adopt(model, dtype="float32", device="cpu", mode="fast", own=False)
    with pytest.raises(UsageError, match=r"torch: no device 'tpu'; expected one of cpu, cuda"):
        backend.adopt(model, dtype="float32", device="tpu", mode="eager", own=False)
    with pytest.raises(FrameworkUnavailable, match=r"'cuda:99' was asked for, but torch .* finds"):
        backend.adopt(model, dtype="float32", device="cuda:99", mode="eager", own=False)


def test_environment_names_what_moves_numbers():
    backend = registry.backend("torch")
    facts = backend.environment()
    assert facts["version"] == torch.__version__
    assert {"threads", "cudnn_tf32", "matmul_tf32", "deterministic_algorithms"} <= set(facts)
    before = torch.get_num_threads()
    backend.set_threads(1)
    assert backend.environment()["threads"] == 1
    backend.set_threads(before)
    assert backend.device_names()[0] == "cpu"


def test_a_gpu_that_is_in_use_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert "gpu" not in registry.backend("torch").environment()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Abacus 3000")
    assert registry.backend("torch").environment()["gpu"] == "Abacus 3000"


def test_parameters_in_definition_order_with_owner_facts_and_tied_ones_once():
    found = adopt(Tied()).parameters()
    assert [p.name for p in found] == [
        "positions",
        "table.weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
    ]
    by_name = {p.name: p for p in found}
    table = by_name["table.weight"]
    assert (table.kind, table.role, table.layer) == ("Embedding", "weight", "table")
    assert table.aliases == ("head.weight",)
    assert table.options["padding_idx"] == 0
    assert [p.trainable for p in found] == [False, True, True, True, False, False]
    assert by_name["norm.weight"].options["frozen"] is True
    assert "frozen" not in by_name["norm.bias"].options
    assert by_name["norm.bias"].options["eps"] == 1e-5
    lstm = adopt(nn.LSTM(3, 2, 2, bidirectional=True)).parameters()[0]
    assert lstm.name == "weight_ih_l0"
    assert lstm.layer == ""
    options = {k: lstm.options[k] for k in ("hidden_size", "num_layers", "bidirectional")}
    assert options == {"hidden_size": 2, "num_layers": 2, "bidirectional": True}
    names = [p.name for p in adopt(nn.MultiheadAttention(4, 2)).parameters()]
    assert names == ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    assert adopt(nn.MultiheadAttention(4, 2)).parameters()[2].kind == "Linear"


def test_integer_and_boolean_inputs_and_frozen_or_unused_parameters():
    _, done = run(Tied(), TOKENS, KEEP)
    gradients = done.backward({"output": np.ones((2, 3, 5))})
    assert gradients.inputs == {}
    assert np.abs(gradients.parameters["norm.weight"]).max() > 0
    model = Returns(lambda y: y.detach())
    _, done = run(model)
    gradients = done.backward({"output": np.ones((3, 2))})
    assert not gradients.inputs["x0"].any()
    assert gradients.parameters == {"linear.weight": None, "linear.bias": None}


def test_values_go_in_and_out():
    side = adopt(nn.Linear(4, 2))
    values = {"weight": np.arange(8.0).reshape(2, 4), "bias": np.array([1.0, -1.0])}
    for precision in ("working", "double"):
        side.load(values, precision)
        done = side.forward([argument()], precision=precision)
        wanted = X.astype(np.float64) @ values["weight"].T + values["bias"]
        assert done.outputs["output"].dtype == {"working": "f4", "double": "f8"}[precision]
        assert np.allclose(done.outputs["output"], wanted, rtol=1e-6)
    assert np.array_equal(side.read()["weight"], values["weight"])
    with pytest.raises(UsageError, match=r"no parameter 'wieght' .* parameters are weight, bias"):
        side.load({"wieght": values["weight"]}, "working")
    with pytest.raises(UsageError, match=r"'bias' has shape \(2,\), got values of shape \(3,\)"):
        side.load({"bias": np.zeros(3)}, "working")


@dataclasses.dataclass
class Both:
    scores: object
    extra: object = None


Pair = collections.namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("function", "names", "skipped"),
    [
        (lambda y: y, ["output"], {}),
        (lambda y: (y, y + 1), ["0", "1"], {}),
        (lambda y: [y], ["0"], {}),
        (lambda y: {"a": y, "b": None}, ["a"], {"b": "is None"}),
        (lambda y: Both(y), ["scores"], {"extra": "is None"}),
        (lambda y: Pair(y, 3), ["left"], {"right": "is not a tensor but int"}),
        (lambda y: {"states": (y, {"k": y})}, ["states.0", "states.1.k"], {}),
        (lambda y: y.max(1), ["0", "1"], {}),
    ],
)
def test_nested_outputs_get_names(function, names, skipped):
    _, done = run(Returns(function))
    assert list(done.outputs) == names
    assert done.skipped == skipped


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y: None, r"port, forward: expected a tensor, .* returned none \(output is None\)"),
        (lambda y: 3, r"output is not a tensor but int"),
        (lambda y: (), r"returned none \(an empty container\)"),
        (
            lambda y: torch.complex(y, y),
            r"output 'output' is complex64, and complex output.*torch.view_as_real",
        ),
        (lambda y: y @ y, r"port, forward: torch raised RuntimeError: mat1 and mat2 shapes"),
    ],
)
def test_what_cannot_be_judged_is_an_error_in_words(function, message):
    side = adopt(Returns(function))
    side.role = "port"
    with pytest.raises(ModelError, match=message) as caught:
        side.forward([argument()], precision="working")
    assert (caught.value.role, caught.value.stage) == ("port", "forward")
    with pytest.raises(ModelError) as caught:
        side.forward([argument()], precision="double")
    assert caught.value.stage == "shadow"


def test_inputs_by_name_and_a_missing_one():
    model = Returns(lambda y, gain: y * gain)
    side = adopt(model)
    gain = argument(np.float32(2.0), "gain", keyword=True)
    done = side.forward([argument(), gain], precision="double")
    gradients = done.backward({"output": np.ones((3, 2))})
    assert list(gradients.inputs) == ["x", "gain"]
    assert gradients.inputs["gain"].shape == ()
    with pytest.raises(ModelError, match=r"missing 1 required positional argument: 'gain'"):
        side.forward([argument()], precision="double")


def test_a_backward_pass_is_refused_in_words():
    side, done = run(nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"no output 'scores'; the outputs are output"):
        done.backward({"scores": np.ones((3, 2))})
    with pytest.raises(ModelError, match=r"has shape \(3,\), expected \(3, 2\)"):
        done.backward({"output": np.ones(3)})
    done.backward({"output": np.ones((3, 2))})
    with pytest.raises(ModelError, match=r"side, backward: the pass was taken back before"):
        done.backward({"output": np.ones((3, 2))})
    done = side.forward([argument()], precision="working")
    side.load({"bias": np.ones(2)}, "working")
    with pytest.raises(ModelError, match=r"weights were loaded since the pass ran"):
        done.backward({"output": np.ones((3, 2))})
    done = side.forward([argument()], precision="working", gradients=False)
    with pytest.raises(ModelError, match=r"the pass was run with gradients=False"):
        done.backward({"output": np.ones((3, 2))})


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no way back")


def test_what_a_backward_pass_raises_is_passed_on():
    _, done = run(Returns(Fails.apply))
    with pytest.raises(ModelError, match=r"backward: torch raised RuntimeError: no way back"):
        done.backward({"output": np.ones((3, 2))})


@pytest.mark.parametrize(("dtype", "wide"), [("float16", "f2"), ("bfloat16", "f4")])
def test_half_precisions(dtype, wide):
    side, done = run(nn.Linear(4, 2), dtype=dtype)
    assert done.outputs["output"].dtype == wide
    gradients = done.backward({"output": np.ones((3, 2))})
    assert gradients.inputs["x0"].dtype == wide
    shadow = side.forward([argument()], precision="double").outputs["output"]
    error = np.abs(shadow - done.outputs["output"]).max()
    assert 1e-5 < error < 3e-2
    assert [p.dtype for p in side.parameters()] == [dtype, dtype]
    assert side.read()["weight"].dtype == wide


def test_training_mode_gives_buffers_and_puts_them_back():
    model = nn.BatchNorm1d(4).eval()
    side, done = run(model, training=True)
    assert np.allclose(done.buffers()["running_mean"], 0.1 * X.mean(0), atol=1e-6)
    assert not side.read()["running_mean"].any()
    assert not side.model.training
    assert np.allclose(done.outputs["output"].mean(0), 0, atol=1e-6)
    inference = side.forward([argument()], precision="working")
    assert np.allclose(inference.outputs["output"], X, atol=1e-4)
    assert np.array_equal(inference.buffers()["running_var"], np.ones(4))


@pytest.mark.parametrize("training", [False, True])
def test_a_random_model_shows_that_it_is(training):
    """Where no masks are shared, so that what is random is found by calling twice."""
    side = adopt(Returns(lambda y: nn.functional.dropout(y, 0.5)))
    first, second = (
        side.forward([argument(np.ones((64, 4)))], precision="double", training=training).outputs[
            "output"
        ]
        for _ in range(2)
    )
    assert (first == 0).any()
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("mode", ["graph", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_captured_model_gives_the_same_in_every_shape(mode):
    backend = registry.backend("torch")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a norm of few features magnifies rounding where they are alike
        model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.GELU())
    eager, other = (
        backend.adopt(model, dtype="float32", device="cpu", mode=kind, own=False)
        for kind in ("eager", mode)
    )
    graphs = torch._dynamo.utils.counters["stats"]
    captured = graphs["unique_graphs"]
    for size in (3, 4, 1):
        value = argument(np.random.default_rng(size).normal(size=(size, 4)))
        expected, obtained = (s.forward([value], precision="working") for s in (eager, other))
        left, right = (d.backward({"output": np.ones((size, 16))}) for d in (expected, obtained))
        assert np.allclose(expected.outputs["output"], obtained.outputs["output"], atol=1e-5)
        assert np.allclose(left.inputs["x"], right.inputs["x"], atol=1e-5)
        for name, gradient in left.parameters.items():
            assert np.allclose(gradient, right.parameters[name], atol=1e-5)
    # One graph for the first size, one for any size, one for the size 1.
    assert 1 <= graphs["unique_graphs"] - captured <= 3
    shadows = [
        s.forward([argument()], precision="double").outputs["output"] for s in (eager, other)
    ]
    assert np.array_equal(*shadows)


def test_a_cotangent_that_finds_no_memory_is_told_as_such(monkeypatch):
    _, done = run(nn.Linear(4, 2), precision="double")

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch_passes, "own_tensor", full)
    with pytest.raises(OutOfMemory, match="torch ran out of memory on cpu in stage 'backward'"):
        done.backward({"output": np.ones((3, 2))})


def test_a_missing_compiler_is_said(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(FrameworkUnavailable, match=r"mode 'compiled' .* needs a C\+\+ compiler"):
        registry.backend("torch").adopt(
            nn.Linear(1, 1), dtype="float32", device="cpu", mode="compiled", own=False
        )


def test_the_stopwatch_runs_bare_calls():
    side = adopt(nn.Linear(4, 2))
    watch = side.stopwatch([argument()], {"output": np.ones((3, 2))})
    watch.forward()
    watch.forward_backward()
    watch.backward()
    watch.backward()
    assert side.model.weight.grad is None
    assert side.stopwatch([argument()], None).forward_backward is None
