"""Values of the device axis: one device for both sides, or one for each.

Read by every pytest run: imports neither NumPy nor a framework.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

KINDS = ("cpu", "cuda")

FORMS = "cpu, cuda, cuda:N, or reference/port: cpu/cuda"

_ONE = r"(?:cpu|cuda(?::\d+)?)"
_AXIS = re.compile(rf"({_ONE})(?:/({_ONE}))?")


def is_device(device: str) -> bool:
    """Whether it is a value of the axis."""
    return _AXIS.fullmatch(device) is not None


def device_of(device: str, role: str) -> str:
    """The device of one side.

    Args:
        device: "cpu", "cuda", "cuda:N", or "reference's/port's".
        role: "reference"; any other means the port.
    """
    reference, _, port = device.partition("/")
    return reference if role == "reference" or not port else port


def kind_of(device: str) -> str:
    """The word "cpu" or "cuda", without the number."""
    return device.partition(":")[0]


def only_cpu(device: str) -> bool:
    """Whether neither side runs anywhere else."""
    return {device_of(device, role) for role in ("reference", "port")} == {"cpu"}


def is_among(device: str, names: Iterable[str]) -> bool:
    """Whether a framework that sees devices of these names has that one; "cuda" is the first."""
    return (f"{device}:0" if device == "cuda" else device) in names


def why_not(dtype: str, device: str) -> str | None:
    """Why a dtype cannot be had on a device, or None."""
    if dtype == "tf32" and only_cpu(device):
        return (
            "dtype 'tf32' is float32 with the rounded products of NVIDIA GPUs; on device 'cpu' "
            "it is float32. Ask for device cuda or cpu/cuda"
        )
    return None


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
