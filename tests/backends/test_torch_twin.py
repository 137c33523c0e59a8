"""Twins of a model: the user's own is left as it was found, whatever kind of module it is."""

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
from pytest_fwcompare.backends.torch.guard import numpy_stream  # noqa: E402
from pytest_fwcompare.errors import ModelError  # noqa: E402

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def adopt(model, dtype="float32", own=False):
    backend = registry.backend("torch")
    return backend.adopt(model, dtype=dtype, device="cpu", mode="eager", own=own)


def argument(value=X, name="x", keyword=False):
    return Argument(name, np.asarray(value), keyword)


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no way back")


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


def test_the_stream_of_numpy_is_read_anew_only_if_somebody_drew():
    before = numpy_stream()
    assert numpy_stream() is before
    drawn = np.random.standard_normal(3)
    assert numpy_stream() is not before
    np.random.set_state(before)
    assert all(np.array_equal(a, b) for a, b in zip(numpy_stream(), before, strict=True))
    assert np.array_equal(np.random.standard_normal(3), drawn)
    np.random.set_state(before)


@pytest.mark.parametrize(
    "draw",
    [
        random.random,
        lambda: random.getrandbits(8),
        lambda: random.gauss(0, 1),
        lambda: random.seed(5),
        lambda: random.shuffle([1, 2, 3]),
    ],
)
def test_what_a_pass_draws_from_pythons_generator_is_put_back(draw):
    class Draws(nn.Linear):
        def forward(self, x):
            draw()
            return super().forward(x)

    random.gauss(0, 1)  # the second of two normal numbers is kept beside the twister
    before = random.getstate()
    argument = Argument("x", np.ones((1, 4), np.float32))
    adopt(Draws(4, 2)).forward([argument], precision="working")
    assert random.getstate() == before
