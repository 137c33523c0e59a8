"""What a side refuses to load, the same in every framework."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_fwcompare.backends.base import Argument, Parameter
from pytest_fwcompare.backends.loading import check_values
from pytest_fwcompare.backends.registry import available, require
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.networks import Dense, Sequential

INSTALLED = [name for name, reason in available().items() if reason is None]
PARAMETERS = [Parameter("w", (2, 3), "float32", True), Parameter("s", (), "float32", True)]


def test_what_fits_is_taken() -> None:
    check_values("port", PARAMETERS, {"w": np.zeros((2, 3)), "s": np.float32(1)})
    check_values("port", PARAMETERS, {})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"v": 1, "u": 2}, "port: no parameter 'v', 'u' in the model; its parameters are w, s"),
        (
            {"w": np.zeros((3, 2))},
            "port: parameter 'w' has shape (2, 3), got values of shape (3, 2)",
        ),
        ({"s": np.zeros(1)}, "port: parameter 's' has shape (), got values of shape (1,)"),
    ],
)
def test_what_does_not_fit_is_named(values, text) -> None:
    with pytest.raises(UsageError) as caught:
        check_values("port", PARAMETERS, values)
    assert str(caught.value) == text


def test_a_model_with_no_parameters_says_so() -> None:
    with pytest.raises(UsageError, match="its parameters are none"):
        check_values("port", [], {"w": 1})


@pytest.mark.parametrize("precision", ["working", "double"])
@pytest.mark.parametrize("framework", INSTALLED)
def test_every_side_loads_all_or_nothing(framework, precision) -> None:
    backend = require(framework)
    built = backend.build(Sequential([Dense(3)], (2,)))
    with backend.adopt(built.model, dtype="float32", device="cpu", mode="eager", own=True) as side:
        side.role = "port"
        side.prepare([Argument("x", np.zeros((1, 2), np.float32))])
        first, second = side.parameters()
        before = side.read()
        fits = {first.name: np.full(first.shape, 7.0)}
        with pytest.raises(UsageError, match=r"port: no parameter 'nothing' in the model"):
            side.load({**fits, "nothing": np.zeros(3)}, precision)
        with pytest.raises(UsageError, match=r"got values of shape \(9,\)"):
            side.load({**fits, second.name: np.zeros(9)}, precision)
        after = side.read()
    assert all(np.array_equal(after[name], before[name]) for name in before)
