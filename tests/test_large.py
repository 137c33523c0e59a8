"""Large networks: weights drawn when they are loaded, gradients one by one, the same verdicts."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import pytest_fwcompare as fwc  # noqa: E402
from pytest_fwcompare.backends.torch.adopt import TorchSide  # noqa: E402
from pytest_fwcompare.running import arrays  # noqa: E402
from pytest_fwcompare.weights.transforms import Transpose  # noqa: E402


@pytest.fixture
def everything_is_large(monkeypatch):
    """Networks of a few weights are treated as those of millions, and all gradients are filed."""
    monkeypatch.setattr(arrays, "LARGE", 0)
    monkeypatch.setattr(arrays, "SMALL", 3)


class Tied(nn.Module):
    """An embedding that is used twice, a fused projection, a buffer, and a dead branch."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.norm = nn.BatchNorm1d(6)
        self.both = nn.Linear(6, 12)
        self.dead = nn.Linear(6, 6)

    def forward(self, tokens, x):
        one, two = self.both(self.norm(self.table(tokens).mean(1) + x)).chunk(2, -1)
        return (one * two.tanh()) @ self.table.weight.T


class Cut(nn.Module):
    """The same function, its projection in two."""

    def __init__(self, epsilon=1e-5):
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.norm = nn.BatchNorm1d(6, eps=epsilon)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, tokens, x):
        y = self.norm(self.table(tokens).mean(1) + x)
        return (self.one(y) * self.two(y).tanh()) @ self.table.weight.T


INPUTS = {
    "tokens": fwc.TensorSpec((4, 3), "int64", high=7),
    "x": fwc.TensorSpec((4, 6)),
}


def judged(reference, port, **options):
    return fwc.compare(reference, port, inputs=INPUTS, examples=5, **options)


def test_a_large_network_gets_the_figures_of_a_small_one(monkeypatch):
    torch.manual_seed(0)
    reference, port = Tied().eval(), Cut().eval()
    small = judged(reference, port)
    monkeypatch.setattr(arrays, "LARGE", 0)
    monkeypatch.setattr(arrays, "SMALL", 3)
    large = judged(reference, port)
    assert small.verdict == large.verdict == "equivalent"
    assert [row.name for row in small.tensors] == [row.name for row in large.tensors]
    for one, other in zip(small.tensors, large.tensors, strict=True):
        assert (one.gap, one.port_noise) == (other.gap, other.port_noise), one.name
    assert small.controls == large.controls


def test_a_fault_of_a_large_network_is_found_and_explained(everything_is_large):
    torch.manual_seed(0)
    reference = Tied().eval()
    found = judged(reference, Cut(epsilon=1e-3).eval())
    assert (found.verdict, found.cause) == ("semantic", "norm-epsilon")
    assert found.culprit == "norm"


def test_a_large_model_is_left_as_it_was(everything_is_large):
    torch.manual_seed(0)
    reference, port = Tied().eval(), Cut().eval()
    before = copy.deepcopy([reference.state_dict(), port.state_dict()])
    judged(reference, port)
    for kept, model in zip(before, (reference, port), strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(kept[name], value), name
        assert all(p.grad is None for p in model.parameters())


def test_the_shadow_of_one_side_is_released_before_the_other_is_filled(
    everything_is_large, monkeypatch
):
    held = []
    original = TorchSide.load

    def load(self, values, precision):
        if precision == "double":
            held.append(sum(side._double is not None for side in sides))
        original(self, values, precision)

    sides = []
    made = TorchSide.__init__

    def init(self, *args, **options):
        made(self, *args, **options)
        sides.append(self)

    monkeypatch.setattr(TorchSide, "__init__", init)
    monkeypatch.setattr(TorchSide, "load", load)
    torch.manual_seed(0)
    judged(Tied().eval(), Cut().eval())
    assert len(held) > 5
    assert max(held) <= 1


def test_a_write_that_does_not_arrive_is_noticed(everything_is_large, monkeypatch):
    original = TorchSide.value

    def value(self, name):
        found = original(self, name)
        if self.role == "port" and name == "two.weight":
            found[0, 0] += 1
        return found

    monkeypatch.setattr(TorchSide, "value", value)
    torch.manual_seed(0)
    found = judged(Tied().eval(), Cut().eval())
    assert found.verdict == "error"
    assert "parameter 'two.weight' of shape (6, 6) does not hold the values" in found.message


@pytest.mark.parametrize("precision", ["working", "double"])
def test_gradients_of_torch_one_by_one(precision):
    from pytest_fwcompare.backends.base import Argument

    torch.manual_seed(0)
    with TorchSide(Tied().eval(), dtype="float32", device="cpu", mode="eager", own=False) as side:
        given = [
            Argument("tokens", np.zeros((4, 3), np.int64)),
            Argument("x", np.random.default_rng(0).normal(size=(4, 6))),
        ]
        cotangents = {"output": np.ones((4, 7))}
        whole = side.forward(given, precision=precision).backward(cotangents)
        taken = {}
        passed = side.forward(given, precision=precision)
        inputs = passed.backward_each(cotangents, taken.__setitem__)
        assert set(taken) == set(whole.parameters)
        assert taken["dead.weight"] is None
        for name, value in whole.parameters.items():
            assert np.array_equal(taken[name], value) if value is not None else True, name
        assert np.array_equal(inputs["x"], whole.inputs["x"])
        assert all(p.grad is None for p in side.twin(precision).parameters())


def tensorflow_port(scale=1.0, stopped=False):
    tf = pytest.importorskip("tensorflow")

    class Two(tf.Module):
        def __init__(self):
            super().__init__()
            rng = np.random.default_rng(1)
            self.kernel = tf.Variable(rng.normal(size=(6, 4)).astype("f4"), name="kernel")
            self.bias = tf.Variable(np.zeros(4, "f4"), name="bias")
            self.spare = tf.Variable(np.ones((2, 4), "f4"), name="spare")

        def __call__(self, x):
            inner = scale * (x @ self.kernel + self.bias)
            inner = tf.stop_gradient(inner) if stopped else inner
            return tf.tanh(inner) + 0 * self.spare[0]

    return Two()


def compared(port, **options):
    torch.manual_seed(0)
    return fwc.compare(
        nn.Sequential(nn.Linear(6, 4), nn.Tanh()),
        port,
        inputs={"x": fwc.TensorSpec((3, 6))},
        weights={"kernel": ("0.weight", Transpose((1, 0))), "bias": "0.bias"},
        examples=5,
        **options,
    )


def test_gradients_within_a_large_tensorflow_port_are_recorded(everything_is_large):
    """They tell where a gradient stops; without them it would seem to stop at the output."""
    found = compared(tensorflow_port(stopped=True))
    assert (found.verdict, found.cause) == ("semantic", "gradient-path"), found.summary()
    assert found.culprit == "0"


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "equivalent"), (1.01, "semantic")])
def test_a_large_tensorflow_port(everything_is_large, scale, verdict):
    """Its shadow's variables are emptied and filled again; what is not loaded keeps its own."""
    port = tensorflow_port(scale)
    before = [variable.numpy() for variable in port.variables]
    found = compared(port, explain=False)
    assert found.verdict == verdict, found.summary()
    for value, variable in zip(before, port.variables, strict=True):
        assert np.array_equal(value, variable.numpy()), variable.name
