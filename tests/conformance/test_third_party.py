"""A backend of somebody else: registered by entry point, checked by the suite, then used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PACKAGE = '''
from dataclasses import replace

from pytest_fwcompare.backends.numpy import NumpyBackend
from pytest_fwcompare.weights.transforms import Blocks


class Mine(NumpyBackend):
    name = "mine"

    def adopt(self, model, **keywords):
        side = super().adopt(model, **keywords)
        side.framework = self.name
        return side


class Careless(Mine):
    """Takes a GRU's gates for those of another framework."""

    name = "careless"

    def build(self, network, *, dtype="float32", device="cpu"):
        built = super().build(network, dtype=dtype, device=device)
        return replace(
            built,
            placements=tuple(
                replace(placed, transform=Blocks((1, 0, 2)))
                if placed.parameter == "gru.kernel"
                else placed
                for placed in built.placements
            ),
        )
'''
ENTRY_POINTS = """
[pytest_fwcompare.backends]
mine = their_backend:Mine
careless = their_backend:Careless
"""
GRU = """
from pytest_fwcompare import networks as fn

def test_gru(fwcompare_network):
    network = fn.Sequential([fn.GRU(3)], input_shape=("time", 2))
    fwcompare_network(network, examples=4, explain=False)
"""


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A distribution on the path, as pip would install it."""
    site = pytester.mkdir("site")
    info = site / "their_backend-1.0.dist-info"
    info.mkdir()
    (site / "their_backend.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    before = os.environ.get("PYTHONPATH")
    paths = [str(site), str(Path(__file__).parents[2]), *([before] if before else [])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return pytester


@pytest.mark.parametrize(
    ("framework", "outcomes"),
    [("mine", {"passed": 6}), ("careless", {"passed": 4, "failed": 2})],
)
def test_the_suite_runs_on_it(
    installed: pytest.Pytester, framework: str, outcomes: dict[str, int]
) -> None:
    result = installed.runpytest_subprocess(
        *("--pyargs", "pytest_fwcompare.conformance", "-p", "no:cacheprovider"),
        *(f"--fwcompare-frameworks={framework}", "-k", f"{framework}-gru] or {framework}-dense]"),
    )
    result.assert_outcomes(**outcomes)
    if "failed" in outcomes:
        result.stdout.fnmatch_lines(["E*careless, gru at {*}, float64: * differs from the *"])


def test_the_fixtures_judge_in_it(installed: pytest.Pytester) -> None:
    installed.makepyfile(GRU)
    result = installed.runpytest_subprocess(
        "--fwcompare", "--fwcompare-frameworks=mine,careless", "-p", "no:cacheprovider"
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: semantic: the careless port does not compute the same function *",
            "*test_gru* mine *equivalent*",
            "*test_gru* careless *semantic*",
        ]
    )
