"""How the parameters of one layer become those of another: drafts with possible transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pytest_fwcompare.weights.assign import FORBIDDEN, hungarian
from pytest_fwcompare.weights.blocks import MISSING, Draft, Pairing, by_atoms
from pytest_fwcompare.weights.cells import pair_cell
from pytest_fwcompare.weights.conventions import Atoms, Slot, turned
from pytest_fwcompare.weights.conversions import MOST_LAYOUTS, conversions, slot_cost
from pytest_fwcompare.weights.trees import Unit
from pytest_fwcompare.weights.words import template, words


def pair(reference: Sequence[Unit], port: Sequence[Unit]) -> Pairing | None:
    """Pair one unit with one, or one with several that are its parts.

    Returns:
        None if nothing of them fits together.
    """
    if len(reference) == len(port) == 1:
        one, other = reference[0], port[0]
        if one.cell and other.cell:
            if one.cell != other.cell:
                return None
            return by_atoms(
                [(slot, slot.atoms) for slot in one.slots],
                [(slot, slot.atoms) for slot in other.slots],
                f"documented gates of {one.cell}",
            )
        return pair_cell(reference, port) or assign_slots(one.slots, other.slots)
    fused, apart = (reference, port) if len(reference) == 1 else (port, reference)
    slots = [tuple(s for unit in units for s in unit.slots) for units in (reference, port)]
    found = fuse(fused[0], apart, forwards=fused is port) or pair_cell(reference, port)
    return found or (assign_slots(*slots) if adds_up(*slots) else None)


def adds_up(reference: Sequence[Slot], port: Sequence[Slot]) -> bool:
    """Whether several units can be one: as many parameters with kernels of the same sizes."""
    sizes = [
        sorted(s.size for s in slots if s.role in ("kernel", "embedding"))
        for slots in (reference, port)
    ]
    return sizes[0] == sizes[1] and len(sizes[0]) > 0


def fuse(fused: Unit, apart: Sequence[Unit], *, forwards: bool) -> Pairing | None:
    """One projection against several that lie one after the other in it, or head by head.

    Args:
        fused: the unit of one kernel.
        apart: units of one kernel each, in order; another order of indices is another order of
            the parts.
        forwards: True if the reference's are apart and the port's is fused.
    """
    apart = in_named_order(apart)
    drafts: list[Draft] = []
    for role in ("kernel", "bias"):
        one = [slot for slot in fused.slots if slot.role == role]
        many = [[slot for slot in unit.slots if slot.role == role] for unit in apart]
        if role == "bias" and not one and not any(many):
            continue
        if role == "kernel" and len(one) == len(many) and all(len(some) == 1 for some in many):
            # Torch's attention keeps kernels of other widths apart, and their biases fused.
            whole_ones = [(ours, theirs[0]) for ours, theirs in zip(one, many, strict=True)]
            made = _one_by_one([p[::-1] for p in whole_ones] if forwards else whole_ones)
            if made is None:
                return None
            drafts += made
            continue
        if len(one) != 1 or any(len(some) != 1 for some in many):
            return None
        fitting = _fitting(one[0], [some[0] for some in many])
        if fitting is None:
            return None
        whole, parts = fitting
        lengths = [slot.shape[0] for slot in parts]
        found = [
            by_atoms(*_fused_sides(whole, parts, heads, forwards), why)
            for heads, why in [
                (0, "fused in the order of the separate ones"),
                *_heads(apart, lengths),
            ]
        ]
        if found[0] is None:
            return None
        question = f"order of heads in {template(fused.path)}"
        for place, draft in enumerate(found[0].drafts):
            options = tuple(some.drafts[place].options[0] for some in found if some)
            drafts.append(Draft(draft.port, draft.sources, options, question))
    return Pairing(tuple(drafts), 0.0)


def _one_by_one(pairs: Sequence[tuple[Slot, Slot]]) -> list[Draft] | None:
    """Drafts of slots (the reference's, the port's) in order; None if any does not fit."""
    made = [Draft(port.name, (ours.name,), conversions(ours, port)) for ours, port in pairs]
    return made if all(draft.options for draft in made) else None


def _fitting(fused: Slot, parts: Sequence[Slot]) -> tuple[Slot, list[Slot]] | None:
    """Slots that lie one after the other along axis 0, turned where no class tells their layout.

    Returns:
        None if they do not add up.
    """
    for whole in (fused, turned(fused)):
        for some in (list(parts), [turned(slot) for slot in parts]):
            if (
                all(slot.shape and slot.shape[1:] == whole.shape[1:] for slot in some)
                and sum(slot.shape[0] for slot in some) == whole.shape[0]
            ):
                return whole, some
    return None


def _fused_sides(
    fused: Slot, parts: Sequence[Slot], heads: int, forwards: bool
) -> tuple[list[tuple[Slot, Atoms]], list[tuple[Slot, Atoms]]]:
    """Both sides with their blocks labelled: part by part, or within each head part by part."""
    lengths = [slot.shape[0] for slot in parts]
    size = lengths[0] // heads if heads else math.gcd(*lengths)
    labels = [
        tuple(frozenset([f"{place}.{block}"]) for block in range(length // size))
        for place, length in enumerate(lengths)
    ]
    if heads:
        order = [labels[place][head] for head in range(heads) for place in range(len(parts))]
    else:
        order = [label for some in labels for label in some]
    whole = [(fused, tuple(order))]
    cut = list(zip(parts, labels, strict=True))
    return (cut, whole) if forwards else (whole, cut)


def _heads(apart: Sequence[Unit], lengths: Sequence[int]) -> list[tuple[int, str]]:
    """Numbers of heads by which equal parts may be interleaved; those the layers name first."""
    if len(set(lengths)) != 1 or len(lengths) < 2:
        return []
    length = lengths[0]
    named = {
        int(slot.parameter.options[word])
        for unit in apart
        for slot in unit.slots
        for word in ("num_heads", "heads", "num_attention_heads")
        if isinstance(slot.parameter.options.get(word), int)
    }
    divisors = [n for n in (2, 4, 8, 12, 16, 3, 6, 32, 20, 10, 5) if not length % n and n < length]
    # As many as values: one of each part in turn, as some gated layers keep theirs.
    numbers = [n for n in named if n > 1 and not length % n] or [*divisors[:MOST_LAYOUTS], length]
    return [(heads, f"fused head by head, {heads} heads") for heads in numbers]


def in_named_order(units: Sequence[Unit]) -> list[Unit]:
    """Units that come in their order as names say; in another order, the named ones so moved."""
    plain = sorted(units, key=lambda unit: unit.index)
    named = in_projection_order(plain)
    return [named[plain.index(unit)] for unit in units]


def in_projection_order(units: Sequence[Unit]) -> list[Unit]:
    """Query, key, value if that is what their names say; else as they come."""
    rank = {"query": 0, "key": 1, "value": 2}
    found = []
    for unit in units:
        said = [rank[word] for word in words(unit.path) if word in rank]
        if not said:
            return list(units)
        found.append(said[-1])
    return [unit for _, unit in sorted(zip(found, units, strict=True), key=lambda p: p[0])]


def assign_slots(reference: Sequence[Slot], port: Sequence[Slot]) -> Pairing | None:
    """Pair the parameters of two layers by shape, role, name and order."""
    cost = np.full((len(reference), len(port)), FORBIDDEN)
    for i, one in enumerate(reference):
        for j, other in enumerate(port):
            plain = slot_cost(one, other)
            if plain < FORBIDDEN:
                unlike = _differ(one, other) if len(reference) + len(port) > 2 else 0.0
                cost[i, j] = plain + 0.3 * unlike + 0.02 * abs(i - j)
    skips = [np.array([MISSING.get(s.role, 0.8) for s in side]) for side in (reference, port)]
    pairs = hungarian(cost, skips[0], skips[1])
    if not pairs:
        return None
    lesser = {"bias", "mean", "variance"}
    if (
        any(s.role not in lesser for s in reference)
        and any(s.role not in lesser for s in port)
        and not any(reference[i].role not in lesser for i, _ in pairs)
    ):
        # A bias that fits does not make a norm out of a linear layer.
        return None
    total = sum(float(cost[i, j]) for i, j in pairs)
    alone = [s for i, s in enumerate(reference) if i not in {i for i, _ in pairs}]
    spare = [s for j, s in enumerate(port) if j not in {j for _, j in pairs}]
    total += sum(MISSING.get(s.role, 0.8) for s in (*alone, *spare))
    drafts = [
        Draft(port[j].name, (reference[i].name,), conversions(reference[i], port[j]))
        for i, j in sorted(pairs, key=lambda p: p[1])
    ]
    return Pairing(
        tuple(drafts),
        total,
        {s.name: _lacks("port", s) for s in alone},
        {s.name: _lacks("reference", s) for s in spare},
    )


def _differ(one: Slot, other: Slot) -> float:
    """How unlike the last words of two names are, 0 to 1."""
    first, second = (set(words(s.parameter.role or s.name)) for s in (one, other))
    if not first and not second:
        return 0.0
    return 1.0 - len(first & second) / len(first | second)


def _lacks(side: str, slot: Slot) -> str:
    """Why a parameter inside a paired layer is left alone."""
    return f"the layer paired with it on the {side}'s side has no such {slot.role}"
