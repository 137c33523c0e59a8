"""Documented layouts held against the frameworks: map, run both, compare. A wrong gate, flip or
axis order gives differences of order one; the smallest tolerated one is far below that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pytest_fwcompare.backends import registry  # noqa: E402
from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.weights import automatic_mapping, randomise  # noqa: E402

nn = torch.nn


class Step(nn.Module):
    """One step of a recurrent cell; states are inputs."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x, *states):
        return self.cell(x, states if len(states) > 1 else states[0])


class First(nn.Module):
    """The first output of a module only."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, *inputs):
        return self.body(*inputs)[0]


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attend(x, x, x)[0]


def keras_layer(name: str, *args: Any, **options: Any) -> Callable[[tuple[int, ...]], Any]:
    def make(shape: tuple[int, ...]) -> Any:
        import keras

        inputs = keras.Input(shape[1:])
        return keras.Model(inputs, getattr(keras.layers, name)(*args, **options)(inputs))

    return make


def keras_attention(shape: tuple[int, ...]) -> Any:
    import keras

    inputs = keras.Input(shape[1:])
    return keras.Model(
        inputs, keras.layers.MultiHeadAttention(2, 4, name="attend")(inputs, inputs)
    )


def keras_bidirectional(shape: tuple[int, ...]) -> Any:
    import keras

    inputs = keras.Input(shape[1:])
    layer = keras.layers.Bidirectional(keras.layers.GRU(5, return_sequences=True))
    return keras.Model(inputs, layer(inputs))


def nnx_layer(name: str, *args: Any, **options: Any) -> Callable[[tuple[int, ...]], Any]:
    def make(_: tuple[int, ...]) -> Any:
        from flax import nnx

        return getattr(nnx, name)(*args, **options, rngs=nnx.Rngs(0))

    return make


def nnx_cell(name: str) -> Callable[[tuple[int, ...]], Any]:
    def make(_: tuple[int, ...]) -> Any:
        from flax import nnx

        class Cell(nnx.Module):
            def __init__(self) -> None:
                self.cell = getattr(nnx, name)(3, 5, rngs=nnx.Rngs(0))

            def __call__(self, x, *states):
                carry = states[::-1] if len(states) > 1 else states[0]
                return self.cell(carry, x)[1]

        return Cell()

    return make


def linen_cell(name: str) -> Callable[[tuple[int, ...]], Any]:
    def make(_: tuple[int, ...]) -> Any:
        import flax.linen as linen
        import jax

        class Cell(linen.Module):
            @linen.compact
            def __call__(self, x, *states):
                carry = states[::-1] if len(states) > 1 else states[0]
                return getattr(linen, name)(5)(carry, x)[1]

        states = [np.zeros((2, 5), np.float32)] * (2 if "LSTM" in name else 1)
        cell = Cell()
        return cell, cell.init(jax.random.key(0), np.zeros((2, 3), np.float32), *states)

    return make


def equinox_cell(name: str) -> Callable[[tuple[int, ...]], Any]:
    def make(_: tuple[int, ...]) -> Any:
        import equinox as eqx
        import jax

        class Cell(eqx.Module):
            cell: Any

            def __call__(self, x, *states):
                def one(x, *states):
                    made = self.cell(x, states if len(states) > 1 else states[0])
                    return made[0] if isinstance(made, tuple) else made

                return jax.vmap(one)(x, *states)

        return Cell(getattr(eqx.nn, name)(3, 5, key=jax.random.key(0)))

    return make


def equinox_layer(name: str, *args: Any, **options: Any) -> Callable[[tuple[int, ...]], Any]:
    def make(_: tuple[int, ...]) -> Any:
        import equinox as eqx
        import jax

        class Batched(eqx.Module):
            layer: Any

            def __call__(self, x):
                return jax.vmap(self.layer)(x)

        return Batched(getattr(eqx.nn, name)(*args, **options, key=jax.random.key(0)))

    return make


IMAGE, SEQUENCE, STATE = (2, 4, 6, 6), (2, 7, 3), (2, 3)
NHWC = (0, 2, 3, 1)

Case = tuple[Callable[[], Any], str, Callable[[tuple[int, ...]], Any], tuple[int, ...], Any]

CASES: dict[str, Case] = {
    "conv-keras": (
        lambda: nn.Conv2d(4, 6, 3, groups=2), "keras",
        keras_layer("Conv2D", 6, 3, groups=2), IMAGE, NHWC,
    ),
    "depthwise-keras": (
        lambda: nn.Conv2d(4, 8, 3, groups=4), "keras",
        keras_layer("DepthwiseConv2D", 3, depth_multiplier=2), IMAGE, NHWC,
    ),
    "separable-keras": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.Conv2d(8, 5, 1)),
        "keras", keras_layer("SeparableConv2D", 5, 3, depth_multiplier=2), IMAGE, NHWC,
    ),
    "transposed-keras": (
        lambda: nn.ConvTranspose2d(4, 6, 3), "keras",
        keras_layer("Conv2DTranspose", 6, 3), IMAGE, NHWC,
    ),
    "conv-nnx": (
        lambda: nn.Conv2d(4, 6, 3), "jax",
        nnx_layer("Conv", 4, 6, (3, 3), padding="VALID"), IMAGE, NHWC,
    ),
    "transposed-nnx": (
        lambda: nn.ConvTranspose2d(4, 6, 3), "jax",
        nnx_layer("ConvTranspose", 4, 6, (3, 3), padding="VALID"), IMAGE, NHWC,
    ),
    "transposed-square-nnx": (
        lambda: nn.ConvTranspose2d(4, 4, 3), "jax",
        nnx_layer("ConvTranspose", 4, 4, (3, 3), padding="VALID", transpose_kernel=True),
        IMAGE, NHWC,
    ),
    "transposed-equinox": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), "jax",
        equinox_layer("ConvTranspose2d", 4, 6, 3, groups=2), IMAGE, None,
    ),
    "lstm-keras": (
        lambda: First(nn.LSTM(3, 5, batch_first=True)), "keras",
        keras_layer("LSTM", 5, return_sequences=True), SEQUENCE, None,
    ),
    "gru-keras": (
        lambda: First(nn.GRU(3, 5, batch_first=True)), "keras",
        keras_layer("GRU", 5, return_sequences=True), SEQUENCE, None,
    ),
    "gru-bidirectional-keras": (
        lambda: First(nn.GRU(3, 5, batch_first=True, bidirectional=True)), "keras",
        keras_bidirectional, SEQUENCE, None,
    ),
    "rnn-keras": (
        lambda: First(nn.RNN(3, 5, batch_first=True)), "keras",
        keras_layer("SimpleRNN", 5, return_sequences=True), SEQUENCE, None,
    ),
    "attention-keras": (SelfAttention, "keras", keras_attention, (2, 7, 8), None),
    "attention-nnx": (
        SelfAttention, "jax", nnx_layer("MultiHeadAttention", 2, 8, decode=False), (2, 7, 8), None,
    ),
    "lstm-nnx": (lambda: Step(nn.LSTMCell(3, 5)), "jax", nnx_cell("LSTMCell"), STATE, 2),
    "lstm-optimised-nnx": (
        lambda: Step(nn.LSTMCell(3, 5)), "jax", nnx_cell("OptimizedLSTMCell"), STATE, 2,
    ),
    "lstm-linen": (lambda: Step(nn.LSTMCell(3, 5)), "jax", linen_cell("LSTMCell"), STATE, 2),
    "gru-linen": (lambda: Step(nn.GRUCell(3, 5)), "jax", linen_cell("GRUCell"), STATE, 1),
    "rnn-linen": (lambda: Step(nn.RNNCell(3, 5)), "jax", linen_cell("SimpleCell"), STATE, 1),
    "lstm-equinox": (lambda: Step(nn.LSTMCell(3, 5)), "jax", equinox_cell("LSTMCell"), STATE, 2),
    "gru-equinox": (lambda: Step(nn.GRUCell(3, 5)), "jax", equinox_cell("GRUCell"), STATE, 1),
}  # fmt: skip


def run(side: Any, values: list[np.ndarray]) -> np.ndarray:
    arguments = [Argument(f"x{place}", value) for place, value in enumerate(values)]
    passed = side.forward(arguments, precision="working", gradients=False)
    return np.asarray(next(iter(passed.outputs.values())))


@pytest.mark.parametrize("name", CASES)
def test_layer_maps_and_agrees(name: str) -> None:
    make_reference, framework, make_port, shape, extra = CASES[name]
    if framework == "jax":
        pytest.importorskip("flax")
        pytest.importorskip("equinox")
    pytest.importorskip(framework)
    sides = [
        registry.backend(which).adopt(model, dtype="float32", device="cpu", mode="eager", own=True)
        for which, model in (("torch", make_reference().eval()), (framework, None))
        if which == "torch"
    ]
    port_shape = tuple(shape[axis] for axis in extra) if isinstance(extra, tuple) else shape
    sides.append(
        registry.backend(framework).adopt(
            make_port(port_shape), dtype="float32", device="cpu", mode="eager", own=True
        )
    )
    reference, port = sides
    mapping = automatic_mapping(
        reference.parameters(),
        port.parameters(),
        reference_framework="torch",
        port_framework=framework,
    )
    # The torch layer's second bias of the same sum is all that may be left.
    assert not mapping.unmatched_port
    assert not mapping.unmatched_reference
    values = randomise(reference.parameters(), reference.read(), 1, framework="torch")
    reference.load(values, "working")
    port.load(mapping.port_values(values), "working")
    rng = np.random.default_rng(2)
    inputs = [rng.standard_normal(shape).astype(np.float32)]
    if isinstance(extra, int):
        inputs += [rng.standard_normal((2, 5)).astype(np.float32) for _ in range(extra)]
    port_inputs = [value.transpose(extra) for value in inputs] if port_shape != shape else inputs
    expected, obtained = run(reference, inputs), run(port, port_inputs)
    if port_shape != shape:
        obtained = obtained.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(obtained, expected, rtol=1e-4, atol=1e-5)
