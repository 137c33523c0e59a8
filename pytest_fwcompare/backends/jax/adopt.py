"""A JAX model as a side: NumPy in, NumPy out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax

from pytest_fwcompare.backends.base import (
    HYPERPARAMETERS,
    Argument,
    Array,
    Pass,
    Precision,
    Stopwatch,
)
from pytest_fwcompare.backends.jax.devices import is_cpu
from pytest_fwcompare.backends.jax.leaves import Values, is_float
from pytest_fwcompare.backends.jax.mixed import mixed
from pytest_fwcompare.backends.jax.model import Call, JaxModel, quick_jit
from pytest_fwcompare.backends.jax.passes import JaxPass
from pytest_fwcompare.backends.jax.record import Recording, record_pass
from pytest_fwcompare.backends.jax.shadow import lifted
from pytest_fwcompare.backends.jax.stepwise import stepwise
from pytest_fwcompare.backends.jax.twin import Twin, submodules
from pytest_fwcompare.dropout import current
from pytest_fwcompare.errors import UsageError


class JaxSide(JaxModel):
    """A JAX model as a side: its passes and their programs."""

    def __init__(self, twin: Twin, *, dtype: str, device: Any, mode: str) -> None:
        super().__init__(twin, dtype=dtype, device=device, mode=mode)
        # Compiling pays on a CPU; and what cannot be traced runs operation by operation.
        self._together = mode == "eager" and is_cpu(device)

    def _adopt(self) -> None:
        super()._adopt()
        self._programs: dict[Any, Any] = {}

    def _program(
        self, precision: Precision, training: bool, gradients: bool, *, timed: bool = False
    ) -> Any:
        """What one pass runs.

        Eager passes run operation by operation where no gradient is asked for or they are timed;
        otherwise as one program that keeps the operations apart.
        """
        together = self._together and gradients and not timed and precision == "working"
        key = (precision, training, gradients, together, current() is None, self.mode)
        if key in self._programs:
            return self._programs[key]
        function = self.function(training)
        if precision == "working" and self.format.mixed:
            function = mixed(function, self.format.computed, self._trained)
        if precision == "double":
            function = lifted(function, self.lift)
        elif together:
            function = stepwise(function)

        def forward(trained: Values, floats: Values, fixed: Values, call: Call) -> Any:
            return function({**fixed, **trained}, *call.filled(floats))

        def differentiated(trained: Values, floats: Values, fixed: Values, call: Call) -> Any:
            def pure(trained: Values, floats: Values) -> Any:
                outputs, changed = forward(trained, floats, fixed, call)
                return [a for a in outputs.arrays if is_float(a)], (outputs, changed)

            _, pull, (outputs, changed) = jax.vjp(pure, trained, floats, has_aux=True)
            return outputs, changed, pull

        made: Any = differentiated if gradients else forward
        if precision == "double" or together:
            made = quick_jit(made, self.device)
        elif self.mode != "eager":
            made = jax.jit(made)
        self._programs[key] = made
        return made

    def forward(
        self,
        arguments: Sequence[Argument],
        *,
        precision: Precision,
        training: bool = False,
        gradients: bool = True,
        record: bool = False,
    ) -> Pass:
        stage = "shadow" if precision == "double" else "forward"
        with self.errors("record" if record else stage), self.context(precision):
            if record:
                made, changed = self._recorded(arguments, precision, training)
            else:
                call = self.given(arguments, precision)
                made, changed = self._ran(call, precision, training, gradients)
        self.leaks = list(self.lift.leaks)
        self.rounded_constants = list(self.lift.rounded)
        # Random streams go on, as they do in the model itself; all other state is put back.
        streams = self.twin.streams()
        self._others.update({name: changed[name] for name in streams if name in changed})
        return made

    def _ran(
        self, call: Sequence[Any], precision: Precision, training: bool, gradients: bool
    ) -> tuple[JaxPass, Values]:
        together = self._together and gradients and precision == "working"
        try:
            outputs, changed, *pull = self._program(precision, training, gradients)(*call)
        except Exception:
            if not together:
                raise
            # A Python condition on values, for example: eager code may hold it.
            self._together = together = False
            outputs, changed, *pull = self._program(precision, training, gradients)(*call)
        pulled = pull[0] if pull else None
        if together:
            pulled = partial(self._pulls["double"], pulled)
        return JaxPass(self, precision, outputs, changed, pulled), changed

    def _recorded(
        self, arguments: Sequence[Argument], precision: Precision, training: bool
    ) -> tuple[JaxPass, Values]:
        if precision != "double":
            raise UsageError("jax: only a pass in double precision can be recorded")
        given = self.given(arguments, "double")
        made = record_pass(self, given, self._recording(given, training))
        return made, {}  # random streams are put back

    def _recording(self, given: Sequence[Any], training: bool) -> Recording:
        """The program that records such a pass: the last one, if it was made for equal shapes.

        Pairing weights records the same pass with one set of values after the other, and making
        the program costs far more than running it. A training pass is made anew, as what it drops
        is given to it from without.
        """
        if training:
            return Recording(self, given, training)
        leaves, structure = jax.tree_util.tree_flatten(tuple(given))
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        known, made = self._programs.get("recording", (None, None))
        if made is None or known != key:
            made = Recording(self, given, training)
            self._programs["recording"] = key, made
        assert isinstance(made, Recording)
        return made

    def hyperparameters(self) -> dict[str, float]:
        """Of modules that keep them as attributes; linen's are made anew in every call."""
        if not self.twin.keeps_modules:
            return {}
        return {
            f"{path}.{key}".lstrip("."): vars(module)[key]
            for path, module in submodules(self.twin.model)
            for key in HYPERPARAMETERS
            if type(vars(module).get(key)) is float
        }

    @contextlib.contextmanager
    def changed(self, name: str, value: float) -> Iterator[None]:
        """Traced anew, as a program keeps the value it was traced with."""
        path, _, key = name.rpartition(".")
        module = dict(submodules(self.twin.model))[path]
        before, programs = vars(module)[key], self._programs
        self._programs = {}
        object.__setattr__(module, key, value)  # modules of equinox are frozen
        try:
            yield
        finally:
            object.__setattr__(module, key, before)
            self._programs = programs

    def stopwatch(
        self, arguments: Sequence[Argument], cotangents: Mapping[str, Array] | None
    ) -> Stopwatch:
        with self.errors("forward"), self.context("working"):
            call = self.given(arguments, "working")
            queue = self._bare(*call)
            differentiated = self._program("working", False, True, timed=True)

        def forward() -> None:
            jax.block_until_ready(queue())

        def settings() -> contextlib.AbstractContextManager[None]:
            return self.context("working")

        if cotangents is None:
            return Stopwatch(forward, None, settings=settings, queue=queue)
        with self.errors("forward"), self.context("working"):
            first = JaxPass(self, "working", *differentiated(*call))
            pulled = first.seeds(cotangents)

        def forward_backward() -> None:
            outputs, _, pull = differentiated(*call)
            jax.block_until_ready((outputs, self.pull(pull, pulled, "working")))

        def backward() -> None:
            jax.block_until_ready(self.pull(first.pulled, pulled, "working"))

        return Stopwatch(forward, forward_backward, backward, settings, queue)

    def _bare(
        self, trained: Values, floats: Values, fixed: Values, call: Call
    ) -> Callable[[], Any]:
        """The call that is timed: what a user of the model writes, with nothing of ours in it."""
        inputs, keywords = call.filled(floats)
        values = {**fixed, **trained}
        if self.mode == "eager" and not self.format.mixed:
            return partial(self.twin.bound(values), *inputs, **keywords)
        function = self.function(False)
        if self.format.mixed:
            function = mixed(function, self.format.computed, self._trained)

        def run(values: Values, inputs: Sequence[Any], keywords: Values) -> list[Any]:
            return function(values, inputs, keywords)[0].arrays

        # A dictionary of arrays goes in and a list comes out: trees that JAX itself takes apart.
        return partial(run if self.mode == "eager" else jax.jit(run), values, inputs, keywords)

    def close(self) -> None:
        self._programs.clear()
        self._loaded.clear()
        self._own.clear()
