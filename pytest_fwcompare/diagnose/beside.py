"""Faults of gradients and running statistics beside a fault of the forward pass.

The reference is taken as it is after the repairs, with the port's values. What the port's backward
pass and its buffers make of these values is then held against what they should.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from time import thread_time

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter
from pytest_fwcompare.diagnose import Diagnosis
from pytest_fwcompare.diagnose.derivatives import (
    Derivatives,
    Held,
    Sums,
    of_port,
    of_reference,
)
from pytest_fwcompare.diagnose.gradient_paths import outgoing
from pytest_fwcompare.diagnose.gradients import Account, Group, explain_group
from pytest_fwcompare.diagnose.locate import Sides
from pytest_fwcompare.diagnose.operations import Operation
from pytest_fwcompare.diagnose.parameter_gradients import explain_parameters, gradient_of_uses
from pytest_fwcompare.diagnose.replay import Replay

WRONG = 1e-4
"""Relative difference of a gradient from the derivative that no rounding and no curvature give."""

GLANCE = 2
"""Directions along which all gradients are looked at."""

LOOK = 12
"""Directions along which one that differs is explained."""


@dataclass(frozen=True)
class Repaired:
    """Both passes after all repairs that were proved.

    Attributes:
        sides: with the port's values where the reference was repaired.
        before: without any repair.
        operations: those that the repairs changed, by position, as far as they are known.
        whole: every difference was repaired, by an operation that is known. Else the port may
            have uses for a tensor that nobody knows of.
    """

    sides: Sides
    before: Sides
    operations: Mapping[int, Operation]
    whole: bool

    def replay(self) -> Replay:
        """Recomputation of the reference as it is after the repairs."""
        return Replay(self.sides.graph, self.operations)


def gradients_beside(
    repaired: Repaired,
    parameters: Mapping[str, tuple[Array, Array]] | None,
    layers: Sequence[Parameter],
    deadline: float = float("inf"),
) -> list[Diagnosis]:
    """Places where the port's gradients are not the derivatives of its own values.

    A reference may stop or change gradients as well: where it does, nothing is said.

    Args:
        repaired: both passes.
        parameters: expected and obtained gradients by the reference's name, where they differ.
        layers: parameters of the reference, to tell their modules.
        deadline: of this thread's processor time.
    """
    replay = repaired.replay()
    port = of_port(repaired.sides, replay)
    reference = of_reference(repaired.before, port)
    shown = _with_gradients(repaired.sides, port)
    found = []
    for held in reversed(port.held):
        if thread_time() > deadline:
            break
        edges = outgoing(port.graph, held.members)
        if not edges or not _parts(port, held, edges) or not _derived(reference, held, edges):
            continue
        sums = port.sums(held, edges, LOOK)
        if sums is not None and not _passed_by(port, held):
            found.append(_explained(shown, held, sums, replay))
    wrong = dict(_wrong_parameters(repaired, port, reference, parameters or {}, deadline))
    found += explain_parameters(shown, wrong, layers)
    found.sort(key=lambda diagnosis: diagnosis.cause is None)
    return [one for one in found if repaired.whole or one.cause is not None]


def _parts(port: Derivatives, held: Held, edges: Sequence[int]) -> bool:
    """Whether a gradient is not what the next tensors' gradients make it, nor those behind."""
    sums = port.sums(held, edges, GLANCE)
    if sums is None or sums.gap <= WRONG:
        return False
    # A port that goes another way to the same values may have other uses for one of them.
    further = port.sums(held, edges, GLANCE, port.reached(held, edges))
    return further is None or further.gap > WRONG


def _passed_by(port: Derivatives, held: Held) -> bool:
    """Whether all tensors before one have the right gradients if it is left out of the account.

    TensorFlow's custom gradients (`tf.nn.silu`) pass by the tensors computed inside, and a port
    may hand out a value that it has no other use for.
    """
    asked = [
        port.sums(source, outgoing(port.graph, source.members), GLANCE, {held.root})
        for source in port.feeding(held.root)
    ]
    return bool(asked) and all(sums is not None and sums.gap <= WRONG for sums in asked)


def _derived(reference: Derivatives, held: Held, edges: Sequence[int]) -> bool:
    """Whether the reference's own gradient there is the derivative of its values."""
    own = reference.at.get(held.root)
    sums = None if own is None else reference.sums(own, edges, GLANCE)
    return sums is not None and sums.gap <= WRONG


def _explained(shown: Sides, held: Held, sums: Sums, replay: Replay) -> Diagnosis:
    group = Group(held.root, held.members, sums.expected, sums.obtained)
    account = Account(sums.expected, sums.obtained, sums.parts, sums.shown)
    return explain_group(shown, group, Replay(shown.graph, replay.known), account)


def _with_gradients(sides: Sides, port: Derivatives) -> Sides:
    """The sides with the port's gradients in the reference's places, where they are known."""
    other = copy(sides)
    known = {one.root: one.gradient for one in port.held if np.isfinite(one.gradient).all()}
    other.graph = sides.graph.with_gradients(known)
    return other


def _wrong_parameters(
    repaired: Repaired,
    port: Derivatives,
    reference: Derivatives,
    parameters: Mapping[str, tuple[Array, Array]],
    deadline: float,
) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Expected and obtained gradients of parameters that are derivatives on one side alone.

    Where the expected one cannot be written down it is told along a few directions, and so is the
    other one then. Where the port's is the derivative, both are given as the reference's values
    make them.
    """
    after = _with_gradients(repaired.sides, port).graph
    for name in parameters:
        if thread_time() > deadline:
            return
        value = port.graph.parameters.get(name)
        records = enumerate(port.graph.records)
        uses = [p for p, r in records if name in r.parameters and r.gradient is not None]
        if value is None or not uses:
            continue
        own, obtained = parameters[name]
        mine = reference.parameter_sums(name, value, own, uses, GLANCE)
        sums = port.parameter_sums(name, value, obtained, uses, GLANCE)
        if mine is None or sums is None or (mine.gap > WRONG) == (sums.gap > WRONG):
            continue
        if sums.gap > WRONG:
            expected = gradient_of_uses(after, name, uses, value.shape)
            if expected is None:
                sums = port.parameter_sums(name, value, obtained, uses, LOOK) or sums
                expected, obtained = sums.expected, sums.obtained
            yield name, (expected, obtained)
            continue
        # The reference alone holds something constant: a padding row of a table.
        derived = gradient_of_uses(reference.graph, name, uses, value.shape)
        if derived is not None:
            yield name, (own, derived)
