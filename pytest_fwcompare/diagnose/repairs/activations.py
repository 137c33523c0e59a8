"""Repairs of activations: formula, parameters, place; clipping; dropout."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.idle import idle_function, limits
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.operations.attention import softmax
from pytest_fwcompare.diagnose.operations.base import Arguments
from pytest_fwcompare.diagnose.operations.elementwise import (
    ACTIVATIONS,
    SELU_ALPHA,
    SELU_SCALE,
)
from pytest_fwcompare.diagnose.prove import TELLING, Candidate, is_fitted
from pytest_fwcompare.diagnose.repairs.base import Spot, decades, repair, show
from pytest_fwcompare.diagnose.repairs.cells import in_gated_cell
from pytest_fwcompare.diagnose.repairs.order import is_wave
from pytest_fwcompare.diagnose.repairs.patterns import is_addition

NONLINEAR = (
    *("relu", "leaky_relu", "elu", "selu", "gelu", "sigmoid", "tanh", "hard_sigmoid", "silu"),
    *("hard_silu", "mish", "softplus", "softsign", "logsigmoid", "square", "exp", "abs"),
)
"""Activations that one may be taken for another."""

FUNCTIONS = ("square", "exp", "abs")
"""Those among them that are no activations, so that one of them more is no activation more."""

ELEMENTARY = (
    *(*FUNCTIONS, "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal"),
    *("erf", "erfc", "huber", "smooth_l1"),
)
"""Functions that are parts of formulas: without one of them the formula is another one."""

ROUNDED = ("sign", "floor", "ceil", "round", "logical_not", "invert")
"""Functions that choose: what it means to leave one out, no word says."""

PARAMETERS: dict[str, dict[str, list[float]]] = {
    "leaky_relu": {"negative_slope": [-2.0, -0.5, -0.1, -1e-6, 1e-6, *decades(-5, 1, 1)]},
    "elu": {"alpha": decades(-4, 2, 1)},
    "celu": {"alpha": decades(-4, 2, 1)},
    "softplus": {"beta": decades(-3, 3, 1)},
    "silu": {"beta": decades(-3, 3, 1)},
    "hard_sigmoid": {"slope": decades(-3, 2, 1)},
    "hard_silu": {"slope": decades(-3, 2, 1)},
    "softshrink": {"lambd": decades(-6, 3, 1)},
    "hardshrink": {"lambd": decades(-6, 3, 1)},
    "gelu": {"cubic": [1e-3, 0.01, 0.03, 0.05, 0.1, 1.0]},
    "huber": {"delta": decades(-4, 4)},
    "smooth_l1": {"beta": decades(-4, 4)},
    "soft_cap": {"cap": decades(-3, 4)},
}
"""Numeric parameters and where to look for them."""

DEFAULTS = {
    "negative_slope": 0.01,
    "alpha": 1.0,
    "beta": 1.0,
    "slope": 1 / 6,
    "lambd": 0.5,
    "cubic": 0.044715,
    "delta": 1.0,
    "cap": 1.0,
}


@repair("activation")
def clipping(spot: Spot) -> Iterator[Candidate]:
    """Limits of a clip removed or moved."""
    options = spot.operation.options
    if options["function"] != "clamp":
        return
    low, high = options.get("min", -np.inf), options.get("max", np.inf)
    low = -np.inf if low is None else low
    high = np.inf if high is None else high
    if np.isfinite(high):
        yield from spot.change("clipping", f"no upper limit (reference {show(high)})", max=np.inf)
    if np.isfinite(low):
        yield from spot.change("clipping", f"no lower limit (reference {show(low)})", min=-np.inf)
    yield from spot.change("clipping", "no limits", weak=True, min=-np.inf, max=np.inf)
    for target in spot.prover.targets(spot.record.value):
        lowest, highest = float(target.min()), float(target.max())
        text = f"limits {lowest:.8g} and {highest:.8g} (reference {show(low)} and {show(high)})"
        yield from spot.change("clipping", text, min=lowest, max=highest)
    wide = [-(10.0**e) for e in range(6, -7, -1)] + [0.0] + decades(-6, 6, 1)
    yield from spot.solved("clipping", "upper limit", "max", high, wide)
    yield from spot.solved("clipping", "lower limit", "min", low, wide)


@repair("activation")
def parameters(spot: Spot) -> Iterator[Candidate]:
    """Another slope, alpha or limit, solved for."""
    options = spot.operation.options
    name = options["function"]
    if name == "selu":
        yield from _short_constants(spot)
        for option, value in (("alpha", SELU_ALPHA), ("scale", SELU_SCALE)):
            grid = [value * factor for factor in (0.1, 0.5, 0.9, 1.1, 2.0, 10.0)]
            yield from spot.solved("activation-parameter", option, option, value, grid)
    if name == "leaky_relu":
        yield from spot.change("activation-parameter", "slope 0", negative_slope=0.0)
    for option, grid in PARAMETERS.get(name, {}).items():
        own = options.get(option, DEFAULTS[option])
        if isinstance(own, np.ndarray):
            own = "one for each channel"
        if name == "gelu" and options.get("approximate") != "tanh":
            continue
        yield from spot.solved("activation-parameter", option, option, own, grid)
    if name == "relu":
        x = spot.operation.arguments

        def leaky(slope: float) -> Array:
            return np.where(x[0] >= 0, x[0], slope * x[0])

        slopes = PARAMETERS["leaky_relu"]["negative_slope"]
        for found, _ in spot.prover.solve(leaky, slopes):
            text = f"slope={found:.10g} below 0 (reference 0)"
            for made in _other(spot, "leaky_relu", "activation-parameter", negative_slope=found):
                yield replace(made, change=text, fitted=is_fitted(found))


def _short_constants(spot: Spot) -> Iterator[Candidate]:
    """SELU's constants as they are typed, rounded or cut to some digits."""

    def short(value: float) -> list[float]:
        cut = [int(value * 10**d) / 10**d for d in range(1, 9)]
        return list(dict.fromkeys([*(round(value, d) for d in range(1, 9)), *cut, value]))

    for alpha, scale in itertools.product(short(SELU_ALPHA), short(SELU_SCALE)):
        if (alpha, scale) != (SELU_ALPHA, SELU_SCALE):
            text = f"alpha={alpha:.10g} and scale={scale:.10g} (reference 1.67326324, 1.05070099)"
            yield from spot.change("activation-parameter", text, alpha=alpha, scale=scale)


@repair("activation")
def variants(spot: Spot) -> Iterator[Candidate]:
    """Another formula for the activation, or another activation."""
    options = spot.operation.options
    name = options["function"]
    if name == "identity":
        return
    cause = "activation-variant"
    x = spot.operation.arguments[0]
    if name == "gelu":
        own = options.get("approximate", "none")
        words = {"none": "erf", "tanh": "tanh", "sigmoid": "sigmoid of 1.702 x"}
        for other in words:
            if other != own:
                text = f"gelu by {words[other]} (reference {words[own]})"
                yield from spot.change(cause, text, approximate=other)
    if name in ("celu", "elu"):
        alpha = {"alpha": options.get("alpha", 1.0)}
        if alpha["alpha"] != 1.0:
            yield from _other(spot, "elu" if name == "celu" else "celu", cause, **alpha)
    if name in ("huber", "smooth_l1"):
        number = options.get("delta", options.get("beta", 1.0))
        other, key = ("smooth_l1", "beta") if name == "huber" else ("huber", "delta")
        if number != 1.0:
            yield from _other(spot, other, cause, **{key: number})
    if name == "relu":
        yield from _other(spot, "squared_relu", cause)
    if name in ("sin", "cos"):
        yield from _other(spot, "cos" if name == "sin" else "sin", cause)
    if name == "tanh":
        yield from _rational_tanh(spot, x)
    if name == "sigmoid" and x.ndim and x.shape[-1] > 1:
        with np.errstate(all="ignore"):
            yield Candidate(cause, "softmax instead of sigmoid", {spot.place: softmax(x, -1)})
    if name in ("sigmoid", "hard_sigmoid", "silu", "hard_silu"):
        hard = "hard_silu" if "silu" in name else "hard_sigmoid"
        for slope in (0.2, 1 / 6, 0.25):
            yield from _other(spot, hard, cause, slope=slope)
    if name == "clamp":
        yield from _other(spot, "relu", "clipping")
    if name in NONLINEAR or name == "clamp":
        for other in NONLINEAR:
            # A limit is no function of its own that another might be meant by.
            if other != name and (name != "clamp" or other not in FUNCTIONS):
                yield from _other(spot, other, cause)
        yield from _other(spot, "clamp", cause, min=0.0, max=6.0)
        yield from _other(spot, "clamp", cause, min=-1.0, max=1.0)
        if name != "gelu":
            for formula in ("tanh", "sigmoid"):
                yield from _other(spot, "gelu", cause, approximate=formula)


def _rational_tanh(spot: Spot, x: Array) -> Iterator[Candidate]:
    """Tanh by a rational function."""
    for order, limited in itertools.product(range(2, 8), (True, False)):
        text = f"tanh by its continued fraction of {order} levels{', clipped' if limited else ''}"
        value = np.asarray(ACTIVATIONS["pade_tanh"](x, order, limited))
        yield Candidate("activation-variant", text, {spot.place: value})
    for order in (1, 2, 3):
        series = np.zeros_like(x)
        for k, coefficient in enumerate((1.0, -1 / 3, 2 / 15, -17 / 315)[: order + 1]):
            series = series + coefficient * x ** (2 * k + 1)
        text = f"tanh by its series to the power {2 * order + 1}"
        yield Candidate("activation-variant", text, {spot.place: series})
    clipped = np.clip(x, -1.0, 1.0)
    if not np.array_equal(clipped, x):
        yield Candidate("activation-variant", "tanh as a clip to 1", {spot.place: clipped})


def _other(spot: Spot, name: str, cause: str, **options: Any) -> Iterator[Candidate]:
    own = spot.operation.options["function"]
    x = spot.operation.arguments[0]
    with np.errstate(all="ignore"):
        value = np.asarray(ACTIVATIONS[name](x, **options))
    if np.array_equal(value, x):
        # Here it does nothing: that would be no activation at all.
        return
    extra = ", ".join(f"{key}={show(number)}" for key, number in options.items())
    text = f"{name}{f' ({extra})' if extra else ''} instead of {own}"

    def compute(arguments: Arguments, options: Mapping[str, Any]) -> Array:
        return np.asarray(ACTIVATIONS[name](arguments[0], **options))

    changed = replace(spot.operation, options=options, compute_with=compute)
    yield Candidate(cause, text, {spot.place: value}, operation=changed)


@repair("arithmetic", "activation")
def power(spot: Spot) -> Iterator[Candidate]:
    """A square or another power of an activation left out, or another one."""
    options, x = spot.operation.options, np.asarray(spot.operation.arguments[0], np.float64)
    square = options["function"] == "square"
    if not (square or (options["function"] == "power" and "number" in options)):
        return
    source = spot.replay.source(spot.place, 0)
    inner = spot.replay.operation(source) if source is not None else None
    if inner is None or inner.kind != "activation" or options.get("swapped"):
        return
    own = 2.0 if square else options["number"]
    for wanted in (1.0, 2.0, 3.0, 0.5):
        if wanted != own:
            text = f"power {wanted:g} of {inner.options['function']} (reference {own:g})"
            with np.errstate(all="ignore"):
                value = x if wanted == 1.0 else np.power(x, wanted)
            yield Candidate("activation-variant", text, {spot.place: value}, wanted == 1.0)


@repair("activation")
def place_of_activation(spot: Spot) -> Iterator[Candidate]:
    """The activation missing or doubled."""
    name = spot.operation.options["function"]
    if name == "identity":
        return
    x = np.asarray(spot.operation.arguments[0], np.float64)
    cause, text = _missing(spot, name), f"no {name}"
    own = any(limits(spot.graph.records[place]) for place in spot.graph.consumers[spot.place])
    idle = None if own else idle_function(spot.sides, x)
    if idle is not None:
        cause = "activation-variant"
        text = f"{idle}, which changes none of these values, instead of {name}"
    elif in_gated_cell(spot):
        cause = "cell-variant"
    if cause is None:
        return
    yield Candidate(cause, text, {spot.place: x}, weak=True)
    yield from spot.arguments(cause, f"{name} twice", spot.record.value)


def _missing(spot: Spot, name: str) -> str | None:
    """What it is called where a function is missing: not each of them is an activation."""
    if name in ROUNDED:
        return None
    if name in ("sin", "cos") and is_wave(spot, spot.place):
        return "position"
    if name != "neg":
        return "activation-variant" if name in ELEMENTARY else "activation-place"
    after = [spot.replay.operation(place) for place in spot.graph.consumers[spot.place]]
    if any(is_addition(operation) for operation in after):
        return "residual"
    bent = [o.kind in ("activation", "softmax") for o in after if o is not None]
    return "activation-parameter" if bent and all(bent) else None


@repair("activation")
def dropout(spot: Spot) -> Iterator[Candidate]:
    """Dropout that scales in evaluation."""
    options = spot.operation.options
    if options["function"] != "identity" or not options.get("rate"):
        return
    keep = 1.0 - float(options["rate"])
    x = np.asarray(spot.operation.arguments[0], np.float64)
    for factor, words in ((keep, "the keep rate"), (1 / keep, "1 / the keep rate")):
        text = f"values scaled by {words}, {factor:.6g}, in evaluation"
        yield Candidate("dropout", text, {spot.place: factor * x})
    yield from _dropped(spot, x)


def _dropped(spot: Spot, x: Array) -> Iterator[Candidate]:
    """Dropout that is active: the port holds the values, some zero, the others scaled alike."""
    kept = np.sort(np.abs(x[x != 0]).reshape(-1))
    for place, record in enumerate(spot.sides.port.records):
        if record.value.size != x.size or place in spot.sides.explained:
            continue
        value = np.asarray(record.value, np.float64)
        some = np.sort(np.abs(value[value != 0]).reshape(-1))
        if not 0 < some.size < kept.size:
            continue
        for ratio in (1.0, 1 / (1.0 - float(spot.operation.options["rate"]))):
            nearest = np.searchsorted(kept * ratio, some)
            near = np.minimum.reduce(
                [
                    np.abs(kept[np.clip(nearest + shift, 0, kept.size - 1)] * ratio - some)
                    for shift in (-1, 0)
                ]
            )
            if near.max() <= spot.sides.tolerance * kept[-1] * ratio and some.size > 3:
                zeros = kept.size - some.size
                text = (
                    f"dropout active: {zeros} of {kept.size} values zero, the others x{ratio:.6g}"
                )
                yield Candidate("dropout", text, {spot.place: _arranged(x, value, ratio)})
                return


def _arranged(x: Array, dropped: Array, ratio: float) -> Array:
    """The dropped values in the order of `x`."""
    present = np.sort(dropped[dropped != 0].reshape(-1))
    scaled = ratio * x
    near = np.searchsorted(present, scaled)
    scale = np.abs(present).max()
    found = np.zeros(x.shape, bool)
    for shift in (-1, 0):
        other = present[np.clip(near + shift, 0, present.size - 1)]
        found |= np.abs(other - scaled) <= 1e-7 * scale
    return np.where(found, scaled, 0.0)


@repair("", late=True)
def extra_activation(spot: Spot) -> Iterator[Candidate]:
    """An activation more: after this operation where it is an output, or on an argument of it."""
    value = spot.record.value
    if spot.place not in spot.sides.fed:
        return  # constants, that any function may give by chance
    if spot.place in spot.sides.output_places and value.ndim:
        for name, made in _applied(value):
            yield Candidate("activation-place", f"{name} after it", {spot.place: made})
    for number, argument in enumerate(spot.operation.arguments):
        source = spot.replay.source(spot.place, number)
        if source is None or np.isin(argument, (0.0, 1.0)).all():
            continue  # a mask, which no activation is taken of
        path, own = spot.graph.records[source].path, spot.record.path
        for name, made in _applied(argument):
            changed = attempt(spot.operation, spot.replaced(number, made))
            if changed is None or _says_nothing(spot, number, changed):
                continue
            # Glue code that reads a module's result blames the module: Dense(activation=...).
            culprit = (path, None) if path != own and path not in spot.graph.containers else None
            text = f"{name} applied to its input first"
            yield Candidate("activation-place", text, {spot.place: changed}, culprit=culprit)
        for name, made in _limited(spot, argument):
            changed = attempt(spot.operation, spot.replaced(number, made))
            if changed is not None and not _says_nothing(spot, number, changed):
                yield Candidate("clipping", f"{name} of its input", {spot.place: changed})


def _says_nothing(spot: Spot, number: int, value: Array) -> bool:
    """Whether a value is constant, or what zeros as that argument give: nothing is left of it.

    A constant may drop out of what follows, and zeros come of much.
    """
    if not value.size or np.ptp(value) <= 1e-9 * np.abs(value).max():
        return True
    argument = spot.operation.arguments[number]
    zero = attempt(spot.operation, spot.replaced(number, np.zeros_like(argument)))
    if zero is None or zero.shape != value.shape:
        return False
    return bool(np.allclose(zero, value, rtol=1e-9, atol=1e-12))


def _limited(spot: Spot, x: Array) -> Iterator[tuple[str, Array]]:
    """A tensor within limits that a tensor of the port reaches more than once."""
    for target in spot.prover.targets(x):
        low, high = float(target.min()), float(target.max())
        within = ((x > low) & (x < high)).sum()
        # Between limits that leave nothing as it was, everything is alike.
        if (target == low).sum() > 1 and (target == high).sum() > 1 and within >= TELLING:
            yield f"limits {low:.8g} and {high:.8g}", np.clip(x, low, high)


def _applied(x: Array) -> Iterator[tuple[str, Array]]:
    """Activations of a tensor, softmax along each axis included."""
    for name in NONLINEAR:
        if name in FUNCTIONS:
            continue
        with np.errstate(all="ignore"):
            yield name, np.asarray(ACTIVATIONS[name](x))
    for axis in range(x.ndim - 1, -1, -1):
        if x.shape[axis] < 2:
            continue  # ones, whatever x is
        with np.errstate(all="ignore"):
            weights = softmax(x, axis)
            yield f"softmax over axis {axis}", weights
            yield f"log_softmax over axis {axis}", np.log(weights)
