"""Recurrent layers as loops: the cell is recomputed from the loop's inputs, states and weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.canonical.fold import Fold, View
from pytest_fwcompare.diagnose.operations import Folded, Operation, attempt, same
from pytest_fwcompare.diagnose.operations.recurrent import (
    CELL_ACTIVATIONS,
    GATE_ACTIVATIONS,
    GATES,
    recurrent,
)

LOOPS = ("scan", "while", "statelesswhile", "tensorliststack")

BLOCKS = {"lstm": "ifgo", "gru": "rzn", "rnn_tanh": "h", "rnn_relu": "h"}
"""Gates in torch's order."""


@dataclass(frozen=True)
class Weights:
    """Weights of a cell as torch lays them: (gates * units, features), ..."""

    inputs: Array
    states: Array
    bias: Array
    state_bias: Array

    def arguments(self) -> tuple[Array, ...]:
        """In the order of the call."""
        return self.inputs, self.states, self.bias, self.state_bias


def loops(view: View) -> Iterator[Fold]:
    """Folds of loops that a known cell reproduces."""
    known: dict[object, tuple[str, Weights, dict[str, Any], int] | None] = {}
    # Sequences first: their first step tells at once whether a cell is the right one.
    for place in sorted(view.named(LOOPS), key=lambda p: -view.value(p).ndim):
        record, taken = view.graph.records[place], _taken(view, place)
        for x in [p for p in taken if view.value(p).ndim == 3]:
            key = x, taken, record.path, frozenset(record.parameters)
            if key not in known:
                known[key] = _recognised(view, place, record, x)
            found = known[key]
            fold = _folded(view, place, x, *found) if found is not None else None
            if fold is not None:
                yield fold
                break


def _taken(view: View, place: int) -> tuple[int, ...]:
    """What goes into a loop, without the steps' values that were recorded beside it."""
    record, inputs = view.graph.records[place], view.graph.inputs[place]
    if "taken" not in record.attributes:
        return inputs
    steps = set(record.inputs[record.attributes["taken"] :])
    return tuple(p for p in inputs if view.graph.records[p].index not in steps)


def _given(record: Recorded) -> tuple[Array, ...]:
    """The loop's arguments, likewise."""
    return record.arguments[: record.attributes.get("given")]


def opened(records: Sequence[Recorded]) -> list[Recorded]:
    """Loops that no known cell reproduces as what their steps give, one after the other."""
    made = []
    for record in records:
        given, taken = record.attributes.get("given"), record.attributes.get("taken")
        if isinstance(record, Folded) or given is None or taken is None:
            made.append(record)
            continue
        steps = record.arguments[given:]
        name = "stack" if steps and steps[0].shape != record.value.shape else "identity"
        made.append(
            replace(
                record,
                operation=name,
                inputs=record.inputs[taken:],
                arguments=steps,
                attributes={},
                parameters=(),
            )
        )
    return made


def _folded(
    view: View, place: int, x: int, cell: str, weights: Weights, own: dict[str, Any], units: int
) -> Fold | None:
    value = view.value(place)
    base = {"cell": cell, "batch_first": False, "bidirectional": False, "biased": True, **own}
    outputs = _outputs(value, view.value(x), cell)
    starts = _starts(view, place, cell, units, view.value(x).shape[1])
    for output in outputs:
        for start in starts:
            known = Operation(
                "recurrent",
                cell,
                (view.value(x), *start, *weights.arguments()),
                {**base, "output": output, "squeezed": value.ndim == 2},
                layer,
            )
            made = attempt(known)
            if made is not None and same(made, value):
                return Fold(place, (x,), known, cell, tuple(view.graph.records[place].parameters))
    return None


def _outputs(value: Array, x: Array, cell: str) -> tuple[int, ...]:
    """What a value may be: 0 the sequence, 1 the last state, 2 the last cell state."""
    if value.ndim == 3 and len(value) == len(x) > 1:
        return (0,)
    return (1, 2) if cell == "lstm" else (1,)


def layer(arguments: Sequence[Array], options: Mapping[str, Any]) -> Array:
    """A recurrent layer whose last state is handed out without the axis of layers."""
    value = recurrent(tuple(arguments), options)
    return value[0] if options.get("squeezed") else value


def _starts(view: View, place: int, cell: str, units: int, batch: int) -> list[tuple[Array, ...]]:
    """Initial states (1, batch, units): zeros, or those that come into the loop."""
    count = 2 if cell == "lstm" else 1
    zero = np.zeros((1, batch, units))
    given = [view.value(p) for p in _taken(view, place)]
    given += [np.asarray(a) for a in _given(view.graph.records[place])]
    states = [a[None] for a in given if a.shape == (batch, units) and np.any(a)]
    if not states:
        return [(zero,) * count]
    choices = [zero, *states]
    return list(itertools.product(choices, repeat=count))[:9]


def _recognised(
    view: View, place: int, record: Recorded, x: int
) -> tuple[str, Weights, dict[str, Any], int] | None:
    """Cell, weights and variant that give the loop's value."""
    held = _arrays(view, record)
    value, features = view.value(place), view.value(x).shape[-1]
    units = value.shape[-1]
    masks = _masks(view, place, x)
    zeroed: list[dict[str, Any]] = [{"keep": k, "zeroed": z} for k in masks for z in (False, True)]
    every: list[list[dict[str, Any]]] = [[{}], zeroed]
    for skips in every:
        for cell, gates in GATES.items():
            for weights in _weights(held, cell, gates, features, units):
                for own, skip in itertools.product(_variants(cell), skips):
                    if _first_step(view, place, x, cell, weights, {**own, **skip}, units):
                        return cell, weights, {**own, **skip}, units
    return None


def _masks(view: View, place: int, x: int) -> list[Array]:
    """Steps (batch, time) that a loop may skip: padding tokens, masks, rows of zeros.

    Each also from the end, as a loop that reads backwards sees it.
    """
    time, batch = view.value(x).shape[:2]
    found: list[Array] = [np.any(view.value(x) != 0, axis=-1).T]
    for source in sorted(view.graph.upstream([place])):
        record = view.graph.records[source]
        for array in (record.value, *record.arguments):
            if array.shape == (batch, time) and np.array_equal(array, np.round(array)):
                found.append(array != 0)
            elif array.shape == (time, batch) and np.array_equal(array, np.round(array)):
                found.append((array != 0).T)
    kept: list[Array] = []
    for mask in found:
        for one in (mask, mask[:, ::-1]):
            if not one.all() and not any(np.array_equal(one, other) for other in kept):
                kept.append(one)
    return kept[:8]


def _arrays(view: View, record: Recorded) -> dict[str, Array]:
    """Weights that the loop reads, by name where they have one."""
    held = {
        name: np.asarray(view.parameters[name])
        for name in record.parameters
        if name in view.parameters
    }
    for number, argument in enumerate(_given(record)):
        known = any(
            a.shape == argument.shape and np.array_equal(a, argument) for a in held.values()
        )
        if argument.dtype.kind == "f" and argument.ndim in (1, 2) and not known:
            held.setdefault(f"argument {number}", argument)
    return held


def _variants(cell: str) -> Iterator[dict[str, Any]]:
    yield {}
    if cell == "gru":
        yield {"reset_before": True}
        yield {"update_swapped": True}
        yield {"reset_before": True, "update_swapped": True}
    if cell in ("gru", "lstm"):
        for name in GATE_ACTIVATIONS:
            if name != "sigmoid":
                yield {"gate_activation": name}
        for name in CELL_ACTIVATIONS:
            if name != "tanh":
                yield {"cell_activation": name}


def _first_step(
    view: View,
    place: int,
    x: int,
    cell: str,
    weights: Weights,
    own: dict[str, Any],
    units: int,
) -> bool:
    """Whether a cell gives the sequence, looked at where that is cheap first."""
    given, value = view.value(x), view.value(place)
    base = {"cell": cell, "batch_first": False, "bidirectional": False, "biased": True, **own}
    for start in _starts(view, place, cell, units, given.shape[1]):
        arguments = (given, *start, *weights.arguments())
        outputs = _outputs(value, given, cell)
        if outputs == (0,):
            short = (given[:1], *start, *weights.arguments())
            early = {**base, "output": 0}
            if "keep" in early:
                early["keep"] = early["keep"][:, :1]
            first = attempt(Operation("recurrent", cell, short, early, recurrent))
            if first is None or not same(first, value[:1]):
                continue
        for output in outputs:
            options = {**base, "output": output, "squeezed": value.ndim == 2}
            made = attempt(Operation("recurrent", cell, arguments, options, layer))
            if made is not None and same(made, value):
                return True
    return False


def _weights(
    held: Mapping[str, Array], cell: str, gates: int, features: int, units: int
) -> Iterator[Weights]:
    """Ways to read the arrays as the weights of a cell, in torch's gate order."""
    wide = gates * units
    kernels = [a for a in held.values() if a.ndim == 2]
    kernels += _cut(kernels, features, units)
    into = [
        a.T if a.shape == (features, wide) else a
        for a in kernels
        if a.shape in ((features, wide), (wide, features))
    ]
    onto = [
        a.T if a.shape == (units, wide) else a
        for a in kernels
        if a.shape in ((units, wide), (wide, units))
    ]
    if features == units:
        into, onto = _all_ways(kernels, units, wide), _all_ways(kernels, units, wide)
    biases = list(_biases(held, wide, units, gates))
    for one, other in itertools.product(into, onto):
        if one is other or (one.base is not None and one.base is other.base):
            continue
        for order in itertools.permutations(range(gates)):
            for bias, state_bias in biases:
                yield Weights(*(_ordered(a, gates, order) for a in (one, other, bias, state_bias)))
    yield from _separate(held, cell, gates, features, units)
    yield from _one_by_one(held, gates, features, units)


def _one_by_one(
    held: Mapping[str, Array], gates: int, features: int, units: int
) -> Iterator[Weights]:
    """A kernel for each gate, in the order in which they are used."""
    shapes = {(features, units), (units, features), (units, units)}
    kernels = [a for a in held.values() if a.ndim == 2 and a.shape in shapes]
    rows = [a for a in held.values() if a.shape == (units,)]
    if gates == 1 or len(kernels) != 2 * gates or len(rows) % gates or len(rows) > 2 * gates:
        return
    for into, onto in _halves(kernels):
        for turned in (False, True):
            one, other = ([a if turned else a.T for a in some] for some in (into, onto))
            if any(a.shape != (units, features) for a in one):
                continue
            if any(a.shape != (units, units) for a in other):
                continue
            for order in itertools.permutations(range(gates)):
                for biases in _bias_rows(rows, gates, units):
                    yield Weights(
                        *(np.concatenate([p[k] for k in order]) for p in (one, other, *biases))
                    )


def _halves(rows: Sequence[Array]) -> Iterator[tuple[Sequence[Array], Sequence[Array]]]:
    """Kernels or biases of inputs and of states, in turn or one kind after the other."""
    middle = len(rows) // 2
    for one, other in ((rows[::2], rows[1::2]), (rows[:middle], rows[middle:])):
        yield one, other
        yield other, one


def _bias_rows(
    rows: Sequence[Array], gates: int, units: int
) -> Iterator[tuple[Sequence[Array], Sequence[Array]]]:
    zeros = [np.zeros(units)] * gates
    if len(rows) == 2 * gates:
        yield from _halves(rows)
    elif rows:
        yield rows, zeros
        yield zeros, rows
    else:
        yield zeros, zeros


def _cut(kernels: Sequence[Array], features: int, units: int) -> list[Array]:
    """Parts of kernels for inputs and states joined."""
    joined = [a if len(a) == features + units else a.T for a in kernels]
    joined = [a for a in joined if len(a) == features + units]
    sizes = sorted({features, units})
    return [p.copy() for a in joined for at in sizes for p in np.split(a, [at])]


def _all_ways(kernels: Sequence[Array], units: int, wide: int) -> list[Array]:
    found = []
    for a in kernels:
        if a.shape == (wide, units):
            found.append(a)
        if a.shape == (units, wide):
            found.append(a.T)
    return found


def _ordered(weight: Array, gates: int, order: Sequence[int]) -> Array:
    blocks = np.split(weight, gates, axis=0)
    return np.concatenate([blocks[gate] for gate in order], axis=0)


def _biases(
    held: Mapping[str, Array], wide: int, units: int, gates: int
) -> Iterator[tuple[Array, Array]]:
    zero = np.zeros(wide)
    rows = [a for a in held.values() if a.shape == (wide,)]
    rows += [row for a in held.values() if a.shape == (2, wide) for row in a]
    yield from itertools.permutations(rows, 2)
    # Equinox: one bias for all gates, one more for the new state's recurrent part.
    for single in [a for a in held.values() if a.shape == (units,)] if gates == 3 else []:
        for row in rows:
            yield row, np.concatenate([np.zeros(wide - units), single])
    for row in rows:
        yield row, zero
        yield zero, row
    yield zero, zero


def _separate(
    held: Mapping[str, Array], cell: str, gates: int, features: int, units: int
) -> Iterator[Weights]:
    """A kernel for each gate, told apart by names that end in the gate's letter."""
    letters = BLOCKS[cell]
    if gates == 1:
        return
    into: dict[str, Array] = {}
    onto: dict[str, Array] = {}
    bias = {letter: np.zeros(units) for letter in letters}
    state_bias = {letter: np.zeros(units) for letter in letters}
    for name, array in held.items():
        owner = name.replace("/", ".").split(".")[-2:-1]
        word = owner[0] if owner else ""
        if len(word) != 2 or word[0] not in "ih" or word[1] not in letters:
            continue
        if array.ndim == 1:
            (bias if word[0] == "i" else state_bias)[word[1]] = array
        elif array.ndim == 2:
            (into if word[0] == "i" else onto)[word[1]] = array.T
    if len(into) == len(onto) == gates:
        yield Weights(
            *(
                np.concatenate([part[letter] for letter in letters])
                for part in (into, onto, bias, state_bias)
            )
        )
