"""Values for one input tensor from a few numbers: a pattern, a scale and a seed. NumPy only.

An input is never drawn element by element: that costs more than running the network and fills
most cells with one value. A `Draw` is what is drawn (and shrunk); `values` makes the array.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.inputs.spec import TensorSpec

SCALES = (1.0, 0.01, 10.0, 0.001, 100.0, 0.1, 1000.0)
"""Six decades; each of the first few examples has one of its own."""

PLAIN_PATTERNS = ("normal",)
EXPLORED_PATTERNS = ("normal", "sparse", "grid", "offset", "one-hot", "constant", "zeros")
"""Patterns of a float input whose spec names no kind."""

SPECIAL_VALUES = {
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "subnormal": 1e-40,
    "negative zero": -0.0,
}


@dataclass(frozen=True)
class Draw:
    """How the values of one tensor are made.

    Attributes:
        pattern: one of the patterns of its spec.
        scale: magnitude of float values.
        seed: of the generator.
        special: special values put at random places, by name.
    """

    pattern: str = "normal"
    scale: float = 1.0
    seed: int = 0
    special: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = [self.pattern]
        if self.pattern not in ("tokens", "mask", "ragged", "zeros", "given"):
            words.append(f"scale {self.scale:g}")
        if self.special:
            words.append(f"with {', '.join(self.special)}")
        return ", ".join(words)


def patterns(spec: TensorSpec) -> tuple[str, ...]:
    """The patterns a spec asks for; the first is the plainest."""
    kind = np.dtype(spec.dtype).kind
    if spec.kind in ("mask", "ragged", "tokens", "grid", "positive", "probability", "normal"):
        return (spec.kind,)
    if kind == "b":
        return ("mask",)
    if kind in "iu":
        return ("tokens",)
    if spec.low is not None or spec.high is not None:
        return ("uniform",)
    return EXPLORED_PATTERNS


def explored(spec: TensorSpec, pattern: str) -> bool:
    """True for a degenerate pattern that the spec did not ask for by name."""
    return spec.kind is None and pattern in ("grid", "offset", "one-hot", "constant", "zeros")


def concrete(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The spec's shape with its free sizes filled in."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


def values(spec: TensorSpec, shape: tuple[int, ...], draw: Draw) -> np.ndarray:
    """The array of a draw: (*shape) of the spec's dtype; floats hold float32-exact values.

    Args:
        spec: dtype, limits and kind.
        shape: concrete sizes.
        draw: pattern, scale, seed, special values.

    Raises:
        UsageError: tokens without `high`, or limits that leave nothing to draw.
    """
    rng = np.random.default_rng([draw.seed, *shape])
    if draw.pattern in ("tokens", "mask", "ragged"):
        return _discrete(spec, shape, draw.pattern, rng)
    made = _floats(spec, shape, draw, rng)
    if spec.low is not None or spec.high is not None:
        made = np.clip(made, spec.low, spec.high)
    for name in draw.special:
        if made.size:
            made.reshape(-1)[int(rng.integers(made.size))] = SPECIAL_VALUES[name]
    with np.errstate(over="ignore"):
        exact = made.astype(np.float16 if spec.dtype == "float16" else np.float32)
    wanted = "float64" if spec.dtype in ("float64", "bfloat16") else spec.dtype
    return exact.astype(wanted, copy=False)


def _floats(
    spec: TensorSpec, shape: tuple[int, ...], draw: Draw, rng: np.random.Generator
) -> np.ndarray:
    normal = rng.standard_normal(shape)
    scale = draw.scale
    match draw.pattern:
        case "normal":
            return scale * normal
        case "positive":
            return np.abs(scale * normal)
        case "grid":
            return np.asarray(np.round(2 * scale * normal) / 2)
        case "sparse":
            return scale * normal * (rng.random(shape) < 0.2)
        case "offset":
            # Offset much larger than spread: what a one-pass variance cancels.
            return scale * (100.0 + normal)
        case "one-hot":
            made = np.zeros(shape)
            if made.size:
                made.reshape(-1)[int(rng.integers(made.size))] = scale
            return made
        case "constant":
            return np.full(shape, scale)
        case "zeros":
            return np.zeros(shape)
        case "probability":
            weights = rng.random(shape) + 1e-3
            return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
        case "uniform":
            low = spec.low if spec.low is not None else -abs(scale) + (spec.high or 0.0)
            high = spec.high if spec.high is not None else low + 2 * abs(scale)
            if not low <= high:
                raise UsageError(f"TensorSpec: nothing lies between low={low} and high={high}")
            return rng.uniform(low, high, shape)
    raise UsageError(f"unknown pattern {draw.pattern!r}")


def _discrete(
    spec: TensorSpec, shape: tuple[int, ...], pattern: str, rng: np.random.Generator
) -> np.ndarray:
    if pattern == "tokens":
        if spec.high is None:
            raise UsageError(
                f"TensorSpec: integer inputs are drawn from [low, high), so high= is needed "
                f"(shape {spec.shape}, dtype {spec.dtype})"
            )
        low, high = int(spec.low or 0), int(spec.high)
        if low >= high:
            raise UsageError(f"TensorSpec: no token lies in [low={low}, high={high})")
        dtype = spec.dtype if np.dtype(spec.dtype).kind in "iu" else "int64"
        return rng.integers(low, high, shape).astype(dtype)
    if pattern == "ragged" and shape:
        lengths = rng.integers(1, shape[-1] + 1, (*shape[:-1], 1)) if shape[-1] else 0
        mask = np.arange(shape[-1]) < lengths
        mask = np.broadcast_to(mask, shape).copy()
    else:
        mask = rng.random(shape) < 0.7
        if shape and shape[-1]:
            mask[..., 0] |= ~mask.any(axis=-1)
    return mask if spec.dtype in ("bool", "float32") else mask.astype(spec.dtype)
