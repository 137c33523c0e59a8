"""The reports of a run: which files are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.options.given import base, flag, given

if TYPE_CHECKING:
    import pytest

SUFFIXES = (".json", ".html", ".md")

NEEDED: Mapping[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    ".html": ("report", (("jinja2", "jinja2"), ("vl_convert", "vl-convert-python"))),
    "tensorboard": ("tensorboard", (("tensorboardX", "tensorboardX"),)),
}
"""By kind of report: the extra that brings what it needs, and that as (module, distribution)."""


class Reports(NamedTuple):
    """What is written at the end of a run.

    Attributes:
        paths: files, suffixes already checked.
        tensorboard: folder of event files.
    """

    paths: tuple[Path, ...] = ()
    tensorboard: Path | None = None


def add(group: pytest.OptionGroup, parser: pytest.Parser) -> None:
    """Register the options and their ini twins."""
    text = f"Write a report ({', '.join(SUFFIXES)}); repeatable."
    group.addoption("--fwcompare-report", metavar="PATH", action="append", default=None, help=text)
    parser.addini("fwcompare_report", text, type="linelist", default=[])
    text = "Write event files for TensorBoard: gap, noise, parameters, gradients, timings."
    group.addoption("--fwcompare-tensorboard", metavar="DIR", default=None, help=text)
    parser.addini("fwcompare_tensorboard", text, default=None)


def read(config: pytest.Config) -> Reports:
    """What the command line or the ini file asks for.

    Raises:
        UsageError: a report that is not written, or one whose packages are not installed. That is
            said before anything runs.
    """
    return Reports(_paths(config), _tensorboard(config))


def check_installed(kind: str, source: str) -> None:
    """Refuse a report whose packages are missing.

    Args:
        kind: a key of `NEEDED`; any other needs nothing.
        source: what asked for it, as it was typed.

    Raises:
        UsageError: with what to install.
    """
    from importlib.util import find_spec

    extra, modules = NEEDED.get(kind, ("", ()))
    missing = [name for module, name in modules if find_spec(module) is None]
    if missing:
        raise UsageError(
            f"{source}: needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed: pip install "
            f"'pytest-fwcompare[{extra}]'"
        )


def check_path(path: Path, source: str) -> None:
    """Refuse a file that no report can be written to.

    Raises:
        UsageError: an unknown suffix, or a folder.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"{source}: unsupported suffix {path.suffix!r}; reports are written as "
            f"{', '.join(SUFFIXES)}"
        )
    if path.is_dir():
        raise UsageError(f"{source}: expected a file, this is a folder")


def _paths(config: pytest.Config) -> tuple[Path, ...]:
    """Paths from the command line are relative to where it was typed, others to the ini file."""
    cli = config.getoption("fwcompare_report")
    source = "--fwcompare-report" if cli is not None else "ini fwcompare_report"
    names = cli if cli is not None else config.getini("fwcompare_report")
    paths = tuple(base(config, source) / name for name in names)
    for name, path in zip(names, paths, strict=True):
        check_path(path, f"{source}={name}")
        if flag(config, "fwcompare"):
            check_installed(path.suffix, f"{source}={name}")
    return paths


def _tensorboard(config: pytest.Config) -> Path | None:
    raw, source = given(config, "tensorboard")
    if raw is None:
        return None
    path = base(config, source) / str(raw)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{source}={raw}: expected a folder, this is a file")
    if flag(config, "fwcompare"):
        check_installed("tensorboard", f"{source}={raw}")
    return path
