"""What the records say, checked with the frameworks alone: weights copied by hand, no mapping.

    python -m tests.corpus.truth [family ...]

Right ports agree with their reference in float64. Faults that show forward change an output, in
float64 or, where they lose accuracy, in float32.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from . import FAMILIES, PortCase, load_family

AGREE = 1e-6
"""Relative difference of a right port in float64: some round a constant to float32."""

SCALES = (1.0, 1e-2, 30.0)


def draw(case: PortCase, scale: float, seed: int) -> list[np.ndarray]:
    """The inputs of one example in the reference's axes; free sizes are 3, 6, 7, ..."""
    rng, sizes, drawn = np.random.default_rng(seed), {"batch": 3}, []
    for spec in case.inputs.values():
        for axis in spec.shape:
            if isinstance(axis, str):
                sizes.setdefault(axis, 5 + len(sizes))
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape)
        if spec.kind == "tokens":
            drawn.append(rng.integers(0, spec.high, shape))
        elif spec.kind == "mask":
            mask = rng.random(shape) < 0.6
            mask[..., 0] = True
            drawn.append(mask)
        else:
            values = scale * rng.standard_normal(shape)
            values = np.abs(values) if spec.kind == "positive" else values
            drawn.append(np.round(2 * values) / 2 if spec.kind == "grid" else values)
    return drawn


def call(model: Any, framework: str, inputs: list[np.ndarray], dtype: str) -> list[np.ndarray]:
    """The outputs of one side, as a list."""
    values = [value.astype(dtype) if value.dtype.kind == "f" else value for value in inputs]
    if framework == "torch":
        import torch

        with torch.no_grad():
            found = model(*(torch.tensor(value) for value in values))
    elif framework == "jax":
        import jax.numpy as jnp

        given = [jnp.asarray(value) for value in values]
        if isinstance(model, tuple):  # a function or a linen module, and its parameters
            function, params = model
            found = getattr(function, "apply", function)(params, *given)
        else:
            found = model(*given)
    else:
        import tensorflow as tf

        given = [tf.constant(v.astype("int32") if v.dtype == np.int64 else v) for v in values]
        # A Keras functional model takes its inputs as one structure.
        functional = type(model).__name__ == "Functional" and len(given) > 1
        found = model(given) if functional else model(*given)
    if isinstance(found, dict):
        found = list(found.values())
    several = list(found) if isinstance(found, (tuple, list)) else [found]
    return [np.asarray(value, np.float64) for value in several]


def moved(value: np.ndarray, axes: str | None, to: str | None) -> np.ndarray:
    """Transposed from one order of letters to another."""
    if axes is None or to is None:
        return value
    return value.transpose([axes.index(letter) for letter in to])


def difference(case: PortCase, fault: str | None, dtype: str, scale: float) -> float:
    """Largest relative difference of the outputs; infinite where one side is not finite."""
    import torch

    torch.manual_seed(1)
    reference, port = case.make_reference(dtype), case.make_port(dtype, fault)
    inputs = draw(case, scale, 7)
    specs = list(case.inputs.values())
    theirs = [moved(v, s.axes, s.port_axes) for v, s in zip(inputs, specs, strict=True)]
    call(port, case.port_framework, theirs, dtype)  # builds what is built when called
    case.copy_weights(reference, port)
    expected = call(reference, case.reference_framework, inputs, dtype)
    obtained = call(port, case.port_framework, theirs, dtype)
    axes = case.output_axes or [None] * len(expected)
    port_axes = case.port_output_axes or [None] * len(expected)
    worst = 0.0
    for one, other, own, native in zip(expected, obtained, axes, port_axes, strict=True):
        other = moved(other, native, own)
        if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
            return float("inf")
        finite = np.isfinite(one)
        apart = np.abs(one - other)[finite].max(initial=0.0)
        worst = max(worst, float(apart / (np.abs(one)[finite].max(initial=0.0) or 1.0)))
    return worst


def failures(case: PortCase, fault: str | None) -> list[str]:
    """What does not hold of one port."""
    apart = [difference(case, fault, "float64", scale) for scale in SCALES]
    record = case.faults[fault] if fault else None
    if record is None or record.shows_in != "forward" or record.verdict in ("precision",):
        limit = AGREE if record is None or record.verdict != "precision" else 0.1
        return [f"{case.name}/{fault or 'right'}: differs by {max(apart):.2g}"] * (
            max(apart) > limit
        )
    if record.verdict == "nonfinite":
        shows = np.isinf([difference(case, fault, "float32", scale) for scale in (*SCALES, 1e4)])
        return [] if shows.any() else [f"{case.name}/{fault}: always finite"]
    right = max(difference(case, None, "float64", scale) for scale in SCALES)
    shown = max(apart) > max(1e-9, 10 * right)
    return [] if shown else [f"{case.name}/{fault}: does not show, {max(apart):.2g}"]


def main() -> int:
    """Print what does not hold; the number of such lines."""
    wrong: list[str] = []
    for family in sys.argv[1:] or FAMILIES:
        for case in load_family(family):
            for fault in (None, *case.faults):
                wrong += failures(case, fault)
            print(family, case.name, "checked", flush=True)
    print(*wrong, sep="\n")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
