"""Our forward times against other clocks: torch's own, and loops written by hand.

On five described networks the plugin's median of a forward call is held against
`torch.utils.benchmark.Timer.blocked_autorange`, and, in TensorFlow, Keras and JAX, against a loop
that calls the same model, waits for its result and reads the clock. Both take turns, in an order
drawn anew and then back, in one process, so that a busy machine disturbs both alike; what counts
is the median of the rounds' ratios, with its 95 % interval by order statistics. Each pair is given
rounds until that interval is narrow, whatever it is around, or its share of the time is spent. The
clock is that of the wall or of the processor, which does not see that others had it in between.

The loop by hand is one that a careful person writes: as `timeit` does it switches the garbage
collector off, and it begins with calls that are not counted, for the other clock's turn left the
processor's caches to other code.

    python benchmarks/timing_accuracy.py [--rounds 12] [--frameworks torch,jax] [--modes eager]
        [--clock processor] [--minutes 12] [--write timing_accuracy]
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from tables import Table

from pytest_fwcompare.backends import registry
from pytest_fwcompare.backends.base import Argument
from pytest_fwcompare.inputs.examples import plan
from pytest_fwcompare.networks import Network, zoo
from pytest_fwcompare.opening.given import open_side
from pytest_fwcompare.records import Ratio
from pytest_fwcompare.running.points import arguments
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.timing.clocks import Clock
from pytest_fwcompare.timing.rounds import LEAST_ROUNDS, measure, ratio
from pytest_fwcompare.timing.sides import timed_example

GOAL = 0.05
SLICE_S = 0.03
"""Seconds that either clock measures a round: short, so that both see the same machine."""

LEAST_CALLS, UNCOUNTED_S = 15, 0.02
"""Calls of a loop whose median is taken, however long they are; seconds of those before them."""

NARROW = 0.03
"""Width of an interval that needs no more rounds; half of it is well below the goal."""

CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "processor": time.process_time}

Clocked = Callable[[], float]
"""Measures for about `SLICE_S` and gives the seconds of a call."""

NETWORKS: dict[str, Callable[[], Network]] = {
    "lenet": lambda: zoo.lenet(size=28),
    "autoencoder": lambda: zoo.autoencoder(size=32),
    "residual": lambda: zoo.residual_network(size=32, classes=10),
    "text_classifier": lambda: zoo.text_classifier("lstm", units=32),
    "transformer": lambda: zoo.translation_transformer(100, 100, features=32, hidden=64, layers=2),
}


def by_torch(model: Any, given: list[Argument], mode: str, clock: Clock) -> Clocked:
    import torch
    from torch.utils.benchmark import Timer

    called = model if mode == "eager" else torch.compile(model, backend=COMPILERS[mode])
    tensors = [torch.from_numpy(np.array(a.value)) for a in given if not a.keyword]
    named = {a.name: torch.from_numpy(np.array(a.value)) for a in given if a.keyword}
    timer = Timer(
        "with torch.no_grad(): model(*tensors, **named)",
        globals={"torch": torch, "model": called, "tensors": tensors, "named": named},
        timer=clock,
        num_threads=torch.get_num_threads(),
    )
    return lambda: float(timer.blocked_autorange(min_run_time=SLICE_S).median)


COMPILERS = {"graph": "aot_eager", "compiled": "inductor"}


def by_loop(call: Callable[[], Any], wait: Callable[[Any], None], clock: Clock) -> Clocked:
    """The median of a loop that waits for each result before it reads the clock."""

    def timed(seconds: float, least: int) -> list[float]:
        taken: list[float] = []
        spent = 0.0
        while spent < seconds or len(taken) < least:
            start = clock()
            wait(call())
            taken.append(clock() - start)
            spent += taken[-1]
        return taken

    def run() -> float:
        was_on = gc.isenabled()
        gc.disable()
        try:
            timed(UNCOUNTED_S, 1)
            return statistics.median(timed(SLICE_S, LEAST_CALLS))
        finally:
            if was_on:
                gc.enable()

    return run


def done(result: Any) -> None:
    """On a CPU TensorFlow's eager calls and functions return when they are done."""


def by_tensorflow(model: Any, given: list[Argument], mode: str, clock: Clock) -> Clocked:
    import tensorflow as tf

    tensors = [tf.constant(a.value) for a in given if not a.keyword]
    named = {a.name: tf.constant(a.value) for a in given if a.keyword}
    if mode == "eager":
        return by_loop(lambda: model(*tensors, **named), done, clock)
    # Not of the module itself, whose many arguments cost a call more than its small graphs.
    called = tf.function(
        lambda *values: model(*values, **named),
        jit_compile=mode == "compiled",
        autograph=False,
    )
    return by_loop(lambda: called(*tensors), done, clock)


def by_keras(model: Any, given: list[Argument], mode: str, clock: Clock) -> Clocked:
    import tensorflow as tf

    values = [tf.constant(a.value) for a in given]
    passed: Any = values[0] if len(values) == 1 else values
    if mode == "eager":
        return by_loop(lambda: model(passed), done, clock)
    called = tf.function(
        lambda *parts: model(parts[0] if len(parts) == 1 else list(parts)),
        jit_compile=mode == "compiled",
        autograph=False,
    )
    return by_loop(lambda: called(*values), done, clock)


def by_jax(model: Any, given: list[Argument], mode: str, clock: Clock) -> Clocked:
    import jax

    arrays = [jax.numpy.asarray(a.value) for a in given if not a.keyword]
    named = {a.name: jax.numpy.asarray(a.value) for a in given if a.keyword}

    def run(params: Any, buffers: Any, arrays: Any, named: Any) -> Any:
        return model.apply(params, *arrays, buffers=buffers, **named)

    called = run if mode == "eager" else jax.jit(run)
    return by_loop(
        lambda: called(model.params, model.buffers, arrays, named), jax.block_until_ready, clock
    )


OTHERS = {
    "torch": by_torch,
    "tensorflow": by_tensorflow,
    "keras": by_keras,
    "jax": by_jax,
}


def narrowed(value: np.ndarray, name: str) -> np.ndarray:
    """Values as both clocks' calls are given them: short integers where a framework has them."""
    if value.dtype.kind == "f":
        return value.astype("float32")
    return value.astype("int32") if value.dtype == "int64" and name != "torch" else value


def compared(
    network: Network, name: str, mode: str, rounds: int, clock: Clock, seconds: float
) -> tuple[Ratio, float]:
    """Our time over the other clock's, and our median in seconds.

    Args:
        network: the description.
        name: of the framework.
        mode: "eager", "graph" or "compiled".
        rounds: at least so many.
        clock: read by both.
        seconds: after which no other round is begun, if there are enough for an interval.
    """
    planned = plan(network.inputs, ("given",), 0)
    values = planned.arrays(timed_example(planned))
    opened = open_side(
        InFramework(network, name), "port", dtype="float32", device="cpu", mode=mode
    )
    given = [
        Argument(a.name, narrowed(a.value, name), a.keyword)
        for a in arguments(planned, opened, "reference", values)
    ]
    native = opened.side.model
    with opened.side as side:
        stopwatch = side.stopwatch(given, None)

        def ours() -> float:
            found = measure({name: stopwatch}, budget_s=SLICE_S, clock=clock)[name]
            return statistics.median(found.forward)

        clocks = {"ours": ours, "theirs": OTHERS[name](native, given, mode, clock)}
        for read in clocks.values():  # the first time, both trace and compile
            read()
        taken: dict[str, list[float]] = {"ours": [], "theirs": []}
        order = list(clocks)
        end = time.monotonic() + seconds
        while True:
            random.shuffle(order) if len(taken["ours"]) % 2 == 0 else order.reverse()
            for key in order:
                taken[key].append(clocks[key]())
            found = ratio(taken["ours"], taken["theirs"])
            narrow = found.rounds >= rounds and found.high - found.low <= NARROW
            late = found.rounds >= LEAST_ROUNDS and time.monotonic() > end
            if narrow or late:
                return found, statistics.median(taken["ours"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12, help="at least so many")
    parser.add_argument("--minutes", type=float, default=12.0, help="for all, compiling aside")
    parser.add_argument("--frameworks", default=",".join(OTHERS))
    parser.add_argument("--modes", default="eager,graph")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--write", metavar="NAME", help="a file of results/, without .md")
    options = parser.parse_args()
    random.seed(0)
    asked = options.frameworks.split(",")
    names = [name for name in asked if registry.backend(name).unavailable() is None]
    facts = f"{options.clock} clock, {options.rounds} rounds or more"
    table = Table("Our forward times over those of other clocks", names, facts)
    columns = ("network", "framework", "mode", "ours", "ours / theirs", "95 % interval", "rounds")
    table.head(columns, right=("ours", "ours / theirs", "rounds"))
    modes, keys = options.modes.split(","), options.networks.split(",")
    share = 60 * options.minutes / (len(names) * len(modes) * len(keys))
    found = []
    for name in names:
        for mode in modes:
            for key in keys:
                apart, seconds = compared(
                    NETWORKS[key](), name, mode, options.rounds, CLOCKS[options.clock], share
                )
                found.append(apart.median)
                cells = (f"{1e6 * seconds:,.0f} us", f"{found[-1]:.3f}")
                spread = f"{apart.low:.3f} to {apart.high:.3f}"
                table.row(key, name, mode, *cells, spread, str(apart.rounds))
    within = sum(abs(value - 1) <= GOAL for value in found)
    farthest = max(found, key=lambda value: abs(value - 1))
    table.say(
        "",
        f"{within} of {len(found)} medians within {GOAL:.0%}; the median is "
        f"{statistics.median(found):.3f}, the farthest {farthest:.3f}",
    )
    if options.write:
        table.write(options.write)


if __name__ == "__main__":
    main()
