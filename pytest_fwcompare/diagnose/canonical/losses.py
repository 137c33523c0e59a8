"""Losses that are one call, taken apart: difference or logarithm, formula, reduction.

A port writes them out, so that each part may be found in it, and each part has its own repairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.operations import Folded, Operation, attempt, same
from pytest_fwcompare.diagnose.operations.attention import softmax_of
from pytest_fwcompare.diagnose.operations.base import Compute, normalised
from pytest_fwcompare.diagnose.operations.elementwise import activate, arithmetic
from pytest_fwcompare.diagnose.operations.losses import loss
from pytest_fwcompare.diagnose.operations.norms import reduce

Step = tuple[str, str, Mapping[str, Any], Compute]
"""Kind, name, options and implementation of one part."""


def taken_apart(records: Sequence[Recorded]) -> list[Recorded]:
    """The records with losses of one call replaced by their parts, where these give the value."""
    made: list[Recorded] = []
    fresh = 1 + max((record.index for record in records), default=0)
    for record in records:
        steps = None if record.is_module else STEPS.get(normalised(record.operation))
        parts = _parts(record, steps(record), fresh) if steps and record.arguments else None
        made.extend(parts or [record])
        fresh += len(parts or ())
    return made


def _parts(record: Recorded, steps: Iterator[Step], fresh: int) -> list[Recorded] | None:
    """One record for each step, the last with the index of the whole; None if they do not fit."""
    reduction = record.attributes.get("reduction", "mean")
    try:
        chosen = list(steps)
    except (IndexError, ValueError, TypeError):
        return None
    made: list[Folded] = []
    arguments, inputs = record.arguments, record.inputs
    for number, (kind, name, options, compute) in enumerate(chosen):
        known = Operation(kind, name, arguments, options, compute)
        made.append(_record(record, known, inputs, fresh + number))
        if made[-1].value is MISSING:
            return None
        # The target of a classification comes into the second step.
        late = kind == "softmax"
        arguments = (made[-1].value, *(record.arguments[1:] if late else ()))
        inputs = (fresh + number, *(record.inputs if late else ()))
    for known in _reductions(arguments[0], str(reduction)):
        made.append(_record(record, known, (made[-1].index,), fresh + len(made)))
    if not same(made[-1].value, record.value):
        return None
    made[-1] = replace(made[-1], index=record.index, value=record.value, place=record.place)
    return _with_gradients(made, record.gradient)


MISSING = np.zeros(0)


def _record(record: Recorded, known: Operation, inputs: tuple[int, ...], index: int) -> Folded:
    value = attempt(known)
    return Folded(
        index=index,
        path=record.path,
        operation=known.name,
        value=MISSING if value is None else value,
        inputs=inputs,
        parameters=record.parameters,
        arguments=known.arguments,
        known=known,
    )


def _reductions(value: Array, reduction: str) -> list[Operation]:
    """What follows the elements: nothing, a mean, a sum, or the sum over all but the batch."""
    every = tuple(range(value.ndim))
    if reduction == "none" or not every:
        return []
    made = []
    if reduction == "batchmean" and len(every) > 1:
        options = {"function": "sum", "axes": every[1:], "keepdims": False}
        made.append(Operation("reduction", "sum", (value,), options, reduce))
        value, every = value.sum(axis=every[1:]), (0,)
    function = "sum" if reduction == "sum" else "mean"
    options = {"function": function, "axes": every, "keepdims": False}
    return [*made, Operation("reduction", function, (value,), options, reduce)]


def _with_gradients(made: list[Folded], gradient: Array | None) -> list[Recorded]:
    """Gradients of the reductions, which spread that of the whole; of the rest none is known."""
    if gradient is None:
        return list(made)
    found: list[Recorded] = [replace(made[-1], gradient=gradient)]
    for record, after in zip(reversed(made[:-1]), reversed(made[1:]), strict=True):
        if after.known.kind != "reduction" or found[-1].gradient is None:
            found.append(record)
            continue
        axes = tuple(after.known.options["axes"])
        spread = np.expand_dims(found[-1].gradient, axes) * np.ones(record.value.shape)
        if after.known.options["function"] == "mean":
            spread = spread / np.prod([record.value.shape[axis] for axis in axes])
        found.append(replace(record, gradient=spread))
    return found[::-1]


def _weighted(record: Recorded) -> bool:
    """Whether examples or classes have weights, which change what a mean divides by."""
    return record.attributes.get("weight") is not None or len(record.arguments) != 2


def _difference(name: str, **options: str) -> Callable[[Recorded], Iterator[Step]]:
    """Steps of a function of the difference; its numbers are attributes of the call."""

    def steps(record: Recorded) -> Iterator[Step]:
        if _weighted(record) or record.arguments[0].shape != record.arguments[1].shape:
            raise ValueError("examples of different weights")
        yield "arithmetic", "sub", {"function": "subtract"}, arithmetic
        own = {key: float(record.attributes.get(key, 1.0)) for key in options}
        yield "activation", name, {"function": name, **own}, activate

    return steps


def _classified(record: Recorded) -> Iterator[Step]:
    """Log-softmax over the classes, axis 1 or the only one, and what is picked from it."""
    x, target = record.arguments[:2]
    if _weighted(record) or np.any(target == record.attributes.get("ignore_index", -100)):
        raise ValueError("examples of different weights")
    axis = 1 if x.ndim > 1 else 0
    smoothing = float(record.attributes.get("label_smoothing", 0.0))
    if normalised(record.operation) == "cross_entropy":
        yield "softmax", "log_softmax", {"axis": axis, "log": True}, softmax_of
    options = {"function": "picked", "axis": axis, "smoothing": smoothing}
    yield "loss", normalised(record.operation), options, loss


def _probability(record: Recorded) -> Iterator[Step]:
    """Binary cross entropy of logits or probabilities, element by element."""
    if record.attributes.get("weight") is not None:
        raise ValueError("examples of different weights")
    name = normalised(record.operation)
    factor = record.arguments[2] if len(record.arguments) > 2 else 1.0
    number = float(np.asarray(factor).reshape(-1)[0]) if np.size(factor) == 1 else factor
    options = {"function": name, "positive": number}
    yield "loss", name, options, lambda arguments, given: loss(arguments[:2], given)


def _divergence(record: Recorded) -> Iterator[Step]:
    options = {"function": "kl_div", "log_target": bool(record.attributes.get("log_target"))}
    yield "loss", "kl_div", options, loss


STEPS: dict[str, Callable[[Recorded], Iterator[Step]]] = {
    "mse_loss": _difference("square"),
    "l1_loss": _difference("abs"),
    "huber_loss": _difference("huber", delta=""),
    "smooth_l1_loss": _difference("smooth_l1", beta=""),
    "cross_entropy": _classified,
    "nll_loss": _classified,
    "binary_cross_entropy": _probability,
    "binary_cross_entropy_with_logits": _probability,
    "kl_div": _divergence,
}
"""Parts of a loss by its normalised name."""
