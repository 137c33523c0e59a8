"""Large arrays between processes of one host: memory files that no crash can leave behind.

A memory file (memfd, Linux) has no name and is gone with the last process that holds it. Its
receiver opens it as /proc/PID/fd/N and maps it, so that arrays are copied once, by the sender.
Where there are none, arrays go inside the message.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

LEAST = 1 << 16
"""Bytes from which on an array is worth a memory file."""

ALIGNED = 64
"""Arrays begin at multiples of this, as those of NumPy and the frameworks do."""


MOST_FREE = 1 << 29
"""Bytes of memory files that are kept to be used again."""


def available() -> bool:
    """Whether this system has memory files that other processes can open."""
    return hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()


Handle = tuple[int, int, int, int]
"""Process and descriptor that a memory file is opened by, its number, its size in bytes."""


class Block:
    """A memory file that was made here, mapped for writing."""

    def __init__(self, number: int, size: int) -> None:
        self.size = size
        self.fd = os.memfd_create("fwcompare")
        os.ftruncate(self.fd, size)
        self.map = mmap.mmap(self.fd, size)
        self.handle: Handle = (os.getpid(), self.fd, number, size)

    def close(self) -> None:
        """Let go of the file; mappings elsewhere live on."""
        self.map.close()
        os.close(self.fd)


class Sender:
    """Puts large arrays into memory files, which are used again once the receiver is done.

    A file is the receiver's from the message that names it until the receiver says that no array
    in it is needed any more. Pages that are used again cost a tenth of fresh ones.

    Args:
        enabled: False sends everything inside the messages.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._blocks: dict[int, Block] = {}
        self._free: dict[int, Block] = {}
        self._count = 0
        self._arrays: list[tuple[int, np.ndarray]] = []
        self._size = 0

    def store(self, array: np.ndarray) -> int | None:
        """Take an array into the next message; its offset, or None if it is too small for that."""
        if not self.enabled or array.nbytes < LEAST:
            return None
        at = self._size
        self._arrays.append((at, array))
        self._size = -(-(at + array.nbytes) // ALIGNED) * ALIGNED
        return at

    def finish(self) -> Handle | None:
        """Write the arrays of the message; None if there are none."""
        arrays, size = self._arrays, self._size
        self._arrays, self._size = [], 0
        if not arrays:
            return None
        block = self._block(size)
        for at, array in arrays:
            target = np.frombuffer(block.map, array.dtype, array.size, at).reshape(array.shape)
            target[...] = array
            del target
        return block.handle

    def _block(self, size: int) -> Block:
        """A free block that is not much too large, or a new one."""
        fitting = [number for number, b in self._free.items() if size <= b.size <= 4 * size]
        if fitting:
            number = min(fitting, key=lambda n: self._free[n].size)
            return self._free.pop(number)
        self._count += 1
        block = Block(self._count, 1 << (size - 1).bit_length())
        self._blocks[self._count] = block
        return block

    def released(self, numbers: Sequence[int]) -> None:
        """The receiver is done with these blocks."""
        for number in numbers:
            if number in self._blocks:
                self._free[number] = self._blocks[number]

    def gone(self) -> list[int]:
        """Give up free blocks beyond `MOST_FREE`; the receiver is to forget them."""
        given_up = []
        while sum(block.size for block in self._free.values()) > MOST_FREE:
            number = max(self._free, key=lambda n: self._free[n].size)
            self._free.pop(number)
            self._blocks.pop(number).close()
            given_up.append(number)
        return given_up

    def close(self) -> None:
        """Let go of all."""
        for block in self._blocks.values():
            with contextlib.suppress(BufferError):
                block.close()
        self._blocks.clear()
        self._free.clear()


class Receiver:
    """Maps the other's memory files, each once, and tells when their arrays are gone."""

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}
        self._released: list[int] = []
        self._whole: np.ndarray | None = None

    def open(self, handle: Handle | None) -> None:
        """The memory file of the message that came in.

        Raises:
            OSError: it cannot be opened: the sender is gone, or runs on another host.
        """
        self._whole = None
        if handle is None:
            return
        process, descriptor, number, size = (int(part) for part in handle)
        if number not in self._maps:
            self._maps[number] = _mapped(process, descriptor, size)
        # Arrays of the message are views of this one, which goes when the last of them goes.
        self._whole = np.frombuffer(self._maps[number], np.uint8)
        weakref.finalize(self._whole, self._released.append, number)

    def fetch(self, at: int, size: int) -> np.ndarray:
        """Bytes at an offset of that file."""
        if self._whole is None:
            return np.empty(0, np.uint8)
        return self._whole[at : at + size]

    def done(self) -> None:
        """The message has been read."""
        self._whole = None

    def released(self) -> list[int]:
        """Numbers of files that nothing here needs any more, each told once."""
        told = list(self._released)
        del self._released[: len(told)]
        return told

    def forget(self, numbers: Sequence[int]) -> None:
        """The other has given these files up."""
        for number in numbers:
            self._maps.pop(number, None)


def _mapped(process: int, descriptor: int, size: int) -> mmap.mmap:
    fd = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, size)
    finally:
        os.close(fd)


class Probe:
    """Finds out whether two processes can share memory files: one writes, the other reads."""

    def __init__(self) -> None:
        self.word = os.urandom(16)
        self._fd = -1
        self.handle: Handle | None = None
        if available():
            self._fd = os.memfd_create("fwcompare-probe")
            os.write(self._fd, self.word)
            self.handle = os.getpid(), self._fd, 0, len(self.word)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def reads(handle: Handle | None, word: bytes) -> bool:
    """Whether this process finds the other's word in its memory file."""
    try:
        if handle is None:
            return False
        process, descriptor, _, size = handle
        return bytes(_mapped(process, descriptor, size)[:]) == word
    except (OSError, ValueError):
        return False
