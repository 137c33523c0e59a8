"""Peak memory of one framework in a process of its own, where nobody else's memory is counted.

The child imports the framework, notes what it holds, builds the network (or calls the factory),
sets its peak back, runs forward and backward, and says how far above its libraries it came:
parameters, activations, gradients, and whatever the framework keeps for itself.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_fwcompare.errors import FwcompareError, UsageError

if TYPE_CHECKING:
    from pytest_fwcompare.backends.base import Argument

PATIENCE_S = 300.0

REPEATS = 2
"""Passes; what the first one leaves to be collected is still there in the second."""


@dataclass(frozen=True)
class Footprint:
    """What one framework needed, in bytes.

    Attributes:
        peak: resident bytes above what the process held once the framework was imported.
        device_peak: most bytes taken of the device, by the framework's statistics; None on a CPU.
        imported: resident bytes once the framework was imported.
    """

    peak: int
    device_peak: int | None
    imported: int


def footprint(
    given: Any,
    framework: str,
    arguments: Sequence[Argument],
    *,
    dtype: str = "float32",
    device: str = "cpu",
    mode: str = "eager",
    backward: bool = True,
    patience_s: float = PATIENCE_S,
) -> Footprint | None:
    """Run a described network, or a factory's model, in a new process and see how far it rises.

    Args:
        given: a `Network`, or a factory that can be imported by name.
        framework: import name.
        arguments: inputs in the framework's axis order.
        dtype: working dtype.
        device: "cpu" or "cuda[:N]".
        mode: "eager", "graph" or "compiled".
        backward: run the backward pass too.
        patience_s: seconds after which the child is ended.

    Returns:
        None where the system does not tell a process its memory, or the child failed.

    Raises:
        UsageError: the factory cannot be imported by another process.
    """
    request = {
        "subject": _subject(given),
        "framework": framework,
        "arguments": [(a.name, np.asarray(a.value), a.keyword) for a in arguments],
        "axes": {"dtype": dtype, "device": device, "mode": mode},
        "backward": backward,
    }
    text = base64.b64encode(pickle.dumps(request)).decode()
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_fwcompare.timing.footprint"],
            input=text,
            capture_output=True,
            text=True,
            timeout=patience_s,
            env=os.environ | {"PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        return None
    return Footprint(**json.loads(lines[-1]))


def _subject(given: Any) -> dict[str, Any]:
    from pytest_fwcompare.networks import Network
    from pytest_fwcompare.networks.plain import to_plain
    from pytest_fwcompare.workers.sources import source_of

    if isinstance(given, Network):
        return {"network": to_plain(given)}
    found = source_of(given)
    if found["kind"] != "factory":
        raise UsageError(f"footprint: expected a network or a factory, got {given!r}")
    return {"factory": found}


def _child(request: Mapping[str, Any]) -> Footprint | None:
    """What the process of its own does."""
    from pytest_fwcompare.backends.registry import require
    from pytest_fwcompare.timing.memory import reset_peak, resident_bytes

    backend = require(request["framework"])
    backend.environment()  # imports all of it
    subject = _loaded(request["subject"], request["framework"])
    gc.collect()
    imported = resident_bytes()
    if imported is None or not reset_peak():
        return None
    device_peak = _passes(subject, request, backend)
    peak = resident_bytes("VmHWM")
    return None if peak is None else Footprint(max(0, peak - imported), device_peak, imported)


def _loaded(subject: Mapping[str, Any], framework: str) -> Any:
    """The network or factory, with everything imported that will be needed."""
    import pytest_fwcompare.opening.given
    import pytest_fwcompare.timing.turns  # noqa: F401
    from pytest_fwcompare.networks.plain import from_plain
    from pytest_fwcompare.sides import InFramework
    from pytest_fwcompare.workers.loading import find

    if "network" in subject:
        return InFramework(from_plain(subject["network"]), framework)
    return find(subject["factory"])


def _passes(subject: Any, request: Mapping[str, Any], backend: Any) -> int | None:
    from pytest_fwcompare.backends.base import Argument
    from pytest_fwcompare.opening.given import open_side
    from pytest_fwcompare.timing.memory import reset_peak
    from pytest_fwcompare.timing.turns import cotangents_of

    arguments = [Argument(*fields) for fields in request["arguments"]]
    opened = open_side(subject, "port", **request["axes"])
    side = opened.side
    side.prepare(arguments)
    backward = request["backward"] and backend.can_differentiate
    stopwatch = side.stopwatch(arguments, cotangents_of(side, arguments) if backward else None)
    call = stopwatch.forward_backward or stopwatch.forward

    # What building took for a moment is not what running needs.
    gc.collect()
    reset_peak()

    def run() -> None:
        with stopwatch.settings():
            for _ in range(REPEATS):
                call()

    found: int | None = backend.device_peak(request["axes"]["device"], run)
    if found is None:
        run()
    return found


def main() -> int:
    """Read a request, answer with one line of JSON."""
    request = pickle.loads(base64.b64decode(sys.stdin.read()))
    try:
        made = _child(request)
    except FwcompareError as error:
        print(error, file=sys.stderr)
        return 1
    if made is None:
        return 1
    print(json.dumps(vars(made)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
