"""Faults of gradients and running statistics beside a fault of the forward pass.

The reference is taken as it is after the repairs, with the port's values. What the port's backward
pass and its buffers make of these values is then held against what they should.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
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
from pytest_fwcompare.diagnose.graph import Graph
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
    held_constant = _held_constant(reference, parameters or {}, deadline)
    found = []
    for held in reversed(port.held):
        if thread_time() > deadline:
            break
        edges = outgoing(port.graph, held.members)
        if not edges or not _parts(port, held, edges) or not _derived(reference, held, edges):
            continue
        if held_constant & set(port.graph.records[held.root].parameters):
            # A padding row: whether a table stops its gradient or what is looked up is all one.
            continue
        sums = port.sums(held, edges, LOOK)
        if sums is not None and not _passed_by(port, held):
            found.append(_explained(shown, held, sums, replay))
    wrong = dict(
        _wrong_parameters(shown, port, reference, parameters or {}, held_constant, deadline)
    )
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


def _uses(graph: Graph, name: str) -> list[int]:
    """Operations that use a parameter and send a gradient back."""
    records = enumerate(graph.records)
    return [p for p, r in records if name in r.parameters and r.gradient is not None]


def _held_constant(
    reference: Derivatives, parameters: Mapping[str, tuple[Array, Array]], deadline: float
) -> set[str]:
    """Parameters whose gradients in the reference are no derivatives: a table's padding row."""
    found = set()
    for name, (own, _) in parameters.items():
        value, uses = reference.graph.parameters.get(name), _uses(reference.graph, name)
        if value is None or not uses or thread_time() > deadline:
            continue
        sums = reference.parameter_sums(name, value, own, uses, GLANCE)
        if sums is not None and sums.gap > WRONG:
            found.add(name)
    return found


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
    shown: Sides,
    port: Derivatives,
    reference: Derivatives,
    parameters: Mapping[str, tuple[Array, Array]],
    held_constant: Set[str],
    deadline: float,
) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Expected and obtained gradients of parameters that are derivatives on one side alone.

    Where the expected one cannot be written down it is told along a few directions, and so is the
    other one then. Where the port's is the derivative, both are given as the reference's values
    make them.
    """
    for name, (own, obtained) in parameters.items():
        if thread_time() > deadline:
            return
        value, uses = port.graph.parameters.get(name), _uses(port.graph, name)
        if value is None or not uses:
            continue
        sums = port.parameter_sums(name, value, obtained, uses, GLANCE)
        if sums is None or (name in held_constant) == (sums.gap > WRONG):
            continue
        if name in held_constant:
            # The reference alone holds something constant: a padding row of a table.
            derived = gradient_of_uses(reference.graph, name, uses, value.shape)
            if derived is not None and not _both_stopped(own, derived, obtained):
                yield name, (own, derived)
            continue
        expected = gradient_of_uses(shown.graph, name, uses, value.shape)
        if expected is not None and _both_stopped(obtained, expected, own):
            continue
        if expected is None:
            sums = port.parameter_sums(name, value, obtained, uses, LOOK) or sums
            expected, obtained = sums.expected, sums.obtained
        yield name, (expected, obtained)


def _both_stopped(stopped: Array, derived: Array, other: Array) -> bool:
    """Whether the other side, too, has zeros wherever a gradient is not the derived one.

    Args:
        stopped: gradient of a parameter that is not the derivative.
        derived: what it would be, of its shape.
        other: gradient of the other side, of its shape.
    """
    apart = np.abs(stopped - derived) > WRONG * np.abs(derived).max()
    return not other[apart].any() and not stopped[apart].any()
