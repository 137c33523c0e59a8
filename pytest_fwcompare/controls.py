"""Proof that a pass could have failed: the port is disturbed and the same judge must object."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.judge.distances import finite_maximum, unit_roundoff
from pytest_fwcompare.judge.verdict import Observed, assess
from pytest_fwcompare.pair import Pair
from pytest_fwcompare.points import Point, Run
from pytest_fwcompare.records import Control, Controls

RELATIVE = 1e-3
"""Size of a disturbance, relative to the tensor's own scale."""

UNITS = 64
"""In roundings of the working dtype, where that is more: what the judge is meant to notice."""

LIMIT = 8
"""Parameters disturbed one by one; the others are covered by their gradients alone."""


def disturb(pair: Pair, example: Example) -> Controls:
    """Disturb parameters of the port one at a time and judge again in float64.

    A parameter is covered if its disturbance is noticed, or, beyond the first few, if its gradient
    is not zero: then a disturbance shows to first order.

    Args:
        pair: both sides, judged equivalent.
        example: where to judge again.
    """
    if pair.mapping is None or not pair.share_weights:
        return Controls()
    point = pair.point(example)
    assert point.weights is not None
    still = pair.run("reference", point, "double", backward=False)
    pair.expect(still)
    calm = pair.run("port", point, "double")
    values = pair.supply.of_port(point.weights)
    names = [name for name in values if pair.port_parameters[name].trainable]
    uncovered = _without_gradient(calm) if pair.backward else []
    step = max(1, len(names) // LIMIT)
    tried = tuple(_control(pair, point, still, values, name) for name in names[::step][:LIMIT])
    pair.forget_loaded()
    noticed = {control.target for control in tried if control.noticed}
    sources = {link.port: set(link.sources) for link in pair.mapping.links}
    covered = set().union(*(sources.get(name, set()) for name in noticed)) if noticed else set()
    unnoticed = {control.target for control in tried if not control.noticed}
    blind = set().union(*(sources.get(name, set()) for name in unnoticed)) if unnoticed else set()
    left = [name for name in pair.reference_parameters if name in uncovered or name in blind]
    return Controls(tried, tuple(name for name in left if name not in covered))


def _control(
    pair: Pair, point: Point, still: Run, values: Mapping[str, Array], name: str
) -> Control:
    size = max(RELATIVE, UNITS * unit_roundoff(pair.dtype))
    # All others are loaded, as the port ran undisturbed before.
    pair.port.side.load({name: _disturbed(values[name], size, len(name))}, "double")
    pair.mark_loaded("port", "double", object())
    other = Point(point.inputs, None, object(), point.rng_seed, point.cotangents)
    disturbed = pair.run("port", other, "double", backward=False)
    pair.port.side.load({name: values[name]}, "double")
    ratio, noticed = 0.0, False
    for item in rows_of(still, disturbed, pair.dtype):
        judged = assess(item, pair.dtype)
        ratio = max(ratio, judged.semantic_ratio)
        noticed = noticed or judged.verdict in ("semantic", "nonfinite")
    return Control(name, size, noticed, ratio)


def _disturbed(value: Array, relative: float, seed: int) -> Array:
    """The value moved at random by up to `relative` of its scale, exact in float32."""
    size = relative * (finite_maximum(value) or 1.0)
    changed = np.asarray(np.random.default_rng(seed).uniform(-size, size, value.shape))
    changed += value
    np.copyto(changed, changed.astype(np.float32))
    return changed


def rows_of(still: Run, disturbed: Run, dtype: str) -> list[Observed]:
    """Outputs of the reference's shadow against those of a disturbed port's.

    Rounding of the working dtype stands in for the jitter: a disturbance is meant to be noticed
    by what the judge sees at once.
    """
    unit = unit_roundoff(dtype)
    return [
        Observed(
            f"output {name}",
            "output",
            value,
            disturbed.outputs[name],
            value,
            disturbed.outputs[name],
            jitter=4 * unit * finite_maximum(value),
        )
        for name, value in still.outputs.items()
    ]


def _without_gradient(run: Run) -> list[str]:
    return [
        name.removeprefix("gradient of ").partition(" (in the port's")[0]
        for name, value in run.parameters.items()
        if not np.any(value)
    ]
