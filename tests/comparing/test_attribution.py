"""Is it Keras or the backend? Asked about real layers: right ones, wrong ones, one backend's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import torch  # noqa: E402

import pytest_fwcompare as fwc  # noqa: E402
from pytest_fwcompare import TensorSpec  # noqa: E402
from pytest_fwcompare import networks as fn  # noqa: E402
from pytest_fwcompare.backends.keras import calls  # noqa: E402
from pytest_fwcompare.comparing import elsewhere  # noqa: E402
from pytest_fwcompare.errors import UsageError  # noqa: E402

layers = keras.layers
RNG = np.random.default_rng(11)


def randomised(model):
    """The model with weights of which none is zero or one."""
    model.set_weights([RNG.uniform(0.5, 1.5, w.shape).astype("float32") for w in model.weights])
    return model


def flat_model():
    """Layers on (batch, 6), one after the other."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="gelu", name="gelu"),
            layers.BatchNormalization(name="batch_norm"),
            layers.LayerNormalization(name="layer_norm"),
            layers.PReLU(name="prelu"),
            layers.RMSNormalization(name="rms_norm"),
            layers.Dense(4, use_bias=False, activation="leaky_relu", name="leaky"),
            layers.Activation("softmax", name="softmax"),
        ]
    )


def image_model():
    """Layers on (batch, 8, 8, 4)."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.ZeroPadding2D(((1, 0), (0, 2)), name="pad"),
            layers.Conv2D(6, 3, strides=2, padding="same", groups=2, name="conv"),
            layers.DepthwiseConv2D(3, dilation_rate=2, padding="same", name="depthwise"),
            layers.SeparableConv2D(4, 3, padding="same", activation="relu", name="separable"),
            layers.GroupNormalization(2, name="group_norm"),
            layers.Conv2DTranspose(3, 3, strides=2, padding="same", name="transpose"),
            layers.Conv2DTranspose(3, 2, strides=3, name="wide_transpose"),
            layers.AveragePooling2D(3, strides=2, padding="same", name="average"),
            layers.MaxPooling2D(2, name="max"),
            layers.UpSampling2D(2, interpolation="bilinear", name="up"),
            layers.BatchNormalization(axis=1, name="first_axis"),
            layers.Permute((3, 1, 2), name="permute"),
            layers.LayerNormalization(axis=[2, 3], name="two_axes"),
            layers.Flatten(name="flatten"),
        ]
    )


def sequence_model():
    """Layers on tokens (batch, 7)."""
    tokens = keras.Input((7,), dtype="int32")
    x = layers.Embedding(9, 6, name="embedding")(tokens)
    x = layers.Conv1D(6, 3, padding="causal", dilation_rate=2, name="causal")(x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(x)
    y = layers.MultiHeadAttention(2, 3, name="attention")(x, x, use_causal_mask=True)
    x = layers.Add(name="add")([x, y])
    x = layers.SimpleRNN(5, return_sequences=True, name="simple")(x)
    x = layers.GRU(4, reset_after=False, return_sequences=True, name="before")(x)
    x = layers.LSTM(4, go_backwards=True, name="lstm")(x)
    return keras.Model(tokens, layers.Reshape((2, 2), name="reshape")(x))


MODELS = {
    "flat": (flat_model, RNG.normal(size=(3, 6)).astype("float32")),
    "image": (image_model, RNG.normal(size=(2, 8, 8, 4)).astype("float32")),
    "sequence": (sequence_model, RNG.integers(0, 9, (2, 7)).astype("int32")),
}


@pytest.mark.parametrize("name", MODELS)
def test_keras_does_what_it_documents_layer_by_layer(name) -> None:
    make, value = MODELS[name]
    model = randomised(make())
    before = [np.array(w) for w in model.get_weights()]
    found = fwc.attribute(model, value, backends=())
    expected = [layer.name for layer in model.layers if layer.name != "input_layer"]
    expected = [layer for layer in expected if not layer.startswith("input")]
    assert [one.layer for one in found] == expected
    for one in found:
        assert one.fault == "port", one
        assert one.documented == one.kind
        assert [answer.who for answer in one.answers] == [
            "keras on tensorflow", "raw tensorflow", "numpy",
        ]  # fmt: skip
        assert all(answer.agrees for answer in one.answers), one
    for value_before, value_after in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value_before, value_after)
    assert all("call" not in vars(layer) for layer in model.layers)


def test_each_kind_of_fault_gets_its_answer(monkeypatch) -> None:
    """One model, one start of the other backends: right, wrong everywhere, wrong here only."""
    from keras.src.backend.tensorflow import nn
    from keras_layers import UnknownFormula, WrongNorm

    right = nn.hard_sigmoid
    monkeypatch.setattr(nn, "hard_sigmoid", lambda x: right(x) + 0.01 * tf.sin(x))
    model = randomised(
        keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(6, name="right"),
                WrongNorm(name="wrong_everywhere"),
                layers.Activation("hard_sigmoid", name="wrong_here"),
                UnknownFormula("ab,bc->ac", output_shape=3, name="unknown"),
            ]
        )
    )
    found = {one.layer: one for one in fwc.attribute(model, RNG.normal(size=(3, 4)))}
    assert found["right"].answer == "your port: Keras does what it documents"
    assert found["wrong_everywhere"].answer == "Keras: wrong on every backend"
    assert found["wrong_everywhere"].documented == "LayerNormalization"
    assert found["wrong_everywhere"].notes == (
        "WrongNorm is no class of Keras itself; it is held against the documentation of "
        "LayerNormalization",
    )
    assert found["wrong_here"].answer == "backend: only tensorflow"
    assert found["unknown"].fault == "undecided"
    asked = {answer.who for answer in found["right"].answers}
    assert asked >= {f"keras on {name}" for name in ("torch", "jax", "numpy")}


def test_known_faults_of_backends_are_found_and_kinks_are_none() -> None:
    """The derivative of celu at 0 on TensorFlow; average pooling with "same" padding on torch."""
    image = keras.Input((5, 6, 2))
    model = keras.Model(
        image,
        [
            layers.Activation("celu", name="celu")(image),
            layers.Activation("selu", name="selu")(image),
            layers.AveragePooling2D(3, strides=2, padding="same", name="average")(image),
        ],
    )
    value = RNG.normal(size=(2, 5, 6, 2)).astype(np.float32)
    value[:, ::2] = 0.0
    found = {one.layer: one for one in fwc.attribute(model, value, backends=["torch"])}
    assert found["celu"].answer == "backend: only tensorflow"
    assert found["celu"].answers[0].forward < 1e-15
    assert found["celu"].answers[0].reason == "other gradients"
    assert found["selu"].fault == "port", "a kink is nobody's fault"
    assert found["average"].fault == "port"
    assert found["average"].notes == ("on torch Keras gives something else",)


def norm_port():
    """A port with Keras' own default epsilon."""
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, name="up"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("tanh", name="tanh"),
        ]
    )


def norm_reference():
    return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.Tanh())


def test_a_wrong_option_of_a_port_is_the_ports_fault_and_starts_no_process(monkeypatch) -> None:
    def refuse(*args):
        raise AssertionError("no other backend is needed to tell")

    monkeypatch.setattr(elsewhere, "ask", refuse)
    found = fwc.compare(
        norm_reference, norm_port, inputs={"x": TensorSpec(("batch", 5))}, examples=3
    )
    assert (found.verdict, found.cause) == ("semantic", "norm-epsilon")
    assert found.attribution is not None
    assert (found.attribution.layer, found.attribution.fault) == ("norm", "port")
    text = found.summary()
    assert "  keras     your port: Keras does what it documents" in text
    assert "norm against the documented formula of BatchNormalization in NumPy:" in text
    from pytest_fwcompare.recording import properties

    assert dict(properties([found]))["fwcompare.attribution"] == found.attribution.answer


def test_a_fault_of_the_backend_shows_in_a_comparison(monkeypatch) -> None:
    from keras.src.backend.tensorflow import nn

    monkeypatch.setattr(nn, "softsign", lambda x: x / (1.0 + tf.square(x)))
    network = fn.Sequential([fn.Dense(4), fn.Activation("softsign")], input_shape=(3,))
    from pytest_fwcompare.sides import InFramework

    found = fwc.compare(
        network,
        InFramework(network, "keras"),
        inputs={"x": TensorSpec(("batch", 3))},
        examples=3,
    )
    assert found.verdict == "semantic"
    assert found.attribution is not None
    assert found.attribution.answer == "backend: only tensorflow"


def test_a_reference_in_keras_is_asked_about_as_well() -> None:
    found = fwc.compare(
        norm_port, norm_reference, inputs={"x": TensorSpec(("batch", 5))}, examples=2
    )
    assert (found.verdict, found.reference) == ("semantic", "keras")
    assert found.attribution is not None
    assert (found.attribution.layer, found.attribution.fault) == ("norm", "port")


def test_nothing_is_asked_without_explanation_or_after_a_pass() -> None:
    spec = {"x": TensorSpec(("batch", 5))}
    plain = fwc.compare(norm_reference, norm_port, inputs=spec, examples=2, explain=False)
    assert plain.verdict == "semantic"
    assert plain.attribution is None


def test_a_failure_of_ours_costs_no_verdict(monkeypatch) -> None:
    def broken(*args, **kwargs):
        raise RuntimeError("nobody home")

    monkeypatch.setattr(calls, "find_layer", broken)
    found = fwc.compare(
        norm_reference, norm_port, inputs={"x": TensorSpec(("batch", 5))}, examples=2
    )
    assert (found.verdict, found.cause, found.attribution) == ("semantic", "norm-epsilon", None)
    assert any("not found out: RuntimeError: nobody home" in said for said in found.notices)


def test_a_side_that_is_not_of_keras_is_passed_over() -> None:
    from types import SimpleNamespace

    from pytest_fwcompare.comparing.attribution import attribute_culprit

    pair = SimpleNamespace(opened=lambda role: SimpleNamespace(side=SimpleNamespace(library=role)))
    assert attribute_culprit(pair, None, "norm", "norm", proved=True) is None


def test_only_layers_of_keras_are_asked_about() -> None:
    with pytest.raises(UsageError, match="expected a Keras 3 layer or model, got Linear"):
        fwc.attribute(torch.nn.Linear(2, 2), np.zeros((1, 2), np.float32))
    with pytest.raises(UsageError, match="backend 'theano' of Keras cannot be asked: there is no"):
        fwc.attribute(layers.Dense(2), np.zeros((1, 2), np.float32), backends=["theano"])


def test_a_part_of_a_layer_stands_for_the_whole_and_own_code_for_nothing() -> None:
    class Block(layers.Layer):
        def __init__(self, **options):
            super().__init__(**options)
            self.attention = layers.MultiHeadAttention(2, 3, name="attention")
            self.norm = layers.LayerNormalization(name="norm")

        def call(self, x):
            return self.norm(x + self.attention(x, x))

    model = keras.Sequential([keras.Input((5, 4)), Block(name="one"), Block(name="two")])
    path, layer = calls.find_layer(model, "two/attention/query")
    assert path.endswith("two/attention")
    assert layer is model.layers[1].attention
    assert calls.find_layer(model, "two.attention.query")[1] is layer
    assert calls.find_layer(model, "one/norm")[1] is model.layers[0].norm
    assert calls.find_layer(model, "one") is None
    assert calls.find_layer(model, "elsewhere") is None


def test_a_layer_of_keras_around_own_code_is_own_code() -> None:
    class Cell(layers.Layer):
        state_size = 3

        def call(self, x, states):
            return states[0] + x, [states[0] + x]

    recurrent = layers.RNN(Cell(name="cell"), name="mine")
    model = keras.Sequential([keras.Input((4, 3)), recurrent, layers.Dense(2, name="keras")])
    assert calls.find_layer(model, "mine/cell") is None
    assert [path for path, _ in calls.keras_layers(model)] == ["keras"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_judged_in_their_own_units(dtype) -> None:
    model = keras.Sequential(
        [
            keras.Input((4,), dtype=dtype),
            layers.Dense(5, activation="gelu", dtype=dtype),
            layers.LayerNormalization(dtype=dtype),
        ]
    )
    found = fwc.attribute(model, RNG.normal(size=(3, 4)), dtype=dtype, backends=())
    assert [one.fault for one in found] == ["port", "port"], found


def test_a_layer_too_large_for_numpy_is_told_so(monkeypatch) -> None:
    monkeypatch.setattr("pytest_fwcompare.backends.keras.examine.MOST", 10)
    (found,) = fwc.attribute(layers.Dense(3), RNG.normal(size=(2, 4)), backends=())
    assert found.fault == "undecided"
    assert found.notes[0].endswith("23 values are too many for NumPy")


def test_what_cannot_be_made_elsewhere_says_why() -> None:
    class Local(layers.LayerNormalization):
        def call(self, inputs):
            return super().call(inputs) * 1.5

    (found,) = fwc.attribute(Local(), RNG.normal(size=(2, 4)), backends=["numpy"])
    assert found.fault == "undecided"
    (answer,) = [a for a in found.answers if a.who == "keras on numpy"]
    assert "cannot be imported in another process" in answer.reason


def test_uses_without_a_formula_are_told() -> None:
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.LSTM(2, return_sequences=True, recurrent_activation="relu", name="odd"),
            layers.GRU(2, return_sequences=True, go_backwards=True, name="backwards"),
            layers.UnitNormalization(name="unit"),
        ]
    )
    found = fwc.attribute(model, RNG.normal(size=(2, 4, 3)), backends=())
    assert {one.fault for one in found} == {"undecided"}
    said = [one.notes[0] for one in found]
    assert said == [
        "no documented formula to hold it against: recurrent_activation='relu'",
        "no documented formula to hold it against: a sequence handed out backwards",
        "no documented formula to hold it against: no formula for UnitNormalization is known here",
    ]


def test_a_recorded_reference_has_no_layers_to_run() -> None:
    """It says that it is of Keras, but its layers are not here."""
    from types import SimpleNamespace

    from pytest_fwcompare.comparing.attribution import attribute_culprit

    def opened(role):
        library = {"reference": "keras", "port": "torch"}[role]
        examine = {"examine_layers": lambda *args: []}
        return SimpleNamespace(side=SimpleNamespace(library=library, **examine))

    pair = SimpleNamespace(
        opened=opened, run=lambda *a, **k: None, arguments=lambda *a: [], dtype="float32"
    )
    found = attribute_culprit(pair, SimpleNamespace(inputs={}), "norm", "1", proved=True)
    assert found is not None
    assert (found.layer, found.answer) == ("norm", "Keras or the backend: not asked")
    assert found.notes == (
        "norm of the reference cannot be run alone: it is a recording, or is not called in "
        "inference",
    )
