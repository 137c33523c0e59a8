"""Parameters of two trained models paired by the values they hold.

Where both sides keep their own weights, nothing has to be guessed: the port's kernel is the one of
the reference that has its values, in some order of axes. Vectors that many layers share (zeros,
ones) say nothing by themselves; they go with the kernel of their layer, or stay unpaired.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingLike
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import permutations

import numpy as np

from pytest_fwcompare.backends.base import Array, Parameter
from pytest_fwcompare.weights.mapping import Link, Mapping
from pytest_fwcompare.weights.transforms import Chain, Identity, Reshape, Transform, Transpose

EQUAL = 1e-6
"""Difference, of the largest value, up to which two values count as copies of each other."""

MOST_AXES = 5
"""Kernels of more axes are only compared as they are."""


def pair_by_values(
    mapping: Mapping,
    reference: Sequence[Parameter],
    port: Sequence[Parameter],
    ours: MappingLike[str, Array],
    theirs: MappingLike[str, Array],
) -> Mapping:
    """The pairs that the values bear out.

    Args:
        mapping: the best guess from names and shapes; empty if there is none.
        reference: its parameters.
        port: its parameters.
        ours: the reference's values by name.
        theirs: the port's.

    Returns:
        A mapping of which every link holds for these values, and no other pair holds as well.
    """
    held = [link for link in mapping.links if holds(link, ours, theirs)]
    telling = Telling(ours, theirs)
    links = {link.port: link for link in held if telling.alone(link)}
    found = Pairs(reference, port, ours, theirs, links)
    found.add_kernels()
    found.add_of_paired_layers({link.port: link for link in held})
    taken = {name for link in links.values() for name in link.sources}
    guessed = {link.port: link.sources for link in mapping.links}
    return Mapping(
        tuple(links[p.name] for p in port if p.name in links),
        {p.name: "nothing in the port has its values" for p in reference if p.name not in taken},
        {p.name: _why(guessed.get(p.name, ())) for p in port if p.name not in links},
        mapping.notices,
    )


def _why(sources: Sequence[str]) -> str:
    said = "no parameter of the reference alone has its values"
    if sources:
        said = f"its values are not those of {' and '.join(sources)}, or not of that one alone"
    return f"{said}: gradients not paired"


def holds(link: Link, ours: MappingLike[str, Array], theirs: MappingLike[str, Array]) -> bool:
    """Whether the port's value is what the link makes of the reference's."""
    made = link.transform.apply(*(np.asarray(ours[name]) for name in link.sources))
    return equal(made, theirs[link.port])


def equal(one: Array, other: Array) -> bool:
    """Whether two arrays of one shape are copies, but for a rounding."""
    if one.shape != other.shape:
        return False
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    scale = float(np.abs(other).max(initial=0.0)) or 1.0
    return float(np.abs(one - other).max(initial=0.0)) <= EQUAL * scale


class Telling:
    """Which values occur once on each side, in whatever order of axes."""

    def __init__(self, ours: MappingLike[str, Array], theirs: MappingLike[str, Array]) -> None:
        self.ours = {name: Summary.of(value) for name, value in ours.items()}
        self.theirs = {name: Summary.of(value) for name, value in theirs.items()}

    def alike(self, side: MappingLike[str, Summary], one: Summary) -> list[str]:
        """Names whose values are the same numbers, as far as a few sums tell."""
        return [name for name, other in side.items() if one.is_like(other)]

    def alone(self, link: Link) -> bool:
        """Whether no other parameter holds what a link takes or fills."""
        mine = self.theirs[link.port]
        if mine.size > 1 and mine.low == mine.high:
            return False  # zeros or ones, of which the next model has more
        return self.alike(self.theirs, mine) == [link.port] and all(
            len(self.alike(self.ours, self.ours[name])) == 1 for name in link.sources
        )


@dataclass(frozen=True)
class Summary:
    """What stays of an array whatever the order of its elements."""

    size: int
    low: float
    high: float
    mean: float
    square: float

    @classmethod
    def of(cls, value: Array) -> Summary:
        """Extremes, mean and root mean square."""
        if not value.size:
            return cls(0, 0.0, 0.0, 0.0, 0.0)
        square = float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))
        ends = float(value.min()), float(value.max())
        return cls(value.size, *ends, float(value.mean(dtype=np.float64)), square)

    def is_like(self, other: Summary) -> bool:
        """Whether both may be the same numbers, but for a rounding."""
        if self.size != other.size:
            return False
        limit = EQUAL * (max(abs(self.low), abs(self.high)) or 1.0)
        mine, theirs = astuple(self)[1:], astuple(other)[1:]
        return all(abs(a - b) <= limit for a, b in zip(mine, theirs, strict=True))


class Pairs:
    """Links found so far, and how more are found.

    Args:
        reference, port: the parameters of both sides.
        ours, theirs: their values by name.
        links: by the port's name; added to.
    """

    def __init__(
        self,
        reference: Sequence[Parameter],
        port: Sequence[Parameter],
        ours: MappingLike[str, Array],
        theirs: MappingLike[str, Array],
        links: dict[str, Link],
    ) -> None:
        self.reference, self.port = reference, port
        self.ours, self.theirs, self.links = ours, theirs, links
        self.telling = Telling(ours, theirs)

    def add_kernels(self) -> None:
        """Pair what holds the same numbers as one parameter of the other side alone."""
        taken = {name for link in self.links.values() for name in link.sources}
        for parameter in self.port:
            name = parameter.name
            if name in self.links:
                continue
            sources = self.telling.alike(self.telling.ours, self.telling.theirs[name])
            if len(sources) != 1 or sources[0] in taken:
                continue
            transform = rearranged(self.ours[sources[0]], self.theirs[name])
            link = None
            if transform is not None:
                link = Link(name, (sources[0],), transform, "it holds the same values")
            if link is not None and self.telling.alone(link):
                self.links[name] = link
                taken.add(sources[0])

    def add_of_paired_layers(self, held: MappingLike[str, Link]) -> None:
        """Pair what holds common values (zeros) if its layer is paired by another parameter."""
        ours = {p.name: p.layer for p in self.reference}
        theirs = {p.name: p.layer for p in self.port}
        paired = {
            (ours[source], theirs[link.port])
            for link in self.links.values()
            for source in link.sources
            if ours[source] and theirs[link.port]
        }
        for name, link in held.items():
            if name in self.links:
                continue
            if all((ours[source], theirs[name]) in paired for source in link.sources):
                self.links[name] = link


def rearranged(source: Array, target: Array) -> Transform | None:
    """How the axes of one array become those of another that holds the same numbers."""
    if equal(source, target):
        return Identity()
    if source.ndim > MOST_AXES or source.size != target.size:
        return None
    for axes in permutations(range(source.ndim)):
        turned = source.transpose(axes)
        if turned.shape == target.shape and equal(turned, target):
            return Transpose(axes)
        if turned.shape != target.shape and equal(turned.reshape(target.shape), target):
            return Chain((Transpose(axes), Reshape(target.shape)))
    return None
