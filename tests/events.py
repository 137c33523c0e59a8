"""Event files as TensorBoard reads them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


class Run:
    """What TensorBoard finds in a folder."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own imports
            from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

            self._found: Any = EventAccumulator(str(folder), {"histograms": 0, "scalars": 0})
            self._found.Reload()
        self.tags: dict[str, list[str]] = self._found.Tags()

    def scalars(self, name: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in self._found.Scalars(name)]

    def scalar(self, name: str) -> float:
        ((_, value),) = self.scalars(name)
        return value

    def histogram(self, name: str) -> Any:
        (event,) = self._found.Histograms(name)
        return event.histogram_value

    def text(self, name: str) -> str:
        (event,) = self._found.Tensors(name)
        return str(event.tensor_proto.string_val[0].decode("utf-8"))
