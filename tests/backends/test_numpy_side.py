"""The NumPy backend as the others see it: build, adopt, load, forward, backward, record, time."""

from __future__ import annotations

import functools
import subprocess
import sys

import autograd.numpy as anp
import numpy as np
import pytest

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.numpy import NumpyBackend, NumpyFunction, NumpyNetwork
from pytest_fwcompare.backends.registry import backend, owner
from pytest_fwcompare.errors import FrameworkUnavailable, ModelError, UsageError
from pytest_fwcompare.networks import (
    LSTM,
    Activation,
    Add,
    BatchNorm,
    Bidirectional,
    Conv1D,
    Dense,
    Dropout,
    Embedding,
    Graph,
    Input,
    Sequential,
    random_parameters,
)
from pytest_fwcompare.weights.transforms import Identity

RNG = np.random.default_rng(0)


def adopted(model, dtype="float32", own=True):
    return NumpyBackend().adopt(model, dtype=dtype, device="cpu", mode="eager", own=own)


@pytest.fixture(scope="module")
def network():
    layers = [
        Dense(4, name="first"),
        Activation("relu"),
        BatchNorm(name="norm"),
        Dense(2, use_bias=False),
    ]
    return Sequential(layers, input_shape=(3,))


X = RNG.normal(size=(5, 3)).astype(np.float32)


def test_the_registry_knows_it() -> None:
    assert isinstance(backend("numpy"), NumpyBackend)
    assert backend("numpy").unavailable() is None
    assert backend("numpy").version() == np.__version__
    assert set(backend("numpy").environment()) == {"version", "autograd"}


def test_a_built_network_computes_and_is_placed_by_name(network) -> None:
    built = NumpyBackend().build(network)
    assert [p.parameter for p in built.placements] == list(network.parameters())
    assert all(p.transform == Identity() and p.sources == (p.parameter,) for p in built.placements)
    assert built.model.network is network
    assert built.model(X).shape == (5, 2)
    assert built.model(X).dtype == np.float32
    assert NumpyBackend().build(network, dtype="float64").model(X.astype("f8")).dtype == np.float64


def test_it_describes_its_parameters() -> None:
    network = Graph(
        [x := Input("x", ("time", 3))],
        [Bidirectional(LSTM(2), name="both")(Conv1D(4, 3, groups=1, name="conv")(x))],
    )
    found = {p.name: p for p in adopted(NumpyNetwork(network)).parameters()}
    assert list(found) == list(network.parameters())
    kernel = found["both.backward.recurrent_kernel"]
    assert (kernel.layer, kernel.kind, kernel.role) == (
        "both",
        "Bidirectional",
        "recurrent_kernel",
    )
    assert kernel.shape == (2, 8)
    assert kernel.trainable
    assert found["conv.kernel"].options["groups"] == 1
    norm = adopted(NumpyNetwork(Sequential([BatchNorm()], input_shape=(3,)))).parameters()
    assert [p.name for p in norm if not p.trainable] == ["batch_norm.mean", "batch_norm.variance"]


def test_the_model_is_left_as_it_was(network) -> None:
    model = NumpyNetwork(network)
    before = {name: value.copy() for name, value in model.weights.items()}
    with adopted(model, own=False) as side:
        side.load({name: value + 1 for name, value in before.items()}, "working")
        assert np.all(side.read()["first.bias"] == before["first.bias"] + 1)
        side.forward([Argument("x", X)], precision="working", training=True)
    for name, value in before.items():
        np.testing.assert_array_equal(model.weights[name], value)


def test_each_precision_has_its_own_weights(network) -> None:
    side = adopted(NumpyNetwork(network))
    weights = random_parameters(network, 4)
    own = side.forward([Argument("x", X)], precision="double").outputs["output"]
    side.load(weights, "double")
    double = side.forward([Argument("x", X)], precision="double").outputs["output"]
    working = side.forward([Argument("x", X)], precision="working").outputs["output"]
    assert double.dtype == np.float64
    assert working.dtype == np.float32
    assert not np.allclose(double, own)
    np.testing.assert_allclose(working, own, rtol=1e-4, atol=1e-5)
    side.load(weights, "working")
    working = side.forward([Argument("x", X)], precision="working").outputs["output"]
    np.testing.assert_allclose(working, double, rtol=1e-4, atol=1e-5)
    for name, value in side.read().items():
        np.testing.assert_array_equal(value, weights[name])


def test_training_gives_buffers_and_puts_nothing_back(network) -> None:
    side = adopted(NumpyNetwork(network))
    held = side.read()
    done = side.forward([Argument("x", X)], precision="double", training=True)
    assert set(done.buffers()) == {"norm.mean", "norm.variance"}
    assert not np.allclose(done.buffers()["norm.mean"], held["norm.mean"])
    np.testing.assert_array_equal(side.read()["norm.mean"], held["norm.mean"])
    assert side.forward([Argument("x", X)], precision="double").buffers() == {}


def test_equal_calls_in_training_mode_are_equal() -> None:
    side = adopted(NumpyNetwork(Sequential([Dropout(0.5)], input_shape=(50,))))
    x = [Argument("x", np.ones((2, 50), np.float32))]
    first = side.forward(x, precision="working", training=True).outputs["output"]
    second = side.forward(x, precision="working", training=True).outputs["output"]
    np.testing.assert_array_equal(first, second)
    assert 0 in first


def test_records_are_steps_with_their_gradients() -> None:
    x, y = Input("x", (3,)), Input("y", ("time",), "int64")
    shared = Dense(2, name="shared")
    both = shared(Dense(3, name="in")(x))
    words = shared(Embedding(9, 3, name="table")(y))
    network = Graph([x, y], {"a": Activation("tanh", name="act")(both), "b": words})
    side = adopted(NumpyNetwork(network))
    arguments = [Argument("x", X), Argument("y", np.arange(10).reshape(5, 2) % 9)]
    done = side.forward(arguments, precision="double", record=True)
    assert all(record.gradient is None for record in done.recorded())
    done.backward({name: np.ones_like(value) for name, value in done.outputs.items()})
    records = done.recorded()
    assert [r.index for r in records] == list(range(len(records)))
    operations = {r.place: r for r in records if not r.is_module}
    assert list(operations) == [step.name for step in network.nodes]
    act = operations["act"]
    assert (act.path, act.operation, act.attributes["function"]) == ("act", "Activation", "tanh")
    np.testing.assert_array_equal(act.value, done.outputs["a"])
    np.testing.assert_array_equal(act.gradient, np.ones((5, 2)))
    before = records[act.inputs[0]]
    assert before.path == "shared"
    assert before.parameters == ("shared.kernel", "shared.bias")
    np.testing.assert_array_equal(act.arguments[0], before.value)
    np.testing.assert_allclose(before.gradient, 1 - act.value**2, rtol=1e-13)
    modules = [r for r in records if r.is_module]
    assert [records[r.inputs[0]].path for r in modules] == [r.path for r in modules]
    assert operations["table"].value.dtype == np.float64
    assert side.forward(arguments, precision="double").recorded() == []


def test_an_unused_cotangent_counts_as_zero(network) -> None:
    side = adopted(NumpyNetwork(network))
    gradients = side.forward([Argument("x", X)], precision="double").backward({})
    assert not np.any(gradients.inputs["x"])
    assert set(gradients.parameters) == {
        name for name, spec in network.parameters().items() if spec.trainable
    }


def test_integer_inputs_have_no_gradient() -> None:
    network = Sequential([Embedding(5, 2)], input_shape=("time",), input_dtype="int64")
    side = adopted(NumpyNetwork(network))
    done = side.forward([Argument("x", np.array([[1, 2]]))], precision="double")
    gradients = done.backward({"output": np.ones((1, 2, 2))})
    assert gradients.inputs == {}
    assert gradients.parameters["embedding.table"].sum() == 4


def test_inputs_may_come_by_keyword(network) -> None:
    side = adopted(NumpyNetwork(network))
    named = side.forward([Argument("x", X, keyword=True)], precision="working")
    plain = side.forward([Argument("anything", X)], precision="working")
    np.testing.assert_array_equal(named.outputs["output"], plain.outputs["output"])


def test_stopwatch_runs(network) -> None:
    side = adopted(NumpyNetwork(network))
    watch = side.stopwatch([Argument("x", X)], {"output": np.ones((5, 2), np.float32)})
    watch.forward()
    watch.forward_backward()
    watch.backward()
    assert side.stopwatch([Argument("x", X)], None).forward_backward is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "reference, forward: network 'network': input 'x' is missing"),
        ([Argument("x", X), Argument("y", X)], "takes 1 inputs (x), got 2"),
        ([Argument("y", X, keyword=True)], "input 'y' is unknown; its inputs are x"),
        ([Argument("x", X[0])], "input 'x' has 2 axes (batch, 3), got shape (3,)"),
        ([Argument("x", X[:, :2])], "input 'x' has shape (batch, 3), got (5, 2)"),
    ],
)
def test_wrong_inputs(network, arguments, message) -> None:
    side = adopted(NumpyNetwork(network))
    side.role = "reference"
    with pytest.raises(ModelError) as caught:
        side.forward(arguments, precision="working")
    assert message in str(caught.value)


def test_a_free_size_is_one_number() -> None:
    x, y = Input("x", ("time", 2)), Input("y", ("time", 2))
    model = NumpyNetwork(Graph([x, y], [Add()(x, y)]))
    with pytest.raises(UsageError, match=r"input 'y' has shape .*, but time is 3 in input 'x'"):
        model(np.ones((1, 3, 2)), np.ones((1, 4, 2)))


def test_sizes_too_small_for_a_layer_are_named() -> None:
    network = Sequential([Conv1D(2, 5)], input_shape=("time", 1))
    side = adopted(NumpyNetwork(network))
    with pytest.raises(ModelError, match=r"shadow: Conv1D 'conv1d': a window covers 5 cells"):
        side.forward([Argument("x", np.ones((1, 3, 1)))], precision="double")


def test_tokens_out_of_range_are_named() -> None:
    network = Sequential([Embedding(5, 2)], input_shape=(2,), input_dtype="int64")
    with pytest.raises(
        ModelError, match=r"Embedding 'embedding': expected tokens in \[0, 5\), got -1"
    ):
        adopted(NumpyNetwork(network)).forward(
            [Argument("x", np.array([[-1, 2]]))], precision="working"
        )


def test_wrong_weights(network) -> None:
    weights = random_parameters(network, 0)
    with pytest.raises(UsageError, match=r"missing: first.bias; unknown: other"):
        NumpyNetwork(
            network, {("other" if n == "first.bias" else n): v for n, v in weights.items()}
        )
    with pytest.raises(UsageError, match=r"first.bias has shape \(4,\), got \(1,\)"):
        NumpyNetwork(network, weights | {"first.bias": np.ones(1)})
    side = adopted(NumpyNetwork(network))
    with pytest.raises(UsageError, match=r"no parameter 'other' .* parameters are first\.kernel"):
        side.load({"other": np.ones(1)}, "working")
    with pytest.raises(UsageError, match=r"'first.bias' has shape \(4,\), got .* \(2,\)"):
        side.load({"first.bias": np.ones(2)}, "double")


def test_gradients_that_were_not_asked_for(network) -> None:
    done = adopted(NumpyNetwork(network)).forward(
        [Argument("x", X)], precision="working", gradients=False
    )
    with pytest.raises(ModelError, match="backward: the pass was made with gradients=False"):
        done.backward({"output": np.ones((5, 2))})


def test_only_a_cpu(network) -> None:
    with pytest.raises(FrameworkUnavailable, match="numpy has only cpu"):
        NumpyBackend().build(network, device="cuda")
    with pytest.raises(FrameworkUnavailable, match="numpy has only cpu"):
        NumpyBackend().adopt(np.tanh, dtype="float32", device="cuda:0", mode="eager", own=False)


# Plain functions.


class Scale:
    def __call__(self, x):
        return 2 * x


class Foreign:
    __module__ = "torch.nn.modules.linear"

    def __call__(self, x):
        return x


def affine(parameters, x):
    return {"y": anp.tanh(x @ parameters["w"] + parameters["inner"]["b"][0]), "mean": anp.mean(x)}


def parameters():
    return {"w": RNG.normal(size=(3, 2)), "inner": {"b": [RNG.normal(size=2)]}}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda x: x, True),
        (lambda x, y=None: x, True),
        (functools.partial(affine, parameters()), True),
        (Scale(), True),
        (np.tanh, True),
        (NumpyFunction(affine, parameters()), True),
        (lambda: 1, False),
        (lambda x=1: x, False),
        (lambda *xs: xs, False),
        (Scale, False),
        (Foreign(), False),
        ("text", False),
        ((np.tanh, {}), False),
    ],
)
def test_what_it_owns(model, expected) -> None:
    assert NumpyBackend().owns(model) is expected


def test_frameworks_come_first() -> None:
    torch = pytest.importorskip("torch")
    assert not NumpyBackend().owns(torch.nn.Linear(2, 2))
    assert not NumpyBackend().owns(torch.nn.functional.relu)
    assert owner(np.tanh).name == "numpy"


def test_a_function_with_parameters_forward_and_backward() -> None:
    given = parameters()
    kept = given["w"].copy()
    side = adopted(NumpyFunction(affine, given), dtype="float64")
    assert [p.name for p in side.parameters()] == ["w", "inner.b.0"]
    done = side.forward([Argument("x", X)], precision="double")
    assert set(done.outputs) == {"y", "mean"}
    gradients = done.backward({"y": np.ones((5, 2)), "mean": np.array(1.0)})
    inner = 1 - done.outputs["y"] ** 2
    x = X.astype(np.float64)
    np.testing.assert_allclose(gradients.parameters["w"], x.T @ inner, rtol=1e-13)
    np.testing.assert_allclose(gradients.parameters["inner.b.0"], inner.sum(0), rtol=1e-13)
    np.testing.assert_allclose(gradients.inputs["x"], inner @ given["w"].T + 1 / 15, rtol=1e-13)
    side.load({"w": np.zeros((3, 2))}, "working")
    np.testing.assert_array_equal(side.read()["w"], 0)
    np.testing.assert_array_equal(given["w"], kept)
    side.load({"w": np.ones((3, 2)), "inner.b.0": np.zeros(2)}, "double")
    double = side.forward([Argument("x", X)], precision="double").outputs["y"]
    np.testing.assert_allclose(double[:, 0], np.tanh(x.sum(1)), rtol=1e-13)


def test_outputs_are_named_and_the_rest_is_said() -> None:
    side = adopted(NumpyFunction(lambda x: (x, None, {"a": 2.0, "b": "text"})))
    done = side.forward([Argument("x", X)], precision="working")
    assert list(done.outputs) == ["0", "2.a"]
    assert done.skipped == {"1": "NoneType, not an array", "2.b": "str, not an array"}
    with pytest.raises(ModelError, match="expected an array or several, the function gave output"):
        adopted(NumpyFunction(lambda x: None)).forward([Argument("x", X)], precision="working")


def detached(x):
    return np.sum(np.asarray(getattr(x, "_value", x)) ** 2, axis=1)


@pytest.mark.parametrize(
    "function", [lambda x: np.exp(np.asarray(x, dtype=float)), detached, lambda x: x.astype("f8")]
)
def test_a_function_without_gradients_says_so(function) -> None:
    side = adopted(NumpyFunction(function), dtype="float64")
    side.role = "port"
    done = side.forward([Argument("x", X)], precision="double")
    cotangents = {"output": np.ones_like(done.outputs["output"])}
    if function(X.astype("f8")).shape == X.shape and not np.allclose(function(X), np.exp(X)):
        # astype is differentiable in autograd.
        np.testing.assert_array_equal(done.backward(cotangents).inputs["x"], 1)
        return
    with pytest.raises(ModelError) as caught:
        done.backward(cotangents)
    assert str(caught.value).startswith("port, backward: a NumPy function has gradients only if")
    assert "checks=('forward',)" in str(caught.value)


def test_a_constant_function_has_zero_gradients() -> None:
    done = adopted(NumpyFunction(lambda x: np.ones(3))).forward(
        [Argument("x", X)], precision="working"
    )
    assert not np.any(done.backward({"output": np.ones(3)}).inputs["x"])


def test_a_function_may_write_into_its_inputs() -> None:
    def writes(x):
        x += 1
        return x

    given = X.copy()
    side = adopted(NumpyFunction(writes))
    first = side.forward([Argument("x", given)], precision="working").outputs["output"]
    np.testing.assert_array_equal(first, X + 1)
    np.testing.assert_array_equal(given, X)


def test_a_narrow_shadow_is_noticed() -> None:
    def run(function):
        side = adopted(NumpyFunction(function))
        side.forward([Argument("x", X)], precision="double")
        return side.leaks

    assert run(np.tanh) == []
    assert run(lambda x: np.round(x)) == []
    assert run(lambda x: np.tanh(x.astype(np.float32))) == [
        "output output of the function is float32"
    ]
    rounded = run(lambda x: np.tanh(x).astype(np.float32).astype(np.float64))
    assert rounded == ["output output of the function was rounded to float32"]


def test_errors_of_a_function_carry_role_and_stage() -> None:
    side = adopted(NumpyFunction(lambda x: x @ x))
    side.role = "port"
    with pytest.raises(ModelError, match="port, forward: ValueError: "):
        side.forward([Argument("x", X)], precision="working")
    with pytest.raises(UsageError, match="NumpyFunction: expected a function, got 3"):
        NumpyFunction(3)
    with pytest.raises(UsageError, match="no parameter 'w' in the model; its parameters are none"):
        side.load({"w": X}, "working")


def test_function_stopwatch_runs() -> None:
    watch = adopted(NumpyFunction(anp.tanh)).stopwatch([Argument("x", X)], {"output": X})
    watch.forward()
    watch.forward_backward()


def test_asking_who_owns_a_model_imports_no_autograd() -> None:
    code = (
        "import sys\n"
        "from pytest_fwcompare.backends.numpy import NumpyBackend\n"
        "NumpyBackend().owns(3)\n"
        "print('autograd' in sys.modules)\n"
        "import autograd\n"
        "print('autograd' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
