"""Recurrent cells that keep their kernels otherwise than documented.

Many cells multiply input and state joined end to end, [x; h], by one kernel; some have such a
kernel for every gate, some for a few. No name tells the order of the gates in it, nor which of
input and state comes first: every order is an option, and the values decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

from pytest_fwcompare.weights.blocks import Draft, Pairing, by_atoms, chain
from pytest_fwcompare.weights.conventions import Atoms, Slot, turned
from pytest_fwcompare.weights.conversions import UNORDERED
from pytest_fwcompare.weights.recurrent import GATES, labels
from pytest_fwcompare.weights.transforms import Concatenate, Parallel, Slice, Transform, invert
from pytest_fwcompare.weights.trees import Unit

USUAL = {"lstm": ("ifgo", "igfo", "ifog", "figo", "fiog", "fgio"), "gru": ("rzn", "zrn")}
"""Orders of gates that libraries and textbooks use, to be tried first; g is the new content."""

JOINED_COST = 0.3
"""Cost of a pairing of kernels that lie otherwise than documented."""


@dataclass(frozen=True)
class Apart:
    """A cell whose kernels for input and state are apart.

    Attributes:
        slots: with what each block along axis 0 holds.
        gates: a letter each.
        usual: orders of the gates, those to be tried first.
        inner, hidden: sizes of input and state.
    """

    slots: tuple[tuple[Slot, Atoms], ...]
    gates: str
    usual: tuple[str, ...]
    inner: int
    hidden: int


@dataclass(frozen=True)
class Layout:
    """One way to read the kernels of the other side.

    Attributes:
        gates: in their order, first those of the kernels that take input and state joined.
        input_first: [x; h], not [h; x].
        kernels, biases: so turned that axis 0 holds the gates.
    """

    gates: str
    input_first: bool
    kernels: tuple[Slot, ...]
    biases: tuple[Slot, ...]

    @property
    def told(self) -> str:
        """In words."""
        order = "[input; state]" if self.input_first else "[state; input]"
        gates = f", gates {' '.join(self.gates)}" if len(self.gates) > 1 else ""
        return f"{order}{gates}: {UNORDERED}"


def pair_cell(reference: Sequence[Unit], port: Sequence[Unit]) -> Pairing | None:
    """Pair a cell whose kernels for input and state are apart with one that joins them.

    Args:
        reference: units of the reference.
        port: units of the port; those of one side hold a joined kernel at least.

    Returns:
        None if neither side is such a cell, or sizes do not fit.
    """
    for cells, others, forwards in ((reference, port, True), (port, reference, False)):
        joined = [slot for unit in others for slot in unit.slots]
        if any(unit.cell for unit in others):
            continue
        for apart in read_apart(cells):
            made = [_paired(apart, layout, forwards) for layout in layouts_of(apart, joined)]
            if any(made):
                # One answer for all cells of a kind: who wrote them wrote them alike.
                kernels = "joined kernels"
                return _with_options(made, f"order of parts in {kernels}")
    return None


# Reading both sides ----------------------------------------------------------------------------


def read_apart(units: Sequence[Unit]) -> Iterator[Apart]:
    """A documented cell; or two kernels of equal height with their biases, whatever they are."""
    if len(units) == 1 and units[0].cell:
        yield from _documented(units[0])
        return
    slots = [slot for unit in units for slot in unit.slots]
    biases = [slot for slot in slots if len(slot.shape) == 1]
    kernels = [slot for slot in slots if len(slot.shape) == 2]
    if len(kernels) != 2 or len(biases) > 2 or len(kernels) + len(biases) < len(slots):
        return
    for one, other in product(*({s.steps: s for s in (k, turned(k))}.values() for k in kernels)):
        rows = one.shape[0]
        if rows != other.shape[0] or any(bias.shape != (rows,) for bias in biases):
            continue
        for hidden in dict.fromkeys((other.shape[1], rows)):
            if rows not in (hidden, 3 * hidden, 4 * hidden):
                continue
            gates = "1234"[: rows // hidden]
            prefixes = [["x"], ["h"], *([["bx", "bh"]] if len(biases) == 1 else [["bx"], ["bh"]])]
            held = tuple(
                (slot, labels(prefix, gates))
                for slot, prefix in zip((one, other, *biases), prefixes, strict=False)
            )
            yield Apart(held, gates, (gates,), one.shape[1], hidden)


def _documented(unit: Unit) -> Iterator[Apart]:
    """A cell of a class that documents its layout."""
    sizes: dict[str, int] = {}
    for slot in unit.slots:
        first = min(slot.atoms[0]) if slot.atoms else ""
        if slot.role == "kernel" and first[:1] in ("x", "h") and len(slot.shape) == 2:
            sizes[first[0]] = slot.shape[1]
            sizes["gate"] = slot.shape[0] // len(slot.atoms)
        elif slot.role == "kernel":
            return  # a projection of the state
    if sizes.keys() == {"x", "h", "gate"} and sizes["h"] == sizes["gate"]:
        held = tuple((slot, slot.atoms) for slot in unit.slots)
        usual = USUAL.get(unit.cell, ())
        yield Apart(held, GATES[unit.cell], usual, sizes["x"], sizes["h"])


def layouts_of(apart: Apart, slots: Sequence[Slot]) -> Iterator[Layout]:
    """Ways in which other parameters may hold the same cell, the likeliest first."""
    given = [slot for slot in slots if len(slot.shape) == 2]
    biases = tuple(slot for slot in slots if len(slot.shape) == 1)
    if len(given) + len(biases) < len(slots):
        return
    both = apart.inner + apart.hidden
    widths = {both, apart.inner, apart.hidden}
    ways = [
        [s for s in {s.steps: s for s in (k, turned(k))}.values() if _fits(s, widths, apart)]
        for k in given
    ]
    for kernels in product(*ways):
        height = sum(slot.shape[0] for slot in kernels if slot.shape[1] == both)
        rest = [[s for s in kernels if s.shape[1] == width] for width in sorted(widths - {both})]
        alone = len(apart.gates) * apart.hidden - height
        if not height or alone < 0 or any(sum(s.shape[0] for s in r) != alone for r in rest):
            continue
        if alone and apart.inner == apart.hidden:
            continue  # nothing tells which of them takes the input
        for input_first in (True, False):
            for gates in _orders(apart):
                layout = Layout(gates, input_first, kernels, biases)
                if len(biases) in (0, len(kernels)) or len(_blocks(apart, layout)) == 1:
                    yield layout


def _fits(slot: Slot, widths: set[int], apart: Apart) -> bool:
    return slot.shape[1] in widths and slot.shape[0] % apart.hidden == 0


def _orders(apart: Apart) -> Iterator[str]:
    """All orders of the gates, the usual ones first."""
    yield from apart.usual
    for order in permutations(apart.gates):
        if "".join(order) not in apart.usual:
            yield "".join(order)


def _blocks(apart: Apart, layout: Layout) -> list[tuple[Slot, str, str]]:
    """Each kernel with what it takes, "xh", "x" or "h", and the gates that it holds, in order."""
    found = []
    both = apart.inner + apart.hidden
    height = sum(slot.shape[0] for slot in layout.kernels if slot.shape[1] == both)
    place = {"xh": 0, "x": height // apart.hidden, "h": height // apart.hidden}
    for slot in layout.kernels:
        takes = "xh" if slot.shape[1] == both else "x" if slot.shape[1] == apart.inner else "h"
        count = slot.shape[0] // apart.hidden
        found.append((slot, takes, layout.gates[place[takes] : place[takes] + count]))
        place[takes] += count
    return found


# Pairing them ----------------------------------------------------------------------------------


def _paired(apart: Apart, layout: Layout, forwards: bool) -> Pairing | None:
    """The pairing that one layout gives."""
    pieces: list[tuple[Slot, Atoms]] = []
    blocks = _blocks(apart, layout)
    order = "xh" if layout.input_first else "hx"
    for kernel, takes, gates in blocks:
        start = 0
        for part in order if takes == "xh" else takes:
            size = apart.inner if part == "x" else apart.hidden
            piece = _piece(kernel, part, start, size, forwards) if takes == "xh" else kernel
            pieces.append((piece, labels([part], gates)))
            start += size
    for place, bias in enumerate(layout.biases):
        takes, gates = blocks[place][1:] if len(layout.biases) > 1 else ("xh", layout.gates)
        if bias.shape != (len(gates) * apart.hidden,):
            return None
        pieces.append((bias, labels([f"b{part}" for part in takes], gates)))
    if not forwards:
        return by_atoms(pieces, apart.slots, layout.told)
    found = by_atoms(apart.slots, pieces, layout.told)
    if found is None:
        return None
    made = {draft.port: draft for draft in found.drafts}
    drafts = []
    for kernel, takes, _ in blocks:
        names = [_name(kernel, part) for part in order] if takes == "xh" else [kernel.name]
        if any(name not in made for name in names):
            return None
        drafts.append(
            _joined(kernel, [made[name] for name in names]) if takes == "xh" else made[names[0]]
        )
    drafts += [made[bias.name] for bias in layout.biases if bias.name in made]
    return Pairing(tuple(drafts), found.cost, found.left_reference, found.left_port)


def _name(kernel: Slot, part: str) -> str:
    """Name of the part of a joined kernel that takes the input, or the state."""
    return f"{kernel.name}[{part}]"


def _piece(kernel: Slot, part: str, start: int, size: int, forwards: bool) -> Slot:
    """What a joined kernel has for the input, or for the state.

    As a target it is a parameter of its own, put together later; as a source it is cut out.
    """
    shape = (kernel.shape[0], size)
    if forwards:
        own = replace(kernel.parameter, name=_name(kernel, part), shape=shape)
        return replace(kernel, parameter=own, steps=chain([]), shape=shape)
    cut = chain([kernel.steps, Slice(start, start + size, 1)])
    return replace(kernel, steps=cut, shape=shape)


def _joined(kernel: Slot, parts: Sequence[Draft]) -> Draft:
    """The draft of a joined kernel from those of its parts."""
    counts = tuple(len(part.sources) for part in parts)
    steps = tuple(part.options[0][0] for part in parts)
    takes = () if set(counts) == {1} else counts
    combine: Transform = Concatenate(1)
    if any(step != chain([]) for step in steps) or takes:
        combine = Parallel(steps, combine, takes)
    made = chain([combine, invert(kernel.steps, kernel.native)])
    sources = tuple(name for part in parts for name in part.sources)
    return Draft(kernel.name, sources, ((made, parts[0].options[0][1]),))


def _with_options(made: Sequence[Pairing | None], question: str) -> Pairing:
    """The first pairing, its drafts with what the others make of them as further options."""
    first, *others = [pairing for pairing in made if pairing is not None]
    drafts = []
    for place, draft in enumerate(first.drafts):
        same = [draft, *(pairing.drafts[place] for pairing in others)]
        if len({(some.sources, some.options[0][0]) for some in same}) == 1:
            drafts.append(draft)
            continue
        options = tuple(some.options[0] for some in same)
        sources = tuple(some.sources for some in same)
        drafts.append(replace(draft, options=options, layout=question, sources_by_option=sources))
    return replace(first, drafts=tuple(drafts), cost=first.cost + JOINED_COST)
