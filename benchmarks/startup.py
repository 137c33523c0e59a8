"""What the plugin costs every pytest run: `pytest --collect-only` on an empty folder.

Runs with and without it take turns, in an order drawn anew each round, so that a drifting machine
hurts both alike; the median of the paired differences is what counts.

    python benchmarks/startup.py [rounds]
"""

from __future__ import annotations

import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

GOAL_S = 0.010
OTHERS = ("cacheprovider", "hypothesispytest", "jaxtyping", "xdist", "xdist.looponfail")
"""Plugins that would only add noise to both sides."""

COMMAND = [sys.executable, "-m", "pytest", "--collect-only", "-q"]
COMMAND += [word for name in OTHERS for word in ("-p", f"no:{name}")]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
"""An installed package is compiled once, not by every run."""

VARIANTS = {"with": [], "without": ["-p", "no:fwcompare"]}


def seconds(folder: str, options: list[str]) -> tuple[float, float]:
    """Wall time and processor time of one run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        [*COMMAND, *options], cwd=folder, capture_output=True, check=False, env=ENVIRONMENT
    )
    taken = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 5:  # pytest's "no tests collected"
        sys.exit(f"pytest ended with {done.returncode}: {done.stdout.decode()}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return taken, used


def main(rounds: int) -> None:
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for options in VARIANTS.values():
            seconds(folder, options)  # compiles what is not yet
        order = list(VARIANTS)
        for _ in range(rounds):
            random.shuffle(order)
            for name in order:
                taken[name].append(seconds(folder, VARIANTS[name]))
    for index, kind in enumerate(("wall", "processor")):
        series = {name: [1e3 * run[index] for run in runs] for name, runs in taken.items()}
        apart = [a - b for a, b in zip(series["with"], series["without"], strict=True)]
        low, median, high = statistics.quantiles(apart, n=4)
        print(
            f"{kind} time: with {statistics.median(series['with']):.1f} ms, without "
            f"{statistics.median(series['without']):.1f} ms; the plugin costs {median:.1f} ms "
            f"(quartiles {low:.1f} to {high:.1f}, {rounds} rounds)"
        )
    print(f"goal: at most {1e3 * GOAL_S:.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
