"""Chooses how the port's weights are made from the reference's."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as MappingLike
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.diagnose.align import match
from pytest_fwcompare.errors import MappingError, ModelError, UsageError
from pytest_fwcompare.inputs.examples import Example, Plan
from pytest_fwcompare.judge.distances import finite_maximum
from pytest_fwcompare.outputs import StructureError
from pytest_fwcompare.pair import Pair
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.weights.mapping import Evidence, Link, Mapping


def choose_mapping(
    weights: Any,
    reference: Opened,
    port: Opened,
    make_pair: Callable[[Mapping], Pair],
    example: Example | None = None,
) -> Mapping:
    """The mapping that the `weights` argument of `compare` asks for.

    Args:
        weights: "auto", "given", a dict, or a copy function.
        reference: the opened reference.
        port: the opened port.
        make_pair: a pair that uses a mapping, to try candidates with.
        example: to try them on; the first telling one if left out.

    Raises:
        UsageError: `weights` is none of these.
        MappingError: the parameters cannot be paired.
    """
    from pytest_fwcompare.weights.automatic import automatic_mapping
    from pytest_fwcompare.weights.explicit import explicit_mapping

    ours, theirs = reference.side.parameters(), port.side.parameters()
    frameworks: dict[str, Any] = {
        "reference_framework": reference.side.framework,
        "port_framework": port.side.framework,
    }
    if port.placements is not None and reference.side.framework == "numpy" and weights == "auto":
        return Mapping(
            tuple(
                Link(placed.parameter, placed.sources, placed.transform, "described network")
                for placed in port.placements
            )
        )
    if weights == "auto":
        return automatic_mapping(
            ours, theirs, **frameworks, evidence=evidence_of(make_pair, example)
        )
    if weights == "given":
        try:
            paired = automatic_mapping(ours, theirs, **frameworks)
        except MappingError as error:
            text = f"gradients of parameters were not compared, as they are not paired: {error}"
            return Mapping((), notices=(text,))
        return _pairs_of_equal_values(paired, reference, port)
    if isinstance(weights, dict):
        return explicit_mapping(
            weights, ours, theirs, **frameworks, evidence=evidence_of(make_pair, example)
        )
    if callable(weights):
        return _mapping_of_copy(weights, reference, port)
    raise UsageError(
        f'weights: expected "auto", "given", a dict {{port name: reference name}} or a function '
        f"copy(reference_model, port_model), got {weights!r}"
    )


def evidence_of(
    make_pair: Callable[[Mapping], Pair], example: Example | None = None
) -> Callable[[Mapping], Evidence]:
    """A function that runs both shadows with a candidate's weights and tells how well it fits."""
    kept: dict[str, Any] = {}

    def evidence(mapping: Mapping) -> Evidence:
        pair = make_pair(mapping)
        point = pair.point(example or telling_example(pair.plan))
        try:
            if "reference" not in kept:
                kept["reference"] = pair.run(
                    "reference", point, "double", record=True, backward=False
                )
            reference = kept["reference"]
            pair.expect(reference)
            port = pair.run("port", point, "double", record=True, backward=False)
        except (ModelError, StructureError):
            return Evidence(0.0, float("inf"))
        gap = 0.0
        for name, theirs in port.outputs.items():
            value = reference.outputs[name]
            apart = np.asarray(value, float) - np.asarray(theirs, float)
            with np.errstate(invalid="ignore"):
                gap = max(gap, finite_maximum(apart) / (finite_maximum(value) or 1.0))
        found, suspects = _aligned(reference.recorded, port.recorded)
        return Evidence(found, gap, suspects)

    return evidence


def _aligned(
    reference: tuple[Recorded, ...], port: tuple[Recorded, ...]
) -> tuple[float, tuple[str, ...]]:
    alignment = match(reference, port)
    missing = [
        record
        for position, record in enumerate(reference)
        if record.parameters and not alignment.found(position)
    ]
    return alignment.fraction, tuple(missing[0].parameters) if missing else ()


def telling_example(plan: Plan) -> Example:
    """The first planned example, or the first that the user's strategies give."""
    planned = next(plan.planned(1), None)
    if planned is not None:
        return planned
    from pytest_fwcompare.inputs.strategies import first_example

    return first_example(plan)


def _mapping_of_copy(copy: Callable[[Any, Any], Any], reference: Opened, port: Opened) -> Mapping:
    from pytest_fwcompare.weights.copying import mapping_by_copy

    ours, theirs = reference.side, port.side

    def write_reference(values: MappingLike[str, Array]) -> None:
        ours.load(values, "working")

    def run_copy() -> None:
        try:
            copy(ours.model, theirs.model)
        except Exception as error:
            raise UsageError(
                f"weights: the copy function raised {type(error).__name__}: {error}"
            ) from error

    before = ours.read()
    try:
        return mapping_by_copy(
            ours.parameters(),
            theirs.parameters(),
            write_reference=write_reference,
            copy=run_copy,
            read_port=theirs.read,
        )
    finally:
        ours.load(before, "working")


def _pairs_of_equal_values(mapping: Mapping, reference: Opened, port: Opened) -> Mapping:
    """Only the links that hold for the weights both sides came with."""
    made = mapping.port_values(reference.side.read())
    theirs = port.side.read()
    kept, dropped = [], dict(mapping.unmatched_port)
    for link in mapping.links:
        value = theirs[link.port]
        scale = finite_maximum(value) or 1.0
        if finite_maximum(np.asarray(made[link.port], float) - value) <= 1e-6 * scale:
            kept.append(link)
        else:
            dropped[link.port] = (
                f"its values are not those of {' and '.join(link.sources)}: gradients not paired"
            )
    return Mapping(tuple(kept), mapping.unmatched_reference, dropped, mapping.notices)
