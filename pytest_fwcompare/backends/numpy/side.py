"""A described network in NumPy as a side of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Gradients,
    Parameter,
    Pass,
    Precision,
    Recorded,
    Side,
    Stopwatch,
)
from pytest_fwcompare.backends.loading import check_values
from pytest_fwcompare.backends.numpy.differentiate import pulled
from pytest_fwcompare.backends.numpy.models import NumpyNetwork, bound
from pytest_fwcompare.backends.numpy.run import Recorder, State, evaluate, options
from pytest_fwcompare.errors import FwcompareError, ModelError

Pull = Callable[[Mapping[str, Array]], Gradients]


def cast(value: Array, dtype: str) -> Array:
    """Floating values in that dtype; others as they are."""
    value = np.asarray(value)
    return value.astype(dtype, copy=False) if value.dtype.kind == "f" else value


class NetworkPass(Pass):
    """One pass of a described network. See `Pass`."""

    def __init__(
        self,
        side: NetworkSide,
        outputs: dict[str, Array],
        pull: Pull | None,
        state: State,
        recorder: Recorder | None,
    ) -> None:
        self.outputs = outputs
        self.skipped: dict[str, str] = {}
        self._side = side
        self._pull = pull
        self._state = state
        self._recorder = recorder

    def backward(self, cotangents: Mapping[str, Array]) -> Gradients:
        if self._pull is None:
            raise ModelError(self._side.role, "backward", "the pass was made with gradients=False")
        return self._pull(cotangents)

    def buffers(self) -> dict[str, Array]:
        return dict(self._state.buffers)

    def recorded(self) -> list[Recorded]:
        if self._recorder is None:
            return []
        return self._recorder.records(self._side.model.network)


class NetworkSide(Side):
    """A `NumpyNetwork`, adopted. See `Side`."""

    framework = "numpy"
    shares_dropout = True

    def __init__(self, model: NumpyNetwork, *, dtype: str, own: bool) -> None:
        self.model: NumpyNetwork = model if own else model.copy()
        self.dtype = dtype
        self.leaks: list[str] = []
        self.rounded_constants: list[str] = []
        self._double: dict[str, Array] = {}

    def parameters(self) -> list[Parameter]:
        network = self.model.network
        found = []
        for full, spec in network.parameters().items():
            layer_name, _, name = full.partition(".")
            layer = network.layers[layer_name]
            found.append(
                Parameter(
                    name=full,
                    shape=spec.shape,
                    dtype=str(self.model.weights[full].dtype),
                    trainable=spec.trainable,
                    layer=layer_name,
                    kind=type(layer).__name__,
                    role=name.rpartition(".")[2],
                    options=options(layer),
                )
            )
        return found

    def read(self) -> dict[str, Array]:
        return {name: value.copy() for name, value in self.model.weights.items()}

    def load(self, values: Mapping[str, Array], precision: Precision) -> None:
        check_values(self.role, self.parameters(), values)
        for name, value in values.items():
            held = self.model.weights[name]
            if precision == "double":
                self._double[name] = np.array(value, np.float64)
            else:
                self.model.weights[name] = np.array(value, held.dtype)

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        dtype = "float64" if precision == "double" else self.dtype
        recorder = Recorder() if record else None
        # A generator of its own: two equal calls give equal results, in training mode too.
        state = State(training, np.random.default_rng(0))
        try:
            outputs, pull = self._run(arguments, precision, dtype, state, recorder, gradients)
        except FwcompareError as error:
            raise ModelError(self.role, self._stage(precision), str(error)) from None
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            raise ModelError(self.role, self._stage(precision), message) from error
        outputs = {name: np.asarray(value) for name, value in outputs.items()}
        return NetworkPass(self, outputs, pull, state, recorder)

    @staticmethod
    def _stage(precision: Precision) -> str:
        return "shadow" if precision == "double" else "forward"

    def _run(
        self,
        arguments: Sequence[Argument],
        precision: Precision,
        dtype: str,
        state: State,
        recorder: Recorder | None,
        gradients: bool,
    ) -> tuple[dict[str, Array], Pull | None]:
        network = self.model.network
        inputs = bound(
            network,
            tuple(cast(given.value, dtype) for given in arguments if not given.keyword),
            {given.name: cast(given.value, dtype) for given in arguments if given.keyword},
        )
        weights = self._weights(precision, dtype)
        if not gradients:
            return evaluate(network, inputs, weights, state, recorder), None
        trainable = [name for name, spec in network.parameters().items() if spec.trainable]
        leaves = {
            f"input {name}": value for name, value in inputs.items() if value.dtype.kind == "f"
        } | {f"parameter {name}": weights[name] for name in trainable}

        def function(values: dict[str, Any]) -> dict[str, Any]:
            traced_inputs = {name: values.get(f"input {name}", inputs[name]) for name in inputs}
            traced_weights = {
                name: values.get(f"parameter {name}", weights[name]) for name in weights
            }
            return evaluate(network, traced_inputs, traced_weights, state, recorder)

        outputs, pull = pulled(function, leaves)
        return outputs, lambda cotangents: by_kind(pull(cotangents), leaves)

    def _weights(self, precision: Precision, dtype: str) -> dict[str, Array]:
        held = self.model.weights
        if precision == "double":
            held = held | self._double
        return {name: value.astype(dtype, copy=False) for name, value in held.items()}

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        def forward() -> None:
            self.forward(arguments, precision="working", gradients=False)

        def forward_backward() -> None:
            assert cotangents is not None
            self.forward(arguments, precision="working").backward(cotangents)

        if cotangents is None:
            return Stopwatch(forward, None)
        kept = self.forward(arguments, precision="working")
        return Stopwatch(forward, forward_backward, lambda: void(kept.backward(cotangents)))


def by_kind(gradients: Mapping[str, Array | None], leaves: Mapping[str, Array]) -> Gradients:
    """Gradients of "input name" and "parameter name" by what they belong to.

    An input that nothing depends on has zeros, such a parameter None.
    """
    found: dict[str, dict[str, Array | None]] = {"input": {}, "parameter": {}}
    for name, value in gradients.items():
        kind, _, rest = name.partition(" ")
        if value is None and kind == "input":
            value = np.zeros_like(leaves[name])
        found[kind][rest] = value
    return Gradients(found["input"], found["parameter"])


def void(_: object) -> None:
    """Drop a result."""
