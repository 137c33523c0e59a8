"""A second device without a GPU: another CPU of JAX's and TensorFlow's stands in for cuda:0.

`FWCOMPARE_CUDA_TESTS_ON=second make test-cuda`. What lands on the wrong device shows: JAX and
TensorFlow tell where a value is. What a GPU computes otherwise (cuDNN, TF32, its allocator) does
not. torch has no second device without one; `tests/backends/test_torch_fake_cuda.py` has its own.
"""

from __future__ import annotations

import os

COUNT = "--xla_force_host_platform_device_count=2"


def install() -> None:
    """Give this process its second devices; before JAX and TensorFlow are first used."""
    flags = os.environ.get("XLA_FLAGS", "")
    if COUNT not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {COUNT}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from pytest_fwcompare.backends.registry import backend

    if backend("tensorflow").unavailable() is None:
        _tensorflow()
    if backend("jax").unavailable() is None:
        _jax()


def _jax() -> None:
    import jax

    from pytest_fwcompare.backends.jax import devices

    second = jax.devices("cpu")[1]
    devices.gpus = lambda: [second]
    devices.is_cpu = lambda device: device != second


def _tensorflow() -> None:
    import tensorflow as tf

    from pytest_fwcompare.backends.tensorflow import TensorFlowBackend, state

    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    tf.config.set_logical_device_configuration(cpu, parts)
    tf.config.list_logical_devices()  # starts them
    state.device_name = lambda device: "/CPU:1" if device.startswith("cuda") else "/CPU:0"
    state.is_gpu = lambda device: "CPU:1" in device
    TensorFlowBackend.device_names = lambda self: ["cpu", "cuda:0"]
