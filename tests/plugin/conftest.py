"""Projects that use the plugin, with comparisons whose result the test chooses."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis  # noqa: F401
import jinja2  # noqa: F401
import numpy  # noqa: F401
import pytest
import tensorboardX  # noqa: F401
import vl_convert  # noqa: F401

import pytest_fwcompare.building
import pytest_fwcompare.report.files
import pytest_fwcompare.report.json
import pytest_fwcompare.report.markdown
import pytest_fwcompare.selection
import pytest_fwcompare.timing.sides
from pytest_fwcompare.backends.registry import backend, import_strings

# Pytester forgets what an inner run imports; imported here, it is not imported ninety times, and a
# class that the lazy package has handed out stays the one that a later import gives.
for name in pytest_fwcompare.__all__:
    getattr(pytest_fwcompare, name)
for name in import_strings():
    backend(name)

FAKE = '''
import dataclasses
import sys
from pathlib import Path

import pytest_fwcompare
from pytest_fwcompare.errors import MappingError, ModelError
from pytest_fwcompare.timing import sides

sys.path.insert(0, {tests!r})
import samples


def compare(reference, port, **keywords):
    """A model is the verdict it gets here: "equivalent", "semantic", ..."""
    if hasattr(port, "framework"):
        names, verdict = (reference.framework, port.framework), "equivalent"
    else:
        names, verdict = ("torch", "keras"), port
    if verdict == "mapping":
        raise MappingError("fc.weight fits dense/kernel and dense_1/kernel alike")
    if verdict == "model":
        raise ModelError("port", "forward", "ValueError: bad")
    if verdict == "bug":
        raise RuntimeError("a bug of ours")
    made = samples.equivalent() if verdict == "equivalent" else samples.semantic(verdict=verdict)
    axes = {{key: keywords[key] for key in ("device", "dtype", "mode")}}
    with Path({log!r}).open("a") as log:
        print(names, sorted(keywords.items(), key=str), file=log)
    return dataclasses.replace(
        made,
        reference=names[0],
        port=names[1],
        gap=keywords.get("seed", 0) * 1e-4 or made.gap,
        timings=made.timings if keywords.get("timings") else (),
        **axes,
    )


def time_network(network, frameworks, inputs, **axes):
    return tuple(samples.timing(name, 1.0 + len(name)) for name in frameworks)


def pytest_configure():
    vars(pytest_fwcompare)["compare"] = compare
    sides.time_network, vars(sides)["kept"] = time_network, sides.time_network


def pytest_unconfigure():
    del vars(pytest_fwcompare)["compare"]
    sides.time_network = sides.kept
'''


@pytest.fixture
def project(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> pytest.Pytester:
    """A folder whose comparisons are made up; what they were asked for goes to `asked.log`."""
    tests = str(request.config.rootpath / "tests")
    log = str(pytester.path / "asked.log")
    pytester.makeconftest(FAKE.format(tests=tests, log=log))
    return pytester


@pytest.fixture
def asked(project: pytest.Pytester) -> Callable[[], list[str]]:
    """What `compare` was called with, a line a call."""

    def read() -> list[str]:
        path = project.path / "asked.log"
        return path.read_text().splitlines() if path.exists() else []

    return read
