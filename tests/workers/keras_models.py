"""Keras models as a user writes them, made on whatever backend the process has."""

from __future__ import annotations

import keras
from keras import layers, ops


class Block(layers.Layer):
    """A subclassed layer with sublayers, a cast and a constant."""

    def __init__(self, width: int, epsilon: float = 1e-3, **common) -> None:
        super().__init__(**common)
        self.norm = layers.LayerNormalization(epsilon=epsilon, name="norm")
        self.wide = layers.Dense(2 * width, name="wide")
        self.back = layers.Dense(width, name="back")

    def call(self, x):
        hidden = ops.gelu(self.wide(self.norm(x)))
        return x + self.back(ops.cast(hidden, "float32")) / ops.sqrt(ops.cast(3, x.dtype))


def functional(epsilon: float = 1e-3) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name="x")
    y = keras.Input((6,), name="y")
    hidden = Block(8, epsilon, name="block")(layers.Dense(8, name="first")(x))
    hidden = layers.BatchNormalization(name="batch")(hidden)
    total = layers.Dense(3, name="scores")(hidden)
    return keras.Model([x, y], {"sum": total, "mix": layers.Dense(3, name="mix")(y) * total})


def other_epsilon() -> keras.Model:
    return functional(1e-5)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Dense(5, activation="tanh")
        self.batch = layers.BatchNormalization()
        self.last = layers.Dense(2)

    def call(self, x, training=None):
        return self.last(self.batch(self.first(x), training=training))


def subclassed() -> keras.Model:
    """Not built before its first call."""
    keras.utils.set_random_seed(1)
    return Subclassed()


class LeftOn(layers.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = layers.Dropout(0.5)

    def call(self, x):
        return self.dropout(x, training=True)


def dropout_left_on() -> keras.Model:
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((6,)), layers.Dense(8), LeftOn()])


def in_float16() -> keras.Model:
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((6,), dtype="float16"), layers.Dense(3, dtype="float16")])
