"""Parameters made of equal blocks of others: gates, fused projections, one or two biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_fwcompare.weights.conventions import Atoms, Slot
from pytest_fwcompare.weights.transforms import (
    Assemble,
    Blocks,
    Chain,
    Concatenate,
    Each,
    Identity,
    Parallel,
    Sum,
    Take,
    Transform,
    Zeros,
    invert,
)

MISSING = {"kernel": 3.0, "embedding": 3.0, "mean": 0.8, "variance": 0.8, "bias": 0.6}
"""Cost of leaving a parameter of a role alone; 0.8 for others."""


@dataclass(frozen=True)
class Draft:
    """One parameter of the port, with every way to make it that could be meant.

    Attributes:
        options: (transform, why), the likeliest first; one only where the layout is documented
            or only one fits.
        layout: name of the question that the options answer; drafts with one name are alike.
        sources_by_option: where an option takes its sources in another order, or others.
    """

    port: str
    sources: tuple[str, ...]
    options: tuple[tuple[Transform, str], ...]
    layout: str = ""
    sources_by_option: tuple[tuple[str, ...], ...] = ()

    def taken(self, number: int) -> tuple[str, ...]:
        """The sources of an option."""
        return self.sources_by_option[number] if self.sources_by_option else self.sources


@dataclass(frozen=True)
class Pairing:
    """Units of both sides that are one layer, and what is left over inside them."""

    drafts: tuple[Draft, ...]
    cost: float
    left_reference: dict[str, str] = field(default_factory=dict)
    left_port: dict[str, str] = field(default_factory=dict)


def by_atoms(
    reference: Sequence[tuple[Slot, Atoms]], port: Sequence[tuple[Slot, Atoms]], why: str
) -> Pairing | None:
    """Make every block of the port from the reference's blocks that hold the same sums.

    Returns:
        None if sizes do not fit.
    """
    holders: dict[str, tuple[int, int]] = {}
    for place, (_, atoms) in enumerate(reference):
        for block, labels in enumerate(atoms):
            holders.update((label, (place, block)) for label in labels)
    given: set[tuple[int, int]] = set()
    drafts, left_port = [], {}
    for target, atoms in port:
        terms = [
            sorted({holders[label] for label in labels if label in holders} - given)
            for labels in atoms
        ]
        given.update(*terms)
        if not any(terms):
            if any(label in holders for labels in atoms for label in labels):
                zeros = Zeros(target.native)
                drafts.append(Draft(target.name, (), ((zeros, "its sum is in the other bias"),)))
            else:
                left_port[target.name] = "the reference has no such parameter"
            continue
        draft = _from_blocks(reference, target, terms, why)
        if draft is None:
            return None
        drafts.append(draft)
    left = {
        slot.name: "the port has no such parameter"
        for place, (slot, atoms) in enumerate(reference)
        if not any((place, block) in given for block in range(len(atoms)))
    }
    if not drafts:
        return None
    missing = [slot for slot, _ in (*reference, *port) if slot.name in {**left, **left_port}]
    return Pairing(
        tuple(drafts), sum(MISSING.get(slot.role, 0.8) for slot in missing), left, left_port
    )


def _from_blocks(
    reference: Sequence[tuple[Slot, Atoms]],
    target: Slot,
    terms: list[list[tuple[int, int]]],
    why: str,
) -> Draft | None:
    """The draft of one parameter made of those (source, block) terms, or None if it cannot be."""
    places = sorted({place for some in terms for place, _ in some})
    length, rest = target.shape[0] // len(terms), target.shape[1:]
    for place in places:
        slot, atoms = reference[place]
        if slot.shape[1:] != rest or slot.shape[0] != length * len(atoms):
            return None
    blocks = tuple(
        tuple((places.index(place), block, len(reference[place][1])) for place, block in some)
        for some in terms
    )
    sources = [reference[place][0] for place in places]
    combine = simplest(blocks, [len(reference[place][1]) for place in places])
    steps = [slot.steps for slot in sources]
    if len(sources) == 1:
        chained = [steps[0], combine, invert(target.steps, target.native)]
    elif all(isinstance(step, Identity) for step in steps):
        chained = [combine, invert(target.steps, target.native)]
    else:
        alike = all(step == steps[0] for step in steps)
        each = Each(steps[0], combine) if alike else Parallel(tuple(steps), combine)
        chained = [each, invert(target.steps, target.native)]
    return Draft(target.name, tuple(slot.name for slot in sources), ((chain(chained), why),))


def chain(steps: Sequence[Transform]) -> Transform:
    """A chain without the steps that do nothing."""
    flat = [
        inner
        for step in steps
        for inner in (step.steps if isinstance(step, Chain) else (step,))
        if not isinstance(inner, Identity)
    ]
    if not flat:
        return Identity()
    return flat[0] if len(flat) == 1 else Chain(tuple(flat))


def simplest(blocks: tuple[tuple[tuple[int, int, int], ...], ...], counts: list[int]) -> Transform:
    """The plainest transform that does what `Assemble(blocks, axis=0)` does.

    Args:
        blocks: terms (source, block, count) of every target block.
        counts: number of blocks of each source.
    """
    flat = [terms[0][:2] if len(terms) == 1 else None for terms in blocks]
    whole = [(source, block) for source, count in enumerate(counts) for block in range(count)]
    if len(counts) == 1 and None not in flat:
        order = tuple(term[1] for term in flat if term is not None)
        if order == tuple(range(counts[0])):
            return Identity()
        if sorted(order) == list(range(counts[0])):
            return Blocks(order, 0)
        if len(order) == 1:
            return Take(order[0], counts[0], 0)
        step = len(order)
        if counts[0] % step == 0 and order[0] % step == 0:
            first = order[0]
            if order == tuple(range(first, first + step)):
                return Take(first // step, counts[0] // step, 0)
    if flat == whole:
        return Concatenate(0)
    if len(set(counts)) == 1 and len(counts) > 1 and len(blocks) == counts[0]:
        sources = range(len(counts))
        if all(
            [source for source, _, _ in terms] == list(sources)
            and len({block for _, block, _ in terms}) == 1
            for terms in blocks
        ):
            order = tuple(terms[0][1] for terms in blocks)
            same = order == tuple(range(counts[0]))
            return Sum() if same else Chain((Sum(), Blocks(order, 0)))
    size = len(blocks) // len(counts)
    if None not in flat and set(counts) == {size}:
        # Whole sources one after the other, each with its blocks in the same order.
        orders = {
            tuple(term[1] for term in flat[k * size : (k + 1) * size] if term and term[0] == k)
            for k in range(len(counts))
        }
        order = orders.pop()
        if not orders and sorted(order) == list(range(size)):
            return Each(Blocks(order, 0), Concatenate(0))
    return Assemble(blocks, 0)
