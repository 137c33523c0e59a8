"""The machine and the command of a run: what its times mean nothing without."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

Host = Mapping[str, str]
"""Facts by name, in the order in which they are shown."""


def host_of(config: pytest.Config, options: Sequence[str]) -> dict[str, str]:
    """What is known of this run.

    No names of machines or users, and no options of others, which may hold secrets: reports are
    shown around.

    Args:
        config: of the run.
        options: this plugin's own, as they were typed.
    """
    return {
        "command": shlex.join(["pytest", *options, *_selection(config)]),
        "python": platform.python_version(),
        "pytest": version("pytest"),
        "numpy": version("numpy"),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processors": str(os.cpu_count() or "unknown"),
    }


def _selection(config: pytest.Config) -> Iterator[str]:
    """What pytest was told to run: names, `-k`, `-m`."""
    if config.args_source is config.ArgsSource.ARGS:
        yield from config.args
    for flag, value in (("-k", config.option.keyword), ("-m", config.option.markexpr)):
        if value:
            yield from (flag, value)
