"""What the command line or the ini file says, and the checks that every option shares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_fwcompare.errors import UsageError

if TYPE_CHECKING:
    import pytest


def given(config: pytest.Config, key: str) -> tuple[Any, str]:
    """The value of an option or its ini twin, and what to call it; (None, "") if neither."""
    cli = config.getoption(f"fwcompare_{key}")
    if cli is not None:
        return cli, f"--fwcompare-{key.replace('_', '-')}"
    ini = config.getini(f"fwcompare_{key}")
    return (None, "") if ini is None else (ini, f"ini fwcompare_{key}")


def flag(config: pytest.Config, key: str) -> bool:
    """Whether a switch is on, by option or ini twin."""
    cli = config.getoption(key)
    return bool(cli if cli is not None else config.getini(key))


def base(config: pytest.Config, source: str) -> Path:
    """The folder that a path is relative to: where it was typed, or where the ini file is."""
    typed = source.startswith("--")
    return config.invocation_params.dir if typed else config.rootpath


def split(value: object, where: str) -> tuple[str, ...]:
    """Names from "cpu,cuda" or a list of strings, in order, each once.

    Raises:
        UsageError: it is neither, or it is empty.
    """
    if isinstance(value, str):
        names = [name for name in re.split(r"[,\s]+", value) if name]
    elif isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value):
        names = list(value)
    else:
        raise UsageError(f"{where}: expected a name or a list of names, got {value!r}")
    if not names:
        raise UsageError(f"{where}: expected at least one name, got {value!r}")
    return tuple(dict.fromkeys(names))


def check_count(value: object, where: str) -> int:
    """A number of things, one at least.

    Raises:
        UsageError: it is not a positive whole number.
    """
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{where}: expected a whole number of at least 1, got {value!r}")
    return value
