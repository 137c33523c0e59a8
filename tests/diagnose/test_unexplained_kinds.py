"""For each kind of fault that nothing explains: the place is named, no cause is claimed.

A table of kinds. Each has a reference in torch and a port, in one of four frameworks, that does
something there is no repair for. When a repair is added that explains a row, the row belongs into
the tests of that cause: take it out of `KINDS` and put another fault of its kind in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import pytest_fwcompare as fwc  # noqa: E402
from pytest_fwcompare import TensorSpec  # noqa: E402

ROWS = TensorSpec(("batch", 6))
STEPS = TensorSpec(("batch", 5, 6))
PLACES = TensorSpec(("batch", 4, 6, 6))
LAYERS = {"stem": (6, 8), "inner": (8, 8), "head": (8, 5)}


@dataclass(frozen=True)
class Kind:
    """A fault between two layers.

    Attributes:
        framework: of the port.
        right: (tensor) -> tensor in torch.
        wrong: (framework's functions, tensor) -> tensor in the port's framework.
        inputs: of both.
    """

    framework: str
    right: Callable[..., Any]
    wrong: Callable[..., Any]
    inputs: TensorSpec = STEPS


class Middle(nn.Module):
    """A layer and a function of what it gives."""

    def __init__(self, function):
        super().__init__()
        self.inner, self.function = nn.Linear(8, 8), function

    def forward(self, x):
        return self.function(self.inner(x))


class Net(nn.Module):
    """A stem, the middle that differs, a head."""

    def __init__(self, function):
        super().__init__()
        self.stem, self.middle, self.head = nn.Linear(6, 8), Middle(function), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.middle(self.stem(x)))


def drawn() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    made = {}
    for name, shape in LAYERS.items():
        made[f"{name}.weight"] = rng.normal(size=shape) * shape[0] ** -0.5
        made[f"{name}.bias"] = 0.5 * rng.normal(size=shape[1:])
    return {name: value.astype("float32") for name, value in made.items()}


def in_torch(function) -> nn.Module:
    made = Net(function)
    layers = {"stem": made.stem, "inner": made.middle.inner, "head": made.head}
    values = drawn()
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight.copy_(torch.from_numpy(values[f"{name}.weight"].T))
            layer.bias.copy_(torch.from_numpy(values[f"{name}.bias"]))
    return made.eval()


def in_jax(wrong):
    jnp = pytest.importorskip("jax.numpy")

    def port(p, x):
        def dense(name, x):
            return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

        return dense("head", wrong(jnp, dense("inner", dense("stem", x))))

    return port, {name: jnp.asarray(value) for name, value in drawn().items()}


def in_tensorflow(wrong):
    tf = pytest.importorskip("tensorflow")

    class Port(tf.Module):
        def __init__(self):
            super().__init__(name="port")
            self.held = {name: tf.Variable(value) for name, value in drawn().items()}

        def dense(self, name, x):
            return tf.matmul(x, self.held[f"{name}.weight"]) + self.held[f"{name}.bias"]

        def __call__(self, x):
            inner = self.dense("inner", self.dense("stem", x))
            return self.dense("head", wrong(tf, inner))

    return Port()


def in_keras(wrong):
    keras = pytest.importorskip("keras")

    class Port(keras.Model):
        def __init__(self):
            super().__init__()
            self.stem, self.inner, self.head = (
                keras.layers.Dense(shape[1], name=name) for name, shape in LAYERS.items()
            )

        def call(self, x):
            return self.head(wrong(keras.ops, self.inner(self.stem(x))))

    port = Port()
    port(np.zeros((1, 5, 6), "float32"))
    values = drawn()
    for name in LAYERS:
        getattr(port, name).set_weights([values[f"{name}.weight"], values[f"{name}.bias"]])
    return port


BUILDERS = {"jax": in_jax, "tensorflow": in_tensorflow, "keras": in_keras}


def compared(kind: Kind) -> fwc.Comparison:
    if kind.framework == "torch":
        port = in_torch(lambda x: kind.wrong(torch, x))
    else:
        port = BUILDERS[kind.framework](kind.wrong)
    # Built with equal weights and compared with them: nothing is left to a mapping.
    return fwc.compare(
        in_torch(kind.right), port, inputs={"x": kind.inputs}, weights="given", examples=3
    )


def ramp(low: float, size: int) -> np.ndarray:
    return np.linspace(low, 1.4, size).astype("float32")


def attended(x, change=lambda scores: scores):
    return change(x @ x.mT / 8**0.5).softmax(-1) @ x


def unit(o, x):
    """Normalised, in the words of JAX and Keras."""
    return x / o.sqrt(o.mean(x * x, -1, keepdims=True) + 1e-5)


def deviation(o, x):
    return o.mean(o.abs(x - o.mean(x, -1, keepdims=True)), -1, keepdims=True)


def scanned(x, how=torch.tanh):
    h, made = torch.zeros_like(x[:, 0]), []
    for step in range(x.shape[1]):
        h = how(x[:, step] + 0.5 * h)
        made.append(h)
    return torch.stack(made, 1)


def tf_scanned(tf, x):
    h, made = tf.zeros_like(x[:, 0]), []
    for step in range(5):
        h = tf.tanh(x[:, step] + 0.5 * h + 0.2 * h * h)
        made.append(h)
    return tf.stack(made, 1)


KINDS = {
    # Products, and what is added to them.
    "a term more": Kind("jax", lambda x: x, lambda o, x: x + 0.1 * o.sin(x), ROWS),
    "features weighed": Kind("tensorflow", lambda x: x, lambda o, x: x * ramp(0.6, 8), ROWS),
    "two features mixed": Kind("torch", lambda x: x, lambda o, x: x + 0.2 * x.roll(3, -1)),
    # Activations.
    "an activation of no name": Kind(
        "keras", torch.tanh, lambda o, x: x / (1.0 + 0.4 * x * x), STEPS
    ),
    "a shifted activation": Kind("jax", F.gelu, lambda o, x: _jax_gelu(x + 0.3), ROWS),
    "two activations averaged": Kind(
        "torch", F.relu, lambda o, x: 0.5 * (F.relu(x) + o.tanh(x)), ROWS
    ),
    # Norms.
    "a norm by the mean deviation": Kind(
        "jax", lambda x: F.layer_norm(x, (8,)),
        lambda o, x: (x - o.mean(x, -1, keepdims=True)) / deviation(o, x), ROWS,
    ),
    "a norm of weighed squares": Kind(
        "keras", lambda x: F.rms_norm(x, (8,), eps=1e-5),
        lambda o, x: x / o.sqrt(o.mean(ramp(0.5, 8) * x * x, -1, keepdims=True) + 1e-5),
    ),
    "a norm around the median": Kind(
        "torch", lambda x: F.layer_norm(x, (8,)),
        lambda o, x: F.layer_norm(x, (8,)) - (x.median(-1, keepdim=True).values / 4), ROWS,
    ),
    # Softmax and attention.
    "a softmax with one more in its sum": Kind(
        "tensorflow", lambda x: x.softmax(-1),
        lambda o, x: o.exp(x) / (1.0 + o.reduce_sum(o.exp(x), -1, keepdims=True)), ROWS,
    ),
    "weights squared": Kind(
        "torch", lambda x: attended(x), lambda o, x: (x @ x.mT / 8**0.5).softmax(-1) ** 2 @ x
    ),
    "a scale for each query": Kind(
        "tensorflow", lambda x: attended(x),
        lambda o, x: o.matmul(
            o.nn.softmax(o.matmul(x, x, transpose_b=True) / 8**0.5 * ramp(0.5, 5)[:, None]), x
        ),
    ),
    "a mask that lets a tenth through": Kind(
        "torch", lambda x: _masked(x, 0.0), lambda o, x: _masked(x, 0.1)
    ),
    # Reductions and pools.
    "a trimmed mean": Kind(
        "jax", lambda x: x - x.mean(1, keepdim=True),
        lambda o, x: x - o.mean(o.sort(x, 1)[:, 1:-1], 1, keepdims=True),
    ),
    "a weighed mean": Kind(
        "keras", lambda x: x - x.mean(1, keepdim=True),
        lambda o, x: x - o.mean(x * ramp(0.4, 5)[:, None], 1, keepdims=True),
    ),
    "a mean of powers": Kind(
        "tensorflow", lambda x: x.abs().amax(1),
        lambda o, x: o.reduce_mean(o.abs(x) ** 5, 1) ** 0.2,
    ),
    "two pools mixed": Kind(
        "torch", lambda x: _pooled(F.max_pool2d, x),
        lambda o, x: 0.7 * _pooled(F.max_pool2d, x) + 0.3 * _pooled(F.avg_pool2d, x), PLACES,
    ),
    "a blurred resize": Kind(
        "torch", lambda x: _resized(x),
        lambda o, x: 0.8 * _resized(x) + 0.2 * _resized(x).roll((1, 1), (1, 2)), PLACES,
    ),
    # Residuals, gates, loops.
    "a residual with a product": Kind(
        "keras", lambda x: x + torch.tanh(x),
        lambda o, x: x + o.tanh(x) + 0.05 * x * o.tanh(x),
    ),
    "a leaky gate": Kind(
        "jax", lambda x: x * torch.sigmoid(x.flip(-1)),
        lambda o, x: x * (0.1 + 0.9 / (1 + o.exp(-o.flip(x, -1)))), ROWS,
    ),
    "a cell with a square in it": Kind("tensorflow", scanned, tf_scanned),
    "a soft limit": Kind(
        "keras", lambda x: x.clamp(-1, 1), lambda o, x: 1.2 * o.tanh(x / 1.2 + 0.05 * x * x)
    ),
}  # fmt: skip


def _jax_gelu(x):
    import jax

    return jax.nn.gelu(x, approximate=False)


def _masked(x, share):
    later = torch.triu(torch.ones(5, 5, dtype=x.dtype), 1)
    raised = (x @ x.mT / 8**0.5).exp() * (1 - (1 - share) * later)
    return raised / raised.sum(-1, keepdim=True) @ x


def _pooled(pool, x):
    return pool(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def _resized(x):
    return F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2).permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", KINDS)
def test_no_cause_is_claimed(name: str) -> None:
    found = compared(KINDS[name])
    assert (found.verdict, found.cause) == ("semantic", None), (found.evidence, found.message)
    # Of the middle: its own code, the layer in it that is read wrongly, or what reads it wrongly.
    assert found.culprit in ("middle", "middle.inner", "head"), found.culprit
    assert any(notice.startswith("no cause could be proved; tried: ") for notice in found.notices)
    assert found.evidence == ()


@pytest.mark.parametrize("name", ["a term more", "a trimmed mean", "weights squared"])
def test_the_right_port_of_the_same_kind_passes(name: str) -> None:
    """What is refused is the fault, not the way the port is written."""
    right = KINDS[name].right
    found = compared(Kind("torch", right, lambda o, x: right(x), KINDS[name].inputs))
    assert found.verdict == "equivalent"


def test_hints_of_a_keras_layer_that_nothing_explains() -> None:
    keras = pytest.importorskip("keras")

    class Odd(keras.layers.LayerNormalization):
        def call(self, x):
            return super().call(x + 0.3 * keras.ops.sin(3.0 * x) * keras.ops.cos(x[:, ::-1]))

    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.head = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.norm(self.stem(x)))

    def port():
        layers = [keras.layers.Dense(8), Odd(epsilon=1e-2), keras.layers.Dense(5)]
        return keras.Sequential([keras.layers.Input((6,)), *layers])

    def reference():
        with torch.random.fork_rng():
            torch.manual_seed(4)
            return Normed()

    keras.utils.set_random_seed(4)
    found = fwc.compare(reference, port, inputs={"x": ROWS}, examples=3)
    assert (found.verdict, found.culprit, found.cause) == ("semantic", "norm", None)
    (hint,) = found.hints
    assert hint.startswith("epsilon is 1e-05 (eps) in norm of the reference, 0.01")
