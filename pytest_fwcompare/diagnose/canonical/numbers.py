"""Constants among the arguments of operations, told from tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.operations.base import normalised
from pytest_fwcompare.diagnose.operations.elementwise import BINARY_NAMES
from pytest_fwcompare.diagnose.operations.movement import MOVES
from pytest_fwcompare.diagnose.operations.norms import REDUCTION_NAMES

INDEXED = ("gather", "gatherv2", "take", "embedding", "index_select", "resourcegather", "onehot")
"""Operations whose whole numbers are data."""

LISTED = frozenset(
    (
        *MOVES,
        *REDUCTION_NAMES,
        *("concatv2", "stridedslice", "reversev2", "conv2dbackpropinput", "split", "splitv"),
        *("max", "min", "sum", "prod", "padv2", "mirrorpad", "expanddims", "pack", "roll"),
        *("conv2dbackpropinputv2", "conv3dbackpropinputv2", "broadcastto", "cumsum"),
        *(
            "cond",
            "dynamic_slice",
            "resizebilinear",
            "resizenearestneighbor",
            "resizebicubic",
            "all",
            "any",
        ),
    )
).difference(INDEXED)
"""Operations whose constant whole numbers are axes, sizes and amounts."""

CHOICES = ("select_n", "selectv2", "select", "where")


def with_numbers(records: Sequence[Recorded], parameters: Mapping[str, Array]) -> list[Recorded]:
    """The records, constant arguments left out: axes and sizes, and the number of x + 1.

    Args:
        records: of one pass.
        parameters: float64 values by name.
    """
    graph = Graph(records, parameters)
    places = {record.index: place for place, record in enumerate(graph.records)}
    made = []
    for record in records:
        if record.is_module or len(record.arguments) < 2:
            made.append(record)
            continue
        made.append(_plain(graph, places[record.index], record))
    return made


def _plain(graph: Graph, place: int, record: Recorded) -> Recorded:
    name = normalised(record.operation)
    constant = [source is None for source in graph.sources(place)]
    # "Max" is the larger of two in JAX and the largest along axes in TensorFlow.
    reduces = name in LISTED and len({a.dtype.kind == "f" for a in record.arguments}) == 2
    if name in BINARY_NAMES and len(record.arguments) == 2 and not reduces:
        return _with_number(graph, record, constant)
    if name in CHOICES and len(record.arguments) == 3:
        return _with_fill(record, constant)
    if name not in LISTED:
        return record
    kept = tuple(
        argument
        for argument, fixed in zip(record.arguments, constant, strict=True)
        if not fixed or argument.dtype.kind not in "iub"
    )
    return replace(record, arguments=kept) if kept else record


def _number(graph: Graph, record: Recorded, argument: Array) -> float | None:
    """The number that a constant argument holds, unless it is a parameter."""
    if not argument.size or argument.dtype.kind not in "fiu":
        return None
    first = float(argument.flat[0])
    if argument.size > 1 and not (argument == argument.flat[0]).all():
        return None
    for name in record.parameters:
        held = graph.parameters.get(name)
        if held is not None and held.size and float(held.flat[0]) == first:
            return None
    return first


def _with_number(graph: Graph, record: Recorded, constant: Sequence[bool]) -> Recorded:
    """X + 1 as an operation of one argument; the other is told by what it gives."""
    for slot in (1, 0):
        other = record.arguments[1 - slot]
        if not constant[slot] or constant[1 - slot] or other.shape != record.value.shape:
            continue
        number = _number(graph, record, record.arguments[slot])
        if number is not None and np.isfinite(number):
            facts = {"number": number}
            return replace(record, arguments=(other,), attributes=facts)
    return record


def _with_fill(record: Recorded, constant: Sequence[bool]) -> Recorded:
    """A choice between a tensor and a number: the condition and the tensor."""
    condition, first, second = record.arguments
    if not condition.any() or condition.all():
        return record
    for slot, kept in ((2, first), (1, second)):
        argument = record.arguments[slot]
        same = argument.size and (argument == argument.flat[0]).all()
        if constant[slot] and same and kept.shape == record.value.shape:
            return replace(record, arguments=(condition, kept), operation="where")
    return record
