"""The documented formula of a layer, run in NumPy or in raw operations of a framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_fwcompare.backends.base import Argument, Array, Built, Gradients, Side
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
    held = _canonical(formula, weights)
    built, side = _built(formula, framework, dtype)
    with side:
        outputs, gradients, narrow = _passes(side, built, held, tensors, cotangents)
    return Ran(
        _numbered(built, outputs),
        _turned_back(formula, built, gradients),
        {name: wide(value) for name, value in _numbered(built, narrow).items()},
    )


def _canonical(formula: Formula, weights: Sequence[Array]) -> dict[str, Array]:
    """Float64 values of the described network's parameters, from the layer's weights."""
    shapes = _shapes(formula)
    held: dict[str, Array] = {}
    for key, names, transform in formula.stored:
        value = weights[int(key.removeprefix("weight "))].astype("float64")
        parts = transform.adjoint(value, *(shapes[name] for name in names))
        held |= dict(zip(names, parts, strict=True))
    return held


def _shapes(formula: Formula) -> dict[str, tuple[int, ...]]:
    """Shapes of the described network's parameters."""
    return {name: spec.shape for name, spec in formula.network.parameters().items()}


def _built(formula: Formula, framework: str, dtype: str) -> tuple[Built, Side]:
    """The described network in a framework."""
    runner = backend(framework)
    working = dtype if dtype in runner.dtypes else "float32"
    built = runner.build(formula.network, dtype=working)
    side = runner.adopt(built.model, dtype=working, device="cpu", mode="eager", own=True)
    return built, side


def _passes(
    side: Side,
    built: Built,
    held: Mapping[str, Array],
    tensors: Sequence[Array],
    cotangents: Mapping[str, Array],
) -> tuple[Mapping[str, Array], Gradients, Mapping[str, Array]]:
    """Float64 outputs and gradients, and working outputs, in the axis order of the framework."""
    given = [
        Argument(f"x{n}", turned(tensor, built.input_axes.get(f"x{n}")))
        for n, tensor in enumerate(tensors)
    ]
    native = {
        place.parameter: place.transform.apply(*(held[name] for name in place.sources))
        for place in built.placements
    }
    side.prepare(given)
    side.load(native, "double")
    passed = side.forward(given, precision="double")
    gradients = passed.backward(
        {
            name: turned(cotangents["output 0"], built.output_axes.get(name))
            for name in passed.outputs
        }
    )
    side.load(native, "working")
    narrow = side.forward(given, precision="working", gradients=False).outputs
    return passed.outputs, gradients, narrow


def _numbered(built: Built, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the framework as those of the layer."""
    return {
        f"output {n}": turned(value, built.output_axes.get(name), back=True)
        for n, (name, value) in enumerate(outputs.items())
    }


def _turned_back(formula: Formula, built: Built, found: Gradients) -> dict[str, Array]:
    """Gradients of the framework as those of the layer's inputs and weights."""
    shapes = _shapes(formula)
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
    return gradients


def turned(value: Array, axes: Sequence[int] | None, *, back: bool = False) -> Array:
    """A tensor with its axes as a framework has them; `back`: as the formula has them."""
    if axes is None:
        return value
    order = sorted(range(len(axes)), key=axes.__getitem__) if back else axes
    return value.transpose(order)


def wide(value: Array) -> Array:
    """Floats in float64."""
    return value.astype("float64") if value.dtype.kind == "f" else value
