"""How the parameters and gradients of both sides are spread, kept as small histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.comparing.histograms import histogram
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.records import Distribution
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Run


def distributions_of(pair: Pair, example: Example) -> tuple[Distribution, ...]:
    """Parameters and gradients of both sides in the working dtype, with the weights as given.

    Args:
        pair: both sides, judged.
        example: the inputs; its weights give way to the models' own.

    Raises:
        ModelError: a side cannot run the example.
    """
    given = "given" if pair.share_weights else example.weights
    point = pair.point(replace(example, weights=given))
    made: list[Distribution] = []
    for role in ("reference", "port"):
        run = pair.run(role, point, "working")
        if role == "reference":
            pair.expect(run)
        made += _of_side(pair, role, run)
    return tuple(made)


def _of_side(pair: Pair, role: Literal["reference", "port"], run: Run) -> Iterator[Distribution]:
    for name, value in parameters(pair, role).items():
        yield distribution(name, "parameter", role, value)
    for name, value in run.parameters.items():
        yield distribution(name.removeprefix("gradient of "), "gradient", role, value)


def parameters(pair: Pair, role: str) -> Mapping[str, Array]:
    """What a side's parameters hold.

    The port's have the name of the reference's parameter that they were filled from, so that both
    stand side by side; one that was put together from several keeps its own.
    """
    held = pair.opened(role).side.read()
    if role == "reference" or pair.mapping is None:
        return held
    takers = Counter(name for link in pair.mapping.links for name in link.sources)
    alone = {
        link.port: link.sources[0]
        for link in pair.mapping.links
        if len(link.sources) == 1 and takers[link.sources[0]] == 1
    }
    return {alone.get(name, name): value for name, value in held.items()}


def distribution(
    name: str,
    kind: Literal["parameter", "gradient"],
    role: Literal["reference", "port"],
    value: Array,
) -> Distribution:
    """A tensor's histogram; what is not finite is counted and left out of it.

    Args:
        name: of the reference's parameter.
        kind: whether it is the parameter or its gradient.
        role: whose.
        value: any shape.
    """
    flat = np.asarray(value, float).ravel()
    finite = flat[np.isfinite(flat)]
    edges, counts = histogram(finite)
    return Distribution(
        name=name,
        kind=kind,
        role=role,
        edges=edges,
        counts=counts,
        total=float(finite.sum()),
        squares=float((finite**2).sum()),
        nonfinite=int(flat.size - finite.size),
    )
