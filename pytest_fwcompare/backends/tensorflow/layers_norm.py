"""Normalisation in raw TensorFlow operations.

x - mean is formed before it is scaled: `tf.nn.batch_normalization` computes x scale - mean scale,
which loses digits where the mean is large.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from pytest_fwcompare.backends.tensorflow.layers import LayerModule, computes, sizes, spatial
from pytest_fwcompare.networks import layers as described


def wide(x: tf.Tensor) -> tf.Tensor:
    """Numbers of sixteen bits in float32: in float16 the square of 256 is infinite."""
    return tf.cast(x, tf.float32) if x.dtype.size < 4 else x


class Normalisation(LayerModule):
    """What the layers of this file share."""

    def affine(self, x: tf.Tensor) -> tf.Tensor:
        """Multiply by scale and add shift, as far as the layer has them."""
        scale, shift = self.optional("scale"), self.optional("shift")
        x = x if scale is None else x * scale
        return x if shift is None else x + shift

    def standardised(self, x: tf.Tensor, axes: Sequence[int]) -> tf.Tensor:
        """(x - mean) / sqrt(variance + epsilon) with statistics over `axes`."""
        centred = wide(x) - tf.reduce_mean(wide(x), axes, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axes, keepdims=True)
        return tf.cast(centred * tf.math.rsqrt(variance + self.description.epsilon), x.dtype)


@computes(described.BatchNorm)
class BatchNorm(Normalisation):
    """Running statistics in inference, batch statistics in training."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        mean, variance = (wide(tf.convert_to_tensor(v)) for v in (self.mean, self.variance))
        kind, x = x.dtype, wide(x)
        if training:
            axes = list(range(x.shape.rank - 1))
            held = (self.mean, mean), (self.variance, variance)
            mean = tf.reduce_mean(x, axes)
            variance = tf.reduce_mean(tf.square(x - mean), axes)
            for (variable, running), batch in zip(held, (mean, variance), strict=True):
                step = self.description.momentum * (batch - running)
                variable.assign_add(tf.cast(step, variable.dtype))
        scaled = (x - mean) * tf.math.rsqrt(variance + self.description.epsilon)
        return self.affine(tf.cast(scaled, kind))


@computes(described.LayerNorm)
class LayerNorm(Normalisation):
    """Over the last axes of each example."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.affine(self.standardised(x, list(range(-self.description.axes, 0))))


@computes(described.GroupNorm)
class GroupNorm(Normalisation):
    """Over space and a block of features of each example."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        shape, groups = sizes(x), self.description.groups
        grouped = tf.reshape(x, (*shape[:-1], groups, shape[-1] // groups))
        axes = [*spatial(x), x.shape.rank]
        return self.affine(tf.reshape(self.standardised(grouped, axes), shape))


@computes(described.InstanceNorm)
class InstanceNorm(Normalisation):
    """Over space for each example and feature."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.affine(self.standardised(x, spatial(x)))


@computes(described.RMSNorm)
class RMSNorm(Normalisation):
    """x / sqrt(mean(x^2) + epsilon) scale."""

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        mean_square = tf.reduce_mean(tf.square(wide(x)), -1, keepdims=True)
        scale = tf.math.rsqrt(mean_square + self.description.epsilon)
        return self.affine(tf.cast(wide(x) * scale, x.dtype))
