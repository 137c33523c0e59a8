"""Operations that TensorFlow has in float32 only, written with those that have a float64 kernel.

Each replacement is traced for the attributes at hand and inlined by `rewrite`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import tensorflow as tf

FLOAT = tf.TensorSpec(None, tf.float64)


def _concrete(function: Callable[..., Any], *specs: Any) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(*specs)


@cache
def _batch_norm(epsilon: float, layout: str, training: bool, factor: float) -> Any:
    axes = [0, 2, 3] if layout == "NCHW" else list(range(_rank(layout) - 1))
    if layout in ("NCHW", "NCDHW"):
        axes = [0, *range(2, _rank(layout))]

    def run(x: Any, scale: Any, offset: Any, mean: Any, variance: Any) -> Any:
        def spread(vector: Any) -> Any:
            return _spread(vector, layout)

        new_mean, new_variance, used_mean, used_variance = mean, variance, mean, variance
        if training:
            used_mean = tf.reduce_mean(x, axes)
            used_variance = tf.reduce_mean(tf.square(x - spread(used_mean)), axes)
            count = tf.cast(tf.size(x) // tf.size(scale), tf.float64)
            # The kernel hands out the unbiased variance for the running statistics.
            unbiased = used_variance * (count / tf.maximum(count - 1.0, 1.0))
            new_mean, new_variance = used_mean, unbiased
            if factor != 1.0:
                new_mean = (1 - factor) * mean + factor * used_mean
                new_variance = (1 - factor) * variance + factor * unbiased
        inverse = tf.math.rsqrt(used_variance + tf.constant(epsilon, tf.float64))
        y = (x - spread(used_mean)) * spread(inverse * scale) + spread(offset)
        return [tf.identity(v) for v in (y, new_mean, new_variance, used_mean, used_variance)] + [
            tf.zeros([0], tf.float64)
        ]

    specs = [tf.TensorSpec([None] * _rank(layout), tf.float64)]
    return _concrete(run, *specs, *[tf.TensorSpec([None], tf.float64)] * 4)


@cache
def _batch_norm_grad(epsilon: float, layout: str, training: bool) -> Any:
    axes = list(range(_rank(layout) - 1))
    if layout in ("NCHW", "NCDHW"):
        axes = [0, *range(2, _rank(layout))]

    def run(dy: Any, x: Any, scale: Any, mean: Any, variance: Any, reserve: Any) -> Any:
        del reserve  # scratch space of the GPU kernel
        inverse = tf.math.rsqrt(variance + tf.constant(epsilon, tf.float64))
        normal = (x - _spread(mean, layout)) * _spread(inverse, layout)
        d_scale = tf.reduce_sum(dy * normal, axes)
        d_offset = tf.reduce_sum(dy, axes)
        dx = dy
        if training:
            # Ioffe and Szegedy 2015, section 3: mean and variance depend on x as well.
            dx = (
                dy
                - _spread(tf.reduce_mean(dy, axes), layout)
                - normal * _spread(tf.reduce_mean(dy * normal, axes), layout)
            )
        dx = dx * _spread(inverse * scale, layout)
        empty = tf.zeros([0], tf.float64)
        return [tf.identity(v) for v in (dx, d_scale, d_offset)] + [empty, tf.identity(empty)]

    specs = [tf.TensorSpec([None] * _rank(layout), tf.float64)] * 2
    return _concrete(run, *specs, *[tf.TensorSpec([None], tf.float64)] * 3, FLOAT)


def _rank(layout: str) -> int:
    return len(layout)


def _spread(vector: Any, layout: str) -> Any:
    """(channels) against the layout, e.g. (1, channels, 1, 1)."""
    shape = [1] * _rank(layout)
    shape[layout.index("C")] = -1
    return tf.reshape(vector, shape)


def batch_norm(node: Any) -> Any:
    """FusedBatchNormV3 and its older forms."""
    attributes = node.attr
    return _batch_norm(
        _decimal(attributes["epsilon"].f),
        attributes["data_format"].s.decode(),
        attributes["is_training"].b,
        _decimal(attributes["exponential_avg_factor"].f)
        if "exponential_avg_factor" in attributes
        else 1.0,
    )


def batch_norm_grad(node: Any) -> Any:
    """FusedBatchNormGradV3; the reserves are the mean and variance of `batch_norm`."""
    attributes = node.attr
    return _batch_norm_grad(
        _decimal(attributes["epsilon"].f),
        attributes["data_format"].s.decode(),
        attributes["is_training"].b,
    )


def _decimal(value: float) -> float:
    """A float32 attribute as the decimal it was written as."""
    from pytest_fwcompare.backends.constants import restore

    return float(restore(tf.constant(value, tf.float32).numpy())[0])


def _coordinates(size: Any, scale: Any, half_pixels: bool) -> Any:
    """Positions (size) in the input of the pixels of the output."""
    place = tf.range(tf.cast(size, tf.float64), dtype=tf.float64)
    return (place + 0.5) * scale - 0.5 if half_pixels else place * scale


def _weights(source: Any, target: Any, corners: bool, half_pixels: bool) -> Any:
    """(target, source) matrix of linear interpolation along one axis."""
    old, new = tf.cast(source, tf.float64), tf.cast(target, tf.float64)
    scale = old / new
    if corners:
        scale = tf.where(new > 1, (old - 1) / tf.maximum(new - 1, 1), scale)
    place = _coordinates(target, scale, half_pixels)
    low = tf.floor(place)
    rest = (place - low)[:, None]
    first = tf.cast(tf.maximum(low, 0), tf.int32)
    second = tf.cast(tf.minimum(low + 1, old - 1), tf.int32)
    return tf.one_hot(first, source, dtype=tf.float64) * (1 - rest) + (
        tf.one_hot(second, source, dtype=tf.float64) * rest
    )


def _matrices(images: Any, size: Any, corners: bool, half_pixels: bool) -> tuple[Any, Any]:
    shape = tf.shape(images)
    return (
        _weights(shape[1], size[0], corners, half_pixels),
        _weights(shape[2], size[1], corners, half_pixels),
    )


@cache
def _bilinear(corners: bool, half_pixels: bool, kind: tf.DType) -> Any:
    def run(images: Any, size: Any) -> Any:
        rows, columns = _matrices(images, size, corners, half_pixels)
        return [tf.einsum("bhwc,ih,jw->bijc", tf.cast(images, tf.float64), rows, columns)]

    return _concrete(run, tf.TensorSpec([None] * 4, kind), tf.TensorSpec([2], tf.int32))


@cache
def _bilinear_grad(corners: bool, half_pixels: bool) -> Any:
    def run(gradient: Any, original: Any) -> Any:
        size = tf.shape(gradient)[1:3]
        rows, columns = _matrices(original, size, corners, half_pixels)
        return [tf.einsum("bijc,ih,jw->bhwc", gradient, rows, columns)]

    four = tf.TensorSpec([None] * 4, tf.float64)
    return _concrete(run, four, four)


def bilinear(node: Any) -> Any:
    """ResizeBilinear, whose result is float32 whatever comes in."""
    kind = tf.as_dtype(node.attr["T"].type)
    return _bilinear(
        node.attr["align_corners"].b,
        node.attr["half_pixel_centers"].b,
        tf.float64 if kind.is_floating else kind,
    )


def bilinear_grad(node: Any) -> Any:
    """ResizeBilinearGrad."""
    return _bilinear_grad(node.attr["align_corners"].b, node.attr["half_pixel_centers"].b)


@cache
def _leaky(slope: float) -> Any:
    def run(x: Any) -> Any:
        return [tf.where(x > 0, x, tf.constant(slope, tf.float64) * x)]

    return _concrete(run, FLOAT)


@cache
def _leaky_grad(slope: float) -> Any:
    def run(gradient: Any, x: Any) -> Any:
        return [tf.where(x > 0, gradient, tf.constant(slope, tf.float64) * gradient)]

    return _concrete(run, FLOAT, FLOAT)


def leaky_relu(node: Any) -> Any:
    """LeakyRelu, whose slope is a float32 attribute: 0.3 would be 0.30000001192."""
    return _leaky(_decimal(node.attr["alpha"].f))


def leaky_relu_grad(node: Any) -> Any:
    """LeakyReluGrad."""
    return _leaky_grad(_decimal(node.attr["alpha"].f))


REPLACEMENTS: dict[str, Callable[[Any], Any]] = {
    "FusedBatchNormV3": batch_norm,
    "FusedBatchNormGradV3": batch_norm_grad,
    "LeakyRelu": leaky_relu,
    "LeakyReluGrad": leaky_relu_grad,
    "ResizeBilinear": bilinear,
    "ResizeBilinearGrad": bilinear_grad,
}
"""Makers of replacements by operation type."""
