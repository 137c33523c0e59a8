"""ConvNeXt blocks with layer scale: flax.linen to Keras."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import layers, ops

from .common import Fault, Input, PortCase, jax_in, keras_in

WIDTHS, CLASSES = (6, 8), 5


class Block(linen.Module):
    """Depthwise convolution, norm, two products, scaled, added: (batch, h, w, width)."""

    width: int
    kind: object

    @linen.compact
    def __call__(self, x):
        how = {"param_dtype": self.kind}
        y = linen.Conv(self.width, (5, 5), feature_group_count=self.width, name="dw", **how)(x)
        y = linen.LayerNorm(epsilon=1e-6, name="ln", **how)(y)
        y = linen.Dense(3 * self.width, name="up", **how)(y)
        y = jax.nn.gelu(y, approximate=False)
        y = linen.Dense(self.width, name="down", **how)(y)
        gamma = self.param("gamma", linen.initializers.normal(0.5), (self.width,), self.kind)
        return x + gamma * y


class ConvNeXt(linen.Module):
    """Images (batch, 12, 12, 3) to scores (batch, 5)."""

    kind: object

    @linen.compact
    def __call__(self, x):
        how = {"param_dtype": self.kind}
        x = linen.Conv(WIDTHS[0], (2, 2), 2, padding="VALID", name="stem", **how)(x)
        x = linen.LayerNorm(epsilon=1e-6, name="stem_ln", **how)(x)
        x = Block(WIDTHS[0], self.kind, name="stage0")(x)
        x = linen.LayerNorm(epsilon=1e-6, name="thin_ln", **how)(x)
        x = linen.Conv(WIDTHS[1], (3, 3), 2, padding="SAME", name="thin", **how)(x)
        x = Block(WIDTHS[1], self.kind, name="stage1")(x)
        x = linen.LayerNorm(epsilon=1e-6, name="last_ln", **how)(x.mean((1, 2)))
        return linen.Dense(CLASSES, name="head", **how)(x)


class NeXtBlock(layers.Layer):
    """The port's block."""

    def __init__(self, width, option="", **how):
        super().__init__(**how)
        self.option = option
        eps = 1e-3 if option == "norm-epsilon" else 1e-6
        self.mix = layers.DepthwiseConv2D(5, padding="same")
        self.n = layers.LayerNormalization(epsilon=eps)
        self.e = layers.Dense(3 * width)
        self.c = layers.Dense(width)
        self.n.build((None, None, None, width))
        self.scale = self.add_weight(shape=(width,), initializer="normal", name="s")

    def call(self, x):
        y = self.mix(x)
        if self.option == "norm-over-space":
            # Over an image, not over its channels.
            mean = ops.mean(y, axis=[1, 2], keepdims=True)
            spread = ops.mean((y - mean) ** 2, axis=[1, 2], keepdims=True)
            y = (y - mean) * ops.rsqrt(spread + 1e-6) * self.n.gamma + self.n.beta
        else:
            y = self.n(y)
        y = self.e(y)
        y = ops.gelu(y, approximate=self.option == "gelu-tanh")
        y = self.c(y) * self.scale
        return y if self.option == "no-residual" else x + y


class Port(keras.Model):
    """The port."""

    def __init__(self, option=""):
        super().__init__()
        pool = option == "max-pooled"
        self.l0 = layers.Conv2D(WIDTHS[0], 2, 2)
        self.l1 = layers.LayerNormalization(epsilon=1e-6)
        self.l2 = NeXtBlock(WIDTHS[0])
        self.l3 = layers.LayerNormalization(epsilon=1e-6)
        same = option != "padding-both"
        self.pad = None if same else layers.ZeroPadding2D(1)
        self.l4 = layers.Conv2D(WIDTHS[1], 3, 2, padding="same" if same else "valid")
        self.l5 = NeXtBlock(WIDTHS[1], option)
        self.l6 = layers.GlobalMaxPool2D() if pool else layers.GlobalAveragePooling2D()
        self.l7 = layers.LayerNormalization(epsilon=1e-6)
        self.l8 = layers.Dense(CLASSES)

    def call(self, x):
        for layer in (self.l0, self.l1, self.l2, self.l3):
            x = layer(x)
        if self.pad is not None:
            x = self.pad(x)
        for layer in (self.l4, self.l5, self.l6, self.l7, self.l8):
            x = layer(x)
        return x


def make_reference(dtype="float32"):
    kind = jax_in(dtype)
    module = ConvNeXt(kind)
    variables = module.init(jax.random.key(5), jnp.zeros((1, 12, 12, 3), kind))
    keys = iter(jax.random.split(jax.random.key(6), 60))

    def shaken(x):
        return x + 0.3 * jax.random.normal(next(keys), x.shape, kind)

    return module, jax.tree.map(shaken, variables)


def make_port(dtype="float32", fault=None):
    keras.utils.set_random_seed(2)
    with keras_in(dtype):
        port = Port(fault or "")
        port(np.zeros((1, 12, 12, 3), dtype))
    return port


def copy_weights(reference, port):
    params = reference[1]["params"]

    def plain(name, layer):
        held = params[name]
        first = held["kernel"] if "kernel" in held else held["scale"]
        layer.set_weights([np.asarray(first), np.asarray(held["bias"])])

    for name, layer in (
        ("stem", port.l0), ("stem_ln", port.l1), ("thin_ln", port.l3), ("thin", port.l4),
        ("last_ln", port.l7), ("head", port.l8),
    ):  # fmt: skip
        plain(name, layer)
    for name, block in (("stage0", port.l2), ("stage1", port.l5)):
        held = params[name]
        kernel = np.asarray(held["dw"]["kernel"]).transpose(0, 1, 3, 2)
        block.mix.set_weights([kernel, np.asarray(held["dw"]["bias"])])
        block.n.set_weights([np.asarray(held["ln"]["scale"]), np.asarray(held["ln"]["bias"])])
        for key, layer in (("up", block.e), ("down", block.c)):
            layer.set_weights([np.asarray(held[key]["kernel"]), np.asarray(held[key]["bias"])])
        block.scale.assign(np.asarray(held["gamma"]))


CASES = [
    PortCase(
        name="convnext",
        reference_framework="jax",
        port_framework="keras",
        make_reference=make_reference,
        make_port=make_port,
        copy_weights=copy_weights,
        inputs={"image": Input(("batch", 12, 12, 3))},
        faults={
            "norm-epsilon": Fault("semantic", "stage1.ln", "norm-epsilon"),
            "norm-over-space": Fault("semantic", "stage1.ln", "norm-axis"),
            "gelu-tanh": Fault(
                "semantic", "stage1", "activation-variant", between=("stage1.up", "stage1.down")
            ),
            "no-residual": Fault(
                "semantic", "stage1", "residual", between=("stage1.down", "last_ln")
            ),
            "padding-both": Fault("semantic", "thin", "padding"),
            "max-pooled": Fault("semantic", "", "reduction", between=("stage1", "last_ln")),
        },
    )
]
