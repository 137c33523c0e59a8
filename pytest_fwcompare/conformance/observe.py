"""Builds a described network in a framework, fills it, runs it both ways: canonical arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Argument, Array, Backend, Built, Side
from pytest_fwcompare.building import fill
from pytest_fwcompare.networks import Network, random_parameters


@dataclass(frozen=True)
class Observation:
    """What one run gave, in canonical axis order.

    Attributes:
        outputs: by output name.
        inputs: gradients by name of a float input.
        parameters: gradients by canonical parameter name, those of all uses summed.
    """

    outputs: Mapping[str, Array]
    inputs: Mapping[str, Array]
    parameters: Mapping[str, Array]

    def tensors(self) -> dict[str, Array]:
        """All arrays under names for a message."""
        return (
            {f"output {name}": value for name, value in self.outputs.items()}
            | {f"gradient of input {name}": value for name, value in self.inputs.items()}
            | {f"gradient of {name}": value for name, value in self.parameters.items()}
        )


@dataclass
class Bench:
    """A described network, built in one framework; a context manager.

    Attributes:
        backend: of the framework.
        network: the description.
        dtype: working dtype.
        built: the native model and where its parameters are.
        side: the model, adopted.
    """

    backend: Backend
    network: Network
    dtype: str
    built: Built = field(init=False)
    side: Side = field(init=False)

    def __post_init__(self) -> None:
        self.built = self.backend.build(self.network, dtype=self.dtype)
        self.side = self.backend.adopt(
            self.built.model, dtype=self.dtype, device="cpu", mode="eager", own=True
        )
        self.side.role = self.backend.name

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.side.close()

    def fill(self, values: Mapping[str, Array]) -> None:
        """Write canonical parameters and read them back bit for bit.

        Raises:
            ModelError: stage "copy", if one is not what was written.
        """
        fill(self.side, self.built.placements, values)

    def observe(
        self, inputs: Mapping[str, Array], cotangents: Mapping[str, Array] | None = None
    ) -> Observation:
        """Run forward and backward.

        Args:
            inputs: by name, canonical.
            cotangents: by output name, canonical; drawn where they are not given.
        """
        arguments = [
            Argument(name, _to_native(np.asarray(inputs[name]), self.built.input_axes.get(name)))
            for name in self.network.inputs
        ]
        made = self.side.forward(arguments, precision="working")
        outputs = {
            name: _to_canonical(value, self.built.output_axes.get(name))
            for name, value in made.outputs.items()
        }
        if not self.backend.can_differentiate:
            return Observation(outputs, {}, {})
        if cotangents is None:
            cotangents = draw_cotangents(outputs)
        gradients = made.backward(
            {
                name: _to_native(value, self.built.output_axes.get(name)).astype(self.dtype)
                for name, value in cotangents.items()
            }
        )
        return Observation(
            outputs,
            {
                name: np.zeros(np.shape(inputs[name]))
                if value is None
                else _to_canonical(value, self.built.input_axes.get(name))
                for name, value in gradients.inputs.items()
            },
            self._canonical_gradients(gradients.parameters),
        )

    def _canonical_gradients(self, native: Mapping[str, Array | None]) -> dict[str, Array]:
        specs = self.network.parameters()
        found = {name: np.zeros(spec.shape) for name, spec in specs.items() if spec.trainable}
        for placed in self.built.placements:
            gradient = native.get(placed.parameter)
            if gradient is None:
                continue
            shapes = [specs[source].shape for source in placed.sources]
            parts = placed.transform.adjoint(np.asarray(gradient), *shapes)
            for source, part in zip(placed.sources, parts, strict=True):
                found[source] = found[source] + part
        return found


def _to_native(value: Array, axes: Sequence[int] | None) -> Array:
    return value if axes is None else value.transpose(tuple(axes))


def _to_canonical(value: Array, axes: Sequence[int] | None) -> Array:
    return value if axes is None else value.transpose(tuple(int(i) for i in np.argsort(axes)))


def draw_cotangents(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Standard normal, exact in float32, the same for the same names and shapes."""
    rng = np.random.default_rng(7)
    return {
        name: rng.standard_normal(outputs[name].shape).astype(np.float32).astype(np.float64)
        for name in sorted(outputs)  # some frameworks sort them
    }


def gaps(reference: Observation, port: Observation, share: float = 1e-3) -> dict[str, float]:
    """max|port - reference| / scale of each tensor; infinite where one is missing or not finite.

    The scale is max|reference|, and for a gradient at least `share` of that of all gradients
    together: the gradient of an attention's key bias is zero whatever the weights, and only
    rounding is left of it.
    """
    ours, theirs = reference.tensors(), port.tensors()
    found = dict.fromkeys(ours.keys() ^ theirs.keys(), float("inf"))
    gradients = (*reference.inputs.values(), *reference.parameters.values())
    floor = max((_largest(value) for value in gradients), default=0.0) * share
    for name in ours.keys() & theirs.keys():
        expected, obtained = ours[name].astype(float), theirs[name].astype(float)
        if expected.shape != obtained.shape:
            found[name] = float("inf")
            continue
        least = 0.0 if name.startswith("output ") else floor
        gap = _largest(obtained - expected) / (max(_largest(expected), least) or 1.0)
        found[name] = gap if np.isfinite(gap) else float("inf")
    return found


def _largest(value: Array) -> float:
    return float(np.abs(value).max()) if value.size else 0.0


def jitter(
    bench: Bench,
    values: Mapping[str, Array],
    inputs: Mapping[str, Array],
    epsilon: float,
    share: float = 1e-3,
) -> dict[str, float]:
    """Change of each tensor when inputs and weights move by `epsilon`, relative, at random.

    Args:
        bench: the float64 reference; it holds `values` again afterwards.
        values: its canonical parameters.
        inputs: by name.
        epsilon: half a unit in the last place of one, in the working dtype.
        share: as in `gaps`.
    """
    start = bench.observe(inputs)
    cotangents = draw_cotangents(start.outputs)
    found: dict[str, float] = {}
    for seed in range(3):
        rng = np.random.default_rng(seed)

        def moved(value: Array, rng: np.random.Generator = rng) -> Array:
            if value.dtype.kind != "f":
                return value
            return value * (1 + epsilon * rng.uniform(-1, 1, value.shape))

        bench.fill({name: moved(np.asarray(value, float)) for name, value in values.items()})
        point = {name: moved(np.asarray(v, _double(v))) for name, v in inputs.items()}
        for name, gap in gaps(start, bench.observe(point, cotangents), share).items():
            found[name] = max(found.get(name, 0.0), gap)
    bench.fill(values)
    return found


def _double(value: Array) -> Any:
    return np.dtype(np.float64) if np.asarray(value).dtype.kind == "f" else np.asarray(value).dtype


def opened(stack: ExitStack, backend: Backend, network: Network, dtype: str) -> Bench:
    """A bench that the stack closes, filled with the network's random weights."""
    bench = stack.enter_context(Bench(backend, network, dtype))
    bench.fill(random_parameters(network, 0))
    return bench
