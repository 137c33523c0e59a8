"""What users of Hypothesis expect inside tests that compare: with real networks, in NumPy."""

from __future__ import annotations

import re

import pytest

HEAD = """
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from hypothesis import reproduce_failure
from pytest_fwcompare import NumpyFunction, networks as fn, strategies as fs

KERNEL = np.array([[1.0, -2.0], [0.5, 3.0]])

def reference(x):
    return x @ KERNEL

def port(x):
    return x @ np.where(np.abs(x).max() > 2, 1.001, 1.0) @ KERNEL if x.ndim == 0 else (
        x @ KERNEL * np.where(np.abs(x).max() > 2, 1.001, 1.0)
    )

def judge(compare, x):
    compare(NumpyFunction(reference), NumpyFunction(port), inputs={"x": x}, explain=False,
            checks=("forward",))
"""
RUN = ("--fwcompare", "--fwcompare-no-timings", "-p", "no:cacheprovider")


def run(pytester: pytest.Pytester, body: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + body)
    return pytester.runpytest_subprocess(*RUN, *options)


def test_an_example_of_ones_own_is_judged_first_and_found(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@settings(max_examples=1, database=None, deadline=None, phases=["explicit"])
@given(x=fs.floats(1, 2))
@example(x=np.array([[3.0, 0.0]], np.float32))
def test_it(fwcompare_port, x):
    judge(fwcompare_port, x)
""".replace('["explicit"]', '[__import__("hypothesis").Phase.explicit]'),
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*semantic: the numpy port does not compute *", "*explicit ex*"])


FOUND = """
@settings(max_examples=60, database=None, deadline=None, print_blob=True)
@given(x=fs.floats(1, 2))
def test_it(fwcompare_port, x):
    judge(fwcompare_port, x)
"""


def test_a_failure_shrinks_and_its_blob_brings_it_back(pytester: pytest.Pytester) -> None:
    result = run(pytester, FOUND, "--hypothesis-seed=0")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    blob = re.search(r"@reproduce_failure\((.*?)\)", text)
    assert blob is not None, "Hypothesis says how to bring the failure back"
    assert "Falsifying example" in text or "Failing test case" in text
    again = run(pytester, f"@reproduce_failure({blob.group(1)})" + FOUND)
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*semantic: the numpy port does not compute *"])


@pytest.mark.parametrize("profile", [(), ("--hypothesis-profile=ci",)], ids=["derandomize", "ci"])
def test_equal_runs_draw_equal_examples(
    pytester: pytest.Pytester, profile: tuple[str, ...]
) -> None:
    derandomize = "" if profile else "derandomize=True, "
    body = f"""
@settings(max_examples=5, {derandomize}database=None, deadline=None)
@given(x=fs.floats(1, 2))
def test_it(fwcompare_network, x):
    with open("seen.txt", "a") as seen:
        print(x.tolist(), file=seen)
    network = fn.Sequential([fn.Dense(2)], input_shape=(2,))
    fwcompare_network(network, inputs={{"x": x}}, examples=2, explain=False)
"""
    drawn = []
    for _ in range(2):
        result = run(pytester, body, "--fwcompare-frameworks=numpy", *profile)
        result.assert_outcomes(passed=1)
        drawn.append((pytester.path / "seen.txt").read_text())
        (pytester.path / "seen.txt").unlink()
    assert drawn[0] == drawn[1]
    assert drawn[0].count("\n") >= 5
