"""Reads and writes the baseline's file: whole or not at all, and never over a damaged one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pytest_fwcompare.files import replace_file
from pytest_fwcompare.gate.baseline import Baseline, BaselineError, dumps, loads

PATIENCE = 60.0
"""Seconds to wait for another process that updates the same file."""


def read(path: Path) -> Baseline | None:
    """The baseline in a file; None if there is no file.

    Raises:
        BaselineError: it cannot be read, or is no baseline.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BaselineError(f"{path}: cannot be read: {error}") from None
    return loads(text, str(path))


def read_there(path: Path) -> Baseline:
    """The baseline in a file that must be there.

    Raises:
        BaselineError: it is not, it cannot be read, or it is no baseline.
    """
    found = read(path)
    if found is None:
        raise BaselineError(f"{path}: there is no such file")
    return found


def update(path: Path, change: Callable[[Baseline], Baseline]) -> Baseline:
    """Change the baseline in a file, which other processes may do at the same time.

    The file is read again under a lock, so that nothing is lost that another process wrote since,
    and it is written only if its content changes.

    Args:
        path: of the file, which need not exist.
        change: from what the file holds to what it shall hold.

    Returns:
        What the file holds now.

    Raises:
        BaselineError: what is there is no baseline; it stays as it is.
    """
    from filelock import FileLock, Timeout

    path = path.resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=PATIENCE):
            before = read(path)
            after = change(before or Baseline())
            if before is None or dumps(before) != dumps(after):
                write(path, after)
    except Timeout:
        raise BaselineError(
            f"{path}: another process has been updating it for {PATIENCE:.0f} seconds; nothing "
            f"was written"
        ) from None
    return after


def write(path: Path, baseline: Baseline) -> None:
    """Write a baseline in place of what is there."""
    replace_file(path, dumps(baseline).encode())
