"""What each framework costs for the networks of the examples: times, ratios, peak memory.

"TensorFlow wastes memory, torch trains faster" is a sentence to be checked, network by network: a
training pass is forward and backward, its ratio to the fastest comes with its 95 % interval, and
the peak is that of a process of its own, above its libraries.

    python benchmarks/costs.py [--networks lenet] [--frameworks torch,tensorflow] [--mode graph]
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable

from pytest_fwcompare.backends import registry
from pytest_fwcompare.networks import Network, zoo
from pytest_fwcompare.records import Timing
from pytest_fwcompare.timing.sides import time_network

FRAMEWORKS = "torch,tensorflow,keras,jax"

NETWORKS: dict[str, Callable[[], Network]] = {
    "lenet": lambda: zoo.lenet(size=28),
    "autoencoder": lambda: zoo.autoencoder(size=32),
    "residual": lambda: zoo.residual_network(size=32, classes=10),
    "text_classifier": lambda: zoo.text_classifier("lstm", units=32),
    "multi_task": lambda: zoo.multi_task(size=16),
    "transformer": lambda: zoo.translation_transformer(100, 100, features=32, hidden=64, layers=2),
}
"""The networks of `examples/`, in sizes that give a framework something to do."""

HEAD = (
    "| network | framework | forward | backward | training pass / fastest (95 %) | first call "
    "| peak | threads |"
)


def row(name: str, timing: Timing) -> str:
    backward = timing.backward.median if timing.backward else 0.0
    ratio = timing.ratio
    assert ratio is not None
    peak = "" if timing.peak_bytes is None else f"{timing.peak_bytes / 2**20:.1f} MiB"
    return (
        f"| {name} | {timing.framework} | {1e3 * timing.forward.median:.2f} ms | "
        f"{1e3 * backward:.2f} ms | {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) | "
        f"{timing.first_call_s:.2f} s | {peak} {timing.peak_of} | {timing.threads} |"
    )


def versions(names: list[str]) -> str:
    return ", ".join(f"{name} {registry.backend(name).version()}" for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--frameworks", default=FRAMEWORKS)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mode", default="eager")
    options = parser.parse_args()
    asked = options.frameworks.split(",")
    names = [name for name in asked if registry.backend(name).unavailable() is None]
    print(
        f"{versions(names)}; Python {platform.python_version()}, {sys.platform}; "
        f"{options.device}, {options.dtype}, {options.mode}\n"
    )
    print(HEAD)
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for key in options.networks.split(","):
        network = NETWORKS[key]()
        timings = time_network(
            network,
            names,
            network.inputs,
            dtype=options.dtype,
            device=options.device,
            mode=options.mode,
            memory=True,
        )
        for timing in timings:
            print(row(key, timing), flush=True)


if __name__ == "__main__":
    main()
