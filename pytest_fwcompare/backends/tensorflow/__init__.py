"""TensorFlow without Keras 3: `tf.Module`, `tf.function`, SavedModels, legacy `tf_keras`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_fwcompare.backends.base import Backend, Built, Side
from pytest_fwcompare.devices import is_among, processors

if TYPE_CHECKING:
    from pytest_fwcompare.networks import Network

FUNCTIONS = ("tensorflow.python.eager.", "tensorflow.python.saved_model.")
"""Modules of the classes of `tf.function`, concrete functions and loaded SavedModels."""


def prepare_import() -> None:
    """Settings that count only before TensorFlow's first import; the user's own stay."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Otherwise TensorFlow takes all of a GPU's memory when it first sees it.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # oneDNN's 1x1 stride-2 filter gradient corrupts memory in TensorFlow 2.21.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def class_modules(model: object) -> list[str]:
    """Modules of the classes of an object, most derived first."""
    return [kind.__module__ for kind in type(model).__mro__]


def is_keras3(model: object) -> bool:
    """True for a layer or model of Keras 3."""
    return any(
        kind.__module__.startswith("keras.src.layers.layer") and kind.__name__ == "Layer"
        for kind in type(model).__mro__
    )


class TensorFlowBackend(Backend):
    """Raw TensorFlow on the CPU or a GPU."""

    name = "tensorflow"
    distribution = "tensorflow-cpu"
    imports: ClassVar[tuple[str, ...]] = ("tensorflow",)
    devices = ("cpu", "cuda")
    modes: ClassVar[tuple[str, ...]] = ("eager", "graph", "compiled")
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float64", "float16", "bfloat16", "tf32")

    def version(self) -> str:
        """Version of TensorFlow."""
        prepare_import()
        import tensorflow as tf

        return str(tf.__version__)

    def device_names(self) -> list[str]:
        """The CPU and each GPU that TensorFlow sees."""
        prepare_import()
        import tensorflow as tf

        return ["cpu", *(f"cuda:{i}" for i in range(len(tf.config.list_physical_devices("GPU"))))]

    def without_gpu(self) -> str:
        """Whether it is the build or the driver."""
        prepare_import()
        import tensorflow as tf

        if not tf.test.is_built_with_cuda():
            return f"tensorflow {tf.__version__} is a build without CUDA"
        return "tensorflow was built for CUDA; its libraries or driver show no GPU"

    def owns(self, model: object) -> bool:
        """True for the kinds named above, and for the path of a SavedModel folder."""
        if isinstance(model, (str, Path)):
            return (Path(model) / "saved_model.pb").is_file()
        if is_keras3(model) or isinstance(model, type):
            return False
        return any(
            module == "tensorflow.python.module.module"
            or module.startswith(("tf_keras.", *FUNCTIONS))
            for module in class_modules(model)
        )

    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> Side:
        """Take a model as it is; a path is loaded first."""
        prepare_import()
        from pytest_fwcompare.backends.tensorflow.adopt import adopt

        return adopt(model, dtype=dtype, device=device, mode=mode, own=own)

    def build(self, network: Network, *, dtype: str = "float32", device: str = "cpu") -> Built:
        """A described network as a `tf.Module`."""
        prepare_import()
        from pytest_fwcompare.backends.tensorflow.build import build

        return build(network, dtype=dtype, device=device)

    def placing(self, device: str) -> AbstractContextManager[Any]:
        """Variables are not moved later, and what XLA compiles takes none of another device."""
        import tensorflow as tf

        from pytest_fwcompare.backends.tensorflow.state import device_name, elsewhere

        if not elsewhere() or not is_among(device, self.device_names()):
            return nullcontext()
        return tf.device(device_name(device))  # type: ignore[no-any-return]

    def environment(self) -> dict[str, Any]:
        """Version, threads, oneDNN, determinism and TF32 flags."""
        prepare_import()
        import tensorflow as tf

        from pytest_fwcompare.backends.tensorflow.state import onednn_is_active

        return {
            "version": self.version(),
            "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
            "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
            "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default"),
            "onednn_active": onednn_is_active(),
            "deterministic_ops": _is_deterministic(),
            "tf32": bool(tf.config.experimental.tensor_float_32_execution_enabled()),
            "cudnn_deterministic": os.environ.get("TF_CUDNN_DETERMINISTIC", "0") == "1",
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "allow_growth": os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH", ""),
            "gpus": ", ".join(
                str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))
                for gpu in tf.config.list_physical_devices("GPU")
            ),
        }

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        from pytest_fwcompare.backends.tensorflow.state import seeded

        with seeded(seed):
            yield

    def thread_count(self) -> int | None:
        """Of one operation; the pools are as large as the processor unless somebody says so."""
        prepare_import()
        import tensorflow as tf

        asked = tf.config.threading.get_intra_op_parallelism_threads()
        return int(asked or os.environ.get("TF_NUM_INTRAOP_THREADS") or processors())

    def device_peak(self, device: str, call: Callable[[], None]) -> int | None:
        """By TensorFlow's own allocator."""
        import tensorflow as tf

        if not device.startswith("cuda"):
            return None
        name = f"GPU:{device.partition(':')[2] or 0}"
        tf.config.experimental.reset_memory_stats(name)
        call()
        return int(tf.config.experimental.get_memory_info(name)["peak"])

    def release_memory(self) -> None:
        """Freed with the last reference; functions that were traced are in cycles."""
        import gc

        gc.collect()

    def set_threads(self, count: int) -> None:
        """Use that many threads, if TensorFlow has not started its pools yet."""
        prepare_import()
        import contextlib

        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # the pools are there: nothing can be changed
            tf.config.threading.set_intra_op_parallelism_threads(count)
            tf.config.threading.set_inter_op_parallelism_threads(count)


def _is_deterministic() -> bool:
    """Whether operations are made to repeat themselves, by either switch."""
    from tensorflow.python.framework import config

    enabled = getattr(config, "is_op_determinism_enabled", lambda: False)
    return os.environ.get("TF_DETERMINISTIC_OPS", "0") in ("1", "true") or bool(enabled())
