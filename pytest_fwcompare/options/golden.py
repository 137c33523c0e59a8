"""Golden traces: references that are recorded, and replayed where their framework is not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.options.given import base, given

if TYPE_CHECKING:
    import pytest


class GoldenSettings(NamedTuple):
    """Folders of golden traces.

    Attributes:
        record: to write.
        replay: to read.
        command: the option to repeat so that the same traces are replayed.
    """

    record: Path | None = None
    replay: Path | None = None
    command: tuple[str, ...] = ()


def add(group: pytest.OptionGroup, parser: pytest.Parser) -> None:
    """Register the options and their ini twins."""
    for key, text in (
        ("record", "Record what the references of fwcompare_port give, for --fwcompare-replay."),
        ("replay", "Judge ports against recorded references, whose frameworks are not needed."),
    ):
        group.addoption(f"--fwcompare-{key}", metavar="DIR", default=None, help=text)
        parser.addini(f"fwcompare_{key}", text, default=None)


def read(config: pytest.Config) -> GoldenSettings:
    """The settings of this group.

    Raises:
        UsageError: a folder cannot be used, or both are given.
    """
    record, _ = _folder(config, "record")
    replay, source = _folder(config, "replay")
    if record is not None and replay is not None:
        raise UsageError(f"{source}: a run records or replays, not both")
    if (record or replay) is not None and find_spec("safetensors") is None:
        raise UsageError("golden traces need safetensors: pip install 'pytest-fwcompare[golden]'")
    if replay is not None and not replay.is_dir():
        raise UsageError(f"{source}={replay}: there is no such folder")
    typed = source.startswith("--") and replay is not None
    command = (f"{source}={config.getoption('fwcompare_replay')}",) if typed else ()
    return GoldenSettings(record, replay, command)


def _folder(config: pytest.Config, key: str) -> tuple[Path | None, str]:
    raw, source = given(config, key)
    if raw is None:
        return None, ""
    path = base(config, source) / str(raw)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{source}={raw}: expected a folder, this is a file")
    return path, source
