"""The documented formula of a layer, run in NumPy or in raw operations of a framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_fwcompare.backends.base import Argument, Array
from pytest_fwcompare.backends.keras.examined import Formula, Ran
from pytest_fwcompare.backends.registry import backend


def run_formula(
    formula: Formula,
    framework: str,
    tensors: Sequence[Array],
    weights: Sequence[Array],
    cotangents: Mapping[str, Array],
    dtype: str,
) -> Ran:
    """What a formula gives in a framework, in the layout of the Keras layer.

    Args:
        formula: of the layer.
        framework: import name.
        tensors: inputs of the layer.
        weights: of the layer, in its order.
        cotangents: by output.
        dtype: working dtype; float32 is taken where the framework does not know it.

    Raises:
        FwcompareError: it cannot be run.
    """
    network = formula.network
    shapes = {name: spec.shape for name, spec in network.parameters().items()}
    held: dict[str, Array] = {}
    for key, names, transform in formula.stored:
        value = weights[int(key.removeprefix("weight "))].astype("float64")
        parts = transform.adjoint(value, *(shapes[name] for name in names))
        held |= dict(zip(names, parts, strict=True))
    runner = backend(framework)
    working = dtype if dtype in runner.dtypes else "float32"
    built = runner.build(network, dtype=working)
    side = runner.adopt(built.model, dtype=working, device="cpu", mode="eager", own=True)
    given = [
        Argument(f"x{n}", turned(tensor, built.input_axes.get(f"x{n}")))
        for n, tensor in enumerate(tensors)
    ]
    native = {
        place.parameter: place.transform.apply(*(held[name] for name in place.sources))
        for place in built.placements
    }
    with side:
        side.prepare(given)
        side.load(native, "double")
        passed = side.forward(given, precision="double")
        found = passed.backward(
            {
                name: turned(cotangents["output 0"], built.output_axes.get(name))
                for name in passed.outputs
            }
        )
        side.load(native, "working")
        narrow = side.forward(given, precision="working", gradients=False).outputs
    canonical: dict[str, Array] = {}
    for place in built.placements:
        gradient = found.parameters.get(place.parameter)
        if gradient is not None:
            parts = place.transform.adjoint(gradient, *(shapes[name] for name in place.sources))
            canonical |= dict(zip(place.sources, parts, strict=True))
    gradients = {
        f"input {name[1:]}": turned(gradient, built.input_axes.get(name), back=True)
        for name, gradient in found.inputs.items()
        if gradient is not None
    }
    for key, names, transform in formula.stored:
        if all(name in canonical for name in names):
            gradients[key] = transform.apply(*(canonical[name] for name in names))

    def numbered(outputs: Mapping[str, Array]) -> dict[str, Array]:
        return {
            f"output {n}": turned(value, built.output_axes.get(name), back=True)
            for n, (name, value) in enumerate(outputs.items())
        }

    narrowed = {name: wide(value) for name, value in numbered(narrow).items()}
    return Ran(numbered(passed.outputs), gradients, narrowed)


def turned(value: Array, axes: Sequence[int] | None, *, back: bool = False) -> Array:
    """A tensor with its axes as a framework has them; `back`: as the formula has them."""
    if axes is None:
        return value
    order = sorted(range(len(axes)), key=axes.__getitem__) if back else axes
    return value.transpose(order)


def wide(value: Array) -> Array:
    """Floats in float64."""
    return value.astype("float64") if value.dtype.kind == "f" else value
