"""A JAX model in this process: its arrays by precision, its settings, its pure function."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Parameter,
    Precision,
    Side,
)
from pytest_fwcompare.backends.eager import Switched
from pytest_fwcompare.backends.exhausted import is_exhausted, out_of_memory
from pytest_fwcompare.backends.jax.devices import is_cpu
from pytest_fwcompare.backends.jax.dropout import shared_dropout
from pytest_fwcompare.backends.jax.leaves import Values, has_numbers, is_float
from pytest_fwcompare.backends.jax.modes import x64
from pytest_fwcompare.backends.jax.outputs import Outputs
from pytest_fwcompare.backends.jax.shadow import Lift
from pytest_fwcompare.backends.jax.twin import Twin
from pytest_fwcompare.backends.jax.widths import to_numpy
from pytest_fwcompare.backends.loading import check_values
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.formats import format_of


def quick_jit(function: Callable[..., Any], device: Any) -> Any:
    """Compiled for few runs: shadows see new shapes all the time, and compiling costs most.

    Without LLVM's optimisation a shadow of the corpus compiles in half the time on a CPU.
    """
    known = inspect.signature(jax.jit).parameters
    if not is_cpu(device) or "compiler_options" not in known:
        return jax.jit(function)
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


class JaxModel(Switched, Side):
    """A JAX model with its arrays on a device, and the parts that its passes are made of."""

    framework = "jax"
    shares_dropout = True

    def __init__(self, twin: Twin, *, dtype: str, device: Any, mode: str) -> None:
        self.twin = twin
        self.mode = mode
        self.device = device
        self.format = format_of(dtype)
        self.dtype = np.dtype(jax.numpy.dtype(self.format.stored))
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
        self.lift = Lift()
        self._pulls = {
            "working": jax.jit(lambda pull, cotangents: pull(cotangents)),
            "double": quick_jit(lambda pull, cotangents: pull(cotangents), device),
        }
        self._adopt()

    def _adopt(self) -> None:
        """Take arrays and structure from the twin anew."""
        self._structure = self.twin.structure()
        self._parameters = self.twin.parameters()
        self._trained = frozenset(p.name for p in self._parameters if p.trainable)
        self._loaded: dict[Precision, Values] = {}
        self._own: dict[Precision, Values] = {}
        self._unwritten: Values = {}
        with self.context("working"):
            self._others = {
                name: self._array(value, "working")
                for name, value, _ in self.twin.leaves()
                if not is_float(value)
            }

    def prepare(self, arguments: Sequence[Argument]) -> None:
        with self.errors("forward"), self.context("working"):
            call = self.given(arguments, "working")

            def run() -> Any:
                # A function of its own: what was traced before is not run again.
                function = self.function(False)
                return jax.eval_shape(lambda t, f, x, c: function({**x, **t}, *c.filled(f)), *call)

            if self.twin.explore(run):
                self._parameters = self.twin.parameters()
                self._trained = frozenset(p.name for p in self._parameters if p.trainable)

    # The model and its arrays

    @property
    def model(self) -> Any:
        """The twin, with the working weights last loaded."""
        if self._unwritten:
            unwritten, self._unwritten = self._unwritten, {}
            with self.context("working"):
                self.twin.write(unwritten)
        return self.twin.model

    def parameters(self) -> list[Parameter]:
        return list(self._parameters)

    def read(self) -> dict[str, Array]:
        _ = self.model  # writes what was loaded
        with contextlib.suppress(ValueError):  # arrays among static fields have no one truth
            if self.twin.structure() != self._structure:
                # The user's copy function changed more than arrays.
                self._adopt()
        self._own = {}
        held = {name: value for name, value, _ in self.twin.leaves()}
        return {p.name: to_numpy(held[p.name]) for p in self._parameters}

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        known = {parameter.name: parameter for parameter in self._parameters}
        check_values(self.role, known.values(), values)
        held = dict(self.values(precision))
        with self.context(precision):
            for name, value in values.items():
                held[name] = jax.numpy.asarray(np.asarray(value), self._dtype_of(precision))
                if precision == "working":
                    own = jax.numpy.dtype(known[name].dtype)
                    self._unwritten[name] = (
                        held[name] if own == self.dtype else held[name].astype(own)
                    )
        self._loaded[precision] = held

    def _dtype_of(self, precision: Precision) -> Any:
        return np.dtype(np.float64) if precision == "double" else self.dtype

    def values(self, precision: Precision) -> Values:
        """Float arrays for the passes in that precision, tied ones once."""
        if precision in self._loaded:
            return self._loaded[precision]
        if precision not in self._own:
            held = {name: value for name, value, _ in self.twin.leaves()}
            with self.context(precision):
                self._own[precision] = {
                    p.name: self._array(held[p.name], precision) for p in self._parameters
                }
        return self._own[precision]

    def _array(self, value: Any, precision: Precision) -> Any:
        """An array on the device; floats in the dtype of the precision, long integers short."""
        dtype = self._dtype_of(precision)
        if not has_numbers(value):
            here = not isinstance(value, jax.Array) or value.devices() == {self.device}
            return value if here else jax.device_put(value, self.device)
        ready = isinstance(value, jax.Array) and value.dtype == dtype
        if ready and value.devices() == {self.device}:
            return value
        array = np.asarray(value)
        if is_float(array):
            if array.dtype.kind == "c":
                return jax.numpy.asarray(array)
            return jax.numpy.asarray(array, dtype)
        short = {"int64": np.int32, "uint64": np.uint32}.get(str(array.dtype))
        return jax.numpy.asarray(array if short is None else array.astype(short))

    @contextlib.contextmanager
    def context(self, precision: Precision) -> Iterator[None]:
        """64-bit mode as the precision needs it, on the device, TF32 only where asked for."""
        with contextlib.ExitStack() as stack:
            # What is set anyhow is not set again: it would cost every eager operation a little.
            wide = self._dtype_of(precision).itemsize == 8
            if bool(jax.config.jax_enable_x64) != wide:
                stack.enter_context(x64(wide))
            if jax.config.jax_default_device is not None or self.device != jax.devices()[0]:
                stack.enter_context(jax.default_device(self.device))
            wanted = "highest"
            if self.format.name == "tf32" and precision == "working":
                wanted = "tensorfloat32"
            if not is_cpu(self.device) or jax.config.jax_default_matmul_precision:
                stack.enter_context(jax.default_matmul_precision(wanted))
            yield

    @contextlib.contextmanager
    def errors(self, stage: str) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        except Exception as error:
            if is_exhausted(error):
                device = str(self.device)
                raise out_of_memory(self.role, stage, "jax", error, device) from None
            raise ModelError(self.role, stage, describe(error)) from error

    # Running

    def function(self, training: bool) -> Callable[..., tuple[Outputs, Values]]:
        """The model as a pure function of its arrays and inputs."""

        def run(values: Values, inputs: Sequence[Any], keywords: Values) -> tuple[Any, Values]:
            with shared_dropout() if training else contextlib.nullcontext():
                output, changed = self.twin.call(values, inputs, keywords, training)
            outputs = Outputs.of(output)
            if not outputs.names:
                skipped = "; ".join(f"{name} {reason}" for name, reason in outputs.skipped)
                raise ModelError(
                    self.role, "forward", f"the model returned no array ({skipped or 'nothing'})"
                )
            return outputs, changed

        return run

    def given(
        self, arguments: Sequence[Argument], precision: Precision
    ) -> tuple[Values, Values, Values, Call]:
        """Trained values, float inputs, all other values, and the rest of the call."""
        values = self.values(precision)
        trained = {p.name: values[p.name] for p in self._parameters if p.trainable}
        fixed = {name: value for name, value in values.items() if name not in trained}
        floats: Values = {}
        others: Values = {}
        for argument in arguments:
            array = self._array(argument.value, precision)
            (floats if is_float(array) else others)[argument.name] = array
        order = tuple((argument.name, argument.keyword) for argument in arguments)
        return trained, floats, {**fixed, **self._others}, Call(order, others)

    def pull(self, pull: Any, cotangents: Any, precision: Precision) -> Any:
        """The backward pass of a forward pass."""
        if precision == "double" or self.mode != "eager":
            return self._pulls[precision](pull, cotangents)
        return pull(cotangents)

    def quickly(self, function: Callable[..., Any]) -> Any:
        """The function compiled for few runs."""
        return quick_jit(function, self.device)


@jax.tree_util.register_pytree_node_class
class Call:
    """Inputs of a call without its float ones.

    Attributes:
        order: name of each input, and whether it is passed by name.
        others: inputs that are not floats.
    """

    def __init__(self, order: tuple[tuple[str, bool], ...], others: Values) -> None:
        self.order, self.others = order, others

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.others,), self.order

    @classmethod
    def tree_unflatten(cls, order: Any, children: Any) -> Call:
        return cls(order, *children)

    def filled(self, floats: Values) -> tuple[list[Any], Values]:
        """Positional inputs and those passed by name."""
        every = {**self.others, **floats}
        return (
            [every[name] for name, keyword in self.order if not keyword],
            {name: every[name] for name, keyword in self.order if keyword},
        )


def describe(error: Exception) -> str:
    """An exception in one paragraph, with what to do where that is known."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {' '.join(lines[:4])}"
    if "requires a key" in text or ("missing" in text and "'key'" in text):
        text += (
            ". Switch dropout off before judging, e.g. equinox.nn.inference_mode(model); a model "
            "that needs random keys in inference cannot be compared"
        )
    return text
