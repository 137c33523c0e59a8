"""A mapping: how every parameter of the port is made from parameters of the reference, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from collections.abc import Mapping as MappingLike
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from pytest_fwcompare.errors import MappingError
from pytest_fwcompare.records import WeightRow
from pytest_fwcompare.weights.transforms import (
    Chain,
    Each,
    Identity,
    Parallel,
    Transform,
)

Array = np.ndarray


@dataclass(frozen=True)
class Link:
    """How one parameter of the port is made.

    Attributes:
        port: its name.
        sources: names of the reference's parameters, in the order the transform takes them.
        transform: linear map from their arrays to the port's.
        reason: why this pair, in a few words.
    """

    port: str
    sources: tuple[str, ...]
    transform: Transform
    reason: str

    def value(self, reference_values: MappingLike[str, Array]) -> Array:
        """The port's parameter, made from values of the reference.

        Raises:
            MappingError: a value is missing, or does not fit the transform.
        """
        missing = [name for name in self.sources if name not in reference_values]
        if missing:
            raise MappingError(
                f"port parameter {self.port!r} is made from {missing[0]!r}, but the reference "
                f"gave no value of that name"
            )
        values = [np.asarray(reference_values[name]) for name in self.sources]
        try:
            return self.transform.apply(*values)
        except (ValueError, IndexError) as error:
            shapes = ", ".join(str(value.shape) for value in values)
            raise MappingError(
                f"port parameter {self.port!r}: {self.transform} does not fit "
                f"{' and '.join(self.sources)} of shape {shapes}: {error}"
            ) from None


@dataclass(frozen=True)
class Mapping:
    """How the port's parameters are filled from the reference's.

    Attributes:
        links: one for each parameter of the port that is filled, in the port's order.
        unmatched_reference: parameters of the reference that nothing in the port takes, with
            the reason.
        unmatched_port: parameters of the port that keep their own values, with the reason.
        notices: what the reader should know about how it was found.
    """

    links: tuple[Link, ...]
    unmatched_reference: MappingLike[str, str] = field(default_factory=dict)
    unmatched_port: MappingLike[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def port_values(self, reference_values: MappingLike[str, Array]) -> dict[str, Array]:
        """Arrays for the port, in the dtypes of the arrays given.

        Args:
            reference_values: by name, each in the reference's layout.

        Raises:
            MappingError: a value is missing, or does not fit its transform.
        """
        return {link.port: link.value(reference_values) for link in self.links}

    def pull_back(
        self,
        port_gradients: MappingLike[str, Array | None],
        reference_shapes: MappingLike[str, tuple[int, ...]],
    ) -> dict[str, Entries]:
        """Gradients of the port in the reference's layout, by the adjoints of the transforms.

        A parameter of the reference that is cut into disjoint pieces gets one entry put together
        from all of them; one that feeds several parameters of the port whole gets an entry for
        each, so that an untied copy shows as a wrong gradient.

        Args:
            port_gradients: by port name; None where nothing depends on the parameter.
            reference_shapes: by reference name.

        Returns:
            By reference name, entries (port names, gradient); the gradient is None where nothing
            in the port depends on any of those parameters.
        """
        made: dict[str, Entries] = {}
        rest: dict[str, Array | None] = {}
        for name, gradient in port_gradients.items():
            if (source := self._alike.get(name)) is not None:
                made[source] = [((name,), gradient)]
            else:
                rest[name] = gradient
        pulling = PullBack(self, rest, reference_shapes)
        for name, gradient in rest.items():
            made.update(pulling.take(name, gradient))
        made.update(pulling.rest())
        return {name: made[name] for name in self._sources if name in made}

    @cached_property
    def _sources(self) -> tuple[str, ...]:
        """The reference's parameters that are taken, in order."""
        return tuple(dict.fromkeys(name for link in self.links for name in link.sources))

    @cached_property
    def _alike(self) -> MappingLike[str, str]:
        """By port name, the reference's parameter that it is, where no other is made of that."""
        uses = Counter(name for link in self.links for name in link.sources)
        return {
            link.port: link.sources[0]
            for link in self.links
            if isinstance(link.transform, Identity) and uses[link.sources[0]] == 1
        }

    def rows(self) -> tuple[WeightRow, ...]:
        """The record of the mapping: every pair, then what is left on either side."""
        rows = [
            WeightRow(link.port, link.sources, repr(link.transform), link.reason)
            for link in self.links
        ]
        rows += [WeightRow(name, (), "", why) for name, why in self.unmatched_port.items()]
        rows += [WeightRow("", (name,), "", why) for name, why in self.unmatched_reference.items()]
        return tuple(rows)

    def code(self) -> str:
        """The mapping as Python code that can be pasted as `weights={...}`."""
        words: set[str] = set()
        lines = []
        for link in self.links:
            names = repr(link.sources[0]) if len(link.sources) == 1 else repr(link.sources)
            if isinstance(link.transform, Identity):
                lines.append(f"    {link.port!r}: {names},")
            else:
                lines.append(f"    {link.port!r}: ({names}, {link.transform!r}),")
                words |= class_names(link.transform)
        lines += [f"    # {name!r}: {why}" for name, why in self.unmatched_port.items()]
        lines += [
            f"    # not used: {name!r}: {why}" for name, why in self.unmatched_reference.items()
        ]
        head = []
        if "Gather" in words:
            head.append("import numpy")
        if words:
            head.append(
                f"from pytest_fwcompare.weights.transforms import {', '.join(sorted(words))}"
            )
        return "\n".join([*head, *([""] if head else []), "weights = {", *lines, "}"])


def class_names(transform: Transform) -> set[str]:
    """Class names that the code of a transform uses."""
    found = {type(transform).__name__}
    match transform:
        case Chain(steps):
            found.update(*(class_names(step) for step in steps))
        case Each(each, combine):
            found |= class_names(each) | class_names(combine)
        case Parallel(parts, combine):
            found |= class_names(combine)
            found.update(*(class_names(step) for step in parts))
    return found


Entries = list[tuple[tuple[str, ...], Array | None]]
"""Gradients of one parameter of the reference, each with the parameters of the port it is from."""


class PullBack:
    """`Mapping.pull_back` for gradients that come one at a time.

    Args:
        mapping: of the parameters.
        ports: names of the port's parameters whose gradients will come.
        shapes: of the reference's parameters by name.
    """

    def __init__(
        self,
        mapping: Mapping,
        ports: Container[str],
        shapes: MappingLike[str, tuple[int, ...]],
    ) -> None:
        self._shapes = shapes
        self._links = {link.port: link for link in mapping.links if link.port in ports}
        self._waiting: dict[str, int] = {}
        for link in self._links.values():
            for name in link.sources:
                self._waiting[name] = self._waiting.get(name, 0) + 1
        self._pieces: dict[str, list[_Piece]] = {}

    def take(self, port: str, gradient: Array | None) -> Iterator[tuple[str, Entries]]:
        """Take in one gradient; gives the parameters of the reference that are complete now."""
        link = self._links.get(port)
        if link is None or not link.sources:
            return
        shapes = [self._shapes[name] for name in link.sources]
        parts: Sequence[Array | None] = [None] * len(shapes)
        if gradient is not None:
            parts = link.transform.adjoint(np.asarray(gradient), *shapes)
        for place, (name, part) in enumerate(zip(link.sources, parts, strict=True)):
            self._waiting[name] -= 1
            if not self._waiting[name] and name not in self._pieces:
                yield name, [((port,), part)]
                continue
            self._pieces.setdefault(name, []).append(_Piece(link, place, part))
            if not self._waiting[name]:
                yield name, self._joined(name)

    def rest(self) -> Iterator[tuple[str, Entries]]:
        """What is left when no more gradients come."""
        for name in list(self._pieces):
            yield name, self._joined(name)

    def _joined(self, name: str) -> Entries:
        places = {port: place for place, port in enumerate(self._links)}
        found = sorted(self._pieces.pop(name), key=lambda piece: places[piece.link.port])
        return _join(found, name, self._shapes)


@dataclass(frozen=True)
class _Piece:
    """What one link says about the gradient of one of its sources."""

    link: Link
    place: int
    part: Array | None

    @property
    def may_be_partial(self) -> bool:
        return bool(class_names(self.link.transform) & {"Take", "Slice", "Assemble", "Gather"})

    def covered(self, shapes: list[tuple[int, ...]]) -> Array:
        """Which elements of the source the link takes."""
        transform = self.link.transform
        target = transform.apply(*(np.zeros(shape, np.float32) for shape in shapes))
        covered: Array = transform.adjoint(np.ones_like(target), *shapes)[self.place] != 0
        return covered


def _join(pieces: list[_Piece], name: str, shapes: MappingLike[str, tuple[int, ...]]) -> Entries:
    """Entries of one source: whole pieces apart, disjoint partial ones put together."""
    entries: Entries = []
    partial: list[tuple[list[str], Array, Array | None]] = []
    for piece in pieces:
        if len(pieces) == 1 or not piece.may_be_partial:
            entries.append(((piece.link.port,), piece.part))
            continue
        covered = piece.covered([shapes[source] for source in piece.link.sources])
        for place, (ports, taken, gradient) in enumerate(partial):
            if not (taken & covered).any():
                both = piece.part if gradient is None else gradient
                if gradient is not None and piece.part is not None:
                    both = gradient + piece.part
                partial[place] = ([*ports, piece.link.port], taken | covered, both)
                break
        else:
            partial.append(([piece.link.port], covered, piece.part))
    return entries + [(tuple(ports), gradient) for ports, _, gradient in partial]


Branches = tuple[tuple[tuple[str, ...], ...], ...]
"""Branches that begin at one tensor: of each its layers, of each layer its parameters."""


@dataclass(frozen=True)
class Frontier:
    """A place where what goes in is the same on both sides and what comes out is not yet.

    Attributes:
        core: names of the reference's parameters that the first value not found comes from.
        reference: these and others that take the same tensors.
        port: names of the port's that take them there.
        branches: of several layers each, beginning at one tensor; the first ends in the core.
    """

    core: tuple[str, ...]
    reference: tuple[str, ...]
    port: tuple[str, ...]
    branches: tuple[Branches, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """How well a candidate mapping explains the port, from one run of both float64 shadows.

    Attributes:
        found: fraction (0 to 1) of the reference's intermediate tensors whose value is found
            among the port's.
        gap: largest relative difference of an output (`inf` if the outputs cannot be compared).
        suspects: names of the reference's parameters from which the first tensor not found was
            computed directly; empty where that is unknown.
        frontiers: where pairs may be wrong, nearest to the first tensor not found.
    """

    found: float
    gap: float
    suspects: tuple[str, ...] = ()
    frontiers: tuple[Frontier, ...] = ()

    @property
    def settled(self) -> bool:
        """The outputs agree as far as float64 shadows with rounded constants do."""
        return self.gap < 1e-6

    def better_than(self, other: Evidence) -> bool:
        """Clearly more is explained: outputs agree, or more intermediates are found."""
        if self.settled != other.settled:
            return self.settled
        return not self.settled and self.found > other.found + 1e-9
