"""A TensorFlow or Keras model in this process: its variables, its state, how it is called."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Parameter,
    Side,
)
from pytest_fwcompare.backends.eager import Switched
from pytest_fwcompare.backends.exhausted import is_exhausted, out_of_memory
from pytest_fwcompare.backends.tensorflow.record import Scopes
from pytest_fwcompare.backends.tensorflow.state import (
    device_name,
    elsewhere,
    is_random,
    random_state,
    reason,
    restore_random,
    to_numpy,
)
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.formats import format_of


@dataclass
class Owned:
    """A parameter with the variable that holds it."""

    parameter: Parameter
    variable: Any


class TensorFlowModel(Switched, Side):
    """A model of TensorFlow, run in place: its state is kept and put back by `close`.

    Subclasses say how a model lists its variables, is called, and what else it holds.
    """

    framework = "tensorflow"

    def __init__(self, model: Any, *, dtype: str, device: str, mode: str, own: bool) -> None:
        self.model = model
        self.format = format_of(dtype)
        self.dtype = tf.as_dtype(self.format.stored)
        self.device = device_name(device)
        self.mode = mode
        self.own = own
        self.shares_dropout = mode != "compiled"  # what XLA compiles calls nothing back
        self.lifts = False
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
        self._owned: list[Owned] | None = None
        self._random = random_state()
        self._kept: dict[int, tuple[Any, Array]] = {}
        if not own:
            self._keep(self.all_variables())

    # What subclasses know -------------------------------------------------------------------

    def list_owned(self) -> list[Owned]:
        """Float variables with names, in definition order."""
        raise NotImplementedError

    def all_variables(self) -> list[Any]:
        """Every variable of the model, counters and seeds included."""
        raise NotImplementedError

    def bound(
        self, arguments: Sequence[Argument], tensors: Sequence[Any], training: bool
    ) -> Callable[[], Any]:
        """The model's call on tensors that stand for the arguments, as its user writes it."""
        raise NotImplementedError

    def call(self, arguments: Sequence[Argument], tensors: Sequence[Any], training: bool) -> Any:
        """Call the model on tensors that stand for the arguments."""
        return self.bound(arguments, tensors, training)()

    def integer(self, argument: Argument) -> tf.DType:
        """The dtype in which an integer input is handed to the model."""
        value = argument.value
        if value.dtype.kind not in "iu" or value.dtype.itemsize < 8:
            return tf.as_dtype(value.dtype)
        limits = np.iinfo(np.int32)
        fits = not value.size or (value.min() >= limits.min and value.max() <= limits.max)
        return tf.int32 if fits else tf.int64

    def autograph(self) -> bool:
        """Whether tracing converts Python conditions on tensors."""
        return True

    def scopes(self) -> Scopes:
        """Names of layers, to tell them from other name scopes of a graph."""
        return Scopes(frozenset(), "")

    def tracing(self) -> AbstractContextManager[None]:
        """Entered while a pass is traced that will be recorded."""
        return nullcontext()

    def portable(self) -> AbstractContextManager[None]:
        """Entered while a graph is traced that will run on a CPU, in float64."""
        return nullcontext()

    def traced(self) -> None:
        """Called after a trace, to drop what the model kept of it."""

    # State ----------------------------------------------------------------------------------

    def _keep(self, variables: Iterable[Any]) -> None:
        """Remember the values of variables that were not seen before."""
        for variable in variables:
            if id(variable) not in self._kept:
                self._kept[id(variable)] = variable, np.array(variable.numpy())

    def close(self) -> None:
        """Put every variable and the random state back."""
        if not self.own:
            for variable, value in self._kept.values():
                variable.assign(value)
            restore_random(self._random)
        self._kept.clear()
        self.traced()

    @contextmanager
    def unchanged(self) -> Iterator[dict[str, Array]]:
        """Put back what a pass changes; afterwards the mapping holds the buffers it left.

        Random state goes on, so that two passes with dropout differ, and is put back by `close`.
        """
        before = [(v, v.numpy()) for v in self.all_variables() if not is_random(v)]
        left: dict[str, Array] = {}
        try:
            yield left
            left.update(
                {
                    owned.parameter.name: to_numpy(owned.variable)
                    for owned in self.entries()
                    if not owned.parameter.trainable
                }
            )
        finally:
            for variable, value in before:
                variable.assign(value)

    def entries(self) -> list[Owned]:
        """Parameters with their variables, listed once."""
        if not self._owned:
            self._owned = self.list_owned()
            if self._owned:
                self._check_dtype()
                if not self.own:
                    self._keep(self.all_variables())
        return self._owned

    def _check_dtype(self) -> None:
        """A float64 comparison of a float32 model runs a shadow; other differences are errors."""
        assert self._owned is not None
        found = {tf.as_dtype(owned.variable.dtype) for owned in self._owned}
        self.lifts = self.dtype == tf.float64 and tf.float64 not in found
        if not self.lifts and self.dtype not in found:
            names = ", ".join(sorted(kind.name for kind in found))
            raise ModelError(
                self.role,
                "build",
                f"expected parameters in the working dtype {self.dtype.name}, got {names}; make "
                f"the model in {self.dtype.name}, or compare with dtype={names.split(',')[0]!r}",
            )

    def prepare(self, arguments: Sequence[Argument]) -> None:
        """Let a model that makes its variables at its first call make them."""

    def parameters(self) -> list[Parameter]:
        """Float variables in definition order."""
        return [owned.parameter for owned in self.entries()]

    def read(self) -> dict[str, Array]:
        """Current values of the model's own variables."""
        return {owned.parameter.name: to_numpy(owned.variable) for owned in self.entries()}

    def value(self, name: str) -> Array:
        """Current value of one of the model's own variables."""
        return to_numpy(self._entry(name).variable)

    def original(self, name: str) -> Array | None:
        """What a variable held when it was first seen, which is kept to be put back."""
        kept = self.first_value(self._entry(name).variable)
        return None if kept is None or kept.dtype != self.dtype.as_numpy_dtype else kept

    def first_value(self, variable: Any) -> Array | None:
        """What is kept of any variable of the model; None before it was seen."""
        kept = self._kept.get(id(variable))
        return None if kept is None else kept[1]

    def _entry(self, name: str) -> Owned:
        return next(owned for owned in self.entries() if owned.parameter.name == name)

    # Passes ---------------------------------------------------------------------------------

    def tensors(self, arguments: Sequence[Argument], kind: tf.DType | None = None) -> list[Any]:
        """Inputs as tensors, floats in the working dtype or in `kind`."""
        made = []
        for argument in arguments:
            value = np.asarray(argument.value)
            if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
                made.append(tf.cast(tf.constant(value), kind or self.dtype))
            else:
                made.append(tf.constant(value, self.integer(argument)))
        return made

    def _scope(self) -> AbstractContextManager[Any]:
        """The device, unless there is no other: a scope costs every eager operation a little."""
        if self.device == "/CPU:0" and not elsewhere():
            return nullcontext()
        return tf.device(self.device)  # type: ignore[no-any-return]

    @contextmanager
    def placed(self) -> Iterator[None]:
        """On the device, with TF32 only where the working dtype is that."""
        allowed = tf.config.experimental.tensor_float_32_execution_enabled
        allow = tf.config.experimental.enable_tensor_float_32_execution
        before, wanted = allowed(), self.format.name == "tf32"
        if before != wanted:
            allow(wanted)
        try:
            with self._scope():
                yield
            if allowed() != wanted:
                self.note_reduced(f"TF32 switched {'on' if allowed() else 'off'} by the model")
        finally:
            if allowed() != before:
                allow(before)

    @contextmanager
    def explained(self, stage: str) -> Iterator[None]:
        """Turn what the framework raises into a `ModelError`."""
        try:
            with warnings.catch_warnings():
                # Keras and TensorFlow warn of structures and sparse gradients as they go.
                warnings.simplefilter("ignore")
                yield
        except ModelError:
            raise
        except Exception as error:
            if is_exhausted(error):
                framework = self.framework
                raise out_of_memory(self.role, stage, framework, error, self.device) from None
            raise ModelError(self.role, stage, reason(error)) from error
