"""What a family is written with: the records of a port and its faults, and a few helpers.

The attributes are those of the corpus beside the checkout, so that one benchmark reads both.
Nothing here imports a framework, except inside functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Input:
    """One input in the reference's axis order; a string is a free size."""

    shape: tuple[int | str, ...]
    kind: str = "normal"  # or "tokens", "mask", "positive", "grid"
    high: int | None = None
    axes: str | None = None
    port_axes: str | None = None


@dataclass(frozen=True)
class Fault:
    """One fault: what a perfect judge says, where, and why (a word of the table of causes)."""

    verdict: str
    culprit: str
    cause: str
    shows_in: str = "forward"  # or "backward", "training"
    between: tuple[str, str] | None = None
    note: str = ""


@dataclass(frozen=True)
class PortCase:
    """A reference, its port, and the faults that the port can be given."""

    name: str
    reference_framework: str
    port_framework: str
    make_reference: Callable[..., Any]
    make_port: Callable[..., Any]
    copy_weights: Callable[[Any, Any], None]
    inputs: Mapping[str, Input]
    faults: Mapping[str, Fault] = field(default_factory=dict)
    output_axes: Sequence[str] | None = None
    port_output_axes: Sequence[str] | None = None
    note: str = ""


def values_of(tensor: Any) -> np.ndarray:
    """A torch tensor as an array."""
    return np.asarray(tensor.detach().cpu().numpy())


def as_trained(model: Any, dtype: str) -> Any:
    """A torch model in inference mode, with norms that are no identity, in `dtype`.

    Values are drawn in float32, so that one seed means the same weights in both dtypes.
    """
    import torch

    with torch.no_grad():
        for module in model.modules():
            kind = type(module).__name__
            if "Norm" in kind and getattr(module, "weight", None) is not None:
                module.weight.uniform_(0.6, 1.4)
                if getattr(module, "bias", None) is not None:
                    module.bias.uniform_(-0.4, 0.4)
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.4, 1.6)
    return model.to(getattr(torch, dtype)).eval()


@contextlib.contextmanager
def keras_in(dtype: str) -> Iterator[None]:
    """Keras layers made in here are of `dtype`."""
    import keras

    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def jax_in(dtype: str) -> Any:
    """The JAX dtype; "float64" turns on 64-bit mode for the whole process."""
    import jax

    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    return jax.numpy.dtype(dtype)
