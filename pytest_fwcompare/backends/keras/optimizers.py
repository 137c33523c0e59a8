"""Optimizers of Keras 3 over variables of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.optimizers import Stepper, explained
from pytest_fwcompare.diagnose.optimizers import Rule
from pytest_fwcompare.errors import UsageError

FORMS = "a keras optimizer, e.g. keras.optimizers.Adam(1e-3), or a function that returns one"


class OptimizerStepper(Stepper):
    """A Keras optimizer, made again from its configuration so that the user's stays unbuilt.

    Settings that Keras keeps in float32 (the learning rate, the betas that it casts) are restored
    to the shortest decimal that rounds to them, so that the shadow is float64 throughout.
    """

    def __init__(self, given: Any, values: Mapping[str, Array], *, dtype: str, role: str) -> None:
        self.role, self.dtype = role, dtype
        with floats(dtype):
            self.optimizer = _make(given, role)
            if dtype == "float64":
                _widen(self.optimizer)
            self.variables = {
                name: keras.Variable(np.asarray(value), dtype=dtype, name=name.replace("/", "_"))
                for name, value in values.items()
            }
            self.optimizer.build(list(self.variables.values()))

    def step(
        self,
        gradients: Mapping[str, Array],
        values: Mapping[str, Array],
        learning_rate: float | None = None,
    ) -> dict[str, Array]:
        with floats(self.dtype):
            for name, variable in self.variables.items():
                variable.assign(np.asarray(values[name]))
            if learning_rate is not None:
                explained(self.role, "optimizer", lambda: self._set_rate(learning_rate))
            moved = [name for name in self.variables if name in gradients]
            pairs = [
                (keras.ops.convert_to_tensor(np.asarray(gradients[name]), self.dtype), variable)
                for name, variable in self.variables.items()
                if name in moved
            ]
            explained(self.role, "optimizer", lambda: self.optimizer.apply_gradients(pairs))
        return {
            name: _to_numpy(keras.ops.convert_to_tensor(variable))
            for name, variable in self.variables.items()
        }

    def _set_rate(self, value: float) -> None:
        self.optimizer.learning_rate = value

    def rule(self) -> Rule | None:
        return rule_of(self.optimizer)


def _to_numpy(tensor: Any) -> Array:
    """The values; TensorFlow's tensors warn when NumPy asks them for their array."""
    value = tensor.numpy() if hasattr(tensor, "numpy") else keras.ops.convert_to_numpy(tensor)
    return np.array(value, np.float32) if value.dtype.name == "bfloat16" else np.array(value)


def _make(given: Any, role: str) -> Any:
    if callable(given) and not isinstance(given, keras.optimizers.Optimizer):
        given = given()
    if not isinstance(given, keras.optimizers.Optimizer):
        raise UsageError(
            f"optimizer: the {role} is a keras or tensorflow model; expected {FORMS}; got "
            f"{given!r}"
        )
    settings = given.get_config()
    rate = settings.get("learning_rate")
    if isinstance(rate, (float, np.floating)):
        settings["learning_rate"] = float(str(np.float32(rate)))
    try:
        return type(given).from_config(settings)
    except Exception:  # a class of the user's without a configuration
        if given.built:
            raise UsageError(
                f"optimizer: the {role}'s {type(given).__name__} was used before and cannot be "
                f"made again from get_config(); give a function that returns a new one"
            ) from None
        return copy.deepcopy(given)


def _widen(optimizer: Any) -> None:
    """Let TensorFlow see Python floats as float64: it makes them float32 before it casts them."""
    for name, value in vars(optimizer).items():
        if isinstance(value, float):
            object.__setattr__(optimizer, name, np.float64(value))


@contextmanager
def floats(dtype: str) -> Iterator[None]:
    """Variables made meanwhile have that dtype where none is given."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)


def rule_of(optimizer: Any) -> Rule | None:
    """What a Keras optimizer computes, from the `update_step` of its class."""
    kind, settings = type(optimizer), optimizer.get_config()
    rate = settings.get("learning_rate")
    if not isinstance(rate, (float, np.floating)) or settings.get("use_ema"):
        return None
    shared: dict[str, Any] = {
        "learning_rate": float(rate),
        # Keras subtracts the decay from the weights before the step, whatever the optimizer.
        "weight_decay": float(settings.get("weight_decay") or 0.0),
        "decay": "decoupled",
        "clip_value": float(settings.get("clipvalue") or 0.0),
        "clip_each": float(settings.get("clipnorm") or 0.0),
        "clip_norm": float(settings.get("global_clipnorm") or 0.0),
    }
    if kind is keras.optimizers.SGD:
        return Rule(
            "sgd",
            momentum=float(settings["momentum"]),
            nesterov=settings["nesterov"],
            velocity="step",
            **shared,
        )
    if kind in (keras.optimizers.Adam, keras.optimizers.AdamW):
        return Rule(
            "adam",
            beta1=float(settings["beta_1"]),
            beta2=float(settings["beta_2"]),
            epsilon=float(settings["epsilon"]),
            epsilon_place="before correction",
            amsgrad=settings["amsgrad"],
            **shared,
        )
    if kind is keras.optimizers.RMSprop and not settings["momentum"]:
        return Rule(
            "rmsprop",
            beta2=float(settings["rho"]),
            epsilon=0.0,
            epsilon_root=float(settings["epsilon"]),
            centered=settings["centered"],
            **shared,
        )
    if kind is keras.optimizers.Adagrad:
        return Rule(
            "adagrad",
            initial=float(settings["initial_accumulator_value"]),
            epsilon=0.0,
            epsilon_root=float(settings["epsilon"]),
            **shared,
        )
    return None
