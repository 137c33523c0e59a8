"""Faults planted in the Keras of every process that finds this folder on its path.

Python imports `sitecustomize` when it starts, before anything of Keras. What is patched is patched
right after its module is imported, so that all that comes later sees it.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys

FORWARD = {"tensorflow": "hard_sigmoid", "torch": "softsign", "jax": "softplus"}
"""The activation whose values are off, by backend."""

BACKWARD = {"tensorflow": "elu", "torch": "gelu", "jax": "silu"}
"""The activation whose gradient is off, by backend; its values are right."""


def wrong_norm(module) -> None:
    """Layer normalisation adds its epsilon to the deviation, on every backend."""
    from keras import ops

    def call(self, inputs):
        mean = ops.mean(inputs, axis=-1, keepdims=True)
        deviation = ops.sqrt(ops.mean(ops.square(inputs - mean), axis=-1, keepdims=True))
        return (inputs - mean) / (deviation + self.epsilon) * self.gamma + self.beta

    module.LayerNormalization.call = call


def wrong_activations(module) -> None:
    """One backend has a wrong value here and a wrong gradient there."""
    backend = module.__name__.split(".")[3]

    def halted(x):
        if backend == "torch":
            return x.detach()
        if backend == "jax":
            from jax.lax import stop_gradient
        else:
            from tensorflow import stop_gradient
        return stop_gradient(x)

    def wrong(right):
        return lambda x, *args, **options: right(x, *args, **options) + 0.01 * x

    def bent(right):
        return lambda x, *args, **options: right(x, *args, **options) + 0.01 * (x - halted(x))

    for name, how in ((FORWARD[backend], wrong), (BACKWARD[backend], bent)):
        setattr(module, name, how(getattr(module, name)))


PLANTED = {
    "keras.src.layers.normalization.layer_normalization": wrong_norm,
    **{f"keras.src.backend.{name}.nn": wrong_activations for name in FORWARD},
}


class Planter:
    """Finds what is to be patched as everybody does, and patches it once it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name not in PLANTED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            PLANTED[name](module)

        spec.loader.exec_module = exec_module
        return spec


if os.environ.get("FWCOMPARE_TESTS_PLANTED"):
    sys.meta_path.insert(0, Planter())
