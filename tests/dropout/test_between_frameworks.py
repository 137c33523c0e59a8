"""Right ports with dropout agree in training; another rate, place or scaling does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import pytest_fwcompare as fwc

torch = pytest.importorskip("torch")
nn = torch.nn

ROWS = {"features": fwc.TensorSpec((5, 6), kind="normal")}
ALL = ("forward", "backward", "training")


class Perceptron(nn.Module):
    """Two dropouts, before and behind the last layer but one."""

    def __init__(self, rates=(0.5, 0.25), scaled=True, place="tanh", width=5):
        super().__init__()
        self.lift, self.mix, self.read = (
            nn.Linear(6, width),
            nn.Linear(width, width),
            nn.Linear(width, 3),
        )
        self.first, self.second = nn.Dropout(rates[0]), nn.Dropout(rates[1])
        self.scaled, self.place = scaled, place

    def forward(self, features):
        x = torch.tanh(self.lift(features))
        x = self.mix(self.first(x)) if self.place == "tanh" else self.first(self.mix(x))
        x = self.second(torch.tanh(x))
        if self.training and not self.scaled:
            x = x * (1 - self.second.p)
        return self.read(x)


def keras_port(rates=(0.5, 0.25)) -> Any:
    keras = pytest.importorskip("keras")
    features = keras.Input((6,))
    x = keras.layers.Dense(5, activation="tanh")(features)
    x = keras.layers.Dense(5, activation="tanh")(keras.layers.Dropout(rates[0])(x))
    return keras.Model(features, keras.layers.Dense(3)(keras.layers.Dropout(rates[1])(x)))


def tensorflow_port(rates=(0.5, 0.25)) -> Any:
    tf = pytest.importorskip("tensorflow")

    class Port(tf.Module):
        def __init__(self):
            super().__init__()
            sizes = {"lift": (6, 5), "mix": (5, 5), "read": (5, 3)}
            for name, size in sizes.items():
                setattr(self, f"{name}_w", tf.Variable(tf.random.normal(size)))
                setattr(self, f"{name}_b", tf.Variable(tf.zeros(size[1])))

        def __call__(self, x, training=False):
            x = tf.tanh(x @ self.lift_w + self.lift_b)
            x = tf.nn.dropout(x, rates[0]) if training else x
            x = tf.tanh(x @ self.mix_w + self.mix_b)
            x = tf.nn.experimental.stateless_dropout(x, rates[1], [1, 2]) if training else x
            return x @ self.read_w + self.read_b

    return Port()


def nnx_port(rates=(0.5, 0.25)) -> Any:
    nnx = pytest.importorskip("flax.nnx")
    import jax

    class Port(nnx.Module):
        def __init__(self, rngs):
            self.lift = nnx.Linear(6, 5, rngs=rngs)
            self.mix = nnx.Linear(5, 5, rngs=rngs)
            self.read = nnx.Linear(5, 3, rngs=rngs)
            self.first = nnx.Dropout(rates[0], rngs=rngs)
            self.second = nnx.Dropout(rates[1], rngs=rngs)

        def __call__(self, x):
            x = self.first(jax.numpy.tanh(self.lift(x)))
            return self.read(self.second(jax.numpy.tanh(self.mix(x))))

    made = Port(nnx.Rngs(0))
    made.eval()
    return made


def linen_port(rates=(0.5, 0.25)) -> Any:
    linen = pytest.importorskip("flax.linen")
    import jax

    class Port(linen.Module):
        @linen.compact
        def __call__(self, x, train=False):
            x = linen.Dropout(rates[0])(linen.tanh(linen.Dense(5)(x)), deterministic=not train)
            x = linen.Dropout(rates[1])(linen.tanh(linen.Dense(5)(x)), deterministic=not train)
            return linen.Dense(3)(x)

    made = Port()
    return made, made.init(jax.random.key(0), jax.numpy.zeros((1, 6)))


def equinox_port(rates=(0.5, 0.25)) -> Any:
    eqx = pytest.importorskip("equinox")
    import jax

    class Port(eqx.Module):
        layers: list[Any]
        dropouts: list[Any]

        def one(self, x, keys):
            first, second = (None, None) if keys is None else keys
            x = self.dropouts[0](jax.numpy.tanh(self.layers[0](x)), key=first)
            x = self.dropouts[1](jax.numpy.tanh(self.layers[1](x)), key=second)
            return self.layers[2](x)

        def __call__(self, x, key=None):
            if key is None:
                return jax.vmap(lambda row: self.one(row, None))(x)
            return jax.vmap(self.one)(x, jax.random.split(key, (x.shape[0], 2)))

    keys = jax.random.split(jax.random.key(0), 3)
    sizes = ((6, 5), (5, 5), (5, 3))
    layers = [eqx.nn.Linear(*s, key=k) for s, k in zip(sizes, keys, strict=True)]
    return Port(layers, [eqx.nn.Dropout(rate, inference=True) for rate in rates])


PORTS = [keras_port, tensorflow_port, nnx_port, linen_port, equinox_port, Perceptron]
ports = pytest.mark.parametrize("port", PORTS, ids=lambda port: port.__name__)


def judged(port: Any, reference: Any = None, inputs=ROWS, **options: Any) -> fwc.Comparison:
    options = {"checks": ALL, "examples": 6, **options}
    return fwc.compare(reference or Perceptron(), port, inputs=inputs, **options)


def trained(found: fwc.Comparison) -> bool:
    """Whether rows of a step in training mode were compared."""
    said = any("training outputs were not compared" in text for text in found.notices)
    return not said and any(row.name.startswith("training output") for row in found.tensors)


def assert_agree(found: fwc.Comparison) -> None:
    """Equivalent, training included."""
    assert found.passed, found.summary()
    assert trained(found), found.notices


@ports
def test_right_ports_agree_in_training(port):
    assert_agree(judged(port()))


@ports
def test_another_rate_is_semantic_and_named(port):
    found = judged(port(rates=(0.5, 0.2)))
    assert (found.verdict, found.cause, found.culprit) == ("semantic", "dropout", "second")
    said = "\n".join(found.evidence)
    assert "the reference drops at second at rate 0.25, the port at 0.2" in said
    wrong = {row.name for row in found.tensors if row.verdict == "semantic"}
    assert all(name.startswith("training") for name in wrong)


@ports
def test_a_missing_dropout_is_semantic_and_named(port):
    found = judged(port(rates=(0.0, 0.25)))
    assert (found.verdict, found.cause, found.culprit) == ("semantic", "dropout", "first")
    assert "the reference drops at first at rate 0.5, the port does not" in found.evidence


def test_dropout_at_another_place_is_semantic():
    found = judged(Perceptron(place="mix"))
    assert (found.verdict, found.cause, found.culprit) == ("semantic", "dropout", "first")
    assert [text.split(",")[0] for text in found.evidence[:2]] == [
        "the reference drops at first at rate 0.5",
        "the port drops at first at rate 0.5",
    ]


def test_a_mask_that_is_not_scaled_is_semantic_and_no_matter_of_dropout():
    found = judged(Perceptron(scaled=False))
    assert found.verdict == "semantic"
    assert found.cause is None


def test_dropout_of_whole_channels_follows_the_axes():
    keras = pytest.importorskip("keras")

    def port(whole: bool) -> Any:
        image = keras.Input((6, 6, 2))
        x = keras.layers.Conv2D(4, 3, activation="relu")(image)
        drop = keras.layers.SpatialDropout2D if whole else keras.layers.Dropout
        return keras.Model(image, keras.layers.Conv2D(3, 1)(drop(0.5)(x)))

    reference = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(4, 3, 1))
    spec = {"image": fwc.TensorSpec((2, 2, 6, 6), axes="NCHW", port_axes="NHWC")}
    out = {"output": fwc.TensorSpec((2, 3, 4, 4), axes="NCHW", port_axes="NHWC")}
    found = judged(port(whole=True), reference, spec, outputs=out)
    assert_agree(found)
    assert judged(port(whole=False), reference, spec, outputs=out).verdict == "semantic"


def test_a_dropout_before_or_behind_a_relu_is_the_same_function():
    found = judged(
        nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3)),
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)),
    )
    assert_agree(found)


class Attention(nn.Module):
    """Self attention, with torch's own module or by the fused function."""

    def __init__(self, fused: bool, rate: float = 0.3):
        super().__init__()
        self.core = nn.MultiheadAttention(8, 2, dropout=rate, batch_first=True)
        self.fused = fused

    def forward(self, x):
        return self.core(x, x, x, need_weights=not self.fused)[0]


WORDS = {"x": fwc.TensorSpec(("batch", "time", 8), kind="normal")}


def test_dropout_of_attention_weights_with_batch_and_heads_as_one_axis():
    found = judged(Attention(fused=True), Attention(fused=False), WORDS)
    assert_agree(found)
    found = judged(Attention(fused=True, rate=0.2), Attention(fused=False), WORDS)
    assert (found.verdict, found.cause) == ("semantic", "dropout")


def test_checkpointed_parts_drop_the_same_again():
    class Checkpointed(Perceptron):
        def forward(self, features):
            return torch.utils.checkpoint.checkpoint(
                super().forward, features, use_reentrant=False
            )

    found = judged(Checkpointed())
    assert_agree(found)


def test_described_networks_share_with_the_numpy_reference():
    from pytest_fwcompare import networks as fn

    def network(rate: float) -> Any:
        return fn.Sequential(
            [fn.Dense(5), fn.Activation("tanh"), fn.Dropout(rate), fn.Dense(3)], input_shape=(6,)
        )

    reference = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))
    found = judged(network(0.5), reference)
    assert_agree(found)
    assert judged(network(0.4), reference).verdict == "semantic"


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_what_is_compiled_draws_its_own_numbers_and_says_so(mode):
    found = judged(keras_port(), nnx_port(), mode=mode)
    assert found.passed, found.summary()
    assert trained(found) == (mode == "graph")


def test_the_frameworks_have_their_functions_back():
    functions: list[Callable[[], Any]] = [lambda: nn.functional.dropout]
    tf = pytest.importorskip("tensorflow")
    jax = pytest.importorskip("jax")
    functions += [lambda: tf.nn.dropout, lambda: tf.nn.experimental.stateless_dropout]
    functions += [lambda: jax.random.bernoulli]
    before = [read() for read in functions]
    judged(tensorflow_port(), nnx_port())
    assert [read() for read in functions] == before
