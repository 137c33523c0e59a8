"""The torch module that runs a described network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Reading:
    """One value that a step reads: its name, and the axis order to bring it to (None: as is)."""

    name: str
    axes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Step:
    """One use of a layer: the module it runs and what it reads."""

    name: str
    module: str
    inputs: tuple[Reading, ...]
    keywords: Mapping[str, Reading]


class NetworkModule(nn.Module):  # type: ignore[misc]
    """A described network as a native module: train it, save it, inspect it like any other.

    Its layers are submodules under their names in the description. Images are (batch, features,
    height, width), torch's own order; sequences (batch, time, features), except where they go
    into convolutions first.

    Args:
        modules: by name.
        inputs: names in the order in which they are passed.
        steps: uses of the modules in order.
        outputs: name of the step of each output.
        structure: "tensor", "tuple" or "dict": what is returned.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        inputs: tuple[str, ...],
        steps: tuple[Step, ...],
        outputs: Mapping[str, str],
        structure: str,
    ) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.inputs, self.steps = inputs, steps
        self.outputs, self.structure = dict(outputs), structure

    def forward(self, *arguments: torch.Tensor, **keywords: torch.Tensor) -> Any:
        named = dict(zip(self.inputs, arguments, strict=False))
        values = {**named, **keywords}
        if len(arguments) > len(self.inputs) or sorted(values) != sorted(self.inputs):
            raise TypeError(
                f"expected the inputs {', '.join(self.inputs)}, got {len(arguments)} by position "
                f"and {', '.join(keywords) or 'none'} by name"
            )
        for step in self.steps:
            values[step.name] = self.get_submodule(step.module)(
                *(_read(values, reading) for reading in step.inputs),
                **{key: _read(values, reading) for key, reading in step.keywords.items()},
            )
        outputs = {name: values[step] for name, step in self.outputs.items()}
        if self.structure == "tensor":
            return outputs["output"]
        return tuple(outputs.values()) if self.structure == "tuple" else outputs


def _read(values: Mapping[str, torch.Tensor], reading: Reading) -> torch.Tensor:
    """A value in the axis order that its reader needs."""
    value = values[reading.name]
    return value if reading.axes is None else value.permute(reading.axes)
