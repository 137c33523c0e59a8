"""Explains ports that compute the same function with less accuracy, or overflow on the way.

In float64 such a port agrees, so there is no gap to locate. What can be shown: rounding the
reference's values at one place to a narrower dtype gives the port's working-precision output; or
the port holds the intermediate values of a formula that is known to cancel or to overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.align import Index
from pytest_fwcompare.diagnose.graph import ancestors, common_ancestor
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.operations import Operation, attempt, normalised
from pytest_fwcompare.diagnose.replay import Replay

BETTER = 8.0
"""Factor by which a rounding must explain the port's noise. Values near a rounding boundary fall
to either side, so the port's output is not met exactly."""

PLACES = 400
"""Places tried for a rounding."""


def bfloat16(value: Array) -> Array:
    """Values rounded to bfloat16: the upper 16 bits of a float32, to nearest even."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    made = rounded.astype(np.uint32).view(np.float32).astype(np.float64).reshape(np.shape(value))
    return np.where(np.isfinite(value), made, value)


def tensorfloat32(value: Array) -> Array:
    """Values rounded to 10 bits of mantissa, as TF32 does with the inputs of products."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFFE000
    made = rounded.astype(np.uint32).view(np.float32).astype(np.float64).reshape(np.shape(value))
    return np.where(np.isfinite(value), made, value)


def float16(value: Array) -> Array:
    """Values rounded to float16; infinite above 65504."""
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float16).astype(np.float64)


NARROW: dict[str, Callable[[Array], Array]] = {"bfloat16": bfloat16, "float16": float16}

PRODUCTS = ("linear", "matmul", "addmm", "convolution", "transposed convolution")
"""Kinds of operations that TF32 applies to."""


DIFFERENCES = ("sub", "subtract", "rsub")

CANCELLED = 1e3
"""Factor by which operands must exceed their difference for digits to be lost in it."""

FEW = 8
"""Output values below which a rounding that brings the reference closer may do so by luck."""


def explain_precision(
    sides: Sides, working: Mapping[str, Array], verdict: str = "precision"
) -> list[Diagnosis]:
    """Causes of lost accuracy or overflow that can be shown.

    Args:
        sides: both float64 passes, aligned.
        working: the port's outputs in its working dtype, by name.
        verdict: "precision" or "nonfinite".
    """
    found = unstable(sides)
    if not found and verdict == "precision":
        found = cancelling(sides)
    if found or verdict != "precision":
        return found
    rounded = narrowed(sides, working) if working else None
    return [rounded] if rounded is not None else []


@dataclass(frozen=True)
class Formula:
    """A formula that loses digits, seen in the port.

    Attributes:
        text: the formula and what it does.
        values: its intermediate values, all of which the port must hold.
        severity: factor by which it magnifies rounding; infinite where it leaves float32's range.
    """

    text: str
    values: tuple[Array, ...]
    severity: float


LARGEST = float(np.finfo(np.float32).max)


def formulas(operation: Operation) -> Iterator[Formula]:
    """Unstable ways to compute an operation."""
    x = np.asarray(operation.arguments[0], np.float64) if operation.arguments else np.zeros(0)
    if not x.size:
        return
    options = operation.options
    with np.errstate(all="ignore"):
        if operation.kind == "softmax":
            yield from _softmax(operation, x)
        spread = operation.kind == "reduction" and options["function"] in ("var", "std")
        normed = operation.kind == "norm" and options.get("variance") is None
        if (spread or normed) and not options.get("groups"):
            axes = tuple(options["axes"])
            squares = (x * x).mean(axis=axes)
            mean = x.mean(axis=axes) ** 2
            left = float((squares / np.maximum(squares - mean, 1e-300)).max())
            text = f"the variance as E[x^2] - E[x]^2, which cancels all but 1 part in {left:.3g}"
            yield Formula(text, (squares, mean), left)
        if operation.kind == "activation":
            yield from _activation(str(options["function"]), x)


def _softmax(operation: Operation, x: Array) -> Iterator[Formula]:
    top = float(x[np.isfinite(x)].max(initial=0.0))
    over = np.inf if top > np.log(LARGEST) else float(np.exp(top))
    text = f"softmax without subtracting the maximum: exp of up to {top:.4g}, too large above 88.7"
    yield Formula(text, (np.exp(x),), over)
    if operation.options.get("log"):
        weights = attempt(operation, None, log=False)
        if weights is not None:
            text = "the logarithm of softmax, which underflows"
            yield Formula(text, (weights, np.log(weights)), 1 / max(float(weights.min()), 1e-300))


def _activation(name: str, x: Array) -> Iterator[Formula]:
    top = float(np.abs(x).max())
    if name == "abs":
        text = "the magnitude as sqrt(x * x), whose derivative at 0 is 0/0"
        yield Formula(text, (x * x, np.sqrt(x * x)), np.inf if (x == 0).any() else 2.0)
    growth = float(np.exp(min(top, 700.0)))
    over = np.inf if growth > LARGEST else growth
    if name == "softplus":
        yield Formula("softplus as log(1 + exp(x)), which overflows", (np.exp(x),), over)
    if name == "logsigmoid":
        part = 1 / (1 + np.exp(-x))
        text = "the logarithm of the sigmoid, which underflows"
        yield Formula(text, (part, np.log(part)), over)
    if name == "tanh":
        text = "tanh by exp(2 x), which overflows"
        yield Formula(text, (np.exp(2 * x),), over)
    if name == "sigmoid":
        yield Formula("the sigmoid by exp(x), which overflows", (np.exp(x),), over)


def unstable(sides: Sides) -> list[Diagnosis]:
    """Unstable formulas that the port holds, the worst first."""
    replay = Replay(sides.graph)
    found: list[tuple[float, Diagnosis]] = []
    for place, record in enumerate(sides.graph.records):
        operation = replay.operation(place) if place in sides.graph.live else None
        if operation is None:
            continue
        for formula in formulas(operation):
            matches = [sides.index.find(value, 1e-6) for value in formula.values]
            fresh = [[m for m in found if m.index not in sides.explained] for found in matches]
            if not all(matches) or not any(fresh):
                continue
            port = sides.port.records[next(m for m in fresh if m)[0].index]
            glue = record.path in sides.graph.containers
            diagnosis = Diagnosis(
                culprit=record.path,
                between=sides.graph.between([place]) if glue else None,
                operation=record.operation,
                port_culprit=port.path,
                port_operation=port.operation,
                cause="unstable-formula",
                evidence=(f"the port computes {formula.text}; its intermediate values are there",),
            )
            found.append((formula.severity, diagnosis))
    found.sort(key=lambda pair: -pair[0])
    return [diagnosis for severity, diagnosis in found if severity > 10.0]


def cancelling(sides: Sides) -> list[Diagnosis]:
    """Differences of large values of the port's own that leave next to nothing, the worst first.

    Such as the variance of values that were shifted far from zero. A difference that the
    reference takes as well is no fault of the port.
    """
    port, graph = sides.port, sides.graph
    place_of = {
        found.index: place
        for place, matches in enumerate(sides.alignment.matches)
        for found in matches
    }
    made: list[tuple[float, Diagnosis]] = []
    for number, record in enumerate(port.records):
        if normalised(record.operation) not in DIFFERENCES or len(record.arguments) != 2:
            continue
        if any(source in sides.explained for source in port.inputs[number]):
            continue
        left = float(np.abs(record.value).max(initial=0.0))
        given = min(float(np.abs(a).max(initial=0.0)) for a in record.arguments)
        if not port.inputs[number] or not left or given / left < CANCELLED:
            continue
        onward = sorted(port.downstream([number]))
        known = next((place_of[other] for other in onward if other in place_of), None)
        if known is None:
            continue
        place = graph.records[known]
        glue = place.path in graph.containers
        text = (
            f"the port subtracts values of {given:.3g} that leave {left:.3g}: all but 1 part in "
            f"{given / left:.3g} cancels, on the way to {place.operation}"
        )
        diagnosis = Diagnosis(
            culprit=place.path,
            between=graph.between([known]) if glue else None,
            operation=place.operation,
            port_culprit=record.path,
            port_operation=record.operation,
            cause="unstable-formula",
            evidence=(text,),
        )
        made.append((given / left, diagnosis))
    made.sort(key=lambda pair: -pair[0])
    return [diagnosis for _, diagnosis in made]


def narrowed(sides: Sides, working: Mapping[str, Array]) -> Diagnosis | None:
    """A place at which rounding to a narrower dtype gives the port's working output."""
    graph = sides.graph
    targets = [np.asarray(value, np.float64) for value in working.values()]
    replay = Replay(graph)
    before = {p: _miss(graph.records[p].value, targets) for p in sides.output_places}
    noise = max(before.values(), default=0.0)
    if not noise or not np.isfinite(noise) or sum(t.size for t in targets) < FEW:
        return None
    found: list[tuple[float, int, str, bool]] = []
    places = [p for p in range(len(graph)) if p in graph.live and graph.records[p].value.ndim]
    for place in places[:PLACES]:
        for name, whole, value in _roundings(replay, place):
            after = _after(replay, sides, place, value, targets)
            if after is not None and after * BETTER < noise:
                found.append((after, place, name, whole))
    if not found:
        return None
    least = min(found)[0]
    # A value that is only handed on is the same before and after: code between modules did it.
    equal = [entry for entry in found if entry[0] <= 1.05 * least]
    equal.sort(key=lambda entry: graph.records[entry[1]].path not in graph.containers)
    return _narrow_diagnosis(sides, noise, *equal[0])


def _roundings(replay: Replay, place: int) -> Iterator[tuple[str, bool, Array]]:
    """Dtype, whether the whole operation was computed in it, and the value."""
    operation = replay.operation(place)
    for name, rounding in NARROW.items():
        yield name, False, rounding(replay.graph.records[place].value)
        if operation is None or operation.kind in ("movement", "embedding"):
            continue
        value = attempt(operation, [rounding(a) for a in operation.arguments])
        if value is not None:
            yield name, True, rounding(value)
            if operation.kind not in PRODUCTS:
                yield name, True, value
    if operation is not None and operation.kind in PRODUCTS:
        # TF32 rounds the factors alone; the sum is kept in float32.
        value = attempt(operation, [tensorfloat32(a) for a in operation.arguments])
        if value is not None:
            yield "TF32", True, value


def _after(
    replay: Replay, sides: Sides, place: int, value: Array, targets: list[Array]
) -> float | None:
    """Largest miss of the outputs that depend on a rounded value; None if none is known."""
    misses = [
        _miss(changed, targets)
        for other, changed in replay.run({place: value})
        if other in sides.output_places
    ]
    return max(misses, default=None)


def _miss(value: Array, targets: list[Array]) -> float:
    """Distance to the closest of the port's outputs of that size."""
    near = Index([t for t in targets if t.size == value.size]).nearest(value)
    return near.distance if near is not None else float("inf")


def _narrow_diagnosis(
    sides: Sides, noise: float, after: float, place: int, name: str, whole: bool
) -> Diagnosis:
    graph = sides.graph
    record = graph.records[place]
    users = [p for p in graph.consumers[place] if p in graph.live]
    culprit, between = record.path, None
    if not whole and users:
        follower = graph.records[users[0]].path
        if follower != record.path:
            # The value is rounded on its way from one module to the next.
            holder = common_ancestor([record.path, follower])
            running = [p for p in [holder, *ancestors(holder)] if p in graph.containers]
            culprit = running[0] if running else holder
    if culprit in graph.containers:
        start = graph.between([place])[0] if record.path == culprit else record.path
        end = next((graph.records[p].path for p in users), "")
        between = (start, end)
    verb = f"{record.operation} computed in {name}" if whole else f"values rounded to {name} after"
    where = "of" if whole else record.operation + " of"
    text = (
        f"with {verb} {where} {record.path or 'the root'} the reference's distance to the port's "
        f"working output falls from {noise:.1e} to {after:.1e}"
    )
    port = sides.port_record(record.value)
    return Diagnosis(
        culprit=culprit,
        between=between,
        operation=record.operation,
        port_culprit=port.path if port is not None else None,
        port_operation=port.operation if port is not None else "",
        cause="low-precision",
        evidence=(text,),
        local_gap=noise,
    )
