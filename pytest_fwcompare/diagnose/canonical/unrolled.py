"""Recurrent cells that are run step by step in a loop of the model's code, as one layer.

A loop is told by a weight that is used again on what was computed with it before. Where a known
cell gives all the states of such a loop, the loop is that recurrent layer: its repairs are known,
however the port computes its steps, and whether it shows them or not.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.canonical.fold import View, apply
from pytest_fwcompare.diagnose.canonical.loops import loops
from pytest_fwcompare.diagnose.graph import Graph, common_ancestor
from pytest_fwcompare.diagnose.operations import Folded, attempt, same

LONGEST = 64
"""Steps of a loop that are looked at; more are as well told by a loop of the framework's."""

EARLY = "of a step before the last"
"""Attribute of states that say nothing of the steps that come after."""

LOOKED_AT = 3
"""Operations of the last step that may be its state."""


@dataclass(frozen=True)
class Loop:
    """The steps of a loop, in the order in which they are made.

    Attributes:
        states: positions of the states (batch, units) after each step.
        inputs: positions of what each step reads, (batch, features); or of one sequence.
        sequence: for one sequence, the axis of time and whether it is read backwards.
    """

    states: tuple[int, ...]
    inputs: tuple[int, ...]
    sequence: tuple[int, bool] | None = None


def rolled(
    records: Sequence[Recorded], parameters: Mapping[str, Array] | None = None
) -> list[Recorded] | None:
    """The records with loops that known cells reproduce as layers; None if there are none.

    Args:
        records: of one pass, canonical.
        parameters: float64 values by name.
    """
    made, changed = list(records), False
    names = _looped(Graph(made, parameters))
    for name in names:
        graph = Graph(made, parameters)
        for loop in _loops(graph, name):
            folded = _folded(made, graph, loop, parameters or {})
            if folded is not None:
                made, changed = folded, True
                break
    return made if changed else None


def _looped(graph: Graph) -> list[str]:
    """Matrices that are used several times."""
    uses: dict[str, int] = {}
    for record in graph.records:
        for name in record.parameters:
            uses[name] = uses.get(name, 0) + 1
    several = [name for name, count in uses.items() if 1 < count <= 4 * LONGEST]
    return [name for name in several if np.ndim(graph.parameters.get(name, 0)) == 2]


def _loops(graph: Graph, name: str) -> Iterator[Loop]:
    """Ways to read the operations that use a weight as the steps of a loop."""
    uses = [p for p, r in enumerate(graph.records) if name in r.parameters and p in graph.live]
    chain = uses[:1]
    for place in uses[1:]:
        if chain[-1] in graph.upstream([place]):
            chain.append(place)
    if not 2 <= len(chain) <= LONGEST:
        return
    after = graph.downstream(chain[:1])
    entering = [_entering(graph, place) for place in chain]
    for state in [p for p in entering[1] if p in after]:
        slot = entering[1].index(state)
        states = [each[slot] for each in entering[1:] if slot < len(each)]
        if len(states) != len(chain) - 1 or not set(states) <= after:
            continue
        if len({_look(graph, p) for p in states}) > 1:
            continue
        for last in _last(graph, chain, states):
            every = (*states, last)
            for inputs, sequence in _read(graph, chain, entering, last):
                yield Loop(every, inputs, sequence)


def _entering(graph: Graph, place: int) -> list[int]:
    """What goes into a step by the use of a weight, through what joins or copies it."""
    found: list[int] = []
    front = list(graph.inputs[place])
    for _ in range(3):
        found += [p for p in front if p not in found and graph.records[p].value.ndim == 2]
        front = [q for p in front if _joins(graph, p) for q in graph.inputs[p]]
    return found


def _joins(graph: Graph, place: int) -> bool:
    """Whether a value consists of what goes into it and of nothing else."""
    record = graph.records[place]
    if record.parameters or not record.arguments:
        return False
    given = np.concatenate([np.asarray(a, np.float64).reshape(-1) for a in record.arguments])
    return bool(np.isin(record.value, given).all())


def _look(graph: Graph, place: int) -> tuple[str, str, tuple[int, ...]]:
    record = graph.records[place]
    return record.path, record.operation, record.value.shape


def _last(graph: Graph, chain: Sequence[int], states: Sequence[int]) -> list[int]:
    """What may be the state after the last step: made as those before, most likely as far on."""
    period = states[-1] - states[-2] if len(states) > 1 else chain[1] - chain[0]
    behind = graph.downstream(chain[-1:])
    alike = [p for p in behind if _look(graph, p) == _look(graph, states[-1])]
    return sorted(alike, key=lambda p: abs(p - states[-1] - period))[:LOOKED_AT]


def _read(
    graph: Graph, chain: Sequence[int], entering: Sequence[Sequence[int]], last: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, bool] | None]]:
    """What may be the inputs of the steps: nothing that the loop has made."""
    count, after = len(chain), graph.downstream(chain[:1])
    # Joined with the state, or given to the cell beside it.
    for slot in range(min(map(len, entering))):
        inputs = tuple(each[slot] for each in entering)
        if not set(inputs) & after and len(set(inputs)) == count:
            yield inputs, None
    # Multiplied by a weight of their own, at each step or all at once.
    uses: dict[str, list[int]] = {}
    for place in sorted(graph.upstream([last])):
        for name in graph.records[place].parameters:
            if np.ndim(graph.parameters.get(name, 0)) == 2 and place not in chain:
                uses.setdefault(name, []).append(place)
    for places in uses.values():
        sources = [[p for p in graph.inputs[u] if p not in after] for u in places]
        if len(places) == count and all(len(s) == 1 for s in sources):
            inputs = tuple(s[0] for s in sources)
            if len(set(inputs)) == count and graph.records[inputs[0]].value.ndim == 2:
                yield inputs, None
        if len(places) == 1 and len(sources[0]) == 1:
            whole = graph.records[sources[0][0]].value
            for axis in (0, 1):
                if whole.ndim == 3 and whole.shape[axis] == count:
                    yield (sources[0][0],), (axis, False)
                    yield (sources[0][0],), (axis, True)


def _folded(
    records: Sequence[Recorded], graph: Graph, loop: Loop, parameters: Mapping[str, Array]
) -> list[Recorded] | None:
    """The records with a loop as one layer, if a cell is known that gives its states."""
    value = graph.records
    batch = value[loop.states[0]].value.shape[0]
    region = graph.upstream(loop.states[-1:]) & graph.downstream(loop.inputs)
    region = _with_siblings(graph, region - set(loop.inputs))
    if not set(loop.states) <= region:
        return None
    number = max(record.index for record in records) + 1
    read = _sequence(graph, loop, number)
    if read.value.ndim != 3 or read.value.shape[1] != batch:
        return None
    path = _path(graph, region)
    starts = _starts(graph, loop, region)
    names = dict.fromkeys(name for p in sorted(region) for name in value[p].parameters)
    scan = Recorded(
        index=number + 1,
        path=path,
        operation="scan",
        value=np.stack([value[p].value for p in loop.states]),
        inputs=(number, *(value[p].index for p, _ in starts if p is not None)),
        parameters=tuple(names),
        arguments=(read.value, *(array for _, array in starts)),
        gradient=_gradient(graph, loop),
        place=value[loop.states[0]].place,
    )
    view = View([*records, read, scan], parameters)
    folds = {f.end: f for f in loops(view) if f.end == len(view.graph) - 1}
    if not folds:
        return None
    layer = apply(view, folds)[-1]
    assert isinstance(layer, Folded)
    changed = {
        value[p].index: replace(
            value[p],
            operation="select",
            inputs=(layer.index,),
            parameters=(),
            arguments=(layer.value,),
            attributes={EARLY: True} if p != loop.states[-1] else {},
            path=path,
        )
        for p in loop.states
    }
    changed |= _cell_state(graph, region, layer, set(changed))
    outside = [p for p in region if value[p].index not in changed and _is_used(graph, p, region)]
    if outside:
        return None  # something else of the steps is used behind the loop
    return _sorted([*(changed.get(r.index, r) for r in records), read, layer], graph)


def _with_siblings(graph: Graph, region: set[int]) -> set[int]:
    """Operations and the other results of their calls: a cell gives two states at once."""

    def call(place: int) -> tuple[str, str, tuple[int, ...], tuple[str, ...]]:
        record = graph.records[place]
        return record.path, record.operation, graph.inputs[place], record.parameters

    calls = {call(p) for p in region if graph.records[p].parameters}
    return region | {p for p in range(len(graph)) if call(p) in calls}


def _sequence(graph: Graph, loop: Loop, number: int) -> Recorded:
    """A record of the inputs in the order of the steps (time, batch, features)."""
    arrays = [graph.records[p].value for p in loop.inputs]
    if loop.sequence is None:
        value, operation = np.stack(arrays), "stack"
    else:
        axis, backwards = loop.sequence
        value, operation = np.moveaxis(arrays[0], axis, 0), "transpose"
        value = value[::-1] if backwards else value
    first = graph.records[loop.inputs[0]]
    return Recorded(
        index=number,
        path=first.path,
        operation=operation,
        value=np.ascontiguousarray(value),
        inputs=tuple(graph.records[p].index for p in loop.inputs),
        arguments=tuple(arrays),
        gradient=np.zeros_like(value),
        place=first.place,
    )


def _path(graph: Graph, region: set[int]) -> str:
    """Path of the module that the loop's weights belong to."""
    return common_ancestor([graph.records[p].path for p in region if graph.records[p].parameters])


def _starts(graph: Graph, loop: Loop, region: set[int]) -> list[tuple[int | None, Array]]:
    """Arrays shaped as a state that come from outside: the states before the first step."""
    shape = graph.records[loop.states[0]].value.shape
    found: list[tuple[int | None, Array]] = []
    for place in sorted(region):
        sources = graph.sources(place)
        for source, array in zip(sources, graph.records[place].arguments, strict=True):
            if array.shape != shape or source in region or source in loop.inputs:
                continue
            if isinstance(source, str) or any(np.array_equal(array, a) for _, a in found):
                continue
            found.append((source if isinstance(source, int) else None, array))
    return found[:4]


def _gradient(graph: Graph, loop: Loop) -> Array | None:
    gradients = [graph.records[p].gradient for p in loop.states]
    known = [g for g in gradients if g is not None]
    return np.stack(known) if len(known) == len(gradients) else None


def _cell_state(
    graph: Graph, region: set[int], layer: Folded, states: set[int]
) -> dict[int, Recorded]:
    """The last cell state, where it is used behind the loop."""
    if layer.operation != "lstm":
        return {}
    known = replace(layer.known, options={**layer.known.options, "output": 2, "squeezed": True})
    cell = attempt(known)
    for place in sorted(region):
        record = graph.records[place]
        if cell is None or record.index in states or record.value.shape != cell.shape:
            continue
        if same(cell, record.value):
            last = replace(
                layer,
                index=record.index,
                value=record.value,
                gradient=record.gradient,
                place=record.place,
                known=known,
            )
            return {record.index: last}
    return {}


def _is_used(graph: Graph, place: int, region: set[int]) -> bool:
    """Whether something behind the loop reads a value of one of its steps."""
    live = [p for p in graph.consumers[place] if p in graph.live]
    return any(p not in region for p in live) or (place in graph.ends and not live)


def _sorted(records: Sequence[Recorded], graph: Graph) -> list[Recorded]:
    """What is still needed, each record behind what it is computed from, else as it was."""
    by_index = {record.index: record for record in records if not record.is_module}
    ends = [r.index for p, r in enumerate(graph.records) if not graph.consumers[p]]
    needed, front = set(ends), list(ends)
    while front:
        for index in by_index[front.pop()].inputs:
            if index in by_index and index not in needed:
                needed.add(index)
                front.append(index)
    waiting = {i: {s for s in by_index[i].inputs if s in needed} for i in needed}
    after: dict[int, list[int]] = {index: [] for index in needed}
    for index, sources in waiting.items():
        for source in sources:
            after[source].append(index)
    # The layer itself comes as soon as it can: its number is higher than all others.
    made = {record.index for record in records} - {record.index for record in graph.records}
    ready = [(i not in made, i) for i, sources in waiting.items() if not sources]
    heapq.heapify(ready)
    kept: list[Recorded] = []
    while ready:
        _, index = heapq.heappop(ready)
        kept.append(by_index[index])
        for follower in after[index]:
            waiting[follower].discard(index)
            if not waiting[follower]:
                heapq.heappush(ready, (follower not in made, follower))
    return [*kept, *(record for record in records if record.is_module)]
