"""What a failed comparison was: memory that ran out, or an axis that a model does not support."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pytest_fwcompare.backends.registry import backend, owner
from pytest_fwcompare.errors import FwcompareError, OutOfMemory, WorkerDied
from pytest_fwcompare.formats import format_of
from pytest_fwcompare.records import Comparison

Attempt = Callable[..., Comparison]
"""The same comparison with other axes and fewer examples."""

MEMORY = re.compile(r"(reference|port|model|side), memory: ")
"""How the message of a comparison begins that ran out of memory."""


def attempted(attempt: Attempt, reference: Any, port: Any, **axes: Any) -> Comparison:
    """Compare, and say what stood in the way where something did.

    Args:
        attempt: makes the comparison; takes `dtype`, `device`, `mode`.
        reference: what is taken as right.
        port: what is judged.
        axes: dtype, device and mode.
    """
    try:
        made = attempt(**axes)
    except (OutOfMemory, WorkerDied) as error:  # while a side was opened
        names = (framework_of(reference), framework_of(port))
        made = replace(Comparison("error", *names, message=str(error)), **axes)
    if made.verdict != "error":
        return made
    if MEMORY.match(made.message):
        release()
        return made
    return without_support(made, attempt, axes)


def release() -> None:
    """Let the frameworks in this process give back the memory that nothing uses any more."""
    gc.collect()
    for name in ("torch", "tensorflow", "jax"):
        if name in sys.modules:
            backend(name).release_memory()


def without_support(made: Comparison, attempt: Attempt, axes: dict[str, Any]) -> Comparison:
    """The failed comparison, marked if it is the mode or the dtype that a model cannot do."""
    tried = dict(axes)
    for axis, plain, unusual in (
        ("mode", "eager", axes["mode"] != "eager"),
        (
            "dtype",
            "float32",
            format_of(axes["dtype"]).stored != "float32" or format_of(axes["dtype"]).mixed,
        ),
    ):
        if not unusual:
            continue
        tried[axis] = plain
        try:
            again = attempt(**tried, examples=1, explain=False, timings=False)
        except FwcompareError:
            continue
        if again.verdict != "error":
            does = "runs eagerly" if axis == "mode" else "runs in float32"
            said = f"{axis} {axes[axis]!r} is not supported here; the same comparison {does}"
            return replace(made, unsupported=axis, message=f"{said}. {made.message}")
    return made


def framework_of(given: Any) -> str:
    """Import name of the framework of what a caller gave; "" if only opening it would tell."""
    worker = getattr(given, "fwcompare_backend", None)  # its name has the tag, too
    named = getattr(worker, "name", None) or getattr(given, "framework", None)
    if isinstance(named, str):
        return named
    try:
        return owner(given).name
    except FwcompareError:
        return ""
