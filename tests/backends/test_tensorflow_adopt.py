"""Raw TensorFlow models, run as they are and left as they were found."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.registry import backend, owner
from pytest_fwcompare.backends.tensorflow import prepare_import
from pytest_fwcompare.errors import ModelError

prepare_import()
tf = pytest.importorskip("tensorflow")

X = np.arange(1.0, 7.0).reshape(2, 3) / 10


class Layer(tf.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size
        self.kernel = tf.Variable(tf.ones([size, size]) / 3, name="something_else")
        self.bias = tf.Variable(tf.zeros([size]))

    def __call__(self, x):
        return x @ self.kernel + self.bias


class Stack(tf.Module):
    """Two layers, one shared a second time under another name; a counter and running means."""

    def __init__(self, fails=False):
        super().__init__()
        self.layers = [Layer(3), Layer(3)]
        self.again = {"first": self.layers[0].kernel}
        self.mean = tf.Variable(tf.zeros([3]), trainable=False)
        self.steps = tf.Variable(0)
        self.fails = fails

    def __call__(self, x, training=False):
        self.steps.assign_add(1)
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(x, 0))
        if self.fails:
            raise RuntimeError("the disk is full")
        for layer in self.layers:
            x = tf.tanh(layer(x))
        return {"states": (x, x - self.mean), "count": self.steps, "extra": None, "note": "hi"}


def adopt(model, mode="eager", own=False):
    return owner(model).adopt(model, dtype="float32", device="cpu", mode=mode, own=own)


def ones(done):
    return {k: np.ones(v.shape) for k, v in done.outputs.items() if v.dtype.kind == "f"}


def test_parameters_go_by_attribute_path():
    with adopt(Stack()) as side:
        found = {p.name: p for p in side.parameters()}
    assert list(found) == [
        "layers.0.kernel",
        "layers.0.bias",
        "layers.1.kernel",
        "layers.1.bias",
        "mean",
    ]
    first = found["layers.0.kernel"]
    assert first.aliases == ("again.first",)
    assert (first.layer, first.kind, first.role) == ("layers.0", "Layer", "kernel")
    assert first.options == {"size": 3}
    assert first.shape == (3, 3)
    assert first.trainable
    assert not found["mean"].trainable


def test_nested_outputs_are_named_and_the_rest_is_said():
    with adopt(Stack()) as side:
        done = side.forward([Argument("x", X)], precision="working")
    assert list(done.outputs) == ["states.0", "states.1", "count"]
    assert done.skipped == {"extra": "None", "note": "not a tensor but str"}


def test_outputs_of_dataclasses_and_named_tuples():
    from typing import NamedTuple

    from pytest_fwcompare.backends.tensorflow.outputs import flatten

    @dataclasses.dataclass
    class Result:
        scores: object
        hidden: object = None

    class Pair(NamedTuple):
        left: object
        right: object

    one = tf.constant(1.0)
    outputs, skipped = flatten(Result(Pair(one, tf.constant("text"))))
    assert list(outputs) == ["scores.left"]
    assert skipped == {"scores.right": "its dtype string is not compared", "hidden": "None"}
    assert list(flatten(one)[0]) == ["output"]


@pytest.mark.parametrize("precision", ["working", "double"])
def test_a_model_without_tensors_is_an_error(precision):
    class Empty(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(1.0)

        def __call__(self, x):
            return {"loss": None}

    with adopt(Empty()) as side, pytest.raises(ModelError) as caught:
        side.forward([Argument("x", X)], precision=precision)
    assert "expected at least one tensor as output, got none (loss: None)" in str(caught.value)


def state(model):
    return [v.numpy().tolist() for v in model.variables]


@given(
    st.lists(
        st.tuples(st.sampled_from(["working", "double"]), st.booleans(), st.booleans()), max_size=3
    ),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=12, deadline=None)
def test_the_model_is_left_as_it_was_found(passes, fails, seed):
    model = Stack()
    for variable in model.variables:
        variable.assign(tf.cast(tf.fill(variable.shape, seed % 7 / 5 + 1), variable.dtype))
    tf.random.set_seed(seed)
    expected = tf.random.uniform([2]).numpy()
    before = state(model)
    tf.random.set_seed(seed)
    with adopt(model) as side:
        for precision, training, load in passes:
            if load:
                values = {n: np.full(v.shape, 0.25) for n, v in side.read().items()}
                side.load(values, precision)
            tf.random.uniform([3])
            done = side.forward([Argument("x", X)], precision=precision, training=training)
            done.backward(ones(done))
        if fails:
            model.fails = True
            with pytest.raises(ModelError, match="the disk is full"):
                side.forward([Argument("x", X + 1)], precision="working", training=True)
    assert state(model) == before
    np.testing.assert_array_equal(tf.random.uniform([2]).numpy(), expected)


def test_without_restoring_the_state_would_differ():
    model = Stack()
    before = state(model)
    with adopt(model, own=True) as side:
        side.load({"mean": np.ones(3)}, "working")
        side.forward([Argument("x", X)], precision="working")
    assert state(model) != before


@pytest.mark.parametrize("precision", ["working", "double"])
def test_training_hands_out_buffers_and_puts_them_back(precision):
    model = Stack()
    with adopt(model) as side:
        for _ in range(2):
            done = side.forward([Argument("x", X)], precision=precision, training=True)
            np.testing.assert_allclose(done.buffers()["mean"], 0.1 * X.mean(0), 1e-6)
        assert done.outputs["count"] == 1
        after = side.forward([Argument("x", X)], precision=precision)
        np.testing.assert_array_equal(after.outputs["states.0"], after.outputs["states.1"])
        assert after.buffers() == {}


def test_a_failing_model_is_an_error_with_its_words():
    with adopt(Stack(fails=True)) as side:
        side.role = "port"
        with pytest.raises(ModelError) as caught:
            side.forward([Argument("x", X)], precision="working")
        assert str(caught.value) == "port, forward: RuntimeError: the disk is full"
        with pytest.raises(ModelError, match=r"port, shadow: .*the disk is full"):
            side.forward([Argument("x", X)], precision="double")


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_modes_give_what_eager_gives(mode):
    model = Layer(3)
    with adopt(model) as eager, adopt(model, mode) as other:
        first = eager.forward([Argument("x", X)], precision="working")
        second = other.forward([Argument("x", X)], precision="working")
        np.testing.assert_allclose(first.outputs["output"], second.outputs["output"], 1e-6)
        left, right = first.backward(ones(first)), second.backward(ones(second))
        for name, value in left.parameters.items():
            np.testing.assert_allclose(value, right.parameters[name], 1e-6)


def test_what_xla_cannot_compile_is_an_error_with_the_reason():
    class Sized(tf.Module):
        def __call__(self, x):
            return tf.numpy_function(lambda v: v, [x], tf.float32)

    with adopt(Sized(), "compiled") as side, pytest.raises(ModelError) as caught:
        side.forward([Argument("x", X)], precision="working")
    assert caught.value.stage == "forward"
    assert "PyFunc" in str(caught.value)


def check_function_like(model):
    """Forward and backward of something that computes x @ w + 1 with w = eye(3) * 2."""
    with adopt(model) as side:
        side.prepare([Argument("x", X)])
        (parameter,) = side.parameters()
        for precision in ("working", "double"):
            done = side.forward([Argument("x", X)], precision=precision)
            (value,) = done.outputs.values()
            np.testing.assert_allclose(value, 2 * X + 1, 1e-6)
            gradients = done.backward(ones(done))
            np.testing.assert_allclose(gradients.inputs["x"], np.full((2, 3), 2.0))
            np.testing.assert_allclose(
                gradients.parameters[parameter.name], np.repeat(X.sum(0)[:, None], 3, 1), 1e-6
            )
        side.load({parameter.name: np.zeros((3, 3))}, "double")
        done = side.forward([Argument("x", X)], precision="double")
        np.testing.assert_array_equal(*done.outputs.values(), np.ones((2, 3)))


class Exported(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(2 * tf.eye(3), name="w")

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def __call__(self, x):
        return tf.nn.relu(x @ self.w) + 1


def test_tf_function():
    w = tf.Variable(2 * tf.eye(3), name="w")
    check_function_like(tf.function(lambda x: tf.matmul(x, w) + 1))


def test_concrete_function():
    model = Exported()
    check_function_like(model.__call__.get_concrete_function())


@pytest.mark.parametrize("as_path", [True, False])
def test_saved_model(tmp_path, as_path):
    tf.saved_model.save(Exported(), str(tmp_path / "model"))
    path = tmp_path / "model"
    assert backend("tensorflow").owns(str(path))
    assert not backend("tensorflow").owns(str(tmp_path))
    check_function_like(path if as_path else tf.saved_model.load(str(path)))


def test_saved_model_with_signatures_alone(tmp_path):
    model = Exported()
    holder = tf.train.Checkpoint(w=model.w)
    tf.saved_model.save(holder, str(tmp_path), signatures=model.__call__.get_concrete_function())
    check_function_like(tmp_path)


def test_a_broken_folder_is_an_import_error(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="import: the SavedModel cannot be loaded"):
        adopt(tmp_path)


def test_integers_become_int32_where_they_fit():
    class Tokens(tf.Module):
        def __call__(self, tokens):
            return tf.cast(tokens, tf.float32), tokens

    with adopt(Tokens()) as side:
        done = side.forward([Argument("t", np.array([1, 2]))], precision="working")
        assert done.outputs["1"].dtype == np.int32
        done = side.forward([Argument("t", np.array([1, 2**40]))], precision="working")
        assert done.outputs["1"].dtype == np.int64


def test_owns_nothing_else():
    tensorflow = backend("tensorflow")
    for other in (1, "nowhere", print, tf.constant(1.0), Stack, np.zeros(2)):
        assert not tensorflow.owns(other)
    assert tensorflow.owns(Stack())


def test_asking_who_owns_a_model_imports_nothing():
    code = (
        "import sys\n"
        "from pytest_fwcompare.backends.registry import backend\n"
        "for name in ('tensorflow', 'keras'):\n"
        "    assert not backend(name).owns(object())\n"
        "    backend(name).unavailable()\n"
        "assert not {'tensorflow', 'keras', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stopwatch_runs_both_ways():
    with adopt(Layer(3)) as side:
        watch = side.stopwatch([Argument("x", X)], {"output": np.ones((2, 3))})
        watch.forward()
        assert watch.forward_backward is not None
        watch.forward_backward()


def test_environment_is_plain():
    facts = backend("tensorflow").environment()
    assert facts["version"] == tf.__version__
    assert all(isinstance(v, (str, int, bool)) for v in facts.values())


def test_a_module_that_makes_variables_at_its_first_call():
    class Lazy(tf.Module):
        w = None

        def __call__(self, x):
            if self.w is None:
                self.w = tf.Variable(tf.ones([3]) * 2)
            return x * self.w

    with adopt(Lazy()) as side:
        side.prepare([Argument("x", X)])
        assert [p.name for p in side.parameters()] == ["w"]
        done = side.forward([Argument("x", X)], precision="double")
        np.testing.assert_array_equal(done.outputs["output"], 2 * X)


def test_python_random_state_is_not_touched():
    before = random.getstate()
    with adopt(Layer(3)) as side:
        side.forward([Argument("x", X)], precision="double")
    assert random.getstate() == before
