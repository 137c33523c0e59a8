"""Layers of Keras that are wrong on purpose; at the top of a module, for other processes."""

from __future__ import annotations

import keras
from keras import ops


@keras.saving.register_keras_serializable("fwcompare_tests")
class WrongNorm(keras.layers.LayerNormalization):
    """A layer normalisation that divides by the unbiased deviation, on every backend."""

    def call(self, inputs):
        mean = ops.mean(inputs, axis=-1, keepdims=True)
        count = inputs.shape[-1]
        variance = ops.sum(ops.square(inputs - mean), axis=-1, keepdims=True) / (count - 1)
        normal = (inputs - mean) / ops.sqrt(variance + self.epsilon)
        return normal * self.gamma + self.beta


class UnknownFormula(keras.layers.EinsumDense):
    """A layer for which no formula is known here."""
