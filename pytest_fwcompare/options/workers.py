"""Options of workers: what runs in a process of its own, how it starts, how long it may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.options.given import given

if TYPE_CHECKING:
    import pytest

ISOLATE = ("none", "crash", "framework")


class WorkerSettings(NamedTuple):
    """What was asked for.

    Attributes:
        isolate: "none": only what names a worker runs in one; "crash": what is known or found to
            crash, too; "framework": every framework but NumPy.
        timeout: seconds that one call may take there; None leaves it to the workers.
        specs: text that says how a worker is started, by its name, and the option's name.
        command: the options given on the command line, to be repeated when replaying.
    """

    isolate: str = "none"
    timeout: float | None = None
    specs: Mapping[str, tuple[str, str]] = {}
    command: tuple[str, ...] = ()


def add(group: Any, parser: pytest.Parser) -> None:
    """Register the options and their ini twins."""
    for key, meta, text in (
        ("isolate", "WHAT", f"What runs in a process of its own: {', '.join(ISOLATE)}."),
        ("timeout", "SECONDS", "Seconds that one call of a side in a worker may take."),
    ):
        group.addoption(f"--fwcompare-{key}", metavar=meta, default=None, help=text)
        parser.addini(f"fwcompare_{key}", text, default=None)
    text = "NAME=SPEC: where a framework runs (torch@old=/path/python, tensorflow=ssh=host)."
    group.addoption(
        "--fwcompare-worker", metavar="NAME=SPEC", action="append", default=None, help=text
    )
    parser.addini("fwcompare_worker", text, type="linelist", default=[])


def read(config: pytest.Config) -> WorkerSettings:
    """The checked values.

    Raises:
        UsageError: an option has a value that cannot be used; names the option.
    """
    isolate, source = given(config, "isolate")
    if isolate is not None and isolate not in ISOLATE:
        raise UsageError(f"{source}: unknown {isolate!r}; expected one of {', '.join(ISOLATE)}")
    raw, source = given(config, "timeout")
    command = [
        f"--fwcompare-{key}={value}"
        for key in ("isolate", "timeout")
        if (value := config.getoption(f"fwcompare_{key}")) is not None
    ]
    typed = config.getoption("fwcompare_worker")
    command += [f"--fwcompare-worker={entry}" for entry in typed or ()]
    return WorkerSettings(
        isolate=isolate or "none",
        timeout=None if raw is None else _seconds(raw, source),
        specs=_specs(config, typed),
        command=tuple(command),
    )


def _seconds(raw: object, source: str) -> float:
    try:
        value = float(str(raw))
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise UsageError(f"{source}: expected a number of seconds above 0, got {raw!r}")
    return value


def _specs(config: pytest.Config, typed: list[str] | None) -> dict[str, tuple[str, str]]:
    """By name; the command line adds to the ini file, and outweighs it name by name."""
    made = {}
    for source, entries in (
        ("ini fwcompare_worker", config.getini("fwcompare_worker")),
        ("--fwcompare-worker", typed or ()),
    ):
        for entry in entries:
            name, equals, text = entry.partition("=")
            if not equals or not name.strip() or not text.strip():
                raise UsageError(
                    f"{source}: expected NAME=SPEC, such as torch@old=/path/to/python or "
                    f"tensorflow=socket=host:8888, got {entry!r}"
                )
            made[name.strip()] = (text.strip(), source)
    return made
