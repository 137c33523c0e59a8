"""Proof that a pass could have failed: the port is disturbed and the same judge must object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.errors import ModelError
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.judge.distances import finite_maximum, unit_roundoff
from pytest_fwcompare.judge.verdict import Observed, assess
from pytest_fwcompare.records import Control, Controls
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Point, Run

RELATIVE = 1e-3
"""Size of a disturbance, relative to the tensor's own scale."""

UNITS = 64
"""In roundings of the working dtype, where that is more: what the judge is meant to notice."""

LIMIT = 8
"""Parameters disturbed one by one; the others are covered by their gradients alone."""

BUFFERS = 2
"""Buffers disturbed beside them."""

SMALLER = (1e-4, 1e-5, 1e-6)
"""Sizes that a thorough look tries where the usual one is noticed."""

LARGER = (1e-2, 0.1, 1.0)
"""Sizes that are tried where it is not: in a thorough look, or if nothing at all was noticed."""

FACTORS = (0.1, 1.0, 10.0)
"""Relative sizes by which a thorough look changes epsilons and slopes."""


def disturb(
    pair: Pair, example: Example, *, thorough: bool = False, others: Sequence[Example] = ()
) -> Controls:
    """Disturb the port one parameter at a time and judge again in float64.

    A parameter is covered if its disturbance is noticed, or, beyond the first few, if its gradient
    is not zero: then a disturbance shows to first order. If none at all is noticed, larger ones
    and other examples are tried.

    Args:
        pair: both sides, judged equivalent.
        example: where to judge again.
        thorough: every parameter and buffer, with the smallest size that is noticed, and epsilons
            and slopes where the framework lets them be changed.
        others: more examples, tried one after the other as long as nothing is noticed: the largest
            of several outputs may stay the largest at any one of them.
    """
    if pair.mapping is None or not pair.share_weights:
        return Controls()
    bench = Bench.at(pair, example, backward=pair.backward)
    names = bench.names(thorough)
    sizes = (bench.usual, *SMALLER) if thorough else (bench.usual,)
    tried = [bench.smallest(name, sizes, LARGER if thorough else ()) for name in names]
    if thorough:
        tried += bench.hyperparameters()
    pair.forget_loaded()
    places = [example, *[other for other in others if other is not example]]
    while places and tried and not any(control.noticed for control in tried):
        elsewhere = Bench.at(pair, places.pop(0))
        tried = [elsewhere.smallest(name, LARGER[:1], LARGER[1:]) for name in names]
        pair.forget_loaded()
    return Controls(tuple(tried), _uncovered(pair, tried, bench.without_gradient))


def nothing_noticed(controls: Controls) -> str | None:
    """Why a pass proves nothing, if every single disturbance went unnoticed; else None."""
    if not controls.tried or controls.caught:
        return None
    names = ", ".join(control.target for control in controls.tried[:4])
    more = f" and {len(controls.tried) - 4} more" if len(controls.tried) > 4 else ""
    return (
        f"both sides agree, but this comparison could not have failed: the port's {names}{more} "
        f"were changed by as much as their own size, one after the other, and no output moved. "
        f"Are the outputs computed from the parameters, and do the inputs reach them?"
    )


@dataclass
class Bench:
    """Where disturbances are judged.

    Attributes:
        pair: both sides.
        point: inputs and weights.
        still: the reference's shadow there.
        values: the port's weights.
        without_gradient: the reference's parameters that nothing in the port depends on.
    """

    pair: Pair
    point: Point
    still: Run
    values: Mapping[str, Array]
    without_gradient: list[str]

    @classmethod
    def at(cls, pair: Pair, example: Example, *, backward: bool = False) -> Bench:
        """Load the port's weights and run the reference."""
        point = pair.point(example)
        assert point.weights is not None
        still = pair.run("reference", point, "double", backward=False)
        pair.expect(still)
        if backward:
            # Cotangents for the port's gradients come with a run of the reference.
            calm = pair.run("port", point, "double")
        else:
            calm = pair.run("port", point, "double", backward=False)
        values = pair.supply.of_port(point.weights)
        return cls(pair, point, still, values, _without_gradient(calm) if backward else [])

    @property
    def usual(self) -> float:
        """Relative size of a disturbance that should be noticed."""
        return max(RELATIVE, UNITS * unit_roundoff(self.pair.dtype))

    def names(self, thorough: bool) -> list[str]:
        """The port's parameters to disturb: some from all over the network, or all."""
        known = self.pair.port_parameters
        trained = [name for name in self.values if known[name].trainable]
        buffers = [name for name in self.values if not known[name].trainable]
        if thorough:
            return trained + buffers
        return _some(trained, LIMIT) + _some(buffers, BUFFERS)

    def smallest(self, name: str, sizes: Sequence[float], larger: Sequence[float]) -> Control:
        """Disturb one parameter ever less until it is not noticed, or more until it is."""
        best = first = self.control(name, sizes[0])
        for size in sizes[1:] if first.noticed else larger:
            found = self.control(name, size)
            if first.noticed and not found.noticed:
                break
            best = found
            if not first.noticed and found.noticed:
                break
        return best

    def control(self, name: str, size: float) -> Control:
        """Disturb one parameter."""
        # All others are loaded, as the port ran undisturbed before.
        self._load({name: _disturbed(self.values[name], size, len(name))})
        ratio, noticed = self._judge(nullcontext())
        self._load({name: self.values[name]})
        return Control(name, size, noticed, ratio)

    def hyperparameters(self) -> list[Control]:
        """Change epsilons and slopes of the port until that is noticed."""
        side, found = self.pair.port.side, []
        for name, value in side.hyperparameters().items():
            control = None
            for size in FACTORS:
                try:
                    ratio, noticed = self._judge(side.changed(name, value * (1 + size)))
                except ModelError:
                    break
                control = Control(name, size, noticed, ratio)
                if noticed:
                    break
            found += [control] if control is not None else []
        return found

    def _load(self, values: dict[str, Array]) -> None:
        self.pair.port.side.load(values, "double")
        self.pair.mark_loaded("port", "double", object())

    def _judge(self, change: AbstractContextManager[None]) -> tuple[float, bool]:
        """Largest ratio, and whether the judge objects to the port as it is now."""
        point = self.point
        other = Point(point.inputs, None, object(), point.rng_seed, point.cotangents)
        with change:
            disturbed = self.pair.run("port", other, "double", backward=False)
        ratio, noticed = 0.0, False
        for item in rows_of(self.still, disturbed, self.pair.dtype):
            judged = assess(item, self.pair.dtype)
            ratio = max(ratio, judged.semantic_ratio)
            noticed = noticed or judged.verdict in ("semantic", "nonfinite")
        return ratio, noticed


def _some(names: list[str], count: int) -> list[str]:
    """At most so many, from all over the list."""
    return names[:: max(1, len(names) // count)][:count]


def _uncovered(pair: Pair, tried: Sequence[Control], still: Sequence[str]) -> tuple[str, ...]:
    """The reference's parameters whose disturbance nothing notices."""
    assert pair.mapping is not None
    sources = {link.port: link.sources for link in pair.mapping.links}
    seen: set[str] = set()
    blind = set(still)
    for control in tried:
        (seen if control.noticed else blind).update(sources.get(control.target, ()))
    return tuple(name for name in pair.reference_parameters if name in blind - seen)


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
