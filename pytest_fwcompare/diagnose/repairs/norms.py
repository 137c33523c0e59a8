"""Repairs of normalisations and reductions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.align import Index
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.operations.norms import axis_sets
from pytest_fwcompare.diagnose.prove import Candidate, is_fitted
from pytest_fwcompare.diagnose.repairs.base import Spot, decades, repair, show

SAME_SCALE = 1e-3
"""Relative difference up to which a scale, told by three digits, is a number of few digits."""


@repair("norm")
def epsilon(spot: Spot) -> Iterator[Candidate]:
    """Another epsilon, solved for; epsilon outside the root."""
    eps = spot.operation.options["eps"]
    if spot.operation.options.get("outside"):
        text = "under the root, epsilon"
        yield from spot.change("norm-epsilon", "epsilon added under the root", outside=False)
        within = decades(-16, 1, 1)
        yield from spot.solved("norm-epsilon", text, "eps", eps, within, outside=False)
    yield from spot.change("norm-epsilon", f"no epsilon (reference {show(eps)})", eps=0.0)
    for made in spot.solved("norm-epsilon", "epsilon", "eps", eps, decades(-16, 1, 1)):
        scaled = _is_of_a_scale(made.number, eps)
        if not scaled and not _is_scaled(spot, eps, made.number):
            yield made
    yield from spot.change("norm-epsilon", "epsilon added after the root", outside=True)
    outside = decades(-16, 1, 1)
    yield from spot.solved(
        "norm-epsilon", "after the root, epsilon", "eps", eps, outside, outside=True
    )


def _is_of_a_scale(epsilon: float, own: float) -> bool:
    """Whether a number that nobody writes stands for a scale of what is normalised.

    A tensor times c has the norm that the tensor itself has with epsilon / c^2, so that c = 1.07
    looks like an epsilon of 8.73e-06.
    """
    if float(f"{epsilon:.2g}") == epsilon:
        return False
    scale = float((own / epsilon) ** 0.5) if epsilon > 0 and own > 0 else 0.0
    written = float(f"{scale:.3g}")
    return scale > 0 and abs(scale - written) < SAME_SCALE * scale


def _is_scaled(spot: Spot, eps: float, found: float) -> bool:
    """Whether the port normalises a multiple of the input, which looks like another epsilon.

    The norm of c x with eps is that of x with eps / c^2.
    """
    x = np.asarray(spot.operation.arguments[0], np.float64)
    size = float(np.linalg.norm(x))
    if not (eps > 0 and found > 0 and size > 0):
        return False
    sides = spot.sides
    for place, record in enumerate(sides.port.records):
        if record.value.size != x.size or place in sides.explained:
            continue
        factor = float(np.linalg.norm(record.value)) / size
        # Numbers are rounded to what people write.
        fits = factor > 0 and abs(eps / factor**2 - found) < 0.01 * found
        if fits and Index([record.value]).find(factor * x, sides.tolerance):
            return True
    return False


@repair("norm")
def statistics(spot: Spot) -> Iterator[Candidate]:
    """Batch statistics for running ones; a variance read as a deviation; another ddof."""
    options = spot.operation.options
    x = spot.operation.arguments[0]
    mean, variance = options.get("mean"), options.get("variance")
    if variance is not None and mean is not None:
        cause = "running-statistics"
        yield from spot.change(
            cause, "statistics of the batch instead of the running ones", mean=None, variance=None
        )
        yield from spot.change(
            cause, "mean and variance exchanged", mean=variance, variance=np.abs(mean)
        )
        yield from spot.change(cause, "the running variance squared", variance=variance**2)
        # The epsilon stays where it is: under the root, or added to what is no root any more.
        total = variance + options["eps"]
        text = "the running variance for the deviation"
        yield from spot.change(cause, text, variance=total**2 - options["eps"])
        yield from spot.change(
            cause, "no running statistics", mean=np.zeros_like(mean), variance=np.ones_like(mean)
        )
        return
    centred = options["centred"]
    yield from spot.change(
        "norm-axis",
        "no mean subtracted" if centred else "the mean subtracted",
        centred=not centred,
    )
    ddof = options.get("ddof", 0)
    text = f"the variance divided by {'n' if ddof else 'n - 1'}"
    # Of the batch: what running statistics are made of.
    cause = "running-statistics" if 0 in options.get("axes", ()) else "reduction"
    yield from spot.change(cause, text, ddof=1 - ddof)
    if not options.get("groups"):
        yield from spot.change("reduction", "the sum of the squares for their mean", summed=True)
    if x.ndim > 1 and not options.get("groups"):
        stats = tuple(options["axes"])
        fixed = {"mean": np.zeros((1,) * x.ndim), "variance": np.ones((1,) * x.ndim)}
        yield from spot.change(
            "running-statistics", f"no normalisation over axes {stats}", weak=True, **fixed
        )


@repair("norm")
def axes(spot: Spot) -> Iterator[Candidate]:
    """Other axes or another number of groups; scale and shift go along."""
    options = spot.operation.options
    x = spot.operation.arguments[0]
    if options.get("variance") is not None:
        return
    if groups := options.get("groups"):
        for count in range(1, x.shape[1] + 1):
            if x.shape[1] % count == 0 and count != groups:
                text = f"{count} groups (reference {groups})"
                yield from spot.change("norm-axis", text, groups=count)
        yield from _interleaved_groups(spot, int(groups))
        yield from _groups_by_place(spot, int(groups))
    own = tuple(options.get("axes", ()))
    for chosen in axis_sets(x.ndim):
        if chosen == own:
            continue
        text = f"normalised over axes {chosen} (reference {own or 'groups'})"
        for weight, bias in _affine_along(spot, chosen):
            yield from spot.change(
                "norm-axis", text, axes=chosen, groups=None, weight=weight, bias=bias
            )


def _interleaved_groups(spot: Spot, groups: int) -> Iterator[Candidate]:
    """Each group takes every n-th channel."""
    x = spot.operation.arguments[0]
    order = np.arange(x.shape[1]).reshape(-1, groups).T.reshape(-1)
    back = np.argsort(order)
    plain = {"weight": None, "bias": None}
    operation = spot.operation
    value = operation.inward(operation.compute((x[:, order],), **plain))[:, back]
    options = spot.operation.options
    if options["weight"] is not None:
        value = value * options["weight"]
    if options["bias"] is not None:
        value = value + options["bias"]
    made = operation.outward(value)
    yield Candidate("norm-axis", "groups of interleaved channels", {spot.place: made})


def _groups_by_place(spot: Spot, groups: int) -> Iterator[Candidate]:
    """Groups of channels normalised at each place by itself, not over all places."""
    x = spot.operation.arguments[0]
    if x.ndim < 3 or int(np.prod(x.shape[2:])) == 1:
        return
    # Every place becomes an example of its own.
    places = np.moveaxis(x, 1, -1)
    rows = places.reshape(-1, x.shape[1])
    options = spot.operation.options
    given = {
        name: None if options[name] is None else np.reshape(options[name], (1, -1))
        for name in ("weight", "bias")
    }
    if any(a is not None and a.size != x.shape[1] for a in given.values()):
        return
    value = attempt(spot.operation.with_options(**given), (rows,))
    if value is not None and value.shape == rows.shape:
        made = np.moveaxis(value.reshape(places.shape), -1, 1)
        text = f"{groups} groups normalised at each place by itself"
        yield Candidate("norm-axis", text, {spot.place: made})


def _affine_along(
    spot: Spot, axes: tuple[int, ...]
) -> Iterator[tuple[Array | None, Array | None]]:
    """Scale and shift as they are, and laid along the other axes where the sizes allow it."""
    options, x = spot.operation.options, spot.operation.arguments[0]
    weight, bias = options["weight"], options["bias"]
    yield weight, bias
    given = [a for a in (weight, bias) if a is not None]
    sizes = tuple(x.shape[axis] for axis in axes)
    if given and all(a.size == int(np.prod(sizes)) for a in given):
        shape = tuple(size if axis in axes else 1 for axis, size in enumerate(x.shape))
        yield (
            weight.reshape(shape) if weight is not None else None,
            bias.reshape(shape) if bias is not None else None,
        )


@repair("norm")
def affine(spot: Spot) -> Iterator[Candidate]:
    """Scale or shift missing, exchanged or offset."""
    weight, bias = spot.operation.options["weight"], spot.operation.options["bias"]
    cause = "norm-affine"
    if bias is not None:
        yield from spot.change(cause, "no shift", weak=True, bias=None)
    if weight is not None:
        yield from spot.change(cause, "no scale", weak=True, weight=None)
        yield from spot.change(cause, "scale + 1 instead of scale", weight_offset=1.0)
        yield from spot.change(cause, "scale - 1 instead of scale", weight_offset=-1.0)
    if weight is not None and bias is not None:
        yield from spot.change(cause, "no scale and no shift", weak=True, weight=None, bias=None)
        yield from spot.change(cause, "scale and shift exchanged", weight=bias, bias=weight)
        yield from spot.change(cause, "the shift before the scale", bias=bias * weight)


def divides(spot: Spot) -> bool:
    """Whether what is made here is a divisor a few operations later: a norm by hand."""
    front = [spot.place]
    for _ in range(5):
        before, front = set(front), [p for place in front for p in spot.graph.consumers[place]]
        for place in front:
            operation = spot.replay.operation(place)
            if operation is None or operation.options.get("function") not in ("divide", "rsqrt"):
                continue
            if spot.replay.source(place, len(operation.arguments) - 1) in before:
                return True
    return False


@repair("activation", "reduction")
def length_epsilon(spot: Spot) -> Iterator[Candidate]:
    """A length that divides, kept off zero by a limit, or by a number under or after its root."""
    options, source = spot.operation.options, spot.replay.source(spot.place, 0)
    limited = options["function"] == "clamp" and options.get("min") and not options.get("max")
    inner = spot.replay.operation(source) if limited and source is not None else spot.operation
    if inner is None or inner.options["function"] != "norm" or not divides(spot):
        return
    length = np.asarray(spot.operation.arguments[0] if limited else spot.record.value)
    ways = {
        "under the root, epsilon": lambda eps: np.sqrt(length**2 + eps),
        "after the root, epsilon": lambda eps: length + eps,
        "under the root, at least": lambda eps: np.sqrt(np.maximum(length**2, eps)),
        "after the root, at least": lambda eps: np.maximum(length, eps),
    }
    for text, way in ways.items():
        for number, value in spot.prover.solve(way, decades(-16, 2, 1), spot.following):
            own = show(float(options["min"])) if limited else "none"
            words = f"{text}={number:.10g} (reference {own})"
            yield Candidate("norm-epsilon", words, {spot.place: value}, fitted=is_fitted(number))


@repair("reduction")
def reduction(spot: Spot) -> Iterator[Candidate]:
    """Another reduction, another ddof, other axes."""
    options = spot.operation.options
    name, own = options["function"], tuple(options["axes"])
    if name in ("var", "std"):
        ddof = options.get("ddof", 0)
        for other in (0, 1):
            if other != ddof:
                text = f"ddof={other} (reference {ddof})"
                yield from spot.change("reduction", text, ddof=other)
        exchanged = "var" if name == "std" else "std"
        yield from spot.change("reduction", f"{exchanged} instead of {name}", function=exchanged)
    for other_name in ("sum", "mean", "max", "min", "norm", "logsumexp", "prod"):
        if other_name != name:
            text = f"{other_name} instead of {name}"
            yield from spot.change("reduction", text, function=other_name)
    normalises = name in ("norm", "var", "std") or (name in ("sum", "mean") and _of_squares(spot))
    cause = "norm-axis" if normalises and divides(spot) else "reduction"
    for chosen in axis_sets(spot.operation.arguments[0].ndim):
        if chosen != own:
            text = f"{name} over axes {chosen} (reference {own})"
            yield from spot.change(cause, text, axes=chosen)
    if name == "mean" and len(own) > 1:
        for count in range(1, len(own)):
            for summed in itertools.combinations(own, count):
                times = float(np.prod([spot.operation.arguments[0].shape[a] for a in summed]))
                text = f"the sum over axes {summed}, the mean over the others alone"
                yield Candidate("reduction", text, {spot.place: times * spot.record.value})


def _of_squares(spot: Spot) -> bool:
    """Whether squares are summed: of a length, or of a variance, that is written out."""
    source = spot.replay.source(spot.place, 0)
    inner = spot.replay.operation(source) if source is not None else None
    if inner is None:
        return False
    function, number = inner.options.get("function"), inner.options.get("number")
    same = len(inner.arguments) == 2 and inner.arguments[0] is inner.arguments[1]
    power = function == "power" and number == 2.0
    return function == "square" or power or (function == "multiply" and same)


@repair("weight norm")
def weight_norms(spot: Spot) -> Iterator[Candidate]:
    """A weight's direction normalised over other axes; its length left out."""
    v, own = spot.operation.arguments[0], tuple(spot.operation.options["axes"])
    # The layer that has the weight, not what its framework keeps it in.
    culprit = (spot.record.path.partition(".parametrizations.")[0], None)
    every = tuple(range(v.ndim))
    for axes in (every, *(tuple(a for a in every if a != axis) for axis in every)):
        value = attempt(spot.operation, axes=axes)
        if value is not None and axes != own:
            text = f"the weight normalised over axes {axes} (reference {own})"
            yield Candidate("norm-axis", text, {spot.place: value}, culprit=culprit)
    value = attempt(spot.operation, scaled=False)
    if value is not None:
        text = "the weight normalised without its length"
        yield Candidate("norm-affine", text, {spot.place: value}, culprit=culprit)
