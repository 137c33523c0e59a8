"""`--fwcompare-record` and `--fwcompare-replay`, with the reference's framework taken away."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from pytest_fwcompare import TensorSpec, compare

PORTS = """
import pytest
from pytest_fwcompare import TensorSpec
from sides import port, reference

INPUTS = {"x": TensorSpec(("batch", 5))}

def test_port(fwcompare_port):
    fwcompare_port(reference, port, inputs=INPUTS, examples=4)
    fwcompare_port(reference, port, inputs=INPUTS, examples=3)
"""

SIDES = """
import os
from pytest_fwcompare import networks as fn

def net(epsilon):
    return fn.Sequential([fn.Dense(4), fn.LayerNorm(epsilon=epsilon)], input_shape=(5,))

def reference():
    with open("asked.log", "a") as log:
        log.write("x")
    return net(1e-5)

def port():
    return net({epsilon})
"""

TORCH = """
from pytest_fwcompare import networks as fn

def reference():
    import torch
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.LayerNorm(4, eps=1e-5))

def port():
    return fn.Sequential([fn.Dense(4), fn.LayerNorm(epsilon={epsilon})], input_shape=(5,))
"""

WITHOUT = """
import sys
sys.modules["torch"] = None  # whoever imports it now gets an ImportError
"""

RUN = ("--fwcompare", "--fwcompare-no-timings", "-p", "no:cacheprovider")
RECORD, REPLAY = "--fwcompare-record=traces", "--fwcompare-replay=traces"


@pytest.fixture(scope="module")
def imported() -> None:
    """What comparing imports, before pytester begins to forget what inner runs import."""
    import safetensors.numpy  # noqa: F401

    import pytest_fwcompare.golden.record
    import pytest_fwcompare.golden.session  # noqa: F401

    def side(x: object) -> object:
        return x

    assert compare(side, side, inputs={"x": TensorSpec((2, 3))}, examples=1).passed


@pytest.fixture
def project(imported: None, pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(test_ports=PORTS, sides=SIDES.format(epsilon="1e-5"))
    return pytester


def asked(project: pytest.Pytester) -> int:
    """How often the reference was made."""
    path = project.path / "asked.log"
    return len(path.read_text()) if path.exists() else 0


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["plain", "xdist"])
def test_a_port_is_judged_without_the_reference(
    project: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    project.runpytest(*RUN, RECORD, *workers).assert_outcomes(passed=1)
    assert len(list(project.path.glob("traces/*/index.json"))) == 2, "one a comparison"
    made = asked(project)
    project.runpytest(*RUN, REPLAY).assert_outcomes(passed=1)
    project.makepyfile(sides=SIDES.format(epsilon="1e-3"))
    red = project.runpytest(*RUN, REPLAY, *workers)
    red.assert_outcomes(failed=1)
    red.stdout.fnmatch_lines(
        [
            "E *AssertionError: semantic: the numpy port does not compute the same function*",
            "E *the numpy reference was replayed from golden traces",
            "E *replay *pytest --fwcompare --fwcompare-replay=traces 'test_ports.py::test_port*",
        ]
    )
    assert asked(project) == made, "a replay never makes the reference"


def test_where_the_framework_is_absent(project: pytest.Pytester) -> None:
    if find_spec("torch") is None:
        pytest.skip("torch is not installed, so nothing of it can be recorded")
    project.makepyfile(sides=TORCH.format(epsilon="1e-5"))
    run = project.runpytest_subprocess
    run(*RUN, RECORD).assert_outcomes(passed=1)
    project.makeconftest(WITHOUT)
    blocked = run(*RUN)
    blocked.assert_outcomes(failed=1)
    blocked.stdout.fnmatch_lines(["E *ModuleNotFoundError: import of torch halted*"])
    run(*RUN, REPLAY).assert_outcomes(passed=1)
    project.makepyfile(sides=TORCH.format(epsilon="1e-3"))
    red = run(*RUN, REPLAY)
    red.assert_outcomes(failed=1)
    red.stdout.fnmatch_lines(["E *semantic: the numpy port does not compute*torch reference*"])


def test_traces_that_are_not_there(project: pytest.Pytester) -> None:
    project.runpytest(*RUN, RECORD)
    missing = project.runpytest(*RUN, REPLAY, "--fwcompare-dtypes=float64")
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(
        ["E *GoldenError: golden traces: none of test_ports.py::test_port[[]cpu-float64-eager[]]*"]
    )
    for path in project.path.glob("traces/*/index.json"):
        path.write_text("{")
    broken = project.runpytest(*RUN, REPLAY)
    broken.stdout.fnmatch_lines(["E *GoldenError: *index.json: not JSON*"])


def test_traces_of_another_test_in_its_place(project: pytest.Pytester) -> None:
    project.runpytest(*RUN, RECORD)
    first, second = sorted(project.path.glob("traces/*"))
    first.rename(project.path / "kept")
    second.rename(first)
    (project.path / "kept").rename(second)
    result = project.runpytest(*RUN, REPLAY)
    result.stdout.fnmatch_lines(["E *GoldenError: golden traces *: those of *, not of *"])


def test_a_baseline_works_with_a_replay(project: pytest.Pytester) -> None:
    project.runpytest(*RUN, RECORD)
    gate = "--fwcompare-baseline=drift.json"
    project.runpytest(*RUN, REPLAY, gate, "--fwcompare-update-baseline").assert_outcomes(passed=1)
    project.runpytest(*RUN, REPLAY, gate).assert_outcomes(passed=1)
    project.makepyfile(sides=SIDES.format(epsilon="1e-3"))
    red = project.runpytest(*RUN, REPLAY, gate)
    red.stdout.fnmatch_lines(["E *drift>2x: verdict equivalent -> semantic", "E *only the port*"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((RECORD, "--fwcompare-replay=."), "--fwcompare-replay: a run records or replays, not*"),
        (("--fwcompare-replay=none",), "--fwcompare-replay=*none: there is no such folder"),
        (("--fwcompare-record=sides.py",), "--fwcompare-record=sides.py: expected a folder, *"),
    ],
)
def test_mistakes(project: pytest.Pytester, options: tuple[str, ...], message: str) -> None:
    result = project.runpytest("--fwcompare", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: fwcompare: {message}"])


def test_a_test_under_given_is_refused(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_ports="""
        from hypothesis import given, strategies as st
        from pytest_fwcompare import TensorSpec

        @given(n=st.integers(1, 3))
        def test_any(fwcompare_port, n):
            fwcompare_port(lambda x: x, lambda x: x, inputs={"x": TensorSpec((n, 2))})
        """
    )
    result = project.runpytest(*RUN, RECORD)
    result.stdout.fnmatch_lines(["E *golden traces: a test under @given draws other comparisons*"])
