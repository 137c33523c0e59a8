"""Gradients of parameters that differ although those of all tensors agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.adjoints import adjoint
from pytest_fwcompare.diagnose.graph import Graph
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.parting import TOLERANCE
from pytest_fwcompare.diagnose.replay import Replay


def called(graph: Graph, place: int) -> str:
    """An operation and its module, to be read in a sentence."""
    record = graph.records[place]
    return f"{record.operation} of {record.path or 'the root'}"


def explain_parameters(
    sides: Sides,
    mismatch: Mapping[str, tuple[Array, Array]],
    layers: Sequence[Parameter],
) -> list[Diagnosis]:
    """Gradients of parameters that differ although those of all tensors agree."""
    owners = {p.name: p for p in layers}
    found = []
    for name, (expected, obtained) in mismatch.items():
        owner = owners.get(name)
        path = owner.layer if owner is not None else name.rpartition(".")[0]
        path = _known(path.replace("/", "."), sides.graph)
        scale = max(float(np.abs(expected).max()), float(np.abs(obtained).max())) or 1.0
        gap = float(np.abs(expected - obtained).max()) / scale
        cause, text = _parameter_cause(sides, name, expected, obtained)
        found.append(
            Diagnosis(
                culprit=path,
                operation=owner.kind if owner is not None else "",
                cause=cause,
                evidence=(text,) if text else (),
                local_gap=gap,
                tried=() if text else ("a stopped or scaled gradient", "a padding row", "tying"),
                backward=True,
            )
        )
    # What differs by rounding alone comes of what differs by more.
    clear = [diagnosis for diagnosis in found if diagnosis.local_gap > TOLERANCE]
    return sorted(clear or found, key=lambda d: d.cause is None)


def _known(path: str, graph: Graph) -> str:
    """A layer's path as the records have it: Keras names some parameters from the model's name."""
    rest = path.partition(".")[2]
    return rest if path not in graph.paths and rest in graph.paths else path


def _parameter_cause(
    sides: Sides, name: str, expected: Array, obtained: Array
) -> tuple[str | None, str]:
    """Cause and evidence for one parameter's gradient."""
    graph = sides.graph
    uses = [place for place, r in enumerate(graph.records) if name in r.parameters]
    replay = Replay(graph)
    looked_up = [place for place in uses if replay.kind(place) == "embedding"]
    scale = max(float(np.abs(expected).max()), float(np.abs(obtained).max())) or 1.0
    wrong = np.abs(expected - obtained) > TOLERANCE * scale
    if looked_up and expected.ndim == 2:
        rows = np.flatnonzero(wrong.any(axis=1))
        if rows.size == 1:
            row, (mine, other) = int(rows[0]), (expected[rows[0]], obtained[rows[0]])
            if not mine.any() or not other.any():
                who = "the port" if not mine.any() else "the reference"
                text = (
                    f"only row {row} of {name} differs: its gradient is zero but in {who}, so it "
                    f"is a padding row on one side alone; all other rows agree"
                )
                return "embedding", text
    for place in uses if len(uses) > 1 else ():
        part = _use(graph, replay, place, name, expected.shape)
        if part is not None and np.abs(expected - part - obtained).max() <= TOLERANCE * scale:
            text = (
                f"without what {called(graph, place)} sends back to {name}, the reference gives "
                f"the port's gradient: the parameter is shared in the reference alone"
            )
            return "embedding" if looked_up else "gradient-path", text
    if not obtained.any():
        return "gradient-path", f"no gradient reaches {name} in the port"
    factor = float(np.vdot(expected, obtained) / (np.vdot(expected, expected) or 1.0))
    scaled = factor and abs(factor - 1) > TOLERANCE
    if scaled and np.abs(obtained - factor * expected).max() <= TOLERANCE * scale:
        return "gradient-path", f"the gradient of {name} is multiplied by {factor:.8g} in the port"
    return None, ""


def gradient_of_uses(
    graph: Graph, name: str, uses: Sequence[int], shape: tuple[int, ...]
) -> Array | None:
    """Gradient of a parameter: the sum over its uses; None where one of them is not known.

    Args:
        graph: of the reference.
        name: of the parameter.
        uses: operations that use it.
        shape: of it.
    """
    replay = Replay(graph)
    parts = [_use(graph, replay, place, name, shape) for place in uses]
    if any(part is None for part in parts):
        return None
    return sum((part for part in parts if part is not None), np.zeros(shape))


def _use(
    graph: Graph, replay: Replay, place: int, name: str, shape: tuple[int, ...]
) -> Array | None:
    """Gradient that one use of a weight sends back to it."""
    operation, gradient = replay.operation(place), graph.records[place].gradient
    if operation is None or gradient is None:
        return None
    if operation.kind == "movement" and operation.arguments[0].shape == shape:
        return adjoint(operation, 0, gradient)
    if operation.kind == "linear" and replay.slots(place, name) == [1]:
        outputs, inputs = operation.arguments[1].shape
        x = operation.arguments[0].reshape(-1, inputs)
        part = operation.inward(gradient).reshape(-1, outputs).T @ x
        axes = operation.layouts[1] if len(operation.layouts) > 1 else None
        return part if axes is None else part.transpose(np.argsort(axes))
    if operation.kind == "embedding" and len(shape) == 2:
        total = np.zeros(shape)
        indices = operation.arguments[0].astype(np.int64).reshape(-1)
        np.add.at(total, indices, gradient.reshape(-1, shape[1]))
        return total
    return None
