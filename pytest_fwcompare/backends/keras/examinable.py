"""What every side of a Keras model can be asked about its layers. Imports no framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.backends.keras.examined import Examined


class Examinable:
    """Mixed into the sides of Keras models, before the side of the framework below.

    Attributes:
        asked_device: the device as `compare` was told it.
    """

    asked_device: str

    @property
    def keras_model(self) -> Any:
        """The Keras model itself."""
        raise NotImplementedError

    def call_eagerly(self, arguments: Sequence[Argument]) -> None:
        """Call the model, operation by operation, in working precision."""
        raise NotImplementedError

    def examine_layers(
        self, arguments: Sequence[Argument], paths: Sequence[str] | None, dtype: str, seed: int
    ) -> list[Examined]:
        """See `Side.examine_layers`."""
        from pytest_fwcompare.backends.keras.examine import examine

        return examine(self, arguments, paths, dtype, self.asked_device, seed)
