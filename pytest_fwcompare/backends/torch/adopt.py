"""Adopts any `torch.nn.Module`: NumPy in, NumPy out, the user's object left as it was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Pass,
    Precision,
    Stopwatch,
)
from pytest_fwcompare.backends.torch.clock import stopwatch
from pytest_fwcompare.backends.torch.model import TorchModel
from pytest_fwcompare.backends.torch.passes import TorchPass
from pytest_fwcompare.errors import UsageError


class TorchSide(TorchModel):
    """A torch module as a side; see `Side`."""

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        if record and precision != "double":
            raise UsageError("record=True needs precision='double'")
        return TorchPass(
            self, arguments, precision, training=training, gradients=gradients, record=record
        )

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        return stopwatch(self, arguments, cotangents)
