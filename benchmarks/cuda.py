"""torch on CUDA against JAX on CUDA against both on the CPU, in float32, TF32 and sixteen bits.

For each network of the examples: the verdict against the NumPy reference, its noise, the time of a
forward and a backward pass, its ratio to the fastest of the row's dtype, and the device's peak.
Written to `benchmarks/results/`, named after the device, with driver and versions, at every row:
a run that is cut off leaves what it measured. Once `--minutes` are over, what is left is named and
not begun.

    python benchmarks/cuda.py [--networks lenet] [--dtypes float32,tf32] [--frameworks torch,jax]

`--device cpu` is a dry run where there is no GPU: the same table of the CPU alone, which says so.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from costs import NETWORKS

import pytest_fwcompare as fwc
from pytest_fwcompare.backends import registry
from pytest_fwcompare.devices import why_not
from pytest_fwcompare.errors import FwcompareError
from pytest_fwcompare.records import Comparison, Timing
from pytest_fwcompare.sides import InFramework
from pytest_fwcompare.timing.sides import time_network

DTYPES = "float32,tf32,float16,bfloat16"
FRAMEWORKS = "torch,jax"
DEVICES = ("cuda", "cpu")
RESULTS = Path(__file__).parent / "results"
EXAMPLES = 3
"""Each has sizes of its own, for which XLA compiles every program anew."""

HEAD = (
    "| network | dtype | framework | device | verdict | noise | forward | backward | "
    "device alone | peak |"
)


def device_facts() -> dict[str, str] | None:
    """Name, driver and memory of the first GPU, as its driver says; None without one."""
    command = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,memory.total",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    first = done.stdout.strip().splitlines()
    if not first:
        return None
    name, driver, memory = (part.strip() for part in first[0].split(","))
    return {"device": name, "driver": driver, "memory": memory}


def rows(key: str, dtype: str, names: list[str], devices: Sequence[str]) -> Iterator[str]:
    """A row for each framework and device."""
    network = NETWORKS[key]()
    for device in devices:
        if reason := why_not(dtype, device):
            yield f"| {key} | {dtype} | | {device} | {reason.partition(';')[0]} | | | | | |"
            continue
        timings = {
            timing.framework: timing
            for timing in time_network(
                network,
                names,
                network.inputs,
                dtype=dtype,
                device=device,
                mode="eager",
            )
        }
        for name in names:
            found = judged(key, name, dtype, device)
            yield row(key, dtype, name, device, found, timings.get(name))


def judged(key: str, name: str, dtype: str, device: str) -> Comparison | str:
    """The comparison with the NumPy reference, or why there is none."""
    network = NETWORKS[key]()
    try:
        return fwc.compare(
            InFramework(network, "numpy"),
            InFramework(network, name),
            inputs=network.inputs,
            dtype=dtype,
            device=device,
            examples=EXAMPLES,
        )
    except FwcompareError as error:
        return str(error)


def row(
    key: str, dtype: str, name: str, device: str, found: Comparison | str, timing: Timing | None
) -> str:
    verdict, noise = "", ""
    if isinstance(found, str):
        verdict = found
    else:
        verdict = f"{found.unsupported} not supported" if found.unsupported else found.verdict
        noise = f"{found.noise:.1e}"
    times = ["", "", "", ""]
    if timing is not None:
        backward = timing.backward
        times = [
            f"{1e3 * timing.forward.median:.3f} ms",
            "" if backward is None else f"{1e3 * backward.median:.3f} ms",
            "" if timing.device_s is None else f"{1e3 * timing.device_s:.3f} ms",
            ""
            if timing.peak_bytes is None
            else f"{timing.peak_bytes / 2**20:.1f} MiB ({timing.peak_of})",
        ]
    return f"| {' | '.join([key, dtype, name, device, verdict, noise, *times])} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--dtypes", default=DTYPES)
    parser.add_argument("--frameworks", default=FRAMEWORKS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    dry = options.device == "cpu"
    facts = (
        {"device": "CPU", "driver": "none", "memory": "no GPU: a dry run"}
        if dry
        else device_facts()
    )
    if facts is None:
        print("no NVIDIA GPU answers here (nvidia-smi): nothing is measured, nothing is written")
        return 1
    names = [
        name
        for name in options.frameworks.split(",")
        if registry.backend(name).unavailable() is None
        and (dry or "cuda:0" in registry.backend(name).device_names())
    ]
    if not names:
        print(f"none of {options.frameworks} sees the {facts['device']}")
        return 1
    table = Table(facts, names)
    asked = [(k, d) for k in options.networks.split(",") for d in options.dtypes.split(",")]
    end = time.monotonic() + 60 * options.minutes
    for place, (key, dtype) in enumerate(asked):
        if time.monotonic() > end:
            left = ", ".join(f"{k} {d}" for k, d in asked[place:])
            table.say("", f"Not begun after {options.minutes} minutes: {left}.")
            break
        for line in rows(key, dtype, names, DEVICES[1:] if dry else DEVICES):
            table.say(line)
    print(f"\nwritten to {table.path}")
    return 0


class Table:
    """Lines that are printed, and kept in a file that is whole after each of them."""

    def __init__(self, facts: dict[str, str], names: Sequence[str]) -> None:
        name = re.sub(r"\W+", "-", facts["device"]).strip("-").lower()
        self.path = RESULTS / f"cuda-{name}.md"
        self.lines: list[str] = []
        self.say(
            f"# {facts['device']}, driver {facts['driver']}, {facts['memory']}",
            "",
            f"{datetime.date.today().isoformat()}; Python {platform.python_version()}; "
            f"load average {os.getloadavg()[0]:.0f}; {', '.join(map(version, names))}",
            "",
            HEAD,
            "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
        )

    def say(self, *lines: str) -> None:
        """Add lines."""
        self.lines += lines
        print("\n".join(lines), flush=True)
        RESULTS.mkdir(exist_ok=True)
        partial = self.path.with_suffix(".part")
        partial.write_text("\n".join(self.lines) + "\n")
        partial.replace(self.path)


def version(name: str) -> str:
    """A framework's version, with what it knows of CUDA."""
    backend = registry.backend(name)
    facts = backend.environment()
    more = ", ".join(f"{key} {facts[key]}" for key in ("cuda", "jaxlib") if facts.get(key))
    return f"{name} {backend.version()}{f' ({more})' if more else ''}"


if __name__ == "__main__":
    sys.exit(main())
