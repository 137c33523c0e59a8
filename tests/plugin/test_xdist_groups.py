"""Under pytest-xdist workers are used again, and `--dist loadgroup` keeps a framework together."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict

import pytest

pytest.importorskip("xdist")

MANY = """
import os
import pytest
from pytest_fwcompare import networks as fn

@pytest.mark.parametrize("size", [2, 3, 4])
def test_network(fwcompare_network, size, record_property):
    net = fn.Sequential([fn.Dense(size)], input_shape=(3,))
    made = fwcompare_network(net)
    told = made.environment[made.port]["worker"]
    record_property("place", f"{made.port} {os.getpid()} {told['pid']}")
    for timing in made.timings:
        record_property("timed", timing.framework)
"""

PLACES = """
import os
import pytest

@pytest.fixture(autouse=True)
def place(record_property):
    record_property("place", os.getpid())

@pytest.mark.parametrize("number", range(4))
def test_network(fwcompare_network, number):
    pass

@pytest.mark.fwcompare(frameworks=("torch", "keras"))
@pytest.mark.parametrize("number", range(4))
def test_port(fwcompare_port, number):
    pass

@pytest.mark.xdist_group("mine")
@pytest.mark.parametrize("number", range(2))
def test_grouped(fwcompare_network, number):
    pass

@pytest.mark.xdist_group("mine")
@pytest.mark.parametrize("number", range(2))
def test_other(number):
    pass
"""


def run(project: pytest.Pytester, *options: str) -> pytest.RunResult:
    return project.runpytest_subprocess(
        "--fwcompare", "-n2", "--junitxml=out.xml", *options, timeout=600
    )


def recorded(project: pytest.Pytester, key: str) -> dict[str, list[str]]:
    """Values of a property by the name of the test in the JUnit file."""
    found = defaultdict(list)
    for case in ElementTree.parse(project.path / "out.xml").iter("testcase"):
        for each in case.iter("property"):
            if each.get("name") == key:
                found[case.get("name")].append(each.get("value"))
    return found


def processes(project: pytest.Pytester, *parts: str) -> set[str]:
    """Where the tests ran whose names contain one of these."""
    places = recorded(project, "place")
    return {
        place
        for name, found in places.items()
        for place in found
        if any(part in name for part in parts)
    }


@pytest.fixture
def places(pytester: pytest.Pytester) -> pytest.Pytester:
    """Tests that only say where they run."""
    pytester.makepyfile(PLACES)
    return pytester


def test_a_framework_a_named_pair_and_a_group_of_the_user_have_a_process_each(places):
    found = run(places, "--dist=loadgroup", "--fwcompare-frameworks=torch,keras", "-v")
    found.assert_outcomes(passed=4 * 2 + 4 + 2 * 2 + 2)
    names = list(recorded(places, "place"))
    assert "test_network[torch-cpu-float32-eager-0]" in names
    assert "test_port[cpu-float32-eager-0]" in names
    assert not [name for name in names if "@" in name]
    assert "@" not in found.stdout.str()
    for together in (
        ["test_network[torch"],
        ["test_network[keras"],
        ["test_port"],
        ["test_grouped", "test_other"],
    ):
        assert len(processes(places, *together)) == 1, together
    assert len(processes(places, "test_")) == 2


@pytest.mark.slow
def test_without_the_groups_they_are_spread(places):
    """So that the test above can fail: the first items of a schedule go to each in turns."""
    options = ("-p", "no:fwcompare-grouping", "--dist=loadgroup", "--fwcompare-frameworks=torch")
    run(places, *options, "-k", "test_network").assert_outcomes(passed=4)
    assert len(processes(places, "test_network")) == 2


@pytest.mark.slow
def test_a_process_that_is_lost_is_reported_by_the_id_of_its_item(pytester):
    pytester.makepyfile(
        """
        import os

        def test_network(fwcompare_network):
            os._exit(1)
        """
    )
    found = run(
        pytester, "--dist=loadgroup", "--fwcompare-frameworks=torch", "--max-worker-restart=0"
    )
    found.stdout.fnmatch_lines(["FAILED *::test_network[[]torch-cpu-float32-eager[]]*"])
    [case] = ElementTree.parse(pytester.path / "out.xml").iter("testcase")
    assert case.get("name") == "test_network[torch-cpu-float32-eager]"


@pytest.mark.parametrize("dist", [pytest.param("load", marks=pytest.mark.slow), "loadgroup"])
def test_workers_are_started_once_in_each_process(pytester, dist):
    pytester.makepyfile(MANY)
    found = run(
        pytester,
        f"--fwcompare-worker=torch@two={sys.executable}",
        "--fwcompare-frameworks=torch,torch@two",
        "--fwcompare-isolate=framework",
        "--fwcompare-examples=1",
        f"--dist={dist}",
    )
    found.assert_outcomes(passed=6)
    places = {
        tuple(place.split()) for found in recorded(pytester, "place").values() for place in found
    }
    workers = {pid for _, _, pid in places}
    assert len(workers) == len({(framework, process) for framework, process, _ in places})
    if dist == "loadgroup":
        assert len(workers) == 2  # one a framework, in the process that had its items
        for name, timed in recorded(pytester, "timed").items():
            framework = "torch@two" if "torch@two" in name else "torch"
            assert timed == ["numpy", framework]  # the other has no worker in this process
