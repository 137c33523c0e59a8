"""Large arrays between processes of one host: memory files that no crash can leave behind.

A memory file (memfd, Linux) has no name and is gone with the last process that holds it. Its
receiver opens it as /proc/PID/fd/N and maps a private copy, so nothing is copied there and the
sender's bytes cannot change under it. Where there are none, arrays go inside the message.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np

LEAST = 1 << 16
"""Bytes from which on an array is worth a memory file."""

ALIGNED = 64
"""Arrays begin at multiples of this, as those of NumPy and the frameworks do."""


def available() -> bool:
    """Whether this system has memory files that other processes can open."""
    return hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()


class Outgoing:
    """Collects the large arrays of one message in a memory file.

    The file must stay open until the receiver has answered, which says that it mapped it.

    Args:
        enabled: False sends everything inside the message.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._arrays: list[tuple[int, Any]] = []
        self._size = 0
        self._fd = -1

    def store(self, array: np.ndarray) -> int | None:
        """Take an array in; its offset, or None if it is too small to be worth it."""
        if not self._enabled or array.nbytes < LEAST:
            return None
        at = self._size
        self._arrays.append((at, np.ascontiguousarray(array)))
        self._size = -(-(at + array.nbytes) // ALIGNED) * ALIGNED
        return at

    def finish(self) -> tuple[int, int, int] | None:
        """Write the file: process id, file descriptor, size in bytes; None if there is nothing."""
        if not self._arrays:
            return None
        self._fd = os.memfd_create("fwcompare")
        for at, array in self._arrays:
            left, place = memoryview(array).cast("B"), at
            while left:
                written = os.pwrite(self._fd, left, place)
                left, place = left[written:], place + written
        os.ftruncate(self._fd, self._size)
        self._arrays.clear()
        return os.getpid(), self._fd, self._size

    def close(self) -> None:
        """Let go of the file; mappings of it live on."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Incoming:
    """The memory file of a message that came in.

    Args:
        handle: what `Outgoing.finish` gave at the other end.

    Raises:
        OSError: the file cannot be opened: the sender is gone, or runs on another host.
    """

    def __init__(self, handle: tuple[int, int, int] | None) -> None:
        self._view: memoryview | None = None
        if handle is None:
            return
        process, number, size = (int(part) for part in handle)
        fd = os.open(f"/proc/{process}/fd/{number}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._view = memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_COPY))
        finally:
            os.close(fd)

    def fetch(self, at: int, size: int) -> memoryview:
        """Bytes at an offset; the mapping lives as long as any array made of it."""
        if self._view is None:
            return memoryview(b"")
        return self._view[at : at + size]


class Probe:
    """Finds out whether two processes can share memory files: one writes, the other reads."""

    def __init__(self) -> None:
        self.word = os.urandom(16)
        self._fd = -1
        self.handle: tuple[int, int, int] | None = None
        if available():
            self._fd = os.memfd_create("fwcompare-probe")
            os.write(self._fd, self.word)
            self.handle = os.getpid(), self._fd, len(self.word)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def reads(handle: tuple[int, int, int] | None, word: bytes) -> bool:
    """Whether this process finds the other's word in its memory file."""
    try:
        return handle is not None and bytes(Incoming(handle).fetch(0, len(word))) == word
    except (OSError, ValueError):
        return False
