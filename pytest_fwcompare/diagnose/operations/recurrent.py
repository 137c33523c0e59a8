"""LSTM, GRU and plain recurrent layers with the variants that frameworks differ in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.operations.base import Arguments, Guess, normalised, rule
from pytest_fwcompare.diagnose.operations.elementwise import hard_sigmoid, sigmoid

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

GATE_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "hard_sigmoid with slope 1/6": hard_sigmoid,
    "hard_sigmoid with slope 0.2": lambda x: hard_sigmoid(x, 0.2),
    "tanh": np.tanh,
}

CELL_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "sigmoid": sigmoid,
    "identity": lambda x: x,
    "hard_tanh": lambda x: np.clip(x, -1.0, 1.0),
}


def _layers(record: Recorded) -> Iterator[Guess]:
    """Torch's call: input, initial states, then four (two without bias) weights a direction."""
    name = normalised(record.operation)
    states = 2 if name == "lstm" else 1
    x, *rest = record.arguments
    initial, weights = rest[:states], rest[states:]
    if x.ndim != 3 or not weights or any(state.ndim != 3 for state in initial):
        return
    directions = initial[0].shape[0]
    each = len(weights) // directions
    if each not in (2, 4) or each * directions != len(weights):
        return
    for batch_first in (record.attributes.get("batch_first", True), True, False):
        for bidirectional in (record.attributes.get("bidirectional", False), True, False):
            options = {
                "cell": name,
                "batch_first": bool(batch_first),
                "bidirectional": bool(bidirectional),
                "biased": each == 4,
            }
            for output in range(1 + states):
                yield (x, *initial, *weights), {**options, "output": output}


@rule("recurrent", *GATES, guesses=_layers)
def recurrent(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """One of (output sequence, last hidden states, last cell states), by options["output"].

    Variants by direction ("d0", "d1", ... prefix an option to limit it to one direction of the
    first layer's numbering): "order" of the gates in the weights, "gate_activation",
    "cell_activation", "reset_before" (GRU), "forwards" (a backward direction read forwards),
    "forget_bias", "coupled" (the "input" or the "forget" gate as what the other leaves),
    "cell_limit" (of an LSTM's cell state), "zoneout" and "hidden_zoneout" (parts of the states
    before that are kept), "forgotten" (numbers of states that each step takes from the start),
    "zero_state", "start" (a number that fills the initial states), "keep" (batch, time) steps
    that count; "zeroed": zeros given out for the others, not the state that is kept.
    """
    name = options["cell"]
    states = 2 if name == "lstm" else 1
    x, *rest = arguments
    initial, weights = rest[:states], rest[states:]
    x = np.swapaxes(x, 0, 1) if options["batch_first"] else x
    each = 4 if options["biased"] else 2
    directions = 2 if options["bidirectional"] else 1
    hidden, cells = [], []
    for layer in range(initial[0].shape[0] // directions):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            own = _variants(options, number)
            block = weights[number * each : (number + 1) * each]
            start = [_start(state[number], own, place) for place, state in enumerate(initial)]
            sequence, last = _direction(name, x, block, start, direction == 1, own)
            outputs.append(sequence)
            hidden.append(last[0])
            cells.append(last[-1])
        x = np.concatenate(outputs, axis=-1)
    if options["output"] == 1:
        return np.stack(hidden)
    if options["output"] == 2:
        return np.stack(cells)
    return np.swapaxes(x, 0, 1) if options["batch_first"] else x


def _packed_layers(record: Recorded) -> Iterator[Guess]:
    """Torch's call on a packed batch: data (steps, features), sizes, states, weights."""
    name = normalised(record.operation)
    states = 2 if name == "lstm" else 1
    data, sizes, *rest = record.arguments
    initial, weights = rest[:states], rest[states:]
    if data.ndim != 2 or sizes.ndim != 1 or any(state.ndim != 3 for state in initial):
        return
    for bidirectional in (False, True):
        for each in (2, 4):
            options = {
                "cell": name,
                "batch_first": False,
                "bidirectional": bidirectional,
                "biased": each == 4,
                "sizes": tuple(int(size) for size in sizes),
            }
            for output in range(1 + states):
                yield (data, *initial, *weights), {**options, "output": output}


@rule("recurrent", *GATES, guesses=_packed_layers)
def packed(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """A recurrent layer over sequences of several lengths, the longest first.

    Options "sizes": how many sequences have each step; "beyond" (time, batch, features): what a
    layer would read beyond the end of a sequence, if it did not skip it ("d0_keep": None).
    """
    data, *rest = arguments
    sizes = np.array(options["sizes"])
    kept = np.arange(sizes.max()) < sizes[:, None]
    beyond = options.get("beyond")
    padded = np.zeros((*kept.shape, data.shape[-1])) if beyond is None else np.array(beyond)
    padded[kept] = data
    # Steps that a sequence lacks keep its state, in either direction.
    made = recurrent((padded, *rest), {**options, "keep": kept.T})
    return made if options["output"] else np.asarray(made[kept])


def _packings(record: Recorded) -> Iterator[Guess]:
    """Padded sequences and their lengths, the longest first."""
    if record.attributes.get("output") == 0 and len(record.arguments) == 2:
        x, lengths = record.arguments
        first = bool(record.attributes.get("batch_first"))
        yield (x,), {"move": "pack", "lengths": lengths.astype(int), "batch_first": first}


@rule("movement", "pack_padded_sequence", guesses=_packings)
def pack(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """The steps that count, (steps, features), first those of all sequences' first step."""
    x = np.swapaxes(arguments[0], 0, 1) if options["batch_first"] else arguments[0]
    return np.asarray(x[np.arange(len(x))[:, None] < options["lengths"]])


def _unpackings(record: Recorded) -> Iterator[Guess]:
    """Packed steps and how many sequences have each."""
    if record.attributes.get("output") == 0 and len(record.arguments) == 2:
        data, sizes = record.arguments
        first = bool(record.attributes.get("batch_first"))
        time = record.value.shape[1 if first else 0]
        fill = float(record.attributes.get("padding_value", 0.0))
        options = {"move": "unpack", "sizes": sizes.astype(int), "batch_first": first}
        yield (data,), {**options, "time": time, "fill": fill}


@rule("movement", "pad_packed_sequence", guesses=_unpackings)
def unpack(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """Packed steps as padded sequences."""
    sizes, data = options["sizes"], arguments[0]
    made = np.full((options["time"], sizes.max(), data.shape[-1]), options["fill"])
    made[: len(sizes)][np.arange(sizes.max()) < sizes[:, None]] = data
    return np.asarray(np.swapaxes(made, 0, 1) if options["batch_first"] else made)


def _cells(record: Recorded) -> Iterator[Guess]:
    """One step of a cell: input (batch, features), states, weights."""
    name = normalised(record.operation).removesuffix("_cell")
    states = 2 if name == "lstm" else 1
    x, *rest = record.arguments
    if x.ndim != 2 or len(rest) - states not in (2, 4):
        return
    options = {
        "cell": name,
        "batch_first": False,
        "bidirectional": False,
        "biased": len(rest) - states == 4,
    }
    for output in range(1, 1 + states):
        yield record.arguments, {**options, "output": output}


@rule("recurrent", *(f"{name}_cell" for name in GATES), guesses=_cells)
def one_step(arguments: Arguments, options: Mapping[str, Any]) -> Array:
    """The next hidden or cell state (batch, units) of a cell."""
    states = 2 if options["cell"] == "lstm" else 1
    x, *rest = arguments
    initial = [state[None] for state in rest[:states]]
    return np.asarray(recurrent((x[None], *initial, *rest[states:]), options)[0])


def _variants(options: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Options of one direction: its own over those of all."""
    prefix = f"d{number}_"
    own = {key: value for key, value in options.items() if not key.startswith("d")}
    own.update({k.removeprefix(prefix): v for k, v in options.items() if k.startswith(prefix)})
    return own


def _start(state: Array, own: Mapping[str, Any], place: int) -> Array:
    """An initial state; "start" fills it with a number, "start_hidden" the first state alone."""
    if own.get("zero_state"):
        return np.zeros_like(state)
    fill = own.get("start", own.get("start_hidden") if place == 0 else None)
    return state if fill is None else np.full_like(state, fill)


def _direction(
    name: str, x: Array, weights: Any, state: list[Array], backward: bool, own: Mapping[str, Any]
) -> tuple[Array, list[Array]]:
    """One direction of one layer over x (time, batch, features): its outputs and last states."""
    cell = _Cell(name, weights, backward, own)
    outputs: list[Array] = [np.zeros(0)] * len(x)
    start = state
    for step in cell.order(len(x)):
        forgotten = own.get("forgotten", ())
        state = [start[n] if n in forgotten else s for n, s in enumerate(state)]
        state = cell.next(step, cell.gates(x[step]), state)
        outputs[step] = state[0]
        if own.get("zeroed") and own.get("keep") is not None:
            outputs[step] = np.where(own["keep"][:, step : step + 1], state[0], 0.0)
    if cell.reverse and own.get("unflipped"):
        outputs.reverse()
    return np.stack(outputs), state


class _Cell:
    """A direction's cell with its variants: weights as they are used, steps in their order."""

    def __init__(self, name: str, weights: Any, backward: bool, own: Mapping[str, Any]) -> None:
        gates = GATES[name]
        weights = [_reordered(w, gates, own.get("order")) for w in weights]
        self.name, self.own = name, own
        self.to_gates, self.recur = weights[0].T, weights[1].T
        zero = np.zeros(self.to_gates.shape[1])
        bias, state_bias = (weights[2], weights[3]) if len(weights) == 4 else (zero, zero)
        bias = own.get("bias_factor", 1.0) * bias
        state_bias = own.get("state_bias_factor", 1.0) * state_bias
        if own.get("forget_bias") and name == "lstm":
            size = zero.size // 4
            bias = bias + own["forget_bias"] * (np.arange(zero.size) // size == 1)
        if own.get("merged_bias"):
            bias, state_bias = bias + state_bias, np.zeros_like(state_bias)
        self.bias, self.state_bias = bias, state_bias
        self.reverse = bool((backward and not own.get("forwards")) or own.get("backwards"))

    def order(self, count: int) -> list[int]:
        """The steps as they are made."""
        return list(reversed(range(count))) if self.reverse else list(range(count))

    def gates(self, x: Array) -> Array:
        """The input part of the gates (batch, gates * units)."""
        return np.asarray(x @ self.to_gates + self.bias)

    def next(self, step: int, gates: Array, state: list[Array]) -> list[Array]:
        """The next states; as they were where the step does not count."""
        made = _step(self.name, gates, self.recur, self.state_bias, state, self.own)
        if mixed := self.own.get("zoneout"):
            made = [
                mixed * old + (1.0 - mixed) * new for new, old in zip(made, state, strict=True)
            ]
        if mixed := self.own.get("hidden_zoneout"):
            made[0] = mixed * state[0] + (1.0 - mixed) * made[0]
        keep = self.own.get("keep")
        if keep is None:
            return made
        chosen = np.asarray(keep[:, step : step + 1], bool)
        return [np.where(chosen, new, old) for new, old in zip(made, state, strict=True)]


def single_direction(
    options: Mapping[str, Any],
    number: int,
    x: Array,
    weights: Any,
    state: list[Array],
    backward: bool,
) -> tuple[Any, Array]:
    """One direction step by step: what `unrolled.Layer` knows of it, and its outputs."""
    cell = _Cell(options["cell"], weights, backward, _variants(options, number))
    gates = np.stack([cell.gates(row) for row in x])
    order = cell.order(len(x))
    before: list[list[Array]] = [[]] * len(x)
    outputs: list[Array] = [np.zeros(0)] * len(x)
    for step in order:
        before[step] = state
        state = cell.next(step, gates[step], state)
        outputs[step] = state[0]

    def one(inputs: Array, states: list[Array]) -> list[Array]:
        return _step(cell.name, inputs, cell.recur, cell.state_bias, states, cell.own)

    return (cell.to_gates, order, gates, before, one), np.stack(outputs)


def _step(
    name: str,
    inputs: Array,
    recur: Array,
    state_bias: Array,
    state: list[Array],
    own: Mapping[str, Any],
) -> list[Array]:
    """The next states from the gates' input part (batch, gates * units)."""
    gate = GATE_ACTIVATIONS[own.get("gate_activation", "sigmoid")]
    squash = CELL_ACTIVATIONS[own.get("cell_activation", "tanh")]
    inner = CELL_ACTIVATIONS[own["new_activation"]] if "new_activation" in own else squash
    h = state[0]
    if name == "lstm":
        i, f, g, o = np.split(inputs + h @ recur + state_bias, 4, axis=-1)
        i, f = gate(i), gate(f)
        if own.get("coupled"):
            i, f = (1.0 - f, f) if own["coupled"] == "input" else (i, 1.0 - i)
        c = f * state[1] + i * inner(g)
        if "cell_limit" in own:
            c = np.clip(c, -own["cell_limit"], own["cell_limit"])
        out = squash(c) if not own.get("linear_output") else c
        return [gate(o) * out, c]
    if name == "gru":
        size = h.shape[-1]
        rx, zx, nx = np.split(inputs, 3, axis=-1)
        rh, zh, nh = np.split(h @ recur + state_bias, 3, axis=-1)
        r, z = gate(rx + rh), gate(zx + zh)
        if own.get("reset_before"):
            nh = (r * h) @ recur[:, 2 * size :] + state_bias[2 * size :]
            new = squash(nx + nh)
        else:
            new = squash(nx + r * nh)
        if own.get("update_swapped"):
            z = 1.0 - z
        return [(1.0 - z) * new + z * h]
    own_squash = CELL_ACTIVATIONS[own.get("cell_activation", name.removeprefix("rnn_"))]
    return [own_squash(inputs + h @ recur + state_bias)]


def _reordered(weight: Array, gates: int, order: Any) -> Array:
    """Rows of the gates in another order."""
    if order is None:
        return weight
    blocks = np.split(weight, gates, axis=0)
    return np.concatenate([blocks[gate] for gate in order], axis=0)
