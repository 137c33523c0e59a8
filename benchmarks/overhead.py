"""What a comparison costs over the bare framework calls it makes.

    python benchmarks/overhead.py [--rounds 7] [--examples 20] [--cpu]

Three times for LeNet and a translation transformer built in torch (so that every call can be
written by hand), interleaved in one run:

compare   `fwc.compare(model, twin, ...)`, everything included
bare      the same number of forward and backward passes, at the same sizes and precisions,
          by plain torch calls
plain     two-sided float32 forward and backward alone, one an example: what a user without
          shadows would run

With --cpu the seconds are those of the processor and not of the wall: the same on an idle machine,
as everything here runs in one thread, and comparable where other processes use the cores.

Prints the medians and the ratios compare/bare (goal 1.25) and compare/plain (goal 6).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch

import pytest_fwcompare as fwc
from pytest_fwcompare.backends.torch.adopt import TorchSide
from pytest_fwcompare.building import build_identical
from pytest_fwcompare.networks import zoo

Calls = Counter  # (precision, shapes, backward) -> number


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


def count_calls(run: Callable[[], object]) -> Calls:
    """The passes that a comparison makes of its torch sides."""
    calls: Calls = Counter()
    original = TorchSide.forward

    def counted(self, arguments, *, precision, training=False, gradients=True, record=False):
        shapes = tuple(a.value.shape for a in arguments)
        calls[precision, shapes, gradients] += 1
        return original(
            self,
            arguments,
            precision=precision,
            training=training,
            gradients=gradients,
            record=record,
        )

    TorchSide.forward = counted
    try:
        run()
    finally:
        TorchSide.forward = original
    return calls


def one_pass(model: torch.nn.Module, inputs: list[torch.Tensor], backward: bool) -> None:
    """A forward pass and, if wanted, gradients of inputs and parameters."""
    leaves = [value.detach().requires_grad_(value.is_floating_point()) for value in inputs]
    with torch.set_grad_enabled(backward):
        outputs = model(*leaves)
    if isinstance(outputs, dict):
        (outputs,) = outputs.values()
    if backward:
        sources = [v for v in leaves if v.requires_grad] + list(model.parameters())
        torch.autograd.grad(outputs, sources, torch.ones_like(outputs), allow_unused=True)


def sample(specs: dict[str, fwc.TensorSpec], dtype: torch.dtype) -> list[torch.Tensor]:
    """One set of inputs of the specs' sizes."""
    made = []
    for spec in specs.values():
        if spec.dtype == "int64":
            made.append(torch.randint(0, 40, spec.shape))
        elif spec.dtype == "bool":
            made.append(torch.ones(spec.shape, dtype=torch.bool))
        else:
            made.append(torch.randn(spec.shape, dtype=dtype))
    return made


def measure(
    model: torch.nn.Module,
    specs: dict[str, fwc.TensorSpec],
    rounds: int,
    examples: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of the three."""
    twin = copy.deepcopy(model)
    double = copy.deepcopy(model).double()

    def compare() -> None:
        found = fwc.compare(model, twin, inputs=specs, examples=examples)
        assert found.verdict == "equivalent", found.summary()

    calls = count_calls(compare)
    inputs = {
        "working": (model, sample(specs, torch.float32)),
        "double": (double, sample(specs, torch.float64)),
    }

    def bare() -> None:
        for (precision, _, backward), number in calls.items():
            for _ in range(number):
                one_pass(*inputs[precision], backward)

    def plain() -> None:
        for _ in range(2 * examples):
            one_pass(*inputs["working"], True)

    runs = {"compare": compare, "bare": bare, "plain": plain}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if number:  # the first round warms up
                seconds[name].append(clock() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return medians | {"calls": float(sum(calls.values()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--size", choices=SIZES, default="usual")
    parser.add_argument("--cpu", action="store_true", help="seconds of the processor")
    options = parser.parse_args()
    clock = time.process_time if options.cpu else time.perf_counter
    torch.set_num_threads(1)
    print(f"{'network':12s} {'calls':>6s} {'compare':>9s} {'bare':>9s} {'plain':>9s}  ratios")
    for name, (model, specs) in networks(options.size).items():
        found = measure(model, specs, options.rounds, options.examples, clock)
        print(
            f"{name:12s} {found['calls']:6.0f} {found['compare']:8.3f}s {found['bare']:8.3f}s "
            f"{found['plain']:8.3f}s  compare/bare {found['compare'] / found['bare']:.2f}, "
            f"compare/plain {found['compare'] / found['plain']:.2f}"
        )


if __name__ == "__main__":
    main()
