import collections
import dataclasses
import random
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from pytest_fwcompare.backends import registry  # noqa: E402
from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.errors import FrameworkUnavailable, ModelError, UsageError  # noqa: E402

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
    with pytest.raises(UsageError, match=r"torch: no mode 'fast'; its modes are eager"):
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


def test_a_random_model_shows_it_in_inference_and_repeats_itself_in_training():
    side = adopt(Returns(lambda y: nn.functional.dropout(y, 0.5)))
    first, second = (
        side.forward([argument(np.ones((64, 4)))], precision="double").outputs["output"]
        for _ in range(2)
    )
    assert not np.array_equal(first, second)
    side = adopt(nn.Sequential(nn.Dropout(0.5)))
    wide = argument(np.ones((64, 4)))
    trained = [
        side.forward([wide], precision=precision, training=True).outputs["output"]
        for precision in ("working", "double", "working")
    ]
    assert (trained[0] == 0).any()
    assert np.array_equal(trained[0], trained[1])
    assert np.array_equal(trained[0], trained[2])


class Stateful(nn.Module):
    """Changes everything it can reach while it runs."""

    def __init__(self, fail=None):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))
        self.norm = nn.BatchNorm1d(4)
        self.fail, self.cache = fail, None

    def forward(self, x):
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        self.calls += 1
        self.cache = x
        self.extra = 1
        self.norm.train()
        y = self.norm(self.linear(x))
        if self.fail == "forward":
            raise ValueError("half-way")
        if self.fail == "shadow" and x.dtype is torch.float64:
            raise ValueError("half-way")
        return Fails.apply(y) if self.fail == "backward" else y


def traces(model):
    """Everything of a model and of the process that a comparison must leave alone."""
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "grads": {
            k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()
        },
        "ids": {k: id(p) for k, p in [*model.named_parameters(), *model.named_buffers()]},
        "modes": {k: m.training for k, m in model.named_modules()},
        "frozen": {k: p.requires_grad for k, p in model.named_parameters()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "attributes": [sorted(m.__dict__) for m in model.modules()],
        "torch": torch.random.get_rng_state(),
        "numpy": np.random.get_state()[1],
        "python": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "finfo": torch.finfo,
        "grad mode": torch.is_grad_enabled(),
        "global hooks": len(torch.nn.modules.module._global_forward_hooks),
    }


def same(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (torch.Tensor, np.ndarray)):
        return bool((left == right).all())
    return left == right


@settings(max_examples=40, deadline=None)
@given(
    fail=st.sampled_from([None, "forward", "shadow", "backward"]),
    training=st.booleans(),
    mode=st.booleans(),
    frozen=st.booleans(),
    record=st.booleans(),
    default=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_users_model_and_process_are_left_alone(fail, training, mode, frozen, record, default):
    model = Stateful(fail).train(training)
    model.linear.weight.requires_grad_(not frozen)
    model.linear.bias.grad = torch.ones(4)
    model.linear.register_forward_hook(lambda *_: None)
    torch.set_default_dtype(default)
    try:
        before = traces(model)
        with torch.no_grad(), adopt(model) as side:
            side.load({"linear.bias": np.full(4, 7.0)}, "working")
            for precision in ("working", "double"):
                try:
                    done = side.forward(
                        [argument()],
                        precision=precision,
                        training=mode,
                        record=record and precision == "double",
                    )
                    done.backward({"output": np.ones((3, 4))})
                except ModelError as error:
                    assert fail is not None and error.stage in (fail, "shadow")  # noqa: PT017, PT018
                else:
                    assert fail is None or (fail == "shadow" and precision == "working")
            inner = side.model
            assert inner.cache is None
            assert not hasattr(inner, "extra")
            assert not inner.training
            assert not inner.norm.training
        after = traces(model)
    finally:
        torch.set_default_dtype(torch.float32)
    for key, value in before.items():
        assert same(value, after[key]), key


def test_the_watch_over_a_users_model_can_fail():
    model = Stateful()
    before = traces(model)
    model(torch.zeros(2, 4))
    after = traces(model)
    assert {k for k in before if not same(before[k], after[k])} == {
        "state",
        "attributes",
        "torch",
        "numpy",
        "python",
    }


def test_an_owned_model_is_used_as_it_is():
    model = nn.Linear(4, 2)
    side = adopt(model, "float64", own=True)
    assert side.model is model
    assert model.weight.dtype is torch.float64


class Kept(nn.Module):
    """Keeps a computed tensor, which deepcopy refuses."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen = [self.linear(torch.ones(4))]

    def forward(self, x):
        return self.linear(x)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        def inner(x):
            return self.linear(x).to(torch.float32).tanh()

        return torch.utils.checkpoint.checkpoint(inner, x, use_reentrant=False)


def scripted(*layers):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(*layers))


def weight_normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(4, 4))


def lazy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.LazyLinear(4))


def lstm():
    return nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Kept, (3, 4)),
        (Checkpointed, (3, 4)),
        (weight_normed, (3, 4)),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), (3, 4)),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), (3, 4)),
        (lstm, (2, 5, 4)),
        (lambda: nn.GRU(4, 3), (2, 5, 4)),
        (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (2, 5, 4)),
        (lambda: scripted(nn.Linear(4, 3), nn.BatchNorm1d(3)), (3, 4)),
        (lambda: nn.DataParallel(nn.Linear(4, 2)), (3, 4)),
    ],
)
def test_all_kinds_of_modules_run_in_both_precisions(make, shape):
    side = adopt(make())
    value = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = {}
    for precision in ("working", "double"):
        side.load(side.read(), precision)
        done = side.forward([argument(value)], precision=precision)
        cotangents = {k: np.ones(v.shape) for k, v in done.outputs.items()}
        found[precision] = done.outputs, done.backward(cotangents)
    assert not side.leaks
    for key, wide in found["double"][0].items():
        assert wide.dtype == np.float64
        assert 0 < np.abs(wide - found["working"][0][key]).max() < 1e-5
    trainable = [p.name for p in side.parameters() if p.trainable]
    for key in trainable:
        narrow, wide = (found[p][1].parameters[key] for p in ("working", "double"))
        assert np.abs(narrow - wide).max() < 1e-4


class Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def test_models_that_cannot_be_copied_or_have_no_shape_yet():
    with pytest.raises(ModelError, match=r"could not copy the Locked \(TypeError.*Pass a factory"):
        adopt(Locked())
    assert adopt(Locked(), own=True).parameters() == []
    with pytest.raises(ModelError, match=r"'0.weight' of a lazy module has no shape yet: call"):
        adopt(lazy())


def test_a_compiled_model_is_taken_from_beneath_its_wrapper():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = torch.compile(nn.Linear(4, 2))
    assert [p.name for p in adopt(wrapped).parameters()] == ["weight", "bias"]


def test_the_stopwatch_runs_bare_calls():
    side = adopt(nn.Linear(4, 2))
    watch = side.stopwatch([argument()], {"output": np.ones((3, 2))})
    watch.forward()
    watch.forward_backward()
    watch.backward()
    watch.backward()
    assert side.model.weight.grad is None
    assert side.stopwatch([argument()], None).forward_backward is None
