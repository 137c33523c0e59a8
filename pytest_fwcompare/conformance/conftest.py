"""Chooses the backends that are checked; imports them in the order in which they get along."""

from __future__ import annotations

import os

import pytest

from pytest_fwcompare.backends.registry import available, import_strings, require
from pytest_fwcompare.errors import FwcompareError

VARIABLE = "FWCOMPARE_CONFORMANCE"


def selected(config: pytest.Config) -> list[str]:
    """Names of the backends to check: those asked for, else those installed but NumPy.

    Raises:
        pytest.UsageError: one that was asked for by name cannot be used.
    """
    asked = config.getoption("--fwcompare-frameworks", default=None) or os.environ.get(VARIABLE)
    if not asked:
        return [name for name, reason in available().items() if not reason and name != "numpy"]
    names = [name.strip() for name in asked.split(",") if name.strip()]
    for name in names:
        try:
            require(name)
        except FwcompareError as error:
            raise pytest.UsageError(str(error)) from None
    # Torch has to be imported before TensorFlow.
    tagged = [name for name in names if "@" in name]  # in workers, where they are alone
    return [name for name in import_strings() if name in names] + tagged


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item for each backend."""
    if "framework" in metafunc.fixturenames:
        names = selected(metafunc.config)
        metafunc.parametrize("framework", names, scope="session")


@pytest.fixture(scope="session", autouse=True)
def _imported(request: pytest.FixtureRequest) -> None:
    """Import all frameworks at once, so that no worker imports them in another order."""
    for name in selected(request.config):
        require(name).version()
