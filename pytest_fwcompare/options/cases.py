"""The cases of one test that follow from the axes of a run and from its marker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pytest_fwcompare.options.axes import AXES, Choice, default_frameworks
from pytest_fwcompare.options.settings import Settings


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
