"""How thoroughly a pass is proved to have been able to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_fwcompare.options.given import flag

if TYPE_CHECKING:
    import pytest


def add(group: pytest.OptionGroup, parser: pytest.Parser) -> None:
    """Register the option and its ini twin."""
    text = (
        "After a pass, disturb every parameter, buffer, epsilon and slope of the port and find "
        "the smallest disturbance that is noticed; by default a few parameters are."
    )
    group.addoption("--fwcompare-thorough", action="store_true", default=None, help=text)
    parser.addini("fwcompare_thorough", text, type="bool", default=False)


def read(config: pytest.Config) -> bool:
    """Whether it was asked for."""
    return flag(config, "fwcompare_thorough")
