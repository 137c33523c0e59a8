"""The shipped suite: it covers every layer, chooses its backends, and rejects a wrong one."""

from __future__ import annotations

import inspect

import pytest

from pytest_fwcompare.conformance.cases import CASES, covered
from pytest_fwcompare.networks import layers
from pytest_fwcompare.networks.base import Layer

ABSTRACT = {
    layers.AdaptiveAveragePool,
    layers.AveragePool,
    layers.Conv,
    layers.ConvTranspose,
    layers.MaxPool,
    layers.Pool,
    layers.Recurrent,
}
"""Layers that others share and that are none by themselves."""

WRONG = """
    from dataclasses import replace

    from pytest_fwcompare.backends import registry
    from pytest_fwcompare.backends.numpy import NumpyBackend
    from pytest_fwcompare.weights.transforms import Blocks

    registry.SHIPPED["wrong"] = "wrong_backend:WrongBackend"


    class WrongBackend(NumpyBackend):
        name = "wrong"

        def build(self, network, *, dtype="float32", device="cpu"):
            built = super().build(network, dtype=dtype, device=device)
            kept = [p for p in built.placements if p.parameter != "dense.bias"]
            placements = [
                replace(placed, transform=Blocks((1, 0, 2)))
                if placed.parameter == "gru.kernel"
                else placed
                for placed in kept
            ]
            return replace(built, placements=tuple(placements))
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        "--pyargs", "pytest_fwcompare.conformance", "-p", "no:cacheprovider", *arguments
    )


def test_every_layer_has_a_case() -> None:
    known = {
        kind for kind in vars(layers).values() if inspect.isclass(kind) and issubclass(kind, Layer)
    }
    assert known - covered() == ABSTRACT


def test_names_are_unique() -> None:
    assert len({each.name for each in CASES}) == len(CASES)


def test_inputs_are_equal_for_equal_seeds_only() -> None:
    each = next(each for each in CASES if each.name == "attention-masked")
    sizes = each.sizes[0]
    first, again, other = each.inputs(sizes), each.inputs(sizes), each.inputs(sizes, seed=1)
    assert (first["query"] == again["query"]).all()
    assert not (first["query"] == other["query"]).all()
    assert first["mask"][0].all()
    assert not first["mask"][-1].any()


def test_the_reference_conforms_to_itself(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--fwcompare-frameworks", "numpy", "-k", "gru or names")
    result.assert_outcomes(passed=3 * 6)


def test_the_environment_chooses_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FWCOMPARE_CONFORMANCE", "numpy")
    result = run(pytester, "-k", "numpy-softmax")
    result.assert_outcomes(passed=3 * 2)


def test_an_unknown_backend_is_a_usage_error(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--fwcompare-frameworks", "numpy,theano")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*no framework 'theano'; the frameworks are torch, *"])


def test_a_wrong_backend_is_rejected(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(wrong_backend=WRONG)
    result = run(
        pytester,
        *("-p", "wrong_backend", "--fwcompare-frameworks", "wrong", "-rf"),
        *("-k", "wrong-gru] or wrong-dense] or wrong-lstm]"),
    )
    # The GRU has its gates swapped; the bias of the dense layer has no place.
    result.assert_outcomes(passed=3 + 1, failed=2 + 3)
    result.stdout.fnmatch_lines_random(
        [
            "E*AssertionError: wrong, gru at {'batch': 2, 'time': 7}, float64: * differs from "
            "the float64 reference by * of its largest value, allowed is 1e-12*",
            "E*AssertionError: placements and parameters differ*",
        ]
    )
