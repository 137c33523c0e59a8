"""State of TensorFlow that a comparison must leave as it was: random generators, devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_fwcompare.backends.base import Array

LONGEST = 1500
"""Characters of a framework's error message that are passed on."""


def to_numpy(tensor: Any) -> Array:
    """The values of a tensor or variable; bfloat16 as float32."""
    value = np.asarray(tensor.numpy())
    return value.astype(np.float32) if value.dtype.name == "bfloat16" else value


def reason(error: BaseException) -> str:
    """What the framework said, without the internal frames that it appends."""
    kind, text = type(error).__name__, str(error).strip()
    if text.startswith("in user code:"):
        # AutoGraph lists the frames first, then says what happened.
        return text.rsplit("\n\n", 1)[-1].strip().removeprefix("tensorflow.python.")[:LONGEST]
    return f"{kind}: {text.split('[Op:')[0].strip()[:LONGEST]}" if text else kind


def is_random(variable: Any) -> bool:
    """Whether a variable is the state of a random generator, by the names frameworks give it."""
    name = getattr(variable, "path", None) or variable.name
    return not variable.dtype.is_floating and any(
        word in name for word in ("seed_generator", "StateVar")
    )


@contextmanager
def empty_guard() -> Iterator[dict[str, Array]]:
    """Nothing to put back."""
    yield {}


def synchronise(tensors: Any) -> None:
    """Wait until the tensors are there."""
    for tensor in tensors:
        dense = tensor.values if isinstance(tensor, tf.IndexedSlices) else tensor
        if is_gpu(dense.device or ""):
            tf.test.experimental.sync_devices()
            return


def device_name(device: str) -> str:
    """TensorFlow's name of "cpu" or "cuda[:N]"."""
    kind, _, number = device.partition(":")
    return "/CPU:0" if kind == "cpu" else f"/GPU:{number or 0}"


def is_gpu(device: str) -> bool:
    """Whether calls return before their work is done there; of a name or a tensor's device."""
    return "GPU" in device


def elsewhere() -> bool:
    """Whether there is any device beside the CPU; asking must not start TensorFlow's devices."""
    from tensorflow.python.eager import context

    if tf.config.list_physical_devices("GPU"):
        return True
    started = getattr(context.context(), "_initialized", True)
    return started and len(tf.config.list_logical_devices()) > 1


def random_state() -> Any:
    """The state that decides TensorFlow's next draws."""
    from tensorflow.python.eager import context

    here = context.context()
    generator = getattr(here, "_rng", None)
    world = tf.random.get_global_generator() if has_global_generator() else None
    return (
        generator.getstate() if generator is not None else None,
        None if world is None else world.state.numpy(),
    )


def has_global_generator() -> bool:
    """Whether `tf.random.Generator` has a global one; asking for it would make it."""
    from tensorflow.python.ops import stateful_random_ops

    return getattr(stateful_random_ops, "global_generator", None) is not None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global seed set for a while, so that operations without one draw the same each time."""
    from tensorflow.python.eager import context

    before, state = context.global_seed(), random_state()
    tf.random.set_seed(seed)
    try:
        yield
    finally:
        # Drops kernels that were cached under the seed, and the eager stream with it.
        tf.random.set_seed(before)
        restore_random(state)


def restore_random(state: Any) -> None:
    """Set what `random_state` returned."""
    from tensorflow.python.eager import context

    local, world = state
    generator = getattr(context.context(), "_rng", None)
    if local is not None and generator is not None and generator.getstate() != local:
        # Kernels are cached by their seed and go on from their last draw; this drops them.
        tf.random.set_seed(context.global_seed())
        context.context()._rng.setstate(local)
    if world is not None and has_global_generator():
        tf.random.get_global_generator().reset(world)


def onednn_is_active() -> bool:
    """Whether TensorFlow computes with oneDNN; what it read at its import, whatever is set now."""
    try:
        from tensorflow.python.util import _pywrap_util_port
    except ImportError:  # an older TensorFlow
        return os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"
    return bool(_pywrap_util_port.IsMklEnabled())
