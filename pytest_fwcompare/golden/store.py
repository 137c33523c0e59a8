"""The files of one recorded reference: `index.json`, and arrays in safetensors.

safetensors can hold no code, and its reader checks every size against the file before it
allocates anything. The index names its files with their hashes, and is replaced last: a reader
finds the old traces or the new ones, never a mixture.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pytest_fwcompare import __version__
from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.files import replace_file
from pytest_fwcompare.gate.schema import check, load

FORMAT = 1
"""Version of the index; a reader refuses a newer one."""

INDEX = "index.json"
LARGEST_INDEX = 1 << 28
"""Bytes of an index that are read: a sentence of facts a tensor, never data."""

PART = 1 << 28
"""Bytes of arrays after which another file is begun, so that few are held in memory."""

NAME = re.compile(r"\A[0-9]+-[0-9a-f]{16}\.safetensors\Z")


_BINARY = getattr(os, "O_BINARY", 0)


class GoldenError(UsageError):
    """Golden traces that cannot be recorded or used."""


class Writer:
    """Collects arrays, and writes them with their index.

    Equal arrays are kept once in each file.

    Args:
        folder: to be written; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arrays: dict[str, Array] = {}
        self._known: dict[str, str] = {}
        self._bytes = 0
        self._files: list[dict[str, Any]] = []

    def add(self, value: Array) -> str:
        """Keep an array; the text names it in the index."""
        value = np.asarray(value, order="C")
        if value.dtype.kind == "f" and value.dtype.itemsize > 8:
            value = value.astype(np.float64)
        content = hashlib.sha256(f"{value.dtype.str}{value.shape}".encode())
        content.update(value.data)
        digest = content.hexdigest()
        if digest not in self._known:
            self._known[digest] = f"{len(self._files)}/{len(self._arrays)}"
            # A caller may go on writing into what it handed over.
            self._arrays[str(len(self._arrays))] = value.copy()
            self._bytes += value.nbytes
        name = self._known[digest]
        if self._bytes > PART:
            self._flush()
        return name

    def _flush(self) -> None:
        """Write the arrays collected so far to a file of their own."""
        if not self._arrays:
            return
        from safetensors.numpy import save

        content = save(self._arrays)
        digest = hashlib.sha256(content).hexdigest()
        name = f"{len(self._files)}-{digest[:16]}.safetensors"
        replace_file(self.folder / name, content)
        self._files.append({"name": name, "sha256": digest, "bytes": len(content)})
        self._arrays, self._known, self._bytes = {}, {}, 0

    def finish(self, facts: Mapping[str, Any]) -> int:
        """Write what is left, then the index, and remove files that were there before.

        Returns:
            Bytes of all files.
        """
        self._flush()
        index = {
            "format": FORMAT,
            "written_by": f"pytest-fwcompare {__version__}",
            "files": self._files,
            **facts,
        }
        content = json.dumps(index, indent=1, allow_nan=False).encode()
        replace_file(self.folder / INDEX, content)
        sizes = {file["name"]: int(file["bytes"]) for file in self._files}
        for path in self.folder.iterdir():
            if NAME.match(path.name) and path.name not in sizes:
                path.unlink()
        return len(content) + sum(sizes.values())


class Reader:
    """Reads recorded arrays; every file is held against its hash before it is opened.

    Args:
        folder: that a `Writer` wrote.

    Raises:
        GoldenError: it is not such a folder, or anything in it is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = self._read_index()
        self._files = [self._open(file) for file in self.index["files"]]

    def _read_index(self) -> dict[str, Any]:
        content = read_regular(self.folder / INDEX, LARGEST_INDEX)
        where = str(self.folder / INDEX)
        try:
            index = json.loads(content, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise GoldenError(f"{where}: not JSON ({error}); record it anew") from None
        if not isinstance(index, dict) or not isinstance(index.get("format"), int):
            raise GoldenError(f"{where}: expected golden traces, with a 'format' number")
        if index["format"] > FORMAT:
            raise GoldenError(
                f"{where}: format {index['format']} was written by a newer version; this one, "
                f"{__version__}, reads up to format {FORMAT}. Upgrade pytest-fwcompare"
            )
        try:
            check(index, load("pytest_fwcompare.golden", "index.schema.json"), where)
        except UsageError as error:
            raise GoldenError(str(error)) from None
        return index

    def _open(self, file: Mapping[str, Any]) -> Any:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError:
            raise GoldenError(
                "golden traces need safetensors: pip install 'pytest-fwcompare[golden]'"
            ) from None
        path = self.folder / file["name"]
        content = read_regular(path, file["bytes"])
        if len(content) != file["bytes"] or hashlib.sha256(content).hexdigest() != file["sha256"]:
            raise GoldenError(
                f"{path}: its content is not what was recorded (another SHA-256); restore it, or "
                f"record it anew"
            )
        try:
            return safe_open(path, framework="numpy")
        except SafetensorError as error:
            raise GoldenError(f"{path}: {error}") from None

    def get(self, name: str) -> Array:
        """The array that `Writer.add` called so.

        Raises:
            GoldenError: the files have none of that name.
        """
        file, _, key = name.partition("/")
        try:
            return np.asarray(self._files[int(file)].get_tensor(key))
        except Exception as error:  # whatever the library says of a strange tensor
            raise GoldenError(f"{self.folder}: no array {name!r}: {error}") from None


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file of at most so many bytes.

    Raises:
        GoldenError: it is not there, is no regular file, or is larger.
    """
    try:
        # A pipe that nobody writes to must not stop the run.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise GoldenError(f"{path}: expected a file")
            if found.st_size > most:
                raise GoldenError(f"{path}: {found.st_size} bytes, expected at most {most}")
            return file.read()
    except OSError as error:
        raise GoldenError(f"{path}: cannot be read: {error.strerror or error}") from None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
