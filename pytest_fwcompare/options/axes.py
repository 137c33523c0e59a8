"""The axes of a comparison: what may be chosen, and by whom.

Nothing in this folder imports a framework, NumPy or Hypothesis: it is read by every pytest run.
Hence also named tuples, which are made in a fraction of the time of dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pytest_fwcompare.devices import FORMS, is_device
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.formats import DTYPES
from pytest_fwcompare.options.given import check_count, split

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
