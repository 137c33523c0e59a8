"""Keras' recurrent layers as they are computed everywhere.

Where a GPU is seen, LSTM and GRU are one operation of cuDNN. It exists on no CPU and in no other
dtype than it was traced with, so a float64 shadow cannot contain it, nor a graph that runs on the
CPU of a machine with a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

ASKED = {
    "tensorflow": "_is_gpu_available",
    "jax": "_is_gpu_available",
    "torch": "_is_cuda_cudnn_available",
}
"""By backend of Keras: the function by which its recurrent layers choose."""


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Recurrent layers that are traced or called here take Keras' own loop."""
    on = keras.backend.backend()
    rnn: Any = importlib.import_module(f"keras.src.backend.{on}.rnn") if on in ASKED else None
    before = getattr(rnn, ASKED.get(on, ""), None)
    if before is None:  # an older Keras, or NumPy: there is no such choice
        yield
        return
    setattr(rnn, ASKED[on], lambda: False)
    try:
        yield
    finally:
        setattr(rnn, ASKED[on], before)
