"""Resident memory of this process: what it holds, and how far it rose while something ran."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""Written to `RESET` it sets the peak to what is held now (proc(5), since Linux 4.0)."""


def resident_bytes(field: str = "VmRSS", status: Path = STATUS) -> int | None:
    """Bytes held ("VmRSS") or the most ever held ("VmHWM"); None where it cannot be read."""
    try:
        text = status.read_text()
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def reset_peak() -> bool:
    """Set the peak back to what is held now; False where the system does not let a process."""
    try:
        RESET.write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def peak_rise(call: Callable[[], None]) -> int | None:
    """How many bytes the resident memory rose at most while `call` ran.

    Memory that an allocator kept from earlier is used again without a rise, so this is a lower
    bound of what the call needs.

    Returns:
        Bytes, or None where the system does not tell or the rise could not be seen.
    """
    before = resident_bytes()
    seen = reset_peak()
    call()
    if not seen:
        return None
    peak = resident_bytes("VmHWM")
    if before is None or peak is None or peak <= before:
        return None
    return peak - before
