"""Working passes of a TensorFlow side: the model itself, as its mode runs it, and its timing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, final

import tensorflow as tf

from pytest_fwcompare.backends.base import Argument, Array, Pass, Stopwatch
from pytest_fwcompare.backends.tensorflow.dropout import shared_dropout
from pytest_fwcompare.backends.tensorflow.model import TensorFlowModel
from pytest_fwcompare.backends.tensorflow.outputs import flatten
from pytest_fwcompare.backends.tensorflow.passes import WorkingPass
from pytest_fwcompare.backends.tensorflow.state import empty_guard, is_gpu, synchronise
from pytest_fwcompare.dropout import current
from pytest_fwcompare.errors import ModelError

Call = Callable[[Sequence[Any]], tuple[dict[str, Any], dict[str, str]]]
"""From tensors to outputs by name, and reasons by the names of what is no output."""


@final
class Working:
    """Runs a side's model in the working dtype; keeps the functions that a mode traced."""

    def __init__(self, side: TensorFlowModel) -> None:
        self._side = side
        self._functions: dict[Any, Any] = {}

    def close(self) -> None:
        """Let go of the functions."""
        self._functions.clear()

    def program(self, arguments: Sequence[Argument], training: bool) -> Call:
        """The model's call, with its outputs flattened."""
        side = self._side

        def call(tensors: Sequence[Any]) -> tuple[dict[str, Any], dict[str, str]]:
            with shared_dropout():
                outputs, skipped = flatten(side.call(arguments, tensors, training))
            if not outputs:
                left = "; ".join(f"{name}: {why}" for name, why in skipped.items())
                raise ModelError(
                    side.role,
                    "forward",
                    f"expected at least one tensor as output, got none ({left or 'nothing'})",
                )
            return outputs, skipped

        return call

    def in_mode(self, arguments: Sequence[Argument], training: bool) -> Call:
        """The program itself in eager mode, else a function of TensorFlow."""
        if self._side.mode == "eager":
            return self.program(arguments, training)
        compiled, skipped = self._function(arguments, training)

        def run(tensors: Sequence[Any]) -> tuple[dict[str, Any], dict[str, str]]:
            outputs = compiled(*tensors)
            return {name[5:]: outputs[name] for name in sorted(outputs)}, dict(skipped)

        return run

    def _function(self, arguments: Sequence[Argument], training: bool) -> tuple[Any, Any]:
        """A function with numbered outputs, and what its last trace skipped."""
        side, call = self._side, self.program(arguments, training)
        key = (training, current() is None, tuple((a.name, a.keyword) for a in arguments))
        if key not in self._functions:
            skipped: dict[str, str] = {}

            def program(*tensors: Any) -> dict[str, Any]:
                outputs, left = call(tensors)
                skipped.clear()
                skipped.update(left)
                return {
                    f"{place:04d} {name}": t for place, (name, t) in enumerate(outputs.items())
                }

            compiled = tf.function(
                program, jit_compile=side.mode == "compiled", autograph=side.autograph()
            )
            self._functions[key] = (compiled, skipped)
        return self._functions[key]  # type: ignore[no-any-return]

    def forward(self, arguments: Sequence[Argument], training: bool, gradients: bool) -> Pass:
        """One pass; in training mode the model's state is put back afterwards."""
        side, call = self._side, self.in_mode(arguments, training)
        trainable = {o.parameter.name: o.variable for o in side.entries() if o.parameter.trainable}
        guard: AbstractContextManager[dict[str, Array]] = (
            side.unchanged() if training else empty_guard()
        )
        with guard as left, side.explained("forward"), side.placed():
            tensors = side.tensors(arguments)
            inputs = {
                a.name: t for a, t in zip(arguments, tensors, strict=True) if t.dtype.is_floating
            }
            tape = tf.GradientTape(persistent=False, watch_accessed_variables=False)
            if gradients:
                with tape:
                    tape.watch([*inputs.values(), *(v.handle for v in trainable.values())])
                    outputs, skipped = call(tensors)
            else:
                outputs, skipped = call(tensors)
        return WorkingPass(side, outputs, skipped, tape, inputs, trainable, left)

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        """Calls on tensors made beforehand; see `Side.stopwatch`."""
        side, call = self._side, self.in_mode(arguments, False)
        trainable = [o.variable for o in side.entries() if o.parameter.trainable]
        with tf.device(side.device):
            tensors = side.tensors(arguments)
            given = {name: tf.constant(value) for name, value in (cotangents or {}).items()}
        watched = [*(t for t in tensors if t.dtype.is_floating)]

        # Everything that a call needs is put together here, so that no call pays for it.
        bare = side.bound(arguments, tensors, False)
        if side.mode != "eager":
            bare = partial(self._function(arguments, False)[0], *tensors)

        def queue() -> None:
            bare()

        def forward() -> None:
            bare()
            tf.test.experimental.sync_devices()

        def forward_backward() -> None:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([*watched, *(v.handle for v in trainable)])
                outputs, _ = call(tensors)
            chosen = [outputs[name] for name in given]
            seeds = [tf.cast(given[name], outputs[name].dtype) for name in given]
            found = tape.gradient(chosen, [*watched, *trainable], seeds)
            synchronise([g for g in found if g is not None])

        # On a CPU both eager calls and functions return when they are done.
        on_gpu = is_gpu(side.device)
        return Stopwatch(
            forward if on_gpu else queue,
            forward_backward if cotangents is not None else None,
            settings=side.placed,
            queue=queue if on_gpu else None,
        )
