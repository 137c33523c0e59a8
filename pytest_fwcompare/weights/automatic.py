"""The automatic mapping: the best guess, and evidence where it leaves questions open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.weights.frontier import leaves_order_open
from pytest_fwcompare.weights.guess import candidates
from pytest_fwcompare.weights.mapping import Evidence, Link, Mapping
from pytest_fwcompare.weights.remnants import REASON
from pytest_fwcompare.weights.search import Search, ambiguous, fusion
from pytest_fwcompare.weights.stacks import DOUBTFUL
from pytest_fwcompare.weights.transforms import Identity
from pytest_fwcompare.weights.usage import InUse

FEW = 30
"""Parameters that are paired faster than both models are run."""


def automatic_mapping(
    reference_parameters: Sequence[Parameter],
    port_parameters: Sequence[Parameter],
    *,
    reference_framework: str,
    port_framework: str,
    evidence: Callable[[Mapping], Evidence] | None = None,
    in_use: Callable[[], InUse | None] | None = None,
    outputs: Callable[[Mapping], Evidence] | None = None,
) -> Mapping:
    """Pair the parameters of two models with no help.

    Args:
        reference_parameters: as the reference lists them.
        port_parameters: as the port lists them.
        reference_framework: import name, e.g. "torch".
        port_framework: import name.
        evidence: runs both float64 shadows with a candidate's weights and says how much of the
            reference is found in the port. Called only where something is open, at most
            `MOST_CALLS` times without gain.
        in_use: lists the parameters of both sides in the order in which a forward pass uses them;
            asked where the evidence does not bear out the order of definition.
        outputs: evidence of the outputs alone, which costs less: whether they settle it.

    Raises:
        MappingError: nothing in common, or a question that matters stays open; with the
            candidates.
    """
    if reference_framework == port_framework and evidence is not None:
        same = by_equal_names(reference_parameters, port_parameters)
        if same is not None and evidence(same).settled:
            return same
    guess = partial(
        candidates, reference_framework=reference_framework, port_framework=port_framework
    )
    try:
        made = guess(reference_parameters, port_parameters)
    except MappingError:
        # What lies in one flat place may only fit once its use tells what belongs together.
        used = in_use() if in_use is not None else None
        if used is None:
            raise
        made = guess(used.reference, used.port, ordered=True, siblings=used.siblings)
    doubts = {REASON, DOUBTFUL}
    sure = not made.choices and not any(link.reason in doubts for link in made.best.links)
    sure = sure and not fusion(made, made.best)
    sure = sure and (evidence is None or not leaves_order_open(made.aligner, made.plan.groups))
    if sure and (evidence is None or not made.others):
        return made.best
    if evidence is None:
        undecided = [choice for choice in made.choices if choice.open]
        if undecided:
            raise ambiguous(undecided)
        return made.best
    return Search(made, evidence, in_use, outputs=outputs).run()


def by_equal_names(reference: Sequence[Parameter], port: Sequence[Parameter]) -> Mapping | None:
    """The mapping of one model onto another of the same structure in the same framework.

    None if the structures differ, or have so few parameters that pairing them takes less time
    than the evidence for this would.
    """
    if len(reference) < FEW or len(reference) != len(port):
        return None
    for ours, theirs in zip(reference, port, strict=True):
        if (ours.name, ours.shape, ours.kind) != (theirs.name, theirs.shape, theirs.kind):
            return None
    return Mapping(
        tuple(
            Link(p.name, (p.name,), Identity(), "the same name, shape and layer in both models")
            for p in reference
        )
    )
