"""Operations of a `tf.Module` tell the submodule that ran them, by attribute path."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from pytest_fwcompare.backends.base import Argument  # noqa: E402
from pytest_fwcompare.backends.tensorflow import TensorFlowBackend  # noqa: E402
from pytest_fwcompare.backends.tensorflow.watch import marked, submodules  # noqa: E402


class Scale(tf.Module):
    def __init__(self, number):
        super().__init__()
        self.number = tf.Variable(number)

    def __call__(self, x):
        return tf.tanh(x) * self.number


class Child(Scale):
    """Inherits its call."""


class Pair(tf.Module):
    def __init__(self):
        super().__init__()
        self.first = Scale(2.0)
        self.rest = [Child(3.0), {"last": Child(4.0)}]

    def __call__(self, x):
        return self.rest[1]["last"](self.rest[0](self.first(x) + 1.0))


def test_paths_are_those_of_attributes() -> None:
    assert [path for path, _ in submodules(Pair()).values()] == ["first", "rest.0", "rest.1.last"]


def test_records_tell_the_submodule() -> None:
    side = TensorFlowBackend().adopt(Pair(), dtype="float32", device="cpu", mode="eager", own=True)
    made = side.forward(
        [Argument("x", np.ones((2, 3), np.float32))], precision="double", record=True
    )
    found = [(record.path, record.operation) for record in made.recorded()]
    assert [path for path, name in found if name == "Tanh"] == ["first", "rest.0", "rest.1.last"]
    assert ("", "AddV2") in found


def test_classes_are_left_as_they_were_found() -> None:
    before = dict(vars(Scale)), dict(vars(Child))
    scopes = marked(Pair())
    scopes.__enter__()
    assert vars(Scale)["__call__"] is not before[0]["__call__"]
    error = RuntimeError("stop")
    assert not scopes.__exit__(RuntimeError, error, None)
    assert (dict(vars(Scale)), dict(vars(Child))) == before
