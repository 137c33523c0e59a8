"""Two sides with mapped weights, run on the same examples: arrays in, arrays out.

What the sides run with is the business of `supply`, what their outputs, gradients and buffers are
called and how their axes lie that of `layouts` and `canonical`, what four runs say that of
`observing`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pytest_fwcompare.backends.base import Argument, Array, Parameter, Precision
from pytest_fwcompare.dropout import Masks, sharing
from pytest_fwcompare.dropout.repeats import uneven_repeats
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.inputs.examples import Example, Plan
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.judge.distances import representable
from pytest_fwcompare.judge.verdict import Assessment, Observed, hair, moved, nudged
from pytest_fwcompare.running import canonical
from pytest_fwcompare.running.layouts import Layouts
from pytest_fwcompare.running.observing import Observer, training_is_random
from pytest_fwcompare.running.points import Point, Run, arguments, called_with
from pytest_fwcompare.running.supply import Own, Source, Supply
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.weights.mapping import Mapping as WeightMapping


class Pair:
    """The reference and the port, ready to be observed.

    Args:
        reference, port: the opened sides.
        plan: where inputs come from.
        mapping: how the reference's weights become the port's; None: each keeps its own.
        share_weights: False if both sides keep the weights they came with.
        outputs: axis letters of outputs, where they differ.
        checks: "forward", "backward", "training".
        dtype: working dtype.
        draws: number of moved runs that the jitter is taken from.
        source: of the reference's weights; several pairs of the same sides can share one.
        own: of the port's; several pairs of the same sides must share one.
    """

    def __init__(
        self,
        reference: Opened,
        port: Opened,
        plan: Plan,
        *,
        mapping: WeightMapping | None,
        share_weights: bool = True,
        outputs: Mapping[str, TensorSpec] | None = None,
        checks: tuple[str, ...] = ("forward", "backward"),
        dtype: str = "float32",
        draws: int = 1,
        source: Source | None = None,
        own: Own | None = None,
    ) -> None:
        self.reference, self.port = reference, port
        self.plan, self.mapping, self.share_weights = plan, mapping, share_weights
        self.checks, self.dtype = checks, dtype
        self.backward = "backward" in checks
        self.notices: dict[str, None] = {}
        self.reference_modules: list[tuple[str, str]] = []
        self.source = source or Source(reference, dtype)
        self.supply = Supply(reference, port, self.source, mapping, shared=share_weights, own=own)
        self.layouts = Layouts(reference, port, plan.layouts.values(), outputs, self.notices)
        shared = reference.side.shares_dropout and port.side.shares_dropout
        self.masks = Masks() if shared else None
        self._observer = Observer(self, draws)

    @property
    def given(self) -> Mapping[str, Array]:
        """The weights that the reference came with, in float64."""
        return self.source.given

    @property
    def reference_parameters(self) -> dict[str, Parameter]:
        """The reference's parameters and buffers by name."""
        return self.source.parameters

    @property
    def port_parameters(self) -> dict[str, Parameter]:
        """The port's parameters and buffers by name."""
        return self.supply.port_parameters

    # Points ------------------------------------------------------------------------------------

    def point(self, example: Example) -> Point:
        """Where an example evaluates the sides."""
        inputs = {
            name: representable(value, self.dtype) if value.dtype.kind == "f" else value
            for name, value in self.plan.arrays(example).items()
        }
        seeds = [draw.seed for _, draw in example.draws] + [s for _, s in example.sizes]
        return Point(inputs, *self.supply.weights(example), rng_seed=[7, *seeds])

    def near(self, point: Point, seed: int) -> Point:
        """The point moved by a hair: inputs and parameters (buffers stay)."""
        rng, size = np.random.default_rng([seed, *point.rng_seed]), hair(self.dtype)
        inputs = {
            name: representable(nudged(value, size, rng), self.dtype)
            for name, value in point.inputs.items()
        }
        seeds = [seed, *point.rng_seed]
        weights = point.weights
        if weights is not None:
            weights = self.source.near(weights, size, seeds)
        return Point(inputs, weights, object(), seeds, dict(point.cotangents))

    def shaken(self, point: Point, draw: int) -> Point:
        """The point moved by at most half a unit in the last place of the working dtype.

        The reference's own weights are moved, too, where each side keeps its own: the port's were
        rounded on their way from it (a norm folded into a convolution).
        """
        seeds = [draw, *point.rng_seed]
        rng = np.random.default_rng(seeds)
        inputs = {name: moved(value, self.dtype, rng) for name, value in point.inputs.items()}
        given = self.given if point.weights is None else point.weights
        weights = self.source.shaken(given, seeds)
        return Point(inputs, weights, object(), point.rng_seed, point.cotangents)

    # Running -----------------------------------------------------------------------------------

    def opened(self, role: str) -> Opened:
        """The side of a role, with its layout."""
        return self.reference if role == "reference" else self.port

    def arguments(self, role: str, inputs: Mapping[str, Array]) -> list[Argument]:
        """The inputs of one side in its own axis order."""
        return arguments(self.plan, self.opened(role), role, inputs)

    def run(
        self,
        role: str,
        point: Point,
        precision: Precision,
        *,
        training: bool = False,
        record: bool = False,
        backward: bool | None = None,
    ) -> Run:
        """One pass of one side at a point, its tensors in the reference's axes and names."""
        if not training or self.masks is None:
            return self._run(role, point, precision, training, record, backward)
        draws = self.masks.draws(role, precision, point.rng_seed)
        with sharing(draws):
            made = self._run(role, point, precision, training, record, backward)
        if role == "port" and precision == "double":
            self.notices.update(dict.fromkeys(uneven_repeats(draws.table)))
        return made

    def _run(
        self,
        role: str,
        point: Point,
        precision: Precision,
        training: bool,
        record: bool,
        backward: bool | None,
    ) -> Run:
        self.supply.load(role, point.weights, point.key, precision)
        backward = self.backward if backward is None else backward
        made = self._pass(role, point, precision, training, record, backward)
        self.supply.tidy()
        return made

    def _pass(
        self,
        role: str,
        point: Point,
        precision: Precision,
        training: bool,
        record: bool,
        backward: bool,
    ) -> Run:
        opened = self.opened(role)
        given = self.arguments(role, point.inputs)
        try:
            passed = opened.side.forward(
                given,
                precision=precision,
                training=training,
                gradients=backward,
                record=record,
            )
        except ModelError as error:
            raise called_with(error, given, self.plan) from error
        for name, reason in passed.skipped.items():
            self.notices[f"{role}: output {name!r} is not compared: {reason}"] = None
        if role == "reference":
            outputs = self.layouts.of_reference(passed)
            self._make_cotangents(point, outputs)
        else:
            outputs = self.layouts.of_port(passed)
        inputs: Mapping[str, Array | None] = {}
        parameters: Mapping[str, Array] = {}
        if backward:
            cotangents = dict(self.layouts.native(role, passed, point.cotangents))
            inputs, parameters = canonical.parameter_gradients(
                self.supply, role, passed, cotangents
            )
        return Run(
            outputs,
            canonical.input_gradients(self.plan, role, opened, inputs, point),
            parameters,
            canonical.buffers(self.supply, role, passed.buffers() if training else {}),
            tuple(passed.recorded()) if record else (),
        )

    def _make_cotangents(self, point: Point, outputs: Mapping[str, Array]) -> None:
        for index, (name, value) in enumerate(outputs.items()):
            if value.dtype.kind == "f" and name not in point.cotangents:
                rng = np.random.default_rng([index, *point.rng_seed])
                drawn = rng.standard_normal(value.shape)
                point.cotangents[name] = representable(drawn, self.dtype)

    def expect(self, reference: Run) -> None:
        """Hold the port's next outputs against the shapes of this run of the reference."""
        self.layouts.expect(reference.outputs)

    def known_jitter(self, point: Point, draws: int, training: bool) -> dict[str, float] | None:
        """The jitter where somebody drew it before; here it always is to be drawn."""
        return None

    @property
    def shapes_known(self) -> bool:
        """Whether the reference has run, so that the port's outputs can be held against it."""
        return bool(self.layouts.shapes)

    def output_layout(self, role: str, name: str) -> tuple[int | None, tuple[int, ...] | None]:
        """Place of an output among a side's own, and the axes that turn the reference's into it.

        Args:
            role: "reference" or "port".
            name: of the output, the reference's.
        """
        return self.layouts.place(role, name)

    def mark_loaded(self, role: str, at: Precision, key: object) -> None:
        """Say that somebody else loaded weights into a side."""
        self.supply.mark_loaded(role, at, key)

    def forget_loaded(self) -> None:
        """Load weights anew before the next run (somebody else changed them)."""
        self.supply.forget_loaded()

    # Observing ---------------------------------------------------------------------------------

    def observe(self, point: Point, *, training: bool = False) -> list[Observed]:
        """Both sides, working precision and shadow, and the jitter, at one point.

        The jitter, which costs another run of the reference, is drawn at the first point and
        wherever it could change a verdict; elsewhere it is None.

        Raises:
            ModelError: a side failed.
            StructureError: the sides do not give the same tensors.
        """
        return self._observer.observe(point, training)

    def judged(self, point: Point, *, training: bool = False) -> tuple[Assessment, ...]:
        """What the judge says of `observe` at a point; raises what that raises."""
        return self._observer.judged(point, training)

    def training_is_random(self, point: Point) -> bool:
        """Whether a side in training mode differs from itself (dropout)."""
        return training_is_random(self, point)
