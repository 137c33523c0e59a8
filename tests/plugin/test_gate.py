"""Runs with a baseline: made, held against, updated, pruned, merged; by workers, and at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_fwcompare import TensorSpec, compare
from pytest_fwcompare.cli import main

PORTS = """
import pytest
from pytest_fwcompare import TensorSpec
from sides import port, reference

INPUTS = {"x": TensorSpec(("batch", 6))}

def test_net(fwcompare_port):
    fwcompare_port(reference, port, inputs=INPUTS)

@pytest.mark.parametrize("scale", [1, 2])
def test_scaled(fwcompare_port, scale):
    fwcompare_port(reference, port, inputs=INPUTS)
    fwcompare_port(reference, reference, inputs=INPUTS)
"""

SIDES = '''
import numpy as np

def normalised(x, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)

def reference(x):
    """A layer norm."""
    return normalised(x, {reference})

def port(x):
    """Its port."""
    return normalised(x, {port})
'''

BASELINE = "--fwcompare-baseline=drift.json"
UPDATE = "--fwcompare-update-baseline"
NET = "test_ports.py::test_net[cpu-float32-eager]"


class Suite:
    """A project with a reference and a port in NumPy, compared in earnest."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.write()
        pytester.makepyfile(test_ports=PORTS)

    def write(self, reference: str = "1e-5", port: str = "1e-5") -> None:
        """Both sides, with their epsilons."""
        self.pytester.makepyfile(sides=SIDES.format(reference=reference, port=port))

    def run(self, *arguments: str) -> pytest.RunResult:
        command = ("--fwcompare", "--fwcompare-no-timings", BASELINE, "-p", "no:cacheprovider")
        return self.pytester.runpytest(*command, *arguments)

    @property
    def path(self) -> Path:
        return self.pytester.path / "drift.json"

    @property
    def data(self) -> Any:
        return json.loads(self.path.read_text())


@pytest.fixture(scope="module")
def imported() -> None:
    """What comparing imports, before pytester begins to forget what inner runs import."""
    import pytest_fwcompare.gate.files
    import pytest_fwcompare.gate.plugin  # noqa: F401

    def side(x: Any) -> Any:
        return 2 * x

    def wrong(x: Any) -> Any:
        return 2.1 * x

    inputs = {"x": TensorSpec((2, 3))}
    assert compare(side, side, inputs=inputs, deterministic=True).passed
    assert not compare(side, wrong, inputs=inputs, deterministic=True).passed
    with pytest.raises(AssertionError):
        compare(side, wrong, inputs=inputs).assert_equivalent()


@pytest.fixture
def suite(imported: None, pytester: pytest.Pytester) -> Suite:
    return Suite(pytester)


def test_equal_runs_give_equal_figures_and_pass(suite: Suite) -> None:
    first = suite.run(UPDATE)
    first.assert_outcomes(passed=3)
    first.stdout.fnmatch_lines(["baseline drift.json: 5 new, 0 changed, 0 unchanged"])
    assert list(suite.data["cases"]) == [
        NET,
        "test_ports.py::test_scaled[cpu-float32-eager-1]",
        "test_ports.py::test_scaled[cpu-float32-eager-1] #2",
        "test_ports.py::test_scaled[cpu-float32-eager-2]",
        "test_ports.py::test_scaled[cpu-float32-eager-2] #2",
    ]
    before = suite.path.read_bytes()
    suite.path.unlink()
    suite.run(UPDATE).assert_outcomes(passed=3)
    assert suite.path.read_bytes() == before
    green = suite.run()
    green.assert_outcomes(passed=3)
    green.stdout.fnmatch_lines(
        ["fwcompare baseline: drift.json: 5 cases; fails on semantic, *, drift>2x"]
    )
    assert suite.path.read_bytes() == before


def test_what_is_not_there_fails_with_the_command_that_makes_it(suite: Suite) -> None:
    command = "pytest --fwcompare --fwcompare-baseline=drift.json --fwcompare-update-baseline"
    none = suite.run("-k", "net")
    none.assert_outcomes(failed=1, deselected=2)
    none.stdout.fnmatch_lines(
        ["E *AssertionError: no baseline: there is no drift.json; record it:", f"E *{command}"]
    )
    assert not suite.path.exists()
    suite.run(UPDATE, "-k", "net").assert_outcomes(passed=1, deselected=2)
    rest = suite.run()
    rest.assert_outcomes(passed=1, failed=2)
    rest.stdout.fnmatch_lines(
        [
            "E *no baseline: drift.json has no entry for this test; record it:",
            f"E *{command} 'test_ports.py::test_scaled[[]cpu-float32-eager-1[]]'",
        ]
    )


def test_a_wrong_epsilon_is_the_ports_doing(suite: Suite) -> None:
    suite.run(UPDATE, "-k", "net")
    suite.write(port="1e-3")
    red = suite.run("-k", "net")
    red.assert_outcomes(failed=1, deselected=2)
    red.stdout.fnmatch_lines(
        [
            "E *AssertionError: drift>2x: verdict equivalent -> semantic",
            "E *semantic: the numpy port does not compute the same function*",
            "E *drift *against drift.json: verdict equivalent -> semantic; *gap *",
            "E *only the port moved: its float64 shadow too, by *(outputs), so it computes*",
            "E *nothing under it was upgraded, so the port was changed*",
        ]
    )


UPGRADE = """
import pytest
from pytest_fwcompare.backends.numpy import NumpyBackend

def pytest_configure():
    NumpyBackend.kept, NumpyBackend.version = NumpyBackend.version, lambda self: "99.0"

def pytest_unconfigure():
    NumpyBackend.version = NumpyBackend.kept
"""


def test_what_moves_both_sides_is_the_environments_doing(suite: Suite) -> None:
    """As a framework's upgrade would: both compute otherwise, and the port less accurately."""
    suite.run(UPDATE, "-k", "net")
    suite.pytester.makeconftest(UPGRADE)
    suite.write(reference="1.01e-5", port="1.01e-5 * (1 + 1e-6)")
    red = suite.run("-k", "net")
    red.stdout.fnmatch_lines(
        [
            "E *AssertionError: drift>2x: *",
            "E *both sides moved, as the environment did: numpy version *-> 99.0",
        ]
    )
    suite.write(reference="1.1e-5")
    red = suite.run("-k", "net")
    red.stdout.fnmatch_lines(
        [
            "E *only the reference moved: its float64 shadow too*",
            "E *since the baseline numpy version *-> 99.0,*",
            "E *or the reference was changed",
        ]
    )


def test_the_factor_is_chosen_by_the_condition(suite: Suite) -> None:
    suite.run(UPDATE, "-k", "net")
    data = suite.data
    entry = data["cases"][NET]
    entry["noise"]["port"] /= 3.0
    suite.path.write_text(json.dumps(data))
    loose = suite.run("-k", "net", "--fwcompare-fail-on=semantic,drift>50x")
    loose.assert_outcomes(passed=1, deselected=2)
    entry["ulp"] = dict.fromkeys(entry["ulp"], 0.0) | {"output gone": 1.0}
    suite.path.write_text(json.dumps(data))
    suite.run("-k", "net", "--fwcompare-fail-on=semantic").assert_outcomes(passed=1, deselected=2)
    red = suite.run("-k", "net", "--fwcompare-fail-on=drift>50x")
    red.stdout.fnmatch_lines(["E *drift>50x: tensor output gone no longer compared"])


def test_other_conditions_need_no_baseline(suite: Suite) -> None:
    run = suite.pytester.runpytest
    plain = ("--fwcompare", "--fwcompare-no-timings", "-k", "net")
    run(*plain, "--fwcompare-fail-on=noise>1000ulp,gap>1").assert_outcomes(passed=1, deselected=2)
    red = run(*plain, "--fwcompare-fail-on=semantic,noise>0.1ulp")
    red.stdout.fnmatch_lines(["E *noise>0.1ulp: the port's noise is * ulp of float32"])


def test_a_renamed_test(suite: Suite) -> None:
    suite.run(UPDATE)
    renamed = PORTS.replace("test_net", "test_network")
    suite.pytester.makepyfile(test_ports=renamed)
    red = suite.run()
    red.assert_outcomes(passed=2, failed=1)
    red.stdout.fnmatch_lines(
        [
            f"E *drift.json has no such case, but {NET.replace('[', '[[]')}, whose test is gone,*",
            "E *--fwcompare-update-baseline *test_network* --fwcompare-prune-baseline",
            "baseline: test_ports.py::test_net* its test is gone; --fwcompare-prune-baseline *",
        ]
    )
    suite.run(UPDATE)
    assert NET in suite.data["cases"], "removed only when asked for"
    pruned = suite.run(UPDATE, "--fwcompare-prune-baseline")
    pruned.stdout.fnmatch_lines(["baseline: test_ports.py::test_net*: its test is gone; removed"])
    assert NET not in suite.data["cases"]
    assert len(suite.data["cases"]) == 5


def test_what_was_not_selected_is_not_gone(suite: Suite) -> None:
    suite.run(UPDATE)
    suite.pytester.makepyfile(test_other=PORTS)
    before = suite.data
    for selection in (
        ["-k", "net"],
        [NET],
        ["test_other.py"],
        ["--deselect", NET, "test_ports.py"],
    ):
        result = suite.run(UPDATE, "--fwcompare-prune-baseline", *selection)
        result.stdout.no_fnmatch_line("*its test is gone*")
        assert set(before["cases"]) <= set(suite.data["cases"])
    suite.run(UPDATE, "--fwcompare-prune-baseline", "--fwcompare-dtypes=float64")
    assert set(before["cases"]) <= set(suite.data["cases"]), "another dtype was asked for"


def test_a_comparison_that_a_test_no_longer_makes_is_gone(suite: Suite) -> None:
    suite.run(UPDATE)
    fewer = PORTS.replace("    fwcompare_port(reference, reference, inputs=INPUTS)\n", "")
    suite.pytester.makepyfile(test_ports=fewer)
    one = "test_ports.py::test_scaled[cpu-float32-eager-1]"
    suite.run("--fwcompare-prune-baseline", one).assert_outcomes(passed=1)
    assert [case for case in suite.data["cases"] if "#2" in case] == [
        "test_ports.py::test_scaled[cpu-float32-eager-2] #2"
    ]


def test_a_baseline_of_another_dtype_or_device(suite: Suite) -> None:
    suite.run(UPDATE, "-k", "net")
    red = suite.run("-k", "net", "--fwcompare-dtypes=float64")
    red.stdout.fnmatch_lines(
        [
            "E *no baseline: drift.json has this test on cpu-float32-eager, not on "
            "cpu-float64-eager: it was recorded on another device, dtype or mode.*"
        ]
    )
    text = suite.path.read_text()
    suite.path.write_text(
        text.replace("cpu-float32-eager", "cuda-float32-eager").replace('"cpu"', '"cuda"')
    )
    red = suite.run("-k", "net")
    red.stdout.fnmatch_lines(["E *has this test on cuda-float32-eager, not on cpu-float32-eager*"])


@pytest.mark.parametrize("content", ["{", '{"format": 9, "written_by": "pytest-fwcompare 9"}'])
@pytest.mark.parametrize("arguments", [(), (UPDATE,), ("-n", "2")], ids=["", "update", "xdist"])
def test_a_broken_file_ends_the_run_and_stays(
    suite: Suite, content: str, arguments: tuple[str, ...]
) -> None:
    suite.path.write_text(content)
    result = suite.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: fwcompare: --fwcompare-baseline: *drift.json: *"])
    assert suite.path.read_text() == content


def test_a_file_that_breaks_during_the_run_stays(suite: Suite) -> None:
    breaks = (
        "\nfrom pathlib import Path\n\ndef test_break():\n    Path('drift.json').write_text('{')\n"
    )
    suite.pytester.makepyfile(test_ports=PORTS + breaks)
    result = suite.run(UPDATE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["baseline not written: *drift.json: not JSON*"])
    assert suite.path.read_text() == "{"


def test_workers_write_what_one_process_writes(suite: Suite) -> None:
    suite.run(UPDATE)
    plain = suite.path.read_bytes()
    suite.path.unlink()
    suite.run(UPDATE, "-n", "2").assert_outcomes(passed=3)
    assert suite.path.read_bytes() == plain
    suite.write(port="1e-3")
    suite.pytester.makepyfile(test_ports=PORTS.replace("test_net", "test_network"))
    red = suite.run("--fwcompare-prune-baseline", "-n", "2")
    red.assert_outcomes(failed=3)
    red.stdout.fnmatch_lines(
        [
            "E *only the port moved*",
            "baseline: test_ports.py::test_net*: its test is gone; removed",
        ]
    )
    assert len(suite.data["cases"]) == 4


def test_shards_are_merged_and_runs_at_once_lose_nothing(suite: Suite) -> None:
    tests = ("::test_net[", "-1]", "-2]")
    ids = [f"test_ports.py::{name}" for name in ("test_net", "test_scaled")]
    suite.run(UPDATE)
    whole = suite.path.read_bytes()
    suite.path.unlink()
    command = [sys.executable, "-m", "pytest", "--fwcompare", "--fwcompare-no-timings", UPDATE]
    at_once = [
        subprocess.Popen(
            [*command, BASELINE, test], cwd=suite.pytester.path, stdout=subprocess.DEVNULL
        )
        for test in ids
    ]
    assert [process.wait(120) for process in at_once] == [0, 0]
    assert suite.path.read_bytes() == whole

    shards = [suite.pytester.path / f"{number}.json" for number in range(3)]
    for shard, name in zip(shards, tests, strict=True):
        cases = {case: entry for case, entry in suite.data["cases"].items() if name in case}
        assert cases
        shard.write_text(json.dumps(suite.data | {"cases": cases}))
    merged = suite.pytester.path / "merged.json"
    assert main(["merge", *map(str, shards), "-o", str(merged)]) == 0
    assert merged.read_bytes() == whole


def test_an_error_keeps_the_old_entry(suite: Suite) -> None:
    suite.run(UPDATE, "-k", "net")
    before = suite.path.read_bytes()
    suite.pytester.makepyfile(
        sides=SIDES.format(reference="1e-5", port="1e-5")
        + "\n\ndef port(x):\n    return x[:, :2]\n"
    )
    result = suite.run(UPDATE, "-k", "net")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines([f"baseline: {NET.replace('[', '[[]')} was an error; *"])
    assert suite.path.read_bytes() == before


def test_given_draws_the_same_in_every_run(suite: Suite) -> None:
    suite.pytester.makepyfile(
        test_ports="""
        from hypothesis import given, strategies as st
        from pytest_fwcompare import TensorSpec
        from sides import port, reference

        @given(size=st.integers(2, 40))
        def test_any(fwcompare_port, size):
            fwcompare_port(reference, port, inputs={"x": TensorSpec((2, size))}, examples=2)

        class TestKept:
            @given(size=st.integers(2, 40))
            def test_method(self, fwcompare_port, size):
                fwcompare_port(reference, port, inputs={"x": TensorSpec((2, size))}, examples=2)
        """
    )
    suite.run(UPDATE).assert_outcomes(passed=2)
    before = suite.path.read_bytes()
    suite.path.unlink()
    suite.run(UPDATE).assert_outcomes(passed=2)
    assert suite.path.read_bytes() == before
    assert len(suite.data["cases"]) == 2
