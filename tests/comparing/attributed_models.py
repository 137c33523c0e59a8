"""Keras models for processes of their own; the reference of one of them is in NumPy."""

from __future__ import annotations

import keras
import numpy as np

layers = keras.layers

ACTIVATIONS = ("hard_sigmoid", "softsign", "softplus", "elu", "gelu", "silu", "tanh")


class Mine(layers.Layer):
    """Code of a user's own."""

    def call(self, x):
        return keras.ops.sin(x)


class Unheard(layers.EinsumDense):
    """A layer for which no formula is known here."""


def all_kinds():
    """One layer for every answer."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, name="dense"),
            layers.LayerNormalization(epsilon=0.01, name="norm"),
            *(layers.Activation(name, name=name) for name in ACTIVATIONS),
        ]
    )


def stack(*more):
    """A dense layer and what follows it."""
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((5,)), layers.Dense(6, name="dense"), *more])


def with_norm():
    return stack(layers.LayerNormalization(epsilon=0.01, name="norm"))


def with_softplus():
    return stack(layers.Activation("softplus", name="act"))


def with_softsign():
    return stack(layers.Activation("softsign", name="act"))


def with_hard_sigmoid():
    return stack(layers.Activation("hard_sigmoid", name="act"))


def with_silu():
    return stack(layers.Activation("silu", name="act"))


def with_gelu():
    return stack(layers.Activation("gelu", name="act"))


def with_elu():
    return stack(layers.Activation("elu", name="act"))


def with_tanh():
    return stack(layers.Activation("tanh", name="act"))


def with_batch_norm():
    return stack(layers.BatchNormalization(name="batch_norm"))


def with_own_code():
    return stack(Mine(name="mine"))


def with_unheard():
    return stack(Unheard("ab,bc->ac", output_shape=3, name="unheard"))


def image():
    """A real fault of Keras 3.15 on torch: average pooling with "same" padding."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((5, 6, 2)),
            layers.Conv2D(3, 1, name="conv"),
            layers.AveragePooling2D(3, strides=2, padding="same", name="average"),
        ]
    )


def value(shape=(3, 5)):
    """An input."""
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)
