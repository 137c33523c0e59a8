"""What the frameworks cost: how it is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_fwcompare.options.given import flag

if TYPE_CHECKING:
    import pytest


class CostSettings(NamedTuple):
    """How costs are measured.

    Attributes:
        memory: the peak of each framework in a process of its own.
    """

    memory: bool = False


def add(group: pytest.OptionGroup, parser: pytest.Parser) -> None:
    """Register the option and its ini twin."""
    text = "Measure each framework's peak memory in a process of its own; costs seconds each."
    group.addoption("--fwcompare-memory", action="store_true", default=None, help=text)
    parser.addini("fwcompare_memory", text, type="bool", default=False)


def read(config: pytest.Config) -> CostSettings:
    """The settings of this group."""
    return CostSettings(flag(config, "fwcompare_memory"))
