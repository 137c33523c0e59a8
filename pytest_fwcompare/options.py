"""Options, their ini twins, the marker's keys, and the axes of one test that follow from them.

Nothing here imports a framework, NumPy or Hypothesis: it is read by every pytest run. Hence also
named tuples, which are made in a fraction of the time of dataclasses.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_fwcompare.errors import UsageError

if TYPE_CHECKING:
    import pytest

AxisName = Literal["frameworks", "devices", "dtypes", "modes"]
AXES: tuple[AxisName, ...] = ("frameworks", "devices", "dtypes", "modes")

DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "devices": ("cpu",),
    "dtypes": ("float32",),
    "modes": ("eager",),
}
"""`frameworks` is not here: by default it is every registered one but the reference, NumPy."""

DTYPES = ("float32", "float64", "float16", "bfloat16")
MODES = ("eager", "graph", "compiled")
VERDICTS = ("equivalent", "semantic", "precision", "subgradient", "nonfinite", "error")
FAIL_ON = ("semantic", "precision", "nonfinite", "error")
REPORTS = (".json", ".md")
MARKER_KEYS = (*AXES, "examples")


class Choice(NamedTuple):
    """The values of one axis and who asked for them.

    Attributes:
        values: in the order in which they run.
        source: "--fwcompare-devices", "ini fwcompare_devices", "the marker"; "" for defaults.
    """

    values: tuple[str, ...]
    source: str = ""

    @property
    def named(self) -> bool:
        """True if somebody asked for these values, so that one that is missing must fail."""
        return bool(self.source)


class Settings(NamedTuple):
    """What the command line and the ini file ask for.

    Attributes:
        enabled: `--fwcompare`.
        axes: the choice of each axis; `frameworks` has no values where nobody chose.
        examples: generated examples a comparison; None leaves it to `compare`.
        examples_forced: True if the command line gave them, so that no marker changes them.
        timings: False under `--fwcompare-no-timings`.
        reports: files to write, suffixes already checked.
        fail_on: verdicts that fail a test.
        command: the options given on the command line, to be repeated when replaying.
        repro: folder under which each failing comparison writes a script that shows it.
    """

    enabled: bool
    axes: Mapping[str, Choice]
    examples: int | None
    timings: bool
    reports: tuple[Path, ...]
    fail_on: tuple[str, ...]
    command: tuple[str, ...] = ()
    examples_forced: bool = False
    repro: Path | None = None


class Case(NamedTuple):
    """The axes of one item.

    Attributes:
        framework: the framework that is judged; None where the test brings its own models.
        mode: None for tests that only build.
        named: axes whose value somebody asked for by name.
        frameworks: every framework selected for the test, this one included.
        examples: as in `Settings`, narrowed by the marker.
    """

    framework: str | None
    device: str
    dtype: str
    mode: str | None
    named: frozenset[str] = frozenset()
    frameworks: Choice = Choice(())
    examples: int | None = None

    @property
    def id(self) -> str:
        """As it stands in the item's id: "keras-cpu-float32-eager"."""
        return "-".join(part for part in (self.framework, self.rest) if part)

    @property
    def rest(self) -> str:
        """The id without its framework; items that share it are compared for speed."""
        return "-".join(part for part in (self.device, self.dtype, self.mode) if part)


def add_options(parser: pytest.Parser) -> None:
    """Register every option and its ini twin."""
    group = parser.getgroup("fwcompare", "comparison of networks between frameworks")
    group.addoption(
        "--fwcompare",
        action="store_true",
        default=None,
        help="Run the comparisons; without it they are skipped.",
    )
    parser.addini("fwcompare", "Run the comparisons.", type="bool", default=False)
    for key, meta, text in (
        ("frameworks", "NAMES", "Frameworks to judge: torch,tensorflow,keras,jax,numpy."),
        ("devices", "NAMES", "Devices: cpu, cuda, cuda:N. Default: cpu."),
        ("dtypes", "NAMES", f"Working dtypes: {', '.join(DTYPES)}. Default: float32."),
        ("modes", "NAMES", f"Modes: {', '.join(MODES)}. Default: eager."),
        ("examples", "N", "Generated examples a comparison."),
        ("fail-on", "VERDICTS", f"Verdicts that fail a test. Default: {','.join(FAIL_ON)}."),
    ):
        group.addoption(f"--fwcompare-{key}", metavar=meta, default=None, help=text)
        parser.addini(f"fwcompare_{key.replace('-', '_')}", text, default=None)
    group.addoption(
        "--fwcompare-no-timings",
        action="store_true",
        default=None,
        help="Do not time the frameworks.",
    )
    parser.addini("fwcompare_no_timings", "Do not time.", type="bool", default=False)
    text = f"Write a report ({', '.join(REPORTS)}); repeatable."
    group.addoption("--fwcompare-report", metavar="PATH", action="append", default=None, help=text)
    parser.addini("fwcompare_report", text, type="linelist", default=[])
    text = "Write a folder with a standalone script for each failing comparison."
    group.addoption("--fwcompare-repro", metavar="DIR", default=None, help=text)
    parser.addini("fwcompare_repro", text, default=None)


def read_settings(config: pytest.Config) -> Settings:
    """The settings of this run: the command line where it says something, else the ini file.

    Raises:
        UsageError: an option has a value that cannot be used; names the option.
    """
    axes: dict[str, Choice] = {axis: _axis(config, axis) for axis in AXES}
    raw, source = _given(config, "examples")
    fail_on, fail_source = _given(config, "fail_on")
    return Settings(
        enabled=_flag(config, "fwcompare"),
        axes=axes,
        examples=None if raw is None else check_examples(raw, source),
        timings=not _flag(config, "fwcompare_no_timings"),
        reports=_reports(config),
        fail_on=FAIL_ON if fail_on is None else _verdicts(fail_on, fail_source),
        command=_command(config),
        examples_forced=source.startswith("--"),
        repro=_repro(config),
    )


def default_frameworks() -> tuple[str, ...]:
    """Every registered framework but NumPy, which is the reference."""
    from pytest_fwcompare.backends.registry import import_strings

    return tuple(name for name in import_strings() if name != "numpy")


def check_frameworks(choice: Choice) -> None:
    """Names asked for must be known and installed.

    Raises:
        UsageError: with the reason of the first one that is not.
    """
    from pytest_fwcompare.backends.registry import require

    for name in choice.values:
        try:
            require(name)
        except UsageError as error:
            raise UsageError(f"{choice.source}: {error}") from None


def marker_values(arguments: tuple[object, ...], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The checked contents of `@pytest.mark.fwcompare(...)`: a Choice an axis, and examples.

    Raises:
        UsageError: a positional argument, an unknown key, or a value that cannot be used.
    """
    place = "@pytest.mark.fwcompare"
    if arguments:
        raise UsageError(
            f"{place} takes keywords only ({', '.join(MARKER_KEYS)}), got "
            f"{', '.join(map(repr, arguments))}"
        )
    made: dict[str, Any] = {}
    for key, value in keywords.items():
        if key not in MARKER_KEYS:
            import difflib

            near = difflib.get_close_matches(key, MARKER_KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(
                f"{place}: unknown key {key!r}; the keys are {', '.join(MARKER_KEYS)}{hint}"
            )
        where = f"{place}({key}=...)"
        if key == "examples":
            made[key] = check_examples(value, where)
        else:
            values = split(value, where)
            _check_axis(key, values, where)
            made[key] = Choice(values, "the marker")
    return made


def cases(
    settings: Settings, marked: Mapping[str, Any], *, frameworks: bool, modes: bool
) -> Iterator[Case] | str:
    """The cases of one test.

    Args:
        settings: of the run.
        marked: from `marker_values`.
        frameworks: whether the framework is an axis of the test.
        modes: whether the mode is.

    Returns:
        The cases, or why none is left.
    """
    chosen: dict[str, Choice] = {}
    for axis in AXES:
        narrowed = narrow(axis, settings.axes[axis], marked.get(axis))
        if isinstance(narrowed, str):
            return narrowed
        chosen[axis] = narrowed
    picked = chosen["frameworks"]
    if not picked.values:
        picked = Choice(default_frameworks())
    named = frozenset(
        axis for axis, choice in (*chosen.items(), ("frameworks", picked)) if choice.named
    )
    examples = settings.examples
    if not settings.examples_forced:
        examples = marked.get("examples", examples)
    axes: tuple[tuple[str | None, ...], ...] = (
        picked.values if frameworks else (None,),
        chosen["devices"].values,
        chosen["dtypes"].values,
        chosen["modes"].values if modes else (None,),
    )
    return (
        Case(framework, str(device), str(dtype), mode, named, picked, examples)
        for framework, device, dtype, mode in itertools.product(*axes)
    )


def narrow(axis: str, choice: Choice, marker: Choice | None) -> Choice | str:
    """What the marker leaves of an axis; a text if nothing.

    A marker replaces a default, and can only take away from what the user asked for.
    """
    if marker is None:
        return choice
    if not choice.named:
        return marker
    left = tuple(value for value in choice.values if value in marker.values)
    if not left:
        return (
            f"no {axis} left: the marker has {', '.join(marker.values)}, "
            f"{choice.source} has {', '.join(choice.values)}"
        )
    return Choice(left, choice.source)


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


def check_examples(value: object, where: str) -> int:
    """A number of examples.

    Raises:
        UsageError: it is not a positive whole number.
    """
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{where}: expected a whole number of at least 1, got {value!r}")
    return value


def _axis(config: pytest.Config, axis: AxisName) -> Choice:
    raw, source = _given(config, axis)
    if raw is None:
        return Choice(DEFAULTS.get(axis, ()))
    values = split(raw, source)
    _check_axis(axis, values, source)
    return Choice(values, source)


def _check_axis(axis: str, values: tuple[str, ...], where: str) -> None:
    known: dict[str, tuple[Callable[[str], object], str]] = {
        "devices": (re.compile(r"(cpu|cuda(:\d+)?)\Z").match, "cpu, cuda, cuda:N"),
        "dtypes": (DTYPES.__contains__, ", ".join(DTYPES)),
        "modes": (MODES.__contains__, ", ".join(MODES)),
    }
    if axis == "frameworks":
        return  # backends are registered by others too; looked up once comparisons run
    accepts, names = known[axis]
    for value in values:
        if not accepts(value):
            raise UsageError(f"{where}: unknown {axis[:-1]} {value!r}; known are {names}")


def _verdicts(raw: object, source: str) -> tuple[str, ...]:
    values = split(raw, source)
    for value in values:
        if value not in VERDICTS or value == "equivalent":
            raise UsageError(
                f"{source}: unknown verdict {value!r}; those that can fail are "
                f"{', '.join(VERDICTS[1:])}"
            )
    return values


def _given(config: pytest.Config, key: str) -> tuple[Any, str]:
    """The value of an option or its ini twin, and what to call it; (None, "") if neither."""
    cli = config.getoption(f"fwcompare_{key}")
    if cli is not None:
        return cli, f"--fwcompare-{key.replace('_', '-')}"
    ini = config.getini(f"fwcompare_{key}")
    return (None, "") if ini is None else (ini, f"ini fwcompare_{key}")


def _flag(config: pytest.Config, key: str) -> bool:
    cli = config.getoption(key)
    return bool(cli if cli is not None else config.getini(key))


def _reports(config: pytest.Config) -> tuple[Path, ...]:
    """Paths from the command line are relative to where it was typed, others to the ini file."""
    cli = config.getoption("fwcompare_report")
    source = "--fwcompare-report" if cli is not None else "ini fwcompare_report"
    base = config.invocation_params.dir if cli is not None else config.rootpath
    names = cli if cli is not None else config.getini("fwcompare_report")
    paths = []
    for name in names:
        path = base / name
        if path.suffix not in REPORTS:
            raise UsageError(
                f"{source}={name}: unsupported suffix {path.suffix!r}; reports are written as "
                f"{', '.join(REPORTS)}"
            )
        if path.is_dir():
            raise UsageError(f"{source}={name}: expected a file, this is a folder")
        paths.append(path)
    return tuple(paths)


def _repro(config: pytest.Config) -> Path | None:
    """The folder, relative to where it was typed, or to the ini file."""
    raw, source = _given(config, "repro")
    if raw is None:
        return None
    base = config.invocation_params.dir if source.startswith("--") else config.rootpath
    path = Path(base / raw)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{source}={raw}: expected a folder, this is a file")
    return path


def _command(config: pytest.Config) -> tuple[str, ...]:
    """The options to repeat so that the same comparison runs again."""
    parts = ["--fwcompare"]
    for key in (*AXES, "examples"):
        value = config.getoption(f"fwcompare_{key}")
        if value is not None:
            parts.append(f"--fwcompare-{key}={value}")
    return tuple(parts)
