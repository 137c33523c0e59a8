"""Repairs of recurrent layers: gates, cells, states, directions, masks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.diagnose.graph import common_ancestor
from pytest_fwcompare.diagnose.operations import attempt
from pytest_fwcompare.diagnose.operations.recurrent import (
    CELL_ACTIVATIONS,
    GATE_ACTIVATIONS,
    GATES,
)
from pytest_fwcompare.diagnose.prove import Candidate, is_fitted
from pytest_fwcompare.diagnose.repairs.base import Spot, decades, repair

NAMES = {"lstm": "ifgo", "gru": "rzn"}
"""Letters of the gates in torch's order."""


def together(spot: Spot, **options: Any) -> dict[int, Any]:
    """New values of all results of the call (sequence, last states) with options changed."""
    arguments = spot.record.arguments
    values = {}
    for place in range(spot.place, min(spot.place + 3, len(spot.graph))):
        record = spot.graph.records[place]
        operation = spot.replay.operation(place)
        if (
            operation is None
            or operation.kind != "recurrent"
            or len(record.arguments) != len(arguments)
            or record.arguments[0] is not arguments[0]
            or record.path != spot.record.path
        ):
            continue
        value = attempt(operation, **options)
        if value is not None:
            values[place] = value
    return values


def both(spot: Spot, **options: Any) -> dict[int, Any]:
    """The same of two layers that run beside each other, the directions of one; else none."""
    for place in range(len(spot.graph)):
        other = spot.replay.operation(place) if place != spot.place else None
        if other is None or other.kind != "recurrent" or not _beside(spot, place):
            continue
        if other.options["cell"] == spot.operation.options["cell"]:
            value = attempt(other, **options)
            values = together(spot, **options)
            return {**values, place: value} if value is not None and values else {}
    return {}


def _beside(spot: Spot, place: int) -> bool:
    """Whether a layer of that shape reads what this one reads, and both are used for one thing."""
    graph = spot.graph
    if graph.records[place].value.shape != spot.record.value.shape:
        return False
    if spot.place in graph.upstream([place]) | graph.downstream([place]):
        return False
    sources = [spot.replay.source(p, 0) for p in (spot.place, place)]
    read = [graph.upstream([p]) for p in sources if p is not None]
    used = [graph.downstream([p]) for p in (spot.place, place)]
    return len(read) == 2 and bool(read[0] & read[1]) and bool(used[0] & used[1])


def _each_direction(spot: Spot, text: str, **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """A change in all directions, and in one of them."""
    yield text, options
    state = spot.operation.arguments[1]
    numbers = state.shape[0] if state.ndim == 3 else 1
    if numbers > 1:
        for number in range(numbers):
            which = _direction_name(spot, number)
            yield (f"{text} in {which}", {f"d{number}_{k}": v for k, v in options.items()})
    if numbers > 2 and spot.operation.options["bidirectional"]:
        for first in range(0, numbers, 2):
            both = {f"d{n}_{k}": v for n in (first, first + 1) for k, v in options.items()}
            yield f"{text} in layer {first // 2}", both


def _direction_name(spot: Spot, number: int) -> str:
    if not spot.operation.options["bidirectional"]:
        return f"layer {number}"
    way = "backward" if number % 2 else "forward"
    return f"the {way} direction of layer {number // 2}"


def _changes(spot: Spot) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Cause, text and options of every variant, for all directions at once."""
    cell = spot.operation.options["cell"]
    given = spot.operation.options
    gates = GATES[cell]
    if gates > 1:
        letters = NAMES[cell]
        for order in itertools.permutations(range(gates)):
            if order != tuple(range(gates)):
                text = f"gates in the order {''.join(letters[g] for g in order)}"
                yield "gate-order", f"{text} (reference {letters})", {"order": order}
        usual = given.get("gate_activation", "sigmoid")
        for name in GATE_ACTIVATIONS:
            if name != usual:
                yield (
                    "activation-variant",
                    f"gates by {name} (reference {usual})",
                    {"gate_activation": name},
                )
    own = given.get("cell_activation", "tanh" if gates > 1 else cell.removeprefix("rnn_"))
    for name in CELL_ACTIVATIONS:
        if name != own:
            text = f"cell activation {name} (reference {own})"
            yield "activation-variant", text, {"cell_activation": name}
            if cell == "lstm":
                text = f"{name} of the new part alone (reference {own})"
                yield "activation-variant", text, {"new_activation": name}
    if cell == "gru":
        before = not spot.operation.options.get("reset_before", False)
        swapped = not spot.operation.options.get("update_swapped", False)
        words = ("before", "after") if before else ("after", "before")
        text = f"the reset gate {words[0]} the matrix product (reference {words[1]})"
        yield "cell-variant", text, {"reset_before": before}
        text = "update gate and its complement exchanged"
        yield "cell-variant", text, {"update_swapped": swapped}
        both = {"reset_before": before, "update_swapped": swapped}
        yield "cell-variant", f"the reset gate {words[0]} the product, {text}", both
    if cell == "lstm":
        text = "the cell state not squashed in the output"
        yield "cell-variant", text, {"linear_output": True}
        for one, other in (("input", "forget"), ("forget", "input")):
            text = f"the {one} gate as 1 - the {other} gate"
            yield "cell-variant", text, {"coupled": one}
        for amount in (1.0, -1.0):
            text = f"{amount:+g} on the bias of the forget gate"
            yield "bias", text, {"forget_bias": amount}
    if spot.operation.options["biased"]:
        yield "bias", "the recurrent bias left out", {"state_bias_factor": 0.0}
        yield "bias", "the input bias left out", {"bias_factor": 0.0}
        yield "bias", "no biases", {"bias_factor": 0.0, "state_bias_factor": 0.0}
        yield "bias", "the input bias twice", {"bias_factor": 2.0}
        yield "bias", "the recurrent bias twice", {"state_bias_factor": 2.0}
        if cell == "gru":
            # Both biases summed into the input's, as a cell with one bias a gate has them.
            yield "cell-variant", "one bias, added outside the reset gate", {"merged_bias": True}


@repair("recurrent")
def variants(spot: Spot) -> Iterator[Candidate]:
    """Gates, activations, reset and biases."""
    for cause, text, options in _changes(spot):
        for told, used in _each_direction(spot, text, **options):
            values = together(spot, **used)
            if values:
                yield Candidate(cause, told, values)
        if values := both(spot, **options):
            yield Candidate(cause, f"{text} in both directions", values)


@repair("recurrent")
def directions(spot: Spot) -> Iterator[Candidate]:
    """A backward direction read forwards, or its outputs left in the order they were made."""
    cause = "initial-state"
    options = spot.operation.options
    if not options["bidirectional"]:
        values = together(spot, backwards=True)
        yield Candidate(cause, "the sequence read backwards", values)
        values = together(spot, backwards=True, unflipped=True)
        yield Candidate(cause, "the sequence read backwards, its outputs left so", values)
        return
    values = together(spot, forwards=True)
    yield Candidate(cause, "both directions read forwards", values)
    values = together(spot, unflipped=True)
    yield Candidate(
        "initial-state", "the backward direction's outputs not put back in time order", values
    )
    if options["output"] == 0:
        value = spot.record.value
        half = value.shape[-1] // 2
        first, second = value[..., :half], value[..., half:]
        swapped = np.concatenate([second, first], axis=-1)
        text = "the backward direction before the forward one"
        yield Candidate("channel-order", text, {spot.place: swapped})
        text = "the directions added instead of joined"
        yield Candidate("cell-variant", text, {spot.place: first + second})


@repair("recurrent")
def read_padding(spot: Spot) -> Iterator[Candidate]:
    """Steps that a mask skips read as the others."""
    keep = spot.operation.options.get("keep")
    if keep is None:
        return
    text = "steps that are masked not skipped"
    yield Candidate("mask", text, together(spot, keep=None))
    if values := both(spot, keep=None):
        yield Candidate("mask", f"{text} in both directions", values)
    zeroed = not spot.operation.options.get("zeroed", False)
    words = "zeros" if zeroed else "the state before"
    text = f"{words} given out for steps that are masked"
    yield Candidate("mask", text, together(spot, zeroed=zeroed))
    if values := both(spot, zeroed=zeroed):
        yield Candidate("mask", f"{text} in both directions", values)


@repair("recurrent")
def first_of_backwards(spot: Spot) -> Iterator[Candidate]:
    """The last state of a layer that reads backwards: what it gave after its first step."""
    options = spot.operation.options
    if options["output"] != 1 or options["bidirectional"] or "sizes" in options:
        return
    source = spot.replay.source(spot.place, 0)
    before = spot.replay.operation(source) if source is not None else None
    while before is not None and before.kind == "movement" and source is not None:
        if before.options["move"] == "flip":
            break
        source = spot.replay.source(source, 0)
        before = spot.replay.operation(source) if source is not None else None
    if before is None or before.options.get("move") != "flip":
        return
    sequence = attempt(spot.operation, output=0, squeezed=False)
    if sequence is not None and sequence.ndim == 3:
        first = np.take(sequence, 0, axis=1 if options["batch_first"] else 0)
        value = first.reshape(spot.record.value.shape)
        text = "the backward direction's output of the last step (reference: its last state)"
        yield Candidate("initial-state", text, {spot.place: value}, places=(spot.place,))


@repair("recurrent")
def last_states(spot: Spot) -> Iterator[Candidate]:
    """Last states of a backward direction: what it gave at the last step instead."""
    options, value = spot.operation.options, spot.record.value
    if options["output"] != 1 or not options["bidirectional"] or "sizes" in options:
        return
    sequence = attempt(spot.operation, output=0, squeezed=False)
    if sequence is None or value.ndim != 3 or sequence.ndim != 3:
        return
    end = np.take(sequence, -1, axis=1 if options["batch_first"] else 0)
    made = np.array(value)
    made[-1] = end[..., value.shape[-1] :]
    text = "the backward direction's output of the last step (reference: its last state)"
    yield Candidate("initial-state", text, {spot.place: made}, places=(spot.place,))


@repair("recurrent")
def axes_exchanged(spot: Spot) -> Iterator[Candidate]:
    """The batch read as time."""
    operation = spot.operation
    count = 2 if operation.options["cell"] == "lstm" else 1
    x, given = operation.arguments[0], operation.arguments[1 : 1 + count]
    if x.ndim != 3 or operation.options["output"] or any(np.any(state) for state in given):
        return
    steps = x.shape[1 if operation.options["batch_first"] else 0]
    starts = [np.zeros((state.shape[0], steps, state.shape[-1])) for state in given]
    arguments = (x, *starts, *operation.arguments[1 + count :])
    text = "the batch read as the steps and the steps as the batch"
    first = not operation.options["batch_first"]
    yield from spot.arguments("flatten-order", text, *arguments, batch_first=first)


@repair("recurrent")
def states(spot: Spot) -> Iterator[Candidate]:
    """Another initial state: zeros, or that of another layer; the last state as another step."""
    operation = spot.operation
    count = 2 if operation.options["cell"] == "lstm" else 1
    given = [n for n in range(1, 1 + count) if np.any(operation.arguments[n])]
    if given:
        values = together(spot, zero_state=True)
        sources = [spot.replay.source(spot.place, n) for n in given]
        paths = [spot.graph.records[s].path for s in sources if s is not None]
        culprit = None
        if paths:
            # The state is handed over by the code that holds both modules.
            holder = common_ancestor([*paths, spot.record.path])
            culprit = (holder, (paths[0], spot.record.path))
        text = "an initial state of zeros instead of the one that is passed"
        yield Candidate("initial-state", text, values, culprit=culprit)
    if operation.options["output"]:
        return
    time = 1 if operation.options["batch_first"] else 0
    # A consumer that takes the last step's output, where padding or direction makes it another.
    flipped = np.flip(spot.record.value, axis=time)
    yield Candidate("initial-state", "the outputs in reversed time order", {spot.place: flipped})


@repair("recurrent")
def forgotten_states(spot: Spot) -> Iterator[Candidate]:
    """Every step from the initial state, or with one of two states from there."""
    count = 2 if spot.operation.options["cell"] == "lstm" else 1
    names = {(0, 1): "states", (0,): "hidden state", (1,): "cell state"}
    for which in ((0, 1), (0,), (1,)) if count == 2 else ((0,),):
        words = names[which] if count == 2 else "state"
        text = f"every step from the initial {words}, none carried on"
        yield Candidate("initial-state", text, together(spot, forgotten=which))


@repair("recurrent")
def limits(spot: Spot) -> Iterator[Candidate]:
    """A limit of the cell state, and a part of the state before that is kept."""
    if spot.operation.options["cell"] == "lstm":
        for number in _numbers(spot, "cell_limit", decades(-2, 2)):
            text = f"the cell state clipped to {number:.8g}"
            values = together(spot, cell_limit=number)
            yield Candidate("clipping", text, values, fitted=is_fitted(number))
    grid = [1e-3, 0.02, 0.06, 0.2, 0.45, 0.7, 0.97]
    for option, words in (("zoneout", "states"), ("hidden_zoneout", "hidden state")):
        for number in _numbers(spot, option, grid):
            text = f"{number:.8g} of the {words} before kept at every step"
            values = together(spot, **{option: number})
            yield Candidate("cell-variant", text, values, fitted=is_fitted(number))


def _numbers(spot: Spot, option: str, grid: list[float]) -> Iterator[float]:
    """Numbers at which the sequence, or else one of its steps, is in the port."""

    def family(number: float) -> Array | None:
        return attempt(spot.operation, None, **{option: number})

    time = 1 if spot.operation.options["batch_first"] else 0

    def steps(value: Array) -> Iterator[tuple[int, Array]]:
        sequence = spot.operation.options["output"] == 0 and value.ndim == 3
        for step in (0, -1) if sequence else ():
            yield spot.place, np.take(value, step, axis=time)

    found = False
    for number, _ in spot.prover.solve(family, grid):
        found = True
        yield number
    if not found and spot.operation.options["output"] == 0:
        for number, _ in spot.prover.solve(family, grid, steps):
            yield number


@repair("recurrent")
def filled_states(spot: Spot) -> Iterator[Candidate]:
    """Initial states filled with another number than zero."""
    operation = spot.operation
    count = 2 if operation.options["cell"] == "lstm" else 1
    if any(np.any(operation.arguments[number]) for number in range(1, 1 + count)):
        return
    for option in ("start", "start_hidden")[:count]:
        for number in _numbers(spot, option, [-8.0, -1.5, -0.5, -1e-3, 1e-3, 0.5, 1.5, 8.0]):
            text = f"an initial state of {number:.8g} (reference 0)"
            values = together(spot, **{option: number})
            yield Candidate("initial-state", text, values, fitted=is_fitted(number))


@repair("recurrent")
def unmasked_steps(spot: Spot) -> Iterator[Candidate]:
    """Steps beyond the end of packed sequences read as the others, in all layers or in one."""
    options, source = spot.operation.options, spot.replay.source(spot.place, 0)
    made = spot.replay.operation(source) if source is not None else None
    if "sizes" not in options or made is None or made.options.get("move") != "pack":
        return
    padded = np.asarray(made.arguments[0], np.float64)
    padded = np.swapaxes(padded, 0, 1) if made.options["batch_first"] else padded
    padded = padded[: len(options["sizes"])]
    numbers = range(len(spot.operation.arguments[1]))
    ways = 2 if options["bidirectional"] else 1
    choices = {"": list(numbers)}
    if len(numbers) > ways:
        for first in range(0, len(numbers), ways):
            choices[f" of layer {first // ways}"] = list(range(first, first + ways))
    for words, chosen in choices.items():
        values = together(spot, beyond=padded, **{f"d{number}_keep": None for number in chosen})
        text = f"steps{words} beyond the end of a sequence not skipped"
        yield Candidate("mask", text, values)


@repair("recurrent")
def masked_steps(spot: Spot) -> Iterator[Candidate]:
    """Steps of padding tokens skipped."""
    operation = spot.operation
    batch_first = operation.options["batch_first"]
    x = operation.arguments[0]
    if "sizes" in operation.options:
        return
    batch, time = x.shape[:2] if batch_first else x.shape[1::-1]
    for place in sorted(spot.graph.upstream([spot.place])):
        record = spot.graph.records[place]
        lookup = spot.replay.operation(place)
        if lookup is None or lookup.kind != "embedding":
            continue
        tokens = lookup.arguments[0]
        if tokens.shape != (batch, time):
            continue
        for padding in dict.fromkeys((lookup.options.get("padding_idx"), 0)):
            if padding is None or padding < 0:
                continue
            keep = tokens != padding
            if keep.all():
                continue
            values = together(spot, keep=keep)
            yield from _with_means(spot, values, keep, int(padding), record.path)


def _with_means(
    spot: Spot, values: dict[int, Any], keep: Any, padding: int, path: str
) -> Iterator[Candidate]:
    """The skipped steps alone, and left out of a mean over time that follows as well."""
    text = f"steps of token {padding} masked"
    culprit = (path, None)
    yield Candidate("mask", text, values, culprit=culprit)
    time = 1 if spot.operation.options["batch_first"] else 0
    weights = keep if time == 1 else keep.T
    for consumer in spot.graph.consumers[spot.place]:
        after = spot.replay.operation(consumer)
        if after is None or after.kind != "reduction" or tuple(after.options["axes"]) != (time,):
            continue
        if spot.place not in values or after.options["function"] != "mean":
            continue
        every = np.broadcast_to(weights[..., None], values[spot.place].shape).astype(float)
        half = every.shape[-1] // 2
        # A backward direction may hand out its steps in the order it made them, while the mask
        # keeps the order of time.
        turned = np.concatenate(
            [every[..., :half], np.flip(every[..., half:], axis=time)], axis=-1
        )
        for told, counted in (("", every), (", the backward ones in reversed order", turned)):
            total = np.maximum(counted.sum(axis=time), 1e-300)
            mean = (values[spot.place] * counted).sum(axis=time) / total
            if after.options["keepdims"]:
                mean = np.expand_dims(mean, time)
            words = f"{text}, in the mean over time as well{told}"
            yield Candidate("mask", words, {**values, consumer: mean}, culprit=culprit)
