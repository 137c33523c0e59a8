"""Keras 3 on its TensorFlow backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_fwcompare.backends.base import Built, Side
from pytest_fwcompare.backends.tensorflow import TensorFlowBackend, is_keras3, prepare_import

if TYPE_CHECKING:
    from pytest_fwcompare.networks import Network


class KerasBackend(TensorFlowBackend):
    """Keras 3 models and layers; `KERAS_BACKEND` is fixed by the process' first import."""

    name = "keras"
    distribution = "keras"
    imports = ("tensorflow", "keras")

    def version(self) -> str:
        """Version of Keras with the one of its backend."""
        prepare_import()
        import keras

        return f"{keras.__version__}+tensorflow{super().version()}"

    def owns(self, model: object) -> bool:
        """True for Keras 3 layers and models."""
        return is_keras3(model)

    def adopt(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> Side:
        """Take a Keras 3 model or layer as it is."""
        prepare_import()
        from pytest_fwcompare.backends.keras.adopt import adopt

        return adopt(model, dtype=dtype, device=device, mode=mode, own=own)

    def build(self, network: Network, *, dtype: str = "float32", device: str = "cpu") -> Built:
        """A described network as a Keras model."""
        prepare_import()
        from pytest_fwcompare.backends.keras.build import build

        return build(network, dtype=dtype, device=device)

    def environment(self) -> dict[str, Any]:
        """That of TensorFlow, and what Keras is set to."""
        facts = super().environment()
        import keras

        return facts | {
            "keras_backend": keras.backend.backend(),
            "floatx": keras.config.floatx(),
            "dtype_policy": str(keras.config.dtype_policy().name),
            "image_data_format": keras.config.image_data_format(),
        }
