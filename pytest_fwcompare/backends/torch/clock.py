"""Bare calls of a torch model for timing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pytest_fwcompare.backends.base import Argument, Array, Stopwatch
from pytest_fwcompare.backends.torch.flatten import flatten
from pytest_fwcompare.backends.torch.modes import running
from pytest_fwcompare.backends.torch.precision import arithmetic, cast

if TYPE_CHECKING:
    from pytest_fwcompare.backends.torch.adopt import TorchSide


def stopwatch(
    side: TorchSide, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
) -> Stopwatch:
    """Calls on tensors made beforehand, with the arithmetic of the working dtype."""
    model, mode, made, device = side.runner, side.mode, side.format, side.device
    positional, keywords = side.tensors(arguments, "working", cotangents is not None)
    synchronise = _synchroniser(side.device)

    def forward() -> None:
        with arithmetic(made, device), running(mode), torch.no_grad(), cast(made, device):
            model(*positional, **keywords)
        synchronise()

    if cotangents is None:
        return Stopwatch(forward, None)
    seeds = {
        name: torch.from_numpy(np.array(value)).to(side.device)
        for name, value in cotangents.items()
    }
    held = [slot.tensor for slot in side.slots("working").values() if slot.parameter.trainable]
    tensors = (*positional, *keywords.values())
    wanted = [*(t for t in tensors if t.is_floating_point()), *held]

    def run() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        with arithmetic(made, device), running(mode), cast(made, device):
            outputs, _ = flatten(model(*positional, **keywords))
        named = [n for n in seeds if outputs[n].requires_grad]
        return [outputs[n] for n in named], [seeds[n].to(outputs[n].dtype) for n in named]

    def forward_backward() -> None:
        outputs, cotangent = run()
        with arithmetic(made, device):
            torch.autograd.grad(outputs, wanted, cotangent, allow_unused=True)
        synchronise()

    kept: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []

    def backward() -> None:
        if not kept:
            kept.append(run())
        outputs, cotangent = kept[0]
        with arithmetic(made, device):
            torch.autograd.grad(outputs, wanted, cotangent, allow_unused=True, retain_graph=True)
        synchronise()

    return Stopwatch(forward, forward_backward, backward)


def _synchroniser(device: torch.device) -> Callable[[], None]:
    """Waits for a GPU to finish; nothing to wait for on a CPU."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
