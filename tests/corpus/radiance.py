"""Positional encodings, a net with a skip, and rendering along rays: a JAX function to Keras."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import layers, ops

from .common import Fault, Input, PortCase, jax_in, keras_in

WAVES, WIDTH, SAMPLES = 4, 10, 5
CODE = 3 + 6 * WAVES


class Field:
    """Points (batch, 5, 3) and steps (batch, 5) to colours (batch, 3) and depth (batch,)."""

    def __call__(self, params, points, steps):
        waves = points[..., None, :] * (2.0 ** jnp.arange(WAVES))[:, None]
        waves = jnp.stack([jnp.sin(waves), jnp.cos(waves)], -2)
        code = jnp.concatenate([points, waves.reshape(*points.shape[:-1], -1)], -1)
        h = code
        for index, (w, b) in enumerate(params["trunk"]):
            h = jax.nn.relu(h @ w + b)
            if index == 0:
                h = jnp.concatenate([code, h], -1)
        w, b = params["density"]
        density = jax.nn.softplus(h @ w + b)[..., 0]
        w, b = params["colour"]
        colour = jax.nn.sigmoid(h @ w + b)
        optical = density * jnp.abs(steps)
        through = jnp.exp(-jnp.cumsum(optical, -1) + optical)
        share = through * (1 - jnp.exp(-optical))
        seen = jnp.sum(share[..., None] * colour, 1)
        depth = jnp.sum(share * jnp.cumsum(jnp.abs(steps), -1), -1)
        return seen + 1 - jnp.sum(share, -1, keepdims=True), depth


class Port(keras.Model):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        self.option = option
        self.rgb = layers.Dense(3, bias_initializer="normal")
        self.sigma = layers.Dense(1, bias_initializer="normal")
        self.second = layers.Dense(WIDTH, bias_initializer="normal")
        self.first = layers.Dense(WIDTH, bias_initializer="normal")

    def encode(self, x):
        waves = []
        for power in range(WAVES):
            angle = x * 2.0**power
            if self.option == "with-pi":
                angle = angle * np.pi
            pair = [ops.sin(angle), ops.cos(angle)]
            waves += pair[::-1] if self.option == "cosine-first" else pair
        return ops.concatenate([x, *waves], -1)

    def call(self, points, steps):
        option = self.option
        code = self.encode(points)
        h = ops.relu(self.first(code))
        pair = [h, code] if option == "skip-behind" else [code, h]
        h = ops.relu(self.second(ops.concatenate(pair, -1)))
        density = self.sigma(h)[..., 0]
        density = ops.relu(density) if option == "relu-density" else ops.softplus(density)
        colour = self.rgb(h)
        if option != "colour-unbounded":
            colour = ops.sigmoid(colour)
        optical = density * ops.abs(steps)
        passed = ops.cumsum(optical, -1)
        through = ops.exp(-passed if option == "inclusive" else optical - passed)
        share = through * (1 - ops.exp(-optical))
        kept = ops.stop_gradient(share) if option == "shares-detached" else share
        seen = ops.einsum("bs,bsc->bc", kept, colour)
        if option == "mean-colour":
            seen = seen / SAMPLES
        depth = ops.sum(share * ops.cumsum(ops.abs(steps), -1), -1)
        return seen + 1 - ops.sum(share, -1, keepdims=True), depth


def make_reference(dtype="float32"):
    kind = jax_in(dtype)
    keys = iter(jax.random.split(jax.random.key(4), 8))

    def layer(inputs, outputs):
        w = jax.random.normal(next(keys), (inputs, outputs), kind) / inputs**0.5
        return w, jax.random.normal(next(keys), (outputs,), kind)

    return Field(), {
        "trunk": [layer(CODE, WIDTH), layer(CODE + WIDTH, WIDTH)],
        "density": layer(WIDTH, 1),
        "colour": layer(WIDTH, 3),
    }


def make_port(dtype="float32", fault=None):
    keras.utils.set_random_seed(5)
    with keras_in(dtype):
        port = Port(fault or "")
        port(np.zeros((1, SAMPLES, 3), dtype), np.zeros((1, SAMPLES), dtype))
    return port


def copy_weights(reference, port):
    params = reference[1]
    for layer, pair in (
        (port.first, params["trunk"][0]),
        (port.second, params["trunk"][1]),
        (port.sigma, params["density"]),
        (port.rgb, params["colour"]),
    ):
        layer.set_weights([np.asarray(value) for value in pair])


CASES = [
    PortCase(
        name="radiance",
        reference_framework="jax",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"points": Input(("batch", SAMPLES, 3)), "steps": Input(("batch", SAMPLES))},
        faults={
            "with-pi": Fault("semantic", "", "position"),
            "cosine-first": Fault("semantic", "", "position"),
            "skip-behind": Fault("semantic", "", "channel-order"),
            "relu-density": Fault("semantic", "", "activation-variant"),
            "colour-unbounded": Fault("semantic", "", "activation-place"),
            "mean-colour": Fault("semantic", "", "reduction"),
            "shares-detached": Fault("semantic", "", "gradient-path", shows_in="backward"),
        },
        note="The reference has no submodules; layers of the port are defined backwards.",
    )
]
