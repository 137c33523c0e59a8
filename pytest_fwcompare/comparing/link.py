"""Chooses how the port's weights are made from the reference's."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as MappingLike
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter, Recorded
from pytest_fwcompare.diagnose.align import match
from pytest_fwcompare.errors import MappingError, ModelError, OutOfMemory, UsageError
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.inputs.search import telling_example
from pytest_fwcompare.judge.distances import finite_maximum
from pytest_fwcompare.running.outputs import StructureError
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Run
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.weights.conventions import long_axes
from pytest_fwcompare.weights.frontier import first_missing, frontiers_of
from pytest_fwcompare.weights.mapping import Evidence, Link, Mapping
from pytest_fwcompare.weights.usage import InUse, by_use, siblings_of


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
        "reference_framework": reference.side.library,
        "port_framework": port.side.library,
    }
    if port.placements is not None and reference.side.framework == "numpy" and weights == "auto":
        return _described(reference, port)
    if weights == "auto":
        return automatic_mapping(
            ours,
            theirs,
            **frameworks,
            evidence=evidence_of(make_pair, example),
            in_use=order_of_use(make_pair, example),
            outputs=evidence_of(make_pair, example, outputs_only=True),
        )
    if weights == "given":
        try:
            guess = automatic_mapping(ours, theirs, **frameworks)
        except MappingError:
            guess = Mapping(())
        return _paired_by_values(guess, reference, port)
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
    make_pair: Callable[[Mapping], Pair],
    example: Example | None = None,
    *,
    outputs_only: bool = False,
) -> Callable[[Mapping], Evidence]:
    """A function that runs both shadows with a candidate's weights and tells how well it fits.

    Args:
        make_pair: a pair that uses a mapping.
        example: to run; the first telling one if left out.
        outputs_only: look at the outputs and at nothing in between, which costs less.
    """
    kept: dict[bool, Run] = {}

    def evidence(mapping: Mapping) -> Evidence:
        pair = make_pair(mapping)
        point = pair.point(example or telling_example(pair.plan))

        def run(role: str, record: bool) -> Run:
            return pair.run(role, point, "double", record=record, backward=False)

        def reference(record: bool) -> Run:
            if record not in kept:
                kept[record] = run("reference", record)
            return kept[record]

        try:
            pair.expect(reference(False))
            gap = output_gap(reference(False), run("port", False))
            if Evidence(1.0, gap).settled:
                # Outputs that agree settle it; tensors in between are looked at otherwise.
                return Evidence(1.0, gap)
            if outputs_only:
                return Evidence(0.0, gap)
            recorded = reference(True).recorded, run("port", True).recorded
        except OutOfMemory:
            raise
        except (ModelError, StructureError):
            return Evidence(0.0, float("inf"))
        return replace(_aligned(*recorded, vectors_of(pair)), gap=gap)

    return evidence


def order_of_use(
    make_pair: Callable[[Mapping], Pair], example: Example | None = None
) -> Callable[[], InUse | None]:
    """A function that lists both sides' parameters as a forward pass uses them."""

    def in_use() -> InUse | None:
        pair = make_pair(Mapping(()))
        point = pair.point(example or telling_example(pair.plan))
        listed: list[list[Parameter]] = []
        siblings: tuple[tuple[str, ...], ...] = ()
        for role in ("reference", "port"):
            side, given = pair.opened(role).side, pair.arguments(role, point.inputs)
            try:
                passed = side.forward(given, precision="double", gradients=False, record=True)
            except ModelError:
                return None
            # The values of one side go before those of the other come.
            records = [
                replace(record, value=np.zeros(0), arguments=()) for record in passed.recorded()
            ]
            del passed
            listed.append(by_use(side.parameters(), records))
            if role == "reference":
                siblings = siblings_of(side.parameters(), records)
        return InUse(listed[0], listed[1], siblings)

    return in_use


def output_gap(reference: Run, port: Run) -> float:
    """Largest difference of the outputs of two runs, relative to each output's largest value.

    Infinite where one side only is not finite: a variance filled with a mean gives NaN.
    """
    gap = 0.0
    for name, theirs in port.outputs.items():
        value = reference.outputs[name]
        if not np.array_equal(np.isfinite(value), np.isfinite(theirs)):
            return float("inf")
        with np.errstate(invalid="ignore"):
            apart = np.asarray(value, float) - np.asarray(theirs, float)
        gap = max(gap, finite_maximum(apart) / (finite_maximum(value) or 1.0))
    return gap


def vectors_of(pair: Pair) -> set[str]:
    """Names of both sides' parameters with one long axis at most."""
    sides = (pair.opened(role).side for role in ("reference", "port"))
    return {p.name for side in sides for p in side.parameters() if long_axes(p) < 2}


def _aligned(
    reference: tuple[Recorded, ...], port: tuple[Recorded, ...], vectors: set[str]
) -> Evidence:
    """What two recorded passes say; the outputs are not looked at."""
    alignment = match(reference, port)
    missing = first_missing(reference, alignment)
    return Evidence(
        alignment.fraction,
        float("inf"),
        reference[missing].parameters if missing is not None else (),
        frontiers_of(reference, port, alignment, vectors),
    )


def _mapping_of_copy(copy: Callable[[Any, Any], Any], reference: Opened, port: Opened) -> Mapping:
    from pytest_fwcompare.weights.copying import mapping_by_copy

    ours, theirs = reference.side, port.side
    _ = ours.model, theirs.model  # one in a worker is not to be had, and says so here

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


def _paired_by_values(guess: Mapping, reference: Opened, port: Opened) -> Mapping:
    """The pairs that the weights both sides came with bear out."""
    from pytest_fwcompare.weights.values import pair_by_values

    made = pair_by_values(
        guess,
        reference.side.parameters(),
        port.side.parameters(),
        reference.side.read(),
        port.side.read(),
    )
    trained = {p.name for p in port.side.parameters() if p.trainable}
    left = [name for name in made.unmatched_port if name in trained]
    if not left:
        return made
    said = (
        f"gradients of {len(left)} of the port's {len(trained)} parameters were not compared, as "
        f"their values do not tell which of the reference's they are: {', '.join(left[:5])}"
        f"{' ...' if len(left) > 5 else ''}"
    )
    return replace(made, notices=(*made.notices, said))


def _described(reference: Opened, port: Opened) -> Mapping:
    """The mapping of a described network: each parameter lives where its backend placed it.

    Raises:
        MappingError: the two sides are different descriptions.
    """
    shapes = {parameter.name: parameter.shape for parameter in reference.side.parameters()}
    links = [
        Link(placed.parameter, placed.sources, placed.transform, "described network")
        for placed in port.placements or ()
    ]
    blank = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    wanted = {parameter.name: parameter.shape for parameter in port.side.parameters()}
    for link in links:
        made = link.value(blank).shape
        if link.port in wanted and made != wanted[link.port]:
            raise MappingError(
                f"port parameter {link.port!r} has shape {wanted[link.port]}, but "
                f"{' and '.join(link.sources)} of the reference gives {made}: these are two "
                f"different networks. Compare one description with itself in another framework"
            )
    return Mapping(tuple(links))
