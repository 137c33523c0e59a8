"""Keras 3 models, run as they are and left as they were found."""

from __future__ import annotations

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
keras = pytest.importorskip("keras")

from keras import layers, ops  # noqa: E402

RNG = np.random.default_rng(3)


def adopt(model, dtype="float32", mode="eager"):
    return owner(model).adopt(model, dtype=dtype, device="cpu", mode=mode, own=False)


def randomised(model):
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.1, 0.9, w.shape) for w in model.get_weights()])
    return model


def cotangents(done):
    return {
        name: np.cos(np.arange(v.size)).reshape(v.shape).astype("float32").astype("float64")
        for name, v in done.outputs.items()
        if v.dtype.kind == "f"
    }


def twice(make):
    """The model in float32 and in float64 with the same weights."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    small = randomised(make())
    try:
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        large = make()
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])
    large.set_weights(small.get_weights())
    return small, large


def assert_shadow_is_float64_model(make, *arrays, training=False):
    small, large = twice(make)
    arguments = [Argument(f"x{i}", a) for i, a in enumerate(arrays)]
    with adopt(small) as side, adopt(large, "float64") as direct:
        shadow = side.forward(arguments, precision="double", training=training)
        truth = direct.forward(arguments, precision="working", training=training)
        mine, right = shadow.backward(cotangents(truth)), truth.backward(cotangents(truth))
        assert side.leaks == []
        assert side.rounded_constants == []
        assert shadow.outputs.keys() == truth.outputs.keys()
        for name, value in truth.outputs.items():
            np.testing.assert_allclose(shadow.outputs[name], value, 1e-12, 1e-13)
        for left, expected in (
            (mine.inputs.items(), right.inputs.values()),
            (mine.parameters.items(), right.parameters.values()),
            (shadow.buffers().items(), truth.buffers().values()),
        ):
            for (name, value), wanted in zip(left, expected, strict=True):
                np.testing.assert_allclose(value, wanted, 1e-11, 1e-12, err_msg=name)
        return side, shadow


IMAGES = RNG.standard_normal((2, 5, 6, 4))
STEPS = RNG.standard_normal((2, 4, 3))


def functional(shape, *chain):
    def make():
        x = inputs = keras.Input(shape)
        for layer in chain:
            x = layer()(x)
        return keras.Model(inputs, x)

    return make


@pytest.mark.parametrize("training", [False, True])
def test_convolutions_norms_and_pools(training):
    make = functional(
        (5, 6, 4),
        lambda: layers.Conv2D(6, 3, strides=2, padding="same", groups=2),
        lambda: layers.BatchNormalization(momentum=0.9),
        lambda: layers.Activation("silu"),
        lambda: layers.DepthwiseConv2D(2, padding="same"),
        lambda: layers.GroupNormalization(2),
        lambda: layers.UpSampling2D(2),
        lambda: layers.Conv2DTranspose(3, 3, strides=2),
        lambda: layers.MaxPooling2D(2),
        lambda: layers.AveragePooling2D(2, 1, padding="same"),
        lambda: layers.LayerNormalization(),
    )
    _, shadow = assert_shadow_is_float64_model(make, IMAGES, training=training)
    assert len(shadow.buffers()) == (2 if training else 0)


def test_recurrent_layers():
    make = functional(
        (4, 3),
        lambda: layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        lambda: layers.GRU(3, return_sequences=True, reset_after=False),
        lambda: layers.RNN(layers.StackedRNNCells([layers.GRUCell(2), layers.SimpleRNNCell(2)])),
    )
    assert_shadow_is_float64_model(make, STEPS)


def test_attention_and_activations():
    class Block(keras.Model):
        def __init__(self):
            super().__init__(name="block")
            self.attention = layers.MultiHeadAttention(2, 4, name="attention")
            self.norm = layers.LayerNormalization(name="norm")

        def call(self, x, keep):
            y = self.attention(x, x, attention_mask=keep[:, None, :])
            y = self.norm(x + y)
            return {"y": ops.elu(y), "mean": (ops.mean(ops.softplus(y)), ops.relu6(y * 9))}

    def make():
        model = Block()
        model(np.zeros((1, 4, 3)), np.ones((1, 4), bool))
        return model

    keep = np.array([[True, True, False, True], [True, False, False, False]])
    side, shadow = assert_shadow_is_float64_model(make, STEPS, keep)
    assert list(shadow.outputs) == ["y", "mean.0", "mean.1"]
    names = [p.name for p in side.parameters()]
    assert "block/attention/query/kernel" in names
    query = side.parameters()[names.index("block/attention/query/kernel")]
    assert (query.layer, query.kind, query.role) == (
        "block/attention/query",
        "EinsumDense",
        "kernel",
    )


def two_inputs(structure):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), dtype="int32", name="b")
    x = layers.Dense(3, name="dense")(a) + ops.sum(layers.Embedding(5, 3, name="table")(b), 1)
    inputs = {"list": [a, b], "dict": {"b": b, "a": a}, "nested": {"p": [a], "q": (b,)}}
    return keras.Model(inputs[structure], [x, b])


@pytest.mark.parametrize("structure", ["list", "dict", "nested"])
@pytest.mark.parametrize("precision", ["working", "double"])
def test_functional_models_take_inputs_in_their_structure(structure, precision):
    model = randomised(two_inputs(structure))
    arguments = [Argument("a", np.ones((2, 3))), Argument("b", np.array([[0, 1], [4, 4]]))]
    with adopt(model) as side:
        done = side.forward(arguments, precision=precision)
    kernel, bias = model.get_layer("dense").get_weights()
    (table,) = model.get_layer("table").get_weights()
    expected = kernel.sum(0) + bias + table[[[0, 1], [4, 4]]].sum(1)
    np.testing.assert_allclose(done.outputs["0"], expected, 1e-6)
    assert done.outputs["1"].dtype == np.int32


def test_options_and_buffers_and_frozen_kernels():
    model = functional((4, 3), lambda: layers.GRU(2), layers.BatchNormalization)()
    model.layers[1].trainable = False
    with adopt(model) as side:
        found = {p.name.rpartition("/")[2]: p for p in side.parameters()}
        assert found["kernel"].options["reset_after"] is True
        assert found["kernel"].options["units"] == 2
        assert found["kernel"].trainable
        assert found["kernel"].options["frozen"] is True
        assert "frozen" not in found["gamma"].options
        assert found["gamma"].options["epsilon"] == 0.001
        assert not found["moving_mean"].trainable
        side.forward([Argument("x", STEPS)], precision="double", training=True)
    assert not model.layers[1].trainable
    assert [w.name for w in model.trainable_weights] == ["gamma", "beta"]


def test_a_lambda_in_a_layer_is_read_without_a_warning():
    """Keras warns of it whenever it writes one down; warnings are errors in this suite."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=lambda x: x * x)])
    facts = (
        backend("keras")
        .adopt(model, dtype="float32", device="cpu", mode="eager", own=False)
        .parameters()
    )
    assert facts[0].options["units"] == 3
    with pytest.warns(UserWarning, match="lambda"):
        model.layers[0].get_config()


def test_equal_paths_are_told_apart():
    first, second = (keras.Sequential([layers.Dense(2, name="same")]) for _ in range(2))
    x = keras.Input((2,))
    model = keras.Model(x, second(first(x)))
    with adopt(model) as side:
        names = [p.name for p in side.parameters()]
    assert len(set(names)) == 4


def test_an_unbuilt_model_is_built_by_its_first_inputs():
    model = keras.Sequential([layers.Dense(2)])
    with adopt(model) as side:
        side.prepare([Argument("x", np.ones((1, 3)))])
        assert [p.shape for p in side.parameters()] == [(3, 2), (2,)]
        side.forward([Argument("x", np.ones((1, 3)))], precision="double")


class Noisy(keras.Model):
    """No `training` argument of its own; dropout, running means and a penalty inside."""

    def __init__(self):
        super().__init__(name="noisy")
        self.drop = layers.Dropout(0.5, seed=4)
        self.norm = layers.BatchNormalization()
        self.dense = layers.Dense(3, kernel_regularizer="l2")
        self.fails = False

    def call(self, x):
        if self.fails:
            raise ValueError("no more tape")
        return self.dense(self.norm(self.drop(x)))


def state(model):
    return [v.numpy().tolist() for v in model.variables]


@given(st.lists(st.tuples(st.sampled_from(["working", "double"]), st.booleans()), max_size=3))
@settings(max_examples=8, deadline=None)
def test_the_model_is_left_as_it_was_found(passes):
    model = Noisy()
    x = np.ones((4, 3), "float32")
    model(x)
    before = state(model)
    keras.utils.set_random_seed(3)
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    with adopt(model) as side:
        for precision, training in passes:
            side.load({n: np.full(v.shape, 0.3) for n, v in side.read().items()}, precision)
            done = side.forward([Argument("x", x)], precision=precision, training=training)
            done.backward(cotangents(done))
        model.fails = True
        with pytest.raises(ModelError, match="no more tape"):
            side.forward([Argument("x", x)], precision="working", training=True)
        model.fails = False
    assert state(model) == before
    assert (keras.config.floatx(), keras.config.dtype_policy()) == (floatx, policy)
    assert model.trainable
    # Losses of a graph that is gone must not be left behind.
    model(x)
    assert np.isfinite(float(model.losses[0]))


def test_dropout_draws_anew_and_alike_in_both_precisions():
    model = Noisy()
    x = np.ones((40, 3), "float32")
    model(x)
    with adopt(model) as side:
        working, double = (
            [side.forward([Argument("x", x)], precision=p, training=True) for _ in range(2)]
            for p in ("working", "double")
        )
        for left, right in zip(working, double, strict=True):
            np.testing.assert_allclose(left.outputs["output"], right.outputs["output"], atol=1e-4)
        assert (double[0].outputs["output"] != double[1].outputs["output"]).any()
        still = [side.forward([Argument("x", x)], precision="double") for _ in range(2)]
        np.testing.assert_array_equal(*(s.outputs["output"] for s in still))


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_modes(mode):
    model = randomised(keras.Sequential([keras.Input((3,)), layers.Dense(2, "tanh")]))
    x = [Argument("x", np.ones((1, 3)))]
    with adopt(model) as eager, adopt(model, mode=mode) as other:
        first, second = (s.forward(x, precision="working") for s in (eager, other))
        np.testing.assert_allclose(first.outputs["output"], second.outputs["output"], 1e-6)


def test_record_knows_layers():
    x = keras.Input((5, 6, 4))
    y = layers.Conv2D(3, 3, name="conv", dilation_rate=2)(x)
    model = keras.Model(x, layers.Dense(2, name="head")(layers.ReLU(name="act")(y)), name="net")
    with adopt(model) as side:
        done = side.forward([Argument("x", IMAGES)], precision="double", record=True)
        done.backward(cotangents(done))
        records = done.recorded()
    paths = list(dict.fromkeys(r.path for r in records))
    assert paths == ["", "conv", "act", "head"]
    convolution = next(r for r in records if r.operation == "Conv2D")
    assert convolution.parameters == ("conv/kernel",)
    assert all(r.value.dtype == np.float64 for r in records)
    last = records[-1]
    np.testing.assert_array_equal(last.value, done.outputs["output"])
    np.testing.assert_array_equal(last.gradient, cotangents(done)["output"])


def test_keras_owns_keras_alone():
    model = keras.Sequential([layers.Dense(1)])
    assert owner(model).name == "keras"
    assert owner(layers.Dense(1)).name == "keras"
    assert not backend("tensorflow").owns(model)
    assert not backend("keras").owns(tf.Module())
    assert not backend("keras").owns(keras.Model)


def test_environment_names_both():
    facts = backend("keras").environment()
    assert facts["keras_backend"] == "tensorflow"
    assert facts["version"] == f"{keras.__version__}+tensorflow{tf.__version__}"


def test_the_corpus_of_ports(ports):
    """Right and wrong ports in float32, shadowed, are the same ports made in float64."""
    from ports import load_family

    for family, fault in (("seq2seq_attention", None), ("resnet_block", "relu-before-add")):
        (case,) = load_family(family)
        reference = case.make_reference("float32")
        small, large = case.make_port("float32", fault), case.make_port("float64", fault)
        for port in (small, large):
            case.copy_weights(reference, port)
        arguments = [
            Argument(name, RNG.integers(0, 9, (2, 5)))
            if spec.kind == "tokens"
            else Argument(name, RNG.standard_normal((2, 16, 16, 3)))
            for name, spec in case.inputs.items()
        ]
        with adopt(small) as side, adopt(large, "float64") as direct:
            shadow = side.forward(arguments, precision="double")
            truth = direct.forward(arguments, precision="working")
            for name, value in truth.outputs.items():
                np.testing.assert_allclose(shadow.outputs[name], value, 1e-12, 1e-12)
            mine, right = shadow.backward(cotangents(truth)), truth.backward(cotangents(truth))
            for value, wanted in zip(
                mine.parameters.values(), right.parameters.values(), strict=True
            ):
                np.testing.assert_allclose(value, wanted, 1e-10, 1e-12)


@pytest.mark.parametrize(("names", "order"), [(("z", "a"), "definition"), (("a", "z"), "names")])
def test_a_dict_of_inputs_goes_by_its_own_names_or_in_the_order_of_its_definition(names, order):
    keras.utils.set_random_seed(0)
    z, a = keras.Input((2,), name="z"), keras.Input((2,), name="a", dtype="int32")
    model = keras.Model({"z": z, "a": a}, z - 10 * keras.ops.cast(a, "float32"))
    given = {"z": np.ones((1, 2)), "a": np.array([[3, 4]])}
    if order == "definition":
        arguments = [Argument("tokens", given["z"]), Argument("mask", given["a"])]
    else:
        arguments = [Argument(name, given[name], keyword=True) for name in names]
    side = owner(model).adopt(model, dtype="float32", device="cpu", mode="eager", own=False)
    with side:
        for precision in ("working", "double"):
            found = side.forward(arguments, precision=precision, gradients=False).outputs
            np.testing.assert_array_equal(found["output"], [[-29, -39]])
