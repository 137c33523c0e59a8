"""`deterministic=True`: equal runs give equal figures, whatever a factory draws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from pytest_fwcompare import Comparison, TensorSpec, compare

torch = pytest.importorskip("torch")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

INPUTS = {"x": TensorSpec(("batch", 4))}


def torch_model() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())


def keras_model() -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="tanh")])


class Module(tf.Module):  # type: ignore[misc]
    """Draws its weights from TensorFlow's global stream."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.random.normal((4, 3)), name="kernel")
        self.bias = tf.Variable(tf.random.normal((3,)), name="bias")

    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, x: Any) -> Any:
        return tf.tanh(x @ self.kernel + self.bias)


def function() -> Any:
    """Draws its constant from Python's and NumPy's global streams."""
    factor = random.random() + np.random.random()
    return lambda x: x * factor


def made(factory: Any, **keywords: Any) -> Comparison:
    return compare(factory, factory, inputs=INPUTS, weights="given", examples=3, **keywords)


def keras_names() -> list[str]:
    return [row.name for row in made(keras_model, deterministic=True).tensors]


def test_names_that_keras_numbers_do_not_depend_on_what_was_made_before() -> None:
    names = keras_names()
    before = keras.layers.Dense(1).name
    assert keras_names() == names
    after = keras.layers.Dense(1).name
    assert [int(name.partition("_")[2] or 0) for name in (before, after)][1] > 0
    assert before != after, "Keras goes on counting where it was"


FACTORIES = {"torch": torch_model, "keras": keras_model, "tensorflow": Module, "numpy": function}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_what_a_factory_draws_is_the_same_each_time(factory: Any) -> None:
    first, second = (made(factory, deterministic=True) for _ in range(2))
    assert first.verdict == "equivalent", "both sides draw the same too"
    assert first.digest == second.digest is not None
    assert first.tensors == second.tensors
    assert made(factory, deterministic=True, seed=1).digest != first.digest
    assert made(factory).verdict == "semantic", "without it they are two models"
    assert made(factory).digest is None


def drawn() -> tuple[float, ...]:
    """The next numbers of every global stream."""
    return (
        random.random(),
        float(np.random.random()),
        float(torch.rand(1)),
        float(tf.random.normal(())),
    )


def test_the_global_streams_go_on_as_if_nothing_had_been() -> None:
    def begin() -> None:
        random.seed(1)
        np.random.seed(2)
        torch.manual_seed(3)
        tf.random.set_seed(4)
        drawn()

    begin()
    expected = drawn()
    begin()
    for factory in FACTORIES.values():
        made(factory, deterministic=True)
    assert drawn() == expected
    tf.random.set_seed(None)


def test_examples_are_planned_and_not_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: Any) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr("pytest_fwcompare.comparing.judging.search", search)
    found = made(function, deterministic=True)
    assert found.examples.count == 3
    with pytest.raises(AssertionError, match="searched"):
        compare(function, function, inputs=INPUTS, examples=8)
