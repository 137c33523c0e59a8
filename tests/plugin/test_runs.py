"""Runs of whole projects: with and without `--fwcompare`, by xdist, with JUnit, with both."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

PORTS = """
import pytest

def test_right(fwcompare_port):
    assert fwcompare_port("reference", "equivalent", inputs={}).passed

def test_wrong(fwcompare_port):
    fwcompare_port("reference", "semantic", inputs={})

@pytest.mark.fwcompare
def test_marked_only():
    pass

def test_of_others():
    pass
"""

NETWORK = """
from pytest_fwcompare import networks

def test_net(fwcompare_network):
    net = networks.Sequential([networks.Dense(3)], input_shape=(4,))
    fwcompare_network(net)
"""

XDIST = ("-n", "2")


def properties(path: Path) -> dict[str, dict[str, str]]:
    """Properties by test name from a JUnit file."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        entries = {entry.get("name"): entry.get("value") for entry in case.iter("property")}
        found[case.get("name")] = entries
    return found  # type: ignore[return-value]


def test_without_the_option_comparisons_are_skipped_and_the_rest_runs(
    project: pytest.Pytester, asked: Callable[[], list[str]]
) -> None:
    project.makepyfile(PORTS)
    result = project.runpytest("-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED*needs --fwcompare"])
    result.stdout.no_fnmatch_line("fwcompare: *")
    assert asked() == []


@pytest.mark.parametrize("workers", [(), XDIST], ids=["plain", "xdist"])
@pytest.mark.parametrize("junit", [False, True], ids=["", "junit"])
def test_a_run(project: pytest.Pytester, workers: tuple[str, ...], junit: bool) -> None:
    project.makepyfile(PORTS)
    arguments = ["--fwcompare", *workers, *(["--junit-xml=out.xml"] if junit else [])]
    result = project.runpytest(*arguments)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "fwcompare: numpy *; on cpu; in float32; mode eager",
            "E  *AssertionError: semantic: the keras port does not compute the same function*",
            "*= fwcompare =*",
            "test * framework *verdict * gap * noise * forward * backward * ratio",
        ]
    )
    start = result.outlines.index(next(li for li in result.outlines if "= fwcompare =" in li))
    rows = [line.split() for line in result.outlines[start:] if line.startswith("test_")]
    verdicts = {row[0]: row[2] for row in rows if row[1:2] == ["keras"]}
    assert verdicts == {
        "test_a_run.py::test_right[cpu-float32-eager]": "equivalent",
        "test_a_run.py::test_wrong[cpu-float32-eager]": "semantic",
    }
    if not junit:
        return
    found = properties(project.path / "out.xml")
    right = found["test_right[cpu-float32-eager]"]
    assert right["fwcompare.verdict"] == "equivalent"
    assert float(right["fwcompare.gap"]) == 2.1e-15
    assert float(right["fwcompare.noise"]) == 3.4e-7
    assert float(right["fwcompare.keras.forward_s"]) == 2.5e-3
    assert float(right["fwcompare.keras.backward_s"]) == 5e-3
    assert float(right["fwcompare.torch.first_call_s"]) == 0.25
    assert right["fwcompare.keras.peak_bytes"] == str(3 * 2**20)
    assert right["fwcompare.keras.version"] == "3.15.1"
    assert ("fwcompare.keras.shared_machine" in right) == bool(workers)
    wrong = found["test_wrong[cpu-float32-eager]"]
    assert wrong["fwcompare.verdict"] == "semantic"
    assert wrong["fwcompare.culprit"] == "encoder.1.norm2"
    assert wrong["fwcompare.cause"] == "epsilon"
    assert found["test_of_others"] == {}


def test_times_taken_among_workers_are_marked(project: pytest.Pytester) -> None:
    project.makepyfile(PORTS)
    result = project.runpytest("--fwcompare", *XDIST)
    result.stdout.fnmatch_lines(
        ["*keras *~2.50 ms*~5.00 ms*~2.50", "~ timed while other workers used the machine"]
    )


def test_a_network_runs_in_every_framework_and_is_ranked_within_the_test(
    project: pytest.Pytester, asked: Callable[[], list[str]]
) -> None:
    for name in ("torch", "keras"):  # looked for, not imported: `compare` is made up
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    project.makepyfile(test_n=NETWORK)
    result = project.runpytest("--fwcompare", "--fwcompare-frameworks=torch,keras", "-v")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "*test_net[[]torch-cpu-float32-eager[]] PASSED*",
            "*test_net[[]keras-cpu-float32-eager[]] PASSED*",
            "test_n.py::test_net[[]cpu-* numpy *(reference)*",
            "test_n.py::test_net[[]cpu-* torch *equivalent*1.00",
            "test_n.py::test_net[[]cpu-* keras *equivalent*1.00",
        ]
    )
    assert result.stdout.str().count("(reference)") == 1
    assert [line.split(")")[0] for line in asked()] == [
        "('numpy', 'torch'",
        "('numpy', 'keras'",
    ]


def test_axes_reach_compare(project: pytest.Pytester, asked: Callable[[], list[str]]) -> None:
    project.makepyfile(PORTS)
    project.runpytest(
        "--fwcompare",
        "-k",
        "right",
        "--fwcompare-dtypes=float64,bfloat16",
        "--fwcompare-modes=graph",
        "--fwcompare-examples=7",
        "--fwcompare-no-timings",
    )
    lines = asked()
    assert len(lines) == 2
    assert all("('examples', 7)" in line for line in lines)
    assert all("('mode', 'graph')" in line for line in lines)
    assert all("('timings', False)" in line for line in lines)
    assert "('dtype', 'float64')" in lines[0]
    assert "('dtype', 'bfloat16')" in lines[1]


def test_the_reports_of_a_run_agree(project: pytest.Pytester) -> None:
    project.makepyfile(PORTS)
    result = project.runpytest(
        "--fwcompare", "--fwcompare-report=out/run.json", "--fwcompare-report=card.md", *XDIST
    )
    result.stdout.fnmatch_lines(["report: *run.json", "report: *card.md"])
    data = json.loads((project.path / "out" / "run.json").read_text())
    assert [entry["comparison"]["verdict"] for entry in data["comparisons"]] == [
        "equivalent",
        "semantic",
    ]
    card = (project.path / "card.md").read_text()
    assert card.index("semantic") < card.index("equivalent"), "the worst comes first"
    assert list(project.path.glob("out/.*")) == [], "a temporary file was left"


def test_collecting_writes_no_report(project: pytest.Pytester) -> None:
    project.makepyfile(PORTS)
    (project.path / "run.json").write_text("kept")
    project.runpytest("--fwcompare", "--fwcompare-report=run.json", "--collect-only")
    assert (project.path / "run.json").read_text() == "kept"


def test_several_comparisons_in_one_test(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_both(fwcompare_port):
            fwcompare_port("reference", "precision", inputs={}, fail_on=())
            fwcompare_port("reference", "equivalent", inputs={})
        """
    )
    result = project.runpytest("--fwcompare", "--junit-xml=out.xml")
    result.assert_outcomes(passed=1)
    found = properties(project.path / "out.xml")["test_both[cpu-float32-eager]"]
    assert found["fwcompare.verdict"] == "precision"
    assert found["fwcompare.comparisons"] == "2"
    assert found["fwcompare.1.verdict"] == "precision"
    assert found["fwcompare.2.verdict"] == "equivalent"
    assert float(found["fwcompare.2.gap"]) == 2.1e-15
    result.stdout.fnmatch_lines(["*eager] *precision*", "*eager] #2 *equivalent*"])


def test_under_given_the_worst_of_all_calls_is_kept_and_timed_once(
    project: pytest.Pytester, asked: Callable[[], list[str]]
) -> None:
    project.makepyfile(
        """
        from hypothesis import given, settings, strategies as st

        @settings(max_examples=20, database=None, derandomize=True)
        @given(seed=st.integers(0, 50))
        def test_all(fwcompare_port, seed):
            fwcompare_port("reference", "equivalent", inputs={}, seed=seed)
        """
    )
    result = project.runpytest("--fwcompare", "--junit-xml=out.xml", "--fwcompare-report=run.json")
    result.assert_outcomes(passed=1)
    lines = asked()
    assert len(lines) > 5
    assert sum("('timings', True)" in line for line in lines) == 1
    found = properties(project.path / "out.xml")["test_all[cpu-float32-eager]"]
    seeds = [int(line.split("('seed', ")[1].split(")")[0]) for line in lines]
    assert float(found["fwcompare.gap"]) == pytest.approx(max(seeds) * 1e-4)
    assert "fwcompare.keras.forward_s" in found, "timed once, but the worst comparison lost it"
    assert "fwcompare.comparisons" not in found
    (entry,) = json.loads((project.path / "run.json").read_text())["comparisons"]
    assert entry["calls"] == len(lines)


@pytest.mark.parametrize("fixture", ["fwcompare_build", "fwcompare_network", "fwcompare_port"])
def test_fixtures_may_be_used_under_given(project: pytest.Pytester, fixture: str) -> None:
    """Hypothesis refuses function-scoped fixtures by a health check."""
    project.makepyfile(
        f"""
        from hypothesis import given, strategies as st

        @given(n=st.integers())
        def test_given({fixture}, n):
            assert callable({fixture})
        """
    )
    result = project.runpytest("--fwcompare", "--fwcompare-frameworks=numpy", "-W", "error")
    result.assert_outcomes(passed=1)


def test_the_order_of_the_tests_stays_as_written(project: pytest.Pytester) -> None:
    """Session-wide parametrised fixtures would group all items of one framework."""
    project.makepyfile(
        """
        def test_b(fwcompare_network): pass
        def test_a(fwcompare_network): pass
        """
    )
    result = project.runpytest("--collect-only", "-q", "--fwcompare-frameworks=torch,keras")
    lines = [line for line in result.outlines if "::" in line]
    assert [line.split("::")[1] for line in lines] == [
        "test_b[torch-cpu-float32-eager]",
        "test_b[keras-cpu-float32-eager]",
        "test_a[torch-cpu-float32-eager]",
        "test_a[keras-cpu-float32-eager]",
    ]


def test_any_order_of_tests_gives_the_same_figures(project: pytest.Pytester) -> None:
    """As pytest-randomly and its kind do: records belong to items, not to what ran before."""
    project.makepyfile(PORTS)
    with (project.path / "conftest.py").open("a") as conftest:
        conftest.write("\n\ndef pytest_collection_modifyitems(items):\n    items.reverse()\n")
    project.runpytest("--fwcompare", "--junit-xml=out.xml").assert_outcomes(passed=3, failed=1)
    found = properties(project.path / "out.xml")
    assert found["test_right[cpu-float32-eager]"]["fwcompare.verdict"] == "equivalent"
    assert found["test_wrong[cpu-float32-eager]"]["fwcompare.verdict"] == "semantic"


def test_a_fixture_fetched_by_name_runs_the_first_case(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.fwcompare
        def test_late(request):
            fixture = request.getfixturevalue("fwcompare_port")
            assert fixture.case.id == "cpu-float32-eager"
            fixture("reference", "equivalent", inputs={})

        @pytest.mark.fwcompare
        def test_network(request):
            from pytest_fwcompare import networks
            fixture = request.getfixturevalue("fwcompare_network")
            fixture(networks.Sequential([networks.Dense(3)], input_shape=(4,)))
        """
    )
    result = project.runpytest("--fwcompare")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E *UsageError: fwcompare_network: this test has no framework *"])
