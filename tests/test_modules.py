"""No module of the package needs one that needs it, wherever in the file it is imported.

An import inside a function puts a circle off to the first call; it is a circle all the same.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

import pytest_fwcompare

PACKAGE = "pytest_fwcompare"
ROOT = Path(pytest_fwcompare.__file__).parent

MEANT = {
    ("records.comparison", "report.text"): "a comparison says what it is: `Comparison.summary`",
    ("diagnose", "diagnose.explain"): "`diagnose` is the door of its folder",
}
"""Imports that close a circle, and why they may."""

TAKEN_FROM_THE_DOOR = {"__version__"}
"""Names of the package itself; it hands out names of all its modules to others, none to these."""


def read(root: Path) -> dict[str, str]:
    """Source by module, named from the package on; the package itself is not among them."""
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            sources[name] = path.read_text()
    return sources


def imported(source: str) -> Iterator[str]:
    """What a file imports anywhere: "module", or "module.name" where it takes a name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """For each module those that it imports."""
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        graph[name] = set()
        for full in imported(source):
            if not full.startswith(f"{PACKAGE}."):
                continue
            target = full.removeprefix(f"{PACKAGE}.")
            if target not in sources:
                target = target.rpartition(".")[0]
            if target in sources and target != name:
                graph[name].add(target)
    return graph


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle, each imported by the one before; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def without(graph: Mapping[str, set[str]], *left_out: tuple[str, str]) -> dict[str, set[str]]:
    return {
        name: {target for target in targets if (name, target) not in left_out}
        for name, targets in graph.items()
    }


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return graph_of(read(ROOT))


def test_there_is_no_circle(graph: dict[str, set[str]]) -> None:
    assert len(graph) > 100
    found = circle(without(graph, *MEANT))
    assert not found, " imports ".join(found)


@pytest.mark.parametrize("one", MEANT, ids=" imports ".join)
def test_each_exception_is_needed(graph: dict[str, set[str]], one: tuple[str, str]) -> None:
    others = [other for other in MEANT if other != one]
    assert circle(without(graph, *others)), f"{one} needs no exception any more"


def test_the_package_itself_is_asked_for_its_version_only() -> None:
    sources = read(ROOT)
    taken = {
        (name, full.removeprefix(f"{PACKAGE}."))
        for name, source in sources.items()
        for full in imported(source)
        if full.startswith(f"{PACKAGE}.") and full.count(".") == 1
    }
    wrong = {
        (name, what)
        for name, what in taken
        if what not in TAKEN_FROM_THE_DOOR
        and what not in sources
        and not any(module.startswith(f"{what}.") for module in sources)
    }
    assert not wrong


@pytest.mark.parametrize(
    "second",
    [
        "from pytest_fwcompare.first import name",
        "import pytest_fwcompare.first",
        "from pytest_fwcompare import first",
        "def late():\n    from pytest_fwcompare.first import name",
        "if TYPE_CHECKING:\n    from pytest_fwcompare.first import Name",
        "import pytest_fwcompare.third",
    ],
    ids=["name", "module", "from the package", "in a function", "for types", "by way of a third"],
)
def test_a_planted_circle_is_found(second: str) -> None:
    sources = {
        "first": "from pytest_fwcompare.second import other",
        "second": second,
        "third": "from pytest_fwcompare import first",
    }
    found = circle(graph_of(sources))
    assert found[0] == found[-1]
    assert {"first", "second"} <= set(found)
    for one, other in pairwise(found):
        assert other in graph_of(sources)[one]
