"""Keras 3 on whichever backend it has in this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_fwcompare.backends.base import Backend, Built, Side
from pytest_fwcompare.backends.tensorflow import TensorFlowBackend, is_keras3, prepare_import
from pytest_fwcompare.formats import DTYPES

if TYPE_CHECKING:
    from pytest_fwcompare.networks import Network

__all__ = ["KerasBackend"]

OTHERS = ("torch", "jax", "numpy")
"""Backends of Keras beside TensorFlow, which is the one where nobody chose."""

FLOAT32_ONLY = ("float32",)
"""Off TensorFlow, Keras promotes float64 to float32 wherever two values meet."""


COUNTERS = ("object_name_uids", "global_seed_generator")
"""Global attributes of Keras that decide what the next model is called and draws."""


def keras_on() -> str:
    """Keras' backend in this process: the one it was imported on, or will be."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "backend"):
        return str(keras.backend.backend())
    return os.environ.get("KERAS_BACKEND", "tensorflow")


class KerasBackend(TensorFlowBackend):
    """Keras 3 models and layers; `KERAS_BACKEND` is fixed by the process' first import."""

    name = "keras"
    distribution = "keras"
    imports: ClassVar[tuple[str, ...]] = ("tensorflow", "keras")
    dtypes: ClassVar[tuple[str, ...]] = DTYPES

    def __init__(self, on: str | None = None) -> None:
        on = keras_on() if on is None else on
        if on in OTHERS:
            # NumPy is always there, and Keras has its convolutions done by JAX.
            below = "jax" if on == "numpy" else on
            self.imports = (below, "keras")  # type: ignore[misc]
            self.dtypes = FLOAT32_ONLY  # type: ignore[misc]
            self.can_differentiate = on != "numpy"  # type: ignore[misc]
            if on != "jax":
                self.modes = ("eager",)  # type: ignore[misc]

    def unavailable(self) -> str | None:
        """As `Backend.unavailable`; Keras without what it computes with says how to choose."""
        below, _ = self.imports
        if find_spec("keras") is not None and find_spec(below) is None:
            others = [name for name in ("torch", "jax") if find_spec(name) is not None]
            instead = f", or set KERAS_BACKEND={' or '.join(others)}" if others else ""
            known = "tensorflow-cpu" if below == "tensorflow" else below
            return (
                f"keras computes with {below} here, which is not installed (pip install "
                f"{known}{instead})"
            )
        return super().unavailable()

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """The random state of the framework below, and the numbers in names that Keras gives.

        A model is called `sequential_7` where others were made before it, and so are its weights.
        """
        from keras.src.backend.common import global_state

        below = super().seeded(seed) if self.imports[0] == "tensorflow" else nullcontext()
        kept = {name: global_state.get_global_attribute(name) for name in COUNTERS}
        with below:
            for name in COUNTERS:
                global_state.set_global_attribute(name, None)
            try:
                yield
            finally:
                for name, value in kept.items():
                    global_state.set_global_attribute(name, value)

    def tagged(self, tag: str) -> Backend:
        """Keras on another of its backends: the tag of "keras@jax" is its name."""
        return KerasBackend(tag) if tag in (*OTHERS, "tensorflow") else self

    def version(self) -> str:
        """Version of Keras with the one of its backend."""
        prepare_import()
        import keras

        on = keras_on()
        return f"{keras.__version__}+{on}{self._below().version()}"

    def _below(self) -> Backend:
        """The backend of what Keras computes with."""
        from pytest_fwcompare.backends.registry import backend

        return backend(keras_on())

    def device_names(self) -> list[str]:
        """Devices that Keras' backend sees."""
        prepare_import()
        return self._below().device_names()

    def without_gpu(self) -> str:
        """What the framework below says."""
        return self._below().without_gpu()

    def owns(self, model: object) -> bool:
        """True for Keras 3 layers and models."""
        return is_keras3(model)

    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> Side:
        """Take a Keras 3 model or layer as it is."""
        prepare_import()
        on = keras_on()
        if on == "torch":
            from pytest_fwcompare.backends.keras.on_torch import KerasTorchSide

            return KerasTorchSide(model, dtype=dtype, device=device, mode=mode, own=own)
        if on == "jax":
            from pytest_fwcompare.backends.keras.on_jax import KerasJaxSide

            return KerasJaxSide(model, dtype=dtype, device=device, mode=mode, own=own)
        if on == "numpy":
            from pytest_fwcompare.backends.keras.on_numpy import KerasNumpySide

            return KerasNumpySide(model, dtype=dtype, own=own)
        from pytest_fwcompare.backends.keras.adopt import KerasSide

        return KerasSide(model, dtype=dtype, device=device, mode=mode, own=own)

    def build(self, network: Network, *, dtype: str = "float32", device: str = "cpu") -> Built:
        """A described network as a Keras model."""
        prepare_import()
        from pytest_fwcompare.backends.keras.build import build

        return build(network, dtype=dtype, device=device)

    def placing(self, device: str) -> AbstractContextManager[Any]:
        """Done by the framework below, where it is that which has to."""
        return nullcontext()

    def environment(self) -> dict[str, Any]:
        """That of its backend, and what Keras is set to."""
        import keras

        facts = self._below().environment() if keras_on() in OTHERS else super().environment()
        return facts | {
            "version": self.version(),
            "keras_backend": keras.backend.backend(),
            "floatx": keras.config.floatx(),
            "dtype_policy": str(keras.config.dtype_policy().name),
            "image_data_format": keras.config.image_data_format(),
        }

    # Computed, kept in memory and switched by the framework below, which may be the only one here.

    def threads(self) -> int | None:
        return self._below().threads()

    def thread_count(self) -> int | None:
        return self._below().thread_count()

    def set_threads(self, count: int) -> None:
        self._below().set_threads(count)

    def lacking(self, mode: str, device: str) -> str | None:
        return self._below().lacking(mode, device)

    def device_peak(self, device: str, call: Callable[[], None]) -> int | None:
        return self._below().device_peak(device, call)

    def release_memory(self) -> None:
        self._below().release_memory()
