"""What a side in a worker costs: the start, a round trip, and the bytes that cross.

    python benchmarks/workers.py [--framework numpy] [--rounds 60]

A pass of a layer that does next to nothing is run here and in a worker, with inputs and outputs of
several sizes; the difference is the cost of being elsewhere. Prints figures and asserts nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from pytest_fwcompare import networks as fn
from pytest_fwcompare.backends.base import Argument, Side
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.workers import pool
from pytest_fwcompare.workers.specs import Spec

SIZES = (1, 1_000, 100_000, 1_250_000, 5_000_000)
"""Values of float64 in the input, and as many in the output: 8 bytes to 40 MB each way."""

WARM = 3
"""Rounds before the first that counts: memory files that are used again cost a tenth."""

FIXED_MS, PER_10_MB_MS = 2.0, 1.0
"""What a round trip may cost on one host: so much, and so much for each 10 MB that cross."""


def milliseconds(calls: Sequence[Callable[[], object]], rounds: int) -> tuple[float, ...]:
    """Medians of calls that take turns, and of what the last takes longer than the first."""
    for _ in range(WARM):
        for call in calls:
            call()
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, durations in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            durations.append(1e3 * (time.perf_counter() - start))
    more = [last - first for first, *_, last in zip(*taken, strict=True)]
    return (*map(statistics.median, taken), statistics.median(more))


def passes(side: Side, size: int, *, backward: bool) -> Callable[[], object]:
    """Runs one pass, and takes it back if asked."""
    given = [Argument("x", np.ones((1, size)))]
    cotangents = {"output": np.ones((1, size))}

    def run() -> object:
        passed = side.forward(given, precision="double", gradients=backward)
        return passed.backward(cotangents) if backward else passed.outputs

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--framework", default="numpy")
    parser.add_argument("--rounds", type=int, default=60)
    asked = parser.parse_args()
    name = f"{asked.framework}@worker"
    pool.configure(pool.Settings(specs={name: Spec()}))
    axes = {"dtype": "float64", "device": "cpu", "mode": "eager"}
    network = fn.Sequential([fn.Activation("relu")], input_shape=("size",))

    start = time.perf_counter()
    there = open_side(InFramework(network, name), "port", **axes).side
    print(f"start of a worker, {asked.framework} imported: {time.perf_counter() - start:.2f} s")
    start = time.perf_counter()
    again = open_side(InFramework(network, name), "port", **axes).side
    print(f"another model in it: {1e3 * (time.perf_counter() - start):.1f} ms")
    again.close()
    here = open_side(InFramework(network, asked.framework), "reference", **axes).side

    print(f"\n{'values':>10} {'crossing':>10} {'here':>9} {'worker':>9} {'cost':>9} {'goal':>9}")
    for backward in (False, True):
        print("forward and backward" if backward else "forward")
        for size in SIZES:
            rounds = max(15, asked.rounds // (1 + size // 500_000))
            local, remote, cost = milliseconds(
                [passes(side, size, backward=backward) for side in (here, there)], rounds
            )
            crossing = 8 * size * (4 if backward else 2) / 1e6  # MB, both ways
            trips = 2 if backward else 1
            goal = trips * FIXED_MS + PER_10_MB_MS * crossing / 10
            print(
                f"{size:>10,} {crossing:>7.1f} MB {local:>6.2f} ms {remote:>6.2f} ms "
                f"{cost:>6.2f} ms {goal:>6.2f} ms"
            )
    there.close()
    worker = pool.current().worker(name)
    started = pool.current().started[name]
    print(f"\nworkers started: {started}; arrays by shared memory: {worker.shares}")
    pool.current().close()


if __name__ == "__main__":
    main()
