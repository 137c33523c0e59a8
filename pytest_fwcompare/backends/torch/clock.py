"""Bare calls of a torch model for timing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from pytest_fwcompare.backends.base import Argument, Array, Stopwatch
from pytest_fwcompare.backends.torch.flatten import flatten
from pytest_fwcompare.backends.torch.guard import differentiable
from pytest_fwcompare.backends.torch.model import TorchModel
from pytest_fwcompare.backends.torch.modes import running
from pytest_fwcompare.backends.torch.precision import Arithmetic, cast


def stopwatch(
    side: TorchModel, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
) -> Stopwatch:
    """Calls on tensors made beforehand, with the arithmetic of the working dtype."""
    model, mode, made, device = side.runner, side.mode, side.format, side.device
    positional, keywords = side.tensors(arguments, "working", cotangents is not None)
    synchronise = _synchroniser(device)

    @contextlib.contextmanager
    def settings() -> Iterator[None]:
        with Arithmetic(made, device), running(mode):
            yield

    def queue() -> None:
        with torch.no_grad():
            if made.mixed:
                with cast(made, device):
                    model(*positional, **keywords)
            else:
                model(*positional, **keywords)

    def forward() -> None:
        queue()
        synchronise()

    def on_device() -> float:
        return _device_seconds(queue, device)

    bare = Stopwatch(forward, None, settings=settings)
    if device.type == "cuda":
        bare = replace(bare, queue=queue, on_device=on_device)
    if cotangents is None:
        return bare
    seeds = {
        name: torch.from_numpy(np.array(value)).to(device) for name, value in cotangents.items()
    }
    held = [slot.tensor for slot in side.slots("working").values() if slot.parameter.trainable]
    tensors = (*positional, *keywords.values())
    wanted = [*(t for t in tensors if t.is_floating_point()), *held]

    modules = side.tree("working").modules() if device.type == "cuda" else []

    def run() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        with cast(made, device), differentiable(modules):
            outputs, _ = flatten(model(*positional, **keywords))
        named = [n for n in seeds if outputs[n].requires_grad]
        return [outputs[n] for n in named], [seeds[n].to(outputs[n].dtype) for n in named]

    def forward_backward() -> None:
        outputs, cotangent = run()
        torch.autograd.grad(outputs, wanted, cotangent, allow_unused=True)
        synchronise()

    kept: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []

    def backward() -> None:
        if not kept:
            kept.append(run())
        outputs, cotangent = kept[0]
        torch.autograd.grad(outputs, wanted, cotangent, allow_unused=True, retain_graph=True)
        synchronise()

    return replace(bare, forward_backward=forward_backward, backward=backward)


def _synchroniser(device: torch.device) -> Callable[[], None]:
    """Waits for a GPU to finish; nothing to wait for on a CPU."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def _device_seconds(call: Callable[[], None], device: torch.device) -> float:
    """Seconds between two events in the device's queue, before and behind what `call` hands over.

    Work is put ahead of the first event, so that the device does not wait for the host in between.
    """
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()
        start.record()
        call()
        end.record()
        end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
