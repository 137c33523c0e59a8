"""Losses of a training comparison: native ones on both sides, or a random projection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array
from pytest_fwcompare.backends.optimizers import FRAMEWORKS, explained
from pytest_fwcompare.errors import UsageError
from pytest_fwcompare.inputs.examples import Example, Plan
from pytest_fwcompare.judge.distances import finite_maximum, unit_roundoff
from pytest_fwcompare.judge.verdict import Assessment, Observed, assess, moved
from pytest_fwcompare.running.pair import Pair
from pytest_fwcompare.running.points import Point

ROLES = ("reference", "port")
LOSS_ROW = "gradient of the loss by output"


@dataclass(frozen=True)
class Loss:
    """The losses of both sides.

    Attributes:
        functions: native functions by role; None for a random projection of the outputs.
        targets: names of what they take beside the outputs.
        plan: where the targets of an example come from.
    """

    functions: Mapping[str, Any] | None
    targets: tuple[str, ...] = ()
    plan: Plan | None = None

    def prepare(
        self, pair: Pair, point: Point, example: Example, training: bool
    ) -> list[Assessment]:
        """Set the cotangents of a point to the reference's loss, and judge the port's.

        Both losses get the reference's outputs in float64, so they are judged by themselves.
        """
        run = pair.run("reference", point, "double", training=training, backward=False)
        pair.expect(run)
        if self.functions is None:
            return []
        outputs = {n: v for n, v in run.outputs.items() if v.dtype.kind == "f"}
        targets = [] if self.plan is None else list(self.plan.arrays(example).values())
        found = {role: self._gradients(pair, role, outputs, targets) for role in ROLES}
        rng = np.random.default_rng(0)
        shaken = {n: moved(v, pair.dtype, rng) for n, v in outputs.items()}
        jitter = self._gradients(pair, "reference", shaken, targets)
        point.cotangents.update(found["reference"])
        return [
            assess(
                Observed(
                    f"{LOSS_ROW} {name}",
                    "input gradient",
                    expected,
                    found["port"][name],
                    expected,
                    found["port"][name],
                    max(
                        finite_maximum(jitter[name] - expected),
                        unit_roundoff(pair.dtype) * finite_maximum(expected),
                    ),
                ),
                pair.dtype,
            )
            for name, expected in found["reference"].items()
        ]

    def _gradients(
        self, pair: Pair, role: str, outputs: Mapping[str, Array], targets: list[Array]
    ) -> dict[str, Array]:
        assert self.functions is not None
        framework = (pair.reference if role == "reference" else pair.port).side.framework
        if framework not in FRAMEWORKS:
            raise UsageError(
                f"loss: the {role} is a {framework} model, which has no losses of its own; leave "
                f"loss out to train on a random projection of the outputs"
            )
        module = import_module(f"pytest_fwcompare.backends.{FRAMEWORKS[framework]}.losses")
        values = [value.astype(np.float64) for value in outputs.values()]
        made = explained(
            role,
            "loss",
            lambda: module.gradients(self.functions[role], values, targets),  # type: ignore[index]
        )
        return dict(zip(outputs, made, strict=True))


def check_loss(loss: Any, targets: tuple[str, ...]) -> Loss:
    """The losses.

    Raises:
        UsageError: it is not one function for each role.
    """
    if loss is None:
        if targets:
            raise UsageError(
                f"targets: {', '.join(targets)} given without loss; expected "
                f'loss={{"reference": ..., "port": ...}} beside them'
            )
        return Loss(None)
    if (
        not isinstance(loss, Mapping)
        or set(loss) != set(ROLES)
        or not all(callable(function) for function in loss.values())
    ):
        raise UsageError(
            f'loss: expected {{"reference": function, "port": function}}, each called with the '
            f"outputs and then the targets, or None; got {loss!r}"
        )
    return Loss(loss, targets)
