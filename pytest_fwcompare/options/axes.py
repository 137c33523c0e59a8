"""The axes of a comparison: what may be chosen, by whom, and the cases that follow for one test.

Nothing in this folder imports a framework, NumPy or Hypothesis: it is read by every pytest run.
Hence also named tuples, which are made in a fraction of the time of dataclasses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_fwcompare.devices import FORMS, is_device
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.formats import DTYPES
from pytest_fwcompare.options.given import check_count, split

if TYPE_CHECKING:
    from pytest_fwcompare.options import Settings

AxisName = Literal["frameworks", "devices", "dtypes", "modes"]
AXES: tuple[AxisName, ...] = ("frameworks", "devices", "dtypes", "modes")

DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "devices": ("cpu",),
    "dtypes": ("float32",),
    "modes": ("eager",),
}
"""`frameworks` is not here: by default it is every registered one but the reference, NumPy."""

MODES = ("eager", "graph", "compiled")
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
            made[key] = check_count(value, where)
        else:
            values = split(value, where)
            check_axis(key, values, where)
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


def check_axis(axis: str, values: tuple[str, ...], where: str) -> None:
    """Refuse unknown values of an axis.

    Raises:
        UsageError: with the values there are.
    """
    known: dict[str, tuple[Callable[[str], object], str]] = {
        "devices": (is_device, FORMS),
        "dtypes": (DTYPES.__contains__, ", ".join(DTYPES)),
        "modes": (MODES.__contains__, ", ".join(MODES)),
    }
    if axis == "frameworks":
        return  # backends are registered by others too; looked up once comparisons run
    accepts, names = known[axis]
    for value in values:
        if not accepts(value):
            raise UsageError(f"{where}: unknown {axis[:-1]} {value!r}; known are {names}")
