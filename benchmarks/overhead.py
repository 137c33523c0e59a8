"""What a comparison costs over the bare framework calls it makes.

    python benchmarks/overhead.py [--rounds 7] [--examples 20] [--size SIZE] [--cpu] [--json]

Three times for LeNet and a translation transformer built in torch (so that every call can be
written by hand), interleaved in one run:

compare   `fwc.compare(model, twin, ...)`, everything included
bare      the calls of a comparison once more by plain torch: the same inputs, on one model a side
          and precision, in the same order, forward and backward where it was taken back; weights
          and inputs are there in the right precision before the clock starts
plain     two-sided float32 forward and backward alone, one an example: what a user without
          shadows would run

With --cpu the seconds are those of the processor and not of the wall: the same on an idle machine,
as everything here runs in one thread, and comparable where other processes use the cores.

Prints the medians, and the ratios compare/bare (goal 1.25) and compare/plain (goal 6): medians of
the ratios of each round, whose three runs follow each other.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import pytest_fwcompare as fwc
from pytest_fwcompare.backends.torch.adopt import TorchSide
from pytest_fwcompare.building import build_identical
from pytest_fwcompare.networks import zoo

SIZES = {"small": (8, 4, 12, 32), "usual": (64, 32, 32, 128)}
"""LeNet's batch; the transformer's batch, words and features."""


def networks(size: str = "usual") -> dict[str, tuple[torch.nn.Module, dict[str, fwc.TensorSpec]]]:
    """Native models and their inputs, sizes fixed so that bare calls are easy to repeat."""
    images, batch, length, features = SIZES[size]
    lenet = build_identical(zoo.lenet(size=28), ["torch"])["torch"]
    translator = build_identical(
        zoo.translation_transformer(
            features=features, hidden=2 * features, layers=2, length=length
        ),
        ["torch"],
    )["torch"]
    words = {"dtype": "int64", "low": 0, "high": 40}
    return {
        "lenet": (lenet, {"x": fwc.TensorSpec((images, 1, 28, 28), kind="normal")}),
        "transformer": (
            translator,
            {
                "source": fwc.TensorSpec((batch, length), **words),
                "target": fwc.TensorSpec((batch, length - 1), **words),
                "source_mask": fwc.TensorSpec((batch, length), "bool"),
            },
        ),
    }


@dataclass(frozen=True)
class Call:
    """One pass that a comparison made of a torch side.

    Attributes:
        side: 0 for the first side that ran, 1 for the other.
        precision: "working" or "double".
        inputs: as tensors of that precision.
        backward: whether it was taken back.
    """

    side: int
    precision: str
    inputs: tuple[torch.Tensor, ...]
    backward: bool


def recorded_calls(run: Callable[[], object]) -> list[Call]:
    """The passes that a comparison makes of its torch sides, in order."""
    calls: list[Call] = []
    sides: list[TorchSide] = []
    original = TorchSide.forward

    def forward(self, arguments, *, precision, training=False, gradients=True, record=False):
        if self not in sides:
            sides.append(self)
        dtype = torch.float64 if precision == "double" else torch.float32
        tensors = (torch.from_numpy(np.array(a.value)) for a in arguments)
        inputs = tuple(t.to(dtype) if t.is_floating_point() else t for t in tensors)
        calls.append(Call(sides.index(self), precision, inputs, gradients))
        return original(
            self,
            arguments,
            precision=precision,
            training=training,
            gradients=gradients,
            record=record,
        )

    TorchSide.forward = forward
    try:
        run()
    finally:
        TorchSide.forward = original
    return calls


def one_pass(model: torch.nn.Module, inputs: Iterable[torch.Tensor], backward: bool) -> None:
    """A forward pass and, if wanted, gradients of inputs and parameters."""
    leaves = [value.detach().requires_grad_(value.is_floating_point()) for value in inputs]
    with torch.set_grad_enabled(backward):
        outputs = model(*leaves)
    if isinstance(outputs, dict):
        (outputs,) = outputs.values()
    if backward:
        sources = [v for v in leaves if v.requires_grad] + list(model.parameters())
        torch.autograd.grad(outputs, sources, torch.ones_like(outputs), allow_unused=True)


def measure(
    model: torch.nn.Module,
    specs: dict[str, fwc.TensorSpec],
    rounds: int,
    examples: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of the three, and medians of their ratios in each round."""
    twin = copy.deepcopy(model)
    models = {
        (side, precision): copy.deepcopy(model).to(dtype)
        for side in (0, 1)
        for precision, dtype in (("working", torch.float32), ("double", torch.float64))
    }

    def compare() -> None:
        found = fwc.compare(model, twin, inputs=specs, examples=examples)
        assert found.verdict == "equivalent", found.summary()

    calls = recorded_calls(compare)
    once = next(call for call in calls if call.precision == "working" and call.backward)

    def bare() -> None:
        for call in calls:
            one_pass(models[call.side, call.precision], call.inputs, call.backward)

    def plain() -> None:
        for _ in range(examples):
            for side in (0, 1):
                one_pass(models[side, "working"], once.inputs, True)

    runs = {"compare": compare, "bare": bare, "plain": plain}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if number:  # the first round warms up
                seconds[name].append(clock() - started)
    figures = {name: statistics.median(values) for name, values in seconds.items()}
    for other in ("bare", "plain"):
        ratios = [a / b for a, b in zip(seconds["compare"], seconds[other], strict=True)]
        figures[f"compare/{other}"] = statistics.median(ratios)
    return figures | {"calls": float(len(calls))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--size", choices=SIZES, help="only this one (default: both)")
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    torch.set_num_threads(1)
    made = []
    for size in [options.size] if options.size else reversed(SIZES):
        for name, (model, specs) in networks(size).items():
            found = measure(model, specs, options.rounds, options.examples, clock)
            made.append({"network": name, "size": size, **found})
            if not options.json:
                print(line(made[-1]), flush=True)
    if options.json:
        print(json.dumps(made, indent=2))


def line(found: dict[str, Any]) -> str:
    """One network in words."""
    return (
        f"{found['network']:12s} {found['size']:6s} {found['calls']:4.0f} calls: compare "
        f"{found['compare']:.3f} s, bare {found['bare']:.3f} s, plain {found['plain']:.3f} s; "
        f"compare/bare {found['compare/bare']:.2f}, compare/plain {found['compare/plain']:.2f}"
    )


if __name__ == "__main__":
    main()
