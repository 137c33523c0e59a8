"""Two sides with mapped weights, run on the same examples: arrays in, observations out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import numpy as np

from pytest_fwcompare.backends.base import (
    Argument,
    Array,
    Gradients,
    Pass,
    Precision,
)
from pytest_fwcompare.building import check_held
from pytest_fwcompare.inputs.examples import Example, Plan
from pytest_fwcompare.inputs.spec import TensorSpec
from pytest_fwcompare.judge.distances import finite_maximum, representable, unit_roundoff
from pytest_fwcompare.judge.verdict import Assessment, Observed, assess, moved, nudged
from pytest_fwcompare.observation import origin_of, parallel, rows, undecided
from pytest_fwcompare.outputs import StructureError, pair_outputs
from pytest_fwcompare.points import Point, Run, arguments
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.weights.mapping import Mapping as WeightMapping
from pytest_fwcompare.weights.randomise import randomise

MOST_KEPT = 20_000_000
"""Randomised weights that are kept for other examples; those of large networks are drawn anew."""

HAIR = 1e-4
"""Relative size of the move that tells a kink from a fault."""


class Pair:
    """The reference and the port, ready to be observed.

    Args:
        reference, port: the opened sides.
        plan: where inputs come from.
        specs: all inputs by name (arrays and strategies given without a spec have none).
        mapping: how the reference's weights become the port's; None: each keeps its own.
        outputs: axis letters of outputs, where they differ.
        checks: "forward", "backward", "training".
        dtype: working dtype.
        draws: number of moved runs that the jitter is taken from.
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
    ) -> None:
        self.reference, self.port = reference, port
        self.plan, self.mapping, self.share_weights = plan, mapping, share_weights
        self.outputs, self.checks, self.dtype, self.draws = outputs, checks, dtype, draws
        self.reference_parameters = {p.name: p for p in reference.side.parameters()}
        self.port_parameters = {p.name: p for p in port.side.parameters()}
        self.given = {
            name: value.astype(np.float64) for name, value in reference.side.read().items()
        }
        self.backward = "backward" in checks
        self.notices: dict[str, None] = {}
        self.reference_modules: list[tuple[str, str]] = []
        self._loaded: dict[tuple[str, str], object] = {}
        self._copied = False
        self._randomised: dict[int, dict[str, Array]] = {}
        self._output_names: dict[str, str] | None = None
        self._reference_skipped: Mapping[str, str] = {}
        self._shapes: dict[str, tuple[tuple[int, ...], str]] = {}
        self._output_axes: dict[str, tuple[int, ...] | None] = {}
        self._port_order: dict[str, int] = {}
        self._jittered: set[bool] = set()
        self._mapped: tuple[dict[str, Array], dict[str, Array]] | None = None

    # Points ------------------------------------------------------------------------------------

    def point(self, example: Example) -> Point:
        """Where an example evaluates the sides."""
        inputs = {
            name: representable(value, self.dtype) if value.dtype.kind == "f" else value
            for name, value in self.plan.arrays(example).items()
        }
        seeds = [draw.seed for _, draw in example.draws] + [s for _, s in example.sizes]
        return Point(inputs, *self._weights(example), rng_seed=[7, *seeds])

    def _weights(self, example: Example) -> tuple[dict[str, Array] | None, object]:
        if not self.share_weights:
            return None, "own"
        if example.weights == "given":
            return self.given, "given"
        seed = example.weights_seed
        if seed not in self._randomised:
            values = randomise(
                list(self.reference_parameters.values()),
                self.given,
                seed,
                framework=self.reference.side.framework,
            )
            if len(self._randomised) * sum(v.size for v in values.values()) > MOST_KEPT:
                self._randomised.clear()
            self._randomised[seed] = {
                name: representable(value, self.dtype) for name, value in values.items()
            }
        return self._randomised[seed], ("randomised", seed)

    def near(self, point: Point, seed: int) -> Point:
        """The point moved by a hair: inputs and parameters (buffers stay)."""
        rng = np.random.default_rng([seed, *point.rng_seed])
        inputs = {
            name: representable(nudged(value, HAIR, rng), self.dtype)
            for name, value in point.inputs.items()
        }
        weights = point.weights
        if weights is not None:
            weights = {
                name: representable(nudged(value, HAIR, rng), self.dtype)
                if self.reference_parameters[name].trainable
                else value
                for name, value in weights.items()
            }
        return Point(inputs, weights, object(), [seed, *point.rng_seed], dict(point.cotangents))

    # Running -----------------------------------------------------------------------------------

    def _load(
        self, role: str, weights: dict[str, Array] | None, key: object, at: Precision
    ) -> None:
        if weights is None or self._loaded.get((role, at)) is key:
            return
        if self._loaded.get((role, at)) == key:
            return
        if role == "reference":
            self.reference.side.load(weights, at)
        elif self.mapping is not None:
            if self._mapped is None or self._mapped[0] is not weights:
                self._mapped = weights, self.mapping.port_values(weights)
            self.port.side.load(self._mapped[1], at)
            if at == "working" and not self._copied:
                # A model of another dtype than the working one is left alone; a twin was written.
                own = {n for n, p in self.port_parameters.items() if p.dtype == self.dtype}
                written = {n: v for n, v in self._mapped[1].items() if n in own}
                check_held("port", self.port.side.read(), written)
                self._copied = True
        self._loaded[role, at] = key

    def mark_loaded(self, role: str, at: Precision, key: object) -> None:
        """Say that somebody else loaded weights into a side."""
        self._loaded[role, at] = key

    def rows_of(self, still: Run, disturbed: Run) -> list[Observed]:
        """Outputs of the reference's shadow against those of a disturbed port's.

        Rounding of the working dtype stands in for the jitter: a disturbance is meant to be
        noticed by what the judge sees at once.
        """
        unit = unit_roundoff(self.dtype)
        return [
            Observed(
                f"output {name}",
                "output",
                value,
                disturbed.outputs[name],
                value,
                disturbed.outputs[name],
                jitter=4 * unit * finite_maximum(value),
            )
            for name, value in still.outputs.items()
        ]

    def forget_loaded(self) -> None:
        """Load weights anew before the next run (somebody else changed them)."""
        self._loaded.clear()

    def arguments(self, role: str, inputs: Mapping[str, Array]) -> list[Argument]:
        """The inputs of one side in its own axis order."""
        opened = self.reference if role == "reference" else self.port
        return arguments(self.plan, opened, role, inputs)

    @property
    def shapes_known(self) -> bool:
        """Whether the reference has run, so that the port's outputs can be held against it."""
        return bool(self._shapes)

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
        self._load(role, point.weights, point.key, precision)
        opened = self.reference if role == "reference" else self.port
        backward = self.backward if backward is None else backward
        passed = opened.side.forward(
            self.arguments(role, point.inputs),
            precision=precision,
            training=training,
            gradients=backward,
            record=record,
        )
        for name, reason in passed.skipped.items():
            self.notices[f"{role}: output {name!r} is not compared: {reason}"] = None
        if role == "reference":
            self._reference_skipped = passed.skipped
            outputs = {
                name: self._canonical_output(opened, name, value)
                for name, value in passed.outputs.items()
                if self._is_paired(role, name)
            }
            self._make_cotangents(point, outputs)
        else:
            outputs = self._port_outputs(opened, passed, point)
        gradients = self._backward(role, opened, passed, point) if backward else None
        buffers = passed.buffers() if training else {}
        recorded = tuple(passed.recorded()) if record else ()
        if gradients is None:
            return Run(outputs, buffers=self._buffers(role, buffers), recorded=recorded)
        return Run(
            outputs,
            self._input_gradients(role, opened, gradients, point),
            self._parameter_gradients(role, gradients),
            self._buffers(role, buffers),
            recorded,
        )

    def _make_cotangents(self, point: Point, outputs: Mapping[str, Array]) -> None:
        for index, (name, value) in enumerate(outputs.items()):
            if value.dtype.kind == "f" and name not in point.cotangents:
                rng = np.random.default_rng([index, *point.rng_seed])
                drawn = rng.standard_normal(value.shape)
                point.cotangents[name] = representable(drawn, self.dtype)

    def _backward(self, role: str, opened: Opened, passed: Pass, point: Point) -> Gradients:
        wanted = {}
        for name, value in passed.outputs.items():
            if value.dtype.kind != "f" or not self._is_paired(role, name):
                continue
            ours = name if role == "reference" else self._reference_name(name)
            cotangent = point.cotangents[ours]
            axes = self._axes_to_native(role, opened, ours, cotangent.ndim)
            wanted[name] = cotangent if axes is None else cotangent.transpose(axes)
        return passed.backward(wanted)

    # Outputs -----------------------------------------------------------------------------------

    def _canonical_output(self, opened: Opened, name: str, value: Array) -> Array:
        axes = opened.output_axes.get(name)
        return value if axes is None else value.transpose(np.argsort(axes))

    def _axes_to_native(
        self, role: str, opened: Opened, name: str, ndim: int
    ) -> tuple[int, ...] | None:
        if role == "reference":
            return opened.output_axes.get(name)
        return self._output_axes.get(name)

    def output_layout(self, role: str, name: str) -> tuple[int | None, tuple[int, ...] | None]:
        """Place of an output among a side's own, and the axes that turn the reference's into it.

        Args:
            role: "reference" or "port".
            name: of the output, the reference's.
        """
        if role == "reference":
            return None, self.reference.output_axes.get(name)
        theirs = (self._output_names or {}).get(name, name)
        return self._port_order.get(theirs), self._output_axes.get(name)

    def _is_paired(self, role: str, name: str) -> bool:
        """Whether an output is compared; all of them as long as the port has not run."""
        if self._output_names is None:
            return True
        return name in (self._output_names if role == "reference" else self._output_names.values())

    def _reference_name(self, port_name: str) -> str:
        assert self._output_names is not None
        return next(ours for ours, theirs in self._output_names.items() if theirs == port_name)

    def _port_outputs(self, opened: Opened, passed: Pass, point: Point) -> dict[str, Array]:
        self._port_order = {name: place for place, name in enumerate(passed.outputs)}
        shapes = self._shapes
        if self._output_names is None:
            self._output_names, left_out = pair_outputs(
                list(shapes), list(passed.outputs), self._reference_skipped, passed.skipped
            )
            self.notices.update(dict.fromkeys(left_out))
        made = {}
        for name, theirs in self._output_names.items():
            if theirs not in passed.outputs:
                raise StructureError(
                    f"the port gave no output {theirs!r} this time; it gave "
                    f"{', '.join(passed.outputs)}"
                )
            value = passed.outputs[theirs]
            shape, kind = shapes[name]
            if (value.dtype.kind == "f") != (kind == "f"):
                raise StructureError(
                    f"output {name!r}: the reference gives {_kind_word(kind)}, the port "
                    f"{_kind_word(value.dtype.kind)}"
                )
            axes = self._find_axes(opened, name, theirs, shape, value.shape)
            self._output_axes[name] = axes
            made[name] = value if axes is None else value.transpose(np.argsort(axes))
        return made

    def _find_axes(
        self,
        opened: Opened,
        name: str,
        theirs: str,
        shape: tuple[int, ...],
        native: tuple[int, ...],
    ) -> tuple[int, ...] | None:
        """Permutation from the reference's axes of an output to the port's."""
        spec = (self.outputs or {}).get(name) or (self.outputs or {}).get(theirs)
        if spec is None and self.outputs and len(self.outputs) == len(self._output_names or {}):
            position = list(self._output_names or {}).index(name)
            spec = list(self.outputs.values())[position]
        declared = spec.to_port if spec is not None else opened.output_axes.get(theirs)
        if declared is not None:
            if len(declared) == len(shape) and tuple(shape[i] for i in declared) == native:
                return declared
            raise StructureError(
                f"output {name!r}: the reference gives {shape}, the port {native}, which the "
                f"axes {declared} do not turn into each other"
            )
        if shape == native and (spec is not None or self._output_axes.get(name) is None):
            return None
        known = self._output_axes.get(name)
        if known is not None and tuple(shape[i] for i in known) == native:
            return known
        found = self._guess_axes(shape, native)
        if found is None:
            raise StructureError(
                f"output {name!r}: the reference gives shape {shape}, the port {native}. If only "
                f"the order of axes differs, say outputs={{{name!r}: TensorSpec(..., "
                f'axes="NCHW", port_axes="NHWC")}}'
            )
        self.notices[
            f"output {name!r}: axes {found} of the reference taken as the port's, by shape"
        ] = None
        return found

    def _guess_axes(
        self, shape: tuple[int, ...], native: tuple[int, ...]
    ) -> tuple[int, ...] | None:
        if sorted(shape) != sorted(native):
            return None
        likely = [s.to_port for s in self.plan.layouts.values() if s.to_port is not None]
        for axes in likely:
            if len(axes) == len(shape) and tuple(shape[i] for i in axes) == native:
                return axes
        fitting = [
            axes
            for axes in permutations(range(len(shape)))
            if axes[:1] == (0,) and tuple(shape[i] for i in axes) == native
        ]
        return fitting[0] if len(fitting) == 1 else None

    # Gradients and buffers ---------------------------------------------------------------------

    def _input_gradients(
        self, role: str, opened: Opened, gradients: Gradients, point: Point
    ) -> dict[str, Array]:
        made = {}
        for name, value in gradients.inputs.items():
            spec = self.plan.layouts.get(name)
            axes = spec.to_port if spec is not None and role == "port" else None
            if axes is None:
                axes = opened.input_axes.get(name)
            if value is None:
                value = np.zeros(point.inputs[name].shape)
            elif axes is not None:
                value = value.transpose(np.argsort(axes))
            made[f"gradient of input {name}"] = value
        return made

    def _parameter_gradients(self, role: str, gradients: Gradients) -> dict[str, Array]:
        shapes = {name: p.shape for name, p in self.reference_parameters.items()}
        if role == "reference":
            return {
                f"gradient of {name}": np.zeros(shapes[name]) if value is None else value
                for name, value in gradients.parameters.items()
            }
        if self.mapping is None:
            return {}
        made = {}
        for name, entries in self.mapping.pull_back(gradients.parameters, shapes).items():
            for links, value in entries:
                note = f" (in the port's {', '.join(links)})" if len(entries) > 1 else ""
                made[f"gradient of {name}{note}"] = (
                    np.zeros(shapes[name]) if value is None else value
                )
        return made

    def _buffers(self, role: str, buffers: Mapping[str, Array]) -> dict[str, Array]:
        names = [n for n, p in self.reference_parameters.items() if not p.trainable]
        if role == "reference":
            return {f"buffer {name}": buffers[name] for name in names if name in buffers}
        if self.mapping is None or not buffers:
            return {}
        shapes = {name: p.shape for name, p in self.reference_parameters.items()}
        pulled = self.mapping.pull_back(dict(buffers), shapes)
        made = {}
        for name in names:
            for _, value in pulled.get(name, [])[:1]:
                if value is not None:
                    made[f"buffer {name}"] = value
        return made

    # Observing ---------------------------------------------------------------------------------

    def observe(self, point: Point, *, training: bool = False) -> list[Observed]:
        """Both sides, working precision and shadow, and the jitter, at one point.

        The jitter, which costs another run of the reference, is drawn at the first point and
        wherever it could change a verdict; elsewhere it is None.

        Raises:
            ModelError: a side failed.
            StructureError: the sides do not give the same tensors.
        """
        return self._observe(point, training)[0]

    def judged(self, point: Point, *, training: bool = False) -> tuple[Assessment, ...]:
        """What the judge says of `observe` at a point; raises what that raises."""
        return self._observe(point, training)[1]

    def _observe(
        self, point: Point, training: bool
    ) -> tuple[list[Observed], tuple[Assessment, ...]]:
        reference64 = self.run("reference", point, "double", training=training)
        self.expect(reference64)
        port64 = self.run("port", point, "double", training=training)
        reference = self.run("reference", point, "working", training=training)
        port = self.run("port", point, "working", training=training)
        runs, origin = (reference64, port64, reference, port), origin_of(point)
        if training in self._jittered:
            observed = list(rows(*runs, None, origin))
            found = tuple(assess(item, self.dtype) for item in observed)
            if all(item.settled for item in found):
                return observed, found
        self._jittered.add(training)
        jitters = self._jitter(point, reference64, self.draws, training)
        observed = list(rows(*runs, jitters, origin))
        if self.draws < 3 and any(undecided(item) for item in observed):
            # Another few draws where one might have been lucky.
            jitters = self._jitter(point, reference64, 3, training)
            observed = list(rows(*runs, jitters, origin))
        return observed, tuple(assess(item, self.dtype) for item in observed)

    def expect(self, reference: Run) -> None:
        """Hold the port's next outputs against the shapes of this run of the reference."""
        self._shapes = {
            name: (value.shape, value.dtype.kind) for name, value in reference.outputs.items()
        }

    def _jitter(self, point: Point, still: Run, draws: int, training: bool) -> dict[str, float]:
        largest: dict[str, float] = {}
        for draw in range(draws):
            rng = np.random.default_rng([draw, *point.rng_seed])
            shaken = Point(
                {name: moved(value, self.dtype, rng) for name, value in point.inputs.items()},
                None
                if point.weights is None
                else {name: moved(v, self.dtype, rng) for name, v in point.weights.items()},
                object(),
                point.rng_seed,
                point.cotangents,
            )
            run = self.run("reference", shaken, "double", training=training)
            for name, value, other in parallel(still, run):
                with np.errstate(invalid="ignore"):
                    spread = finite_maximum(np.asarray(value, float) - np.asarray(other, float))
                largest[name] = max(largest.get(name, 0.0), spread)
        return largest

    def training_is_random(self, point: Point) -> bool:
        """Whether a side in training mode differs from itself (dropout)."""
        for role in ("reference", "port"):
            first, second = (
                self.run(role, point, "double", training=True, backward=False).outputs
                for _ in range(2)
            )
            for name, value in first.items():
                if not np.array_equal(value, second[name], equal_nan=value.dtype.kind == "f"):
                    return True
        return False

    def differs_from_itself(self, role: str, point: Point) -> float:
        """Largest relative difference of two equal calls of one side."""
        first = self.run(role, point, "working", backward=False).outputs
        second = self.run(role, point, "working", backward=False).outputs
        worst = 0.0
        for name, value in first.items():
            scale = finite_maximum(value) or 1.0
            with np.errstate(invalid="ignore"):
                apart = np.asarray(value, float) - np.asarray(second[name], float)
            worst = max(worst, finite_maximum(apart) / scale)
        return worst


def _kind_word(kind: str) -> str:
    return {"f": "floats", "b": "booleans"}.get(kind, "integers")
