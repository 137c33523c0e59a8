"""The weights that both sides run with: drawn, mapped, and loaded where they are not yet.

Those of a large network are nowhere held for longer than it takes to load them: they are drawn
again from their seed, one parameter at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from pytest_fwcompare.backends.base import Array, Precision
from pytest_fwcompare.building import check_held
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.judge.distances import representable
from pytest_fwcompare.judge.verdict import moved, nudged
from pytest_fwcompare.running.arrays import Lazy, give_back, is_large
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.weights.mapping import Mapping as WeightMapping
from pytest_fwcompare.weights.randomise import Randomiser

Weights = Mapping[str, Array]


class Source:
    """The reference's weights: those it came with, and random ones.

    Args:
        reference: the opened side, with the weights it came with.
        dtype: working dtype.

    Attributes:
        parameters: of the reference by name.
        shapes: of them.
        large: so many that arrays of them are made when needed and not kept.
        given: the weights that the reference came with, in float64.
    """

    def __init__(self, reference: Opened, dtype: str) -> None:
        self.side, self.dtype = reference.side, dtype
        self.parameters = {p.name: p for p in self.side.parameters()}
        self._places = {name: place for place, name in enumerate(self.parameters)}
        self.shapes = {name: p.shape for name, p in self.parameters.items()}
        self.large = is_large(self.shapes.values())
        self._read: Weights = {} if self._kept_by_side() else self.side.read()
        self.given = Lazy(
            self.parameters, lambda name: self._own(name).astype(np.float64), keep=not self.large
        )
        self._randomiser: Randomiser | None = None
        self._randomised: dict[int, Weights] = {}

    def _kept_by_side(self) -> bool:
        """Whether the side itself can tell later what it came with; only a large one is asked."""
        return self.large and all(self.side.original(n) is not None for n in self.parameters)

    def _own(self, name: str) -> Array:
        """A weight that the reference came with, in its own dtype."""
        if name in self._read:
            return self._read[name]
        value = self.side.original(name)
        assert value is not None
        return value

    def of(self, example: Example) -> tuple[Weights, object]:
        """The weights of an example, exact in the working dtype, and their key."""
        if example.weights == "given":
            return self.given, "given"
        seed = example.weights_seed
        if seed not in self._randomised:
            self._randomised[seed] = Lazy(
                self.parameters, lambda name: self._draw(name, seed), keep=not self.large
            )
        return self._randomised[seed], ("randomised", seed)

    def _draw(self, name: str, seed: int) -> Array:
        kept = self.side.drawn(name, seed)
        if kept is not None:
            return representable(kept.astype(np.float64), self.dtype)
        if self._randomiser is None:
            self._randomiser = Randomiser(
                list(self.parameters.values()), framework=self.side.library
            )
        current = self._own(name) if self.large else self.given[name]
        return representable(self._randomiser.draw(name, current, seed), self.dtype)

    def near(self, weights: Weights, size: float, seeds: list[int]) -> Weights:
        """Weights moved by a hair, exact in the working dtype; buffers stay.

        Args:
            weights: to be moved.
            size: of the move, relative to each tensor's own scale.
            seeds: of the move.
        """

        def make(name: str) -> Array:
            if not self.parameters[name].trainable:
                return weights[name]
            return representable(nudged(weights[name], size, self._rng(name, seeds)), self.dtype)

        return Lazy(weights, make, keep=not self.large)

    def shaken(self, weights: Weights, seeds: list[int]) -> Weights:
        """Weights moved by at most half a unit in the last place of the working dtype."""
        return Lazy(
            weights,
            lambda name: moved(weights[name], self.dtype, self._rng(name, seeds)),
            keep=False,
        )

    def _rng(self, name: str, seeds: list[int]) -> np.random.Generator:
        return np.random.default_rng([*seeds, self._places[name]])


class Own:
    """What the port came with: a mapping that leaves a parameter alone runs with that.

    Several mappings are tried on one port, and one of them may have written what the next leaves
    alone: the values of a wrong pair would speak for the one that follows it.

    Args:
        port: the opened side, with the weights it came with.
    """

    def __init__(self, port: Opened) -> None:
        self._side = port.side
        parameters = self._side.parameters()
        large = is_large(p.shape for p in parameters)
        # A large network is read by those sides only that keep what they came with anyway.
        self._read: Weights = {} if large else self._side.read()
        self._written: set[str] = set()

    def beside(self, made: Weights, left: Iterable[str]) -> Weights:
        """The weights to load, and those that must be put back with them.

        Args:
            made: new values by name.
            left: names of parameters that get none.
        """
        back = {n: v for n in left if n in self._written and (v := self._value(n)) is not None}
        self._written.update(made)
        if not back:
            return made
        return Lazy([*made, *back], lambda n: back[n] if n in back else made[n], keep=False)

    def _value(self, name: str) -> Array | None:
        return self._read[name] if self._read else self._side.original(name)


OWN = "own"
"""Key of the weights that a side came with."""


class Supply:
    """Gives each side its weights before it runs.

    Args:
        reference, port: the opened sides.
        source: of the reference's weights.
        mapping: how the reference's weights become the port's; None: each keeps its own.
        shared: False if both sides keep the weights they came with.
        own: what the port came with, where several mappings are tried on it.
    """

    def __init__(
        self,
        reference: Opened,
        port: Opened,
        source: Source,
        mapping: WeightMapping | None,
        *,
        shared: bool,
        own: Own | None = None,
    ) -> None:
        self.reference, self.port, self.source = reference, port, source
        self.own = own
        self.mapping, self.shared = mapping, shared
        self.port_parameters = {p.name: p for p in port.side.parameters()}
        self.large = source.large or is_large(p.shape for p in self.port_parameters.values())
        self._loaded: dict[tuple[str, str], object] = {}
        # Sides that keep their own weights and hold moved ones for now.
        self._moved: set[tuple[str, str]] = set()
        self._copied = False
        self._mapped: tuple[Weights, Weights] | None = None

    def weights(self, example: Example) -> tuple[Weights | None, object]:
        """The reference's weights in an example, exact in the working dtype, and their key."""
        return self.source.of(example) if self.shared else (None, OWN)

    def load(self, role: str, weights: Weights | None, key: object, at: Precision) -> None:
        """Load weights into a side, unless it has them.

        Args:
            role: "reference" or "port".
            weights: by the reference's parameter name; None: the side keeps its own.
            key: names the weights.
            at: the precision of the run to come.
        """
        if weights is None:
            if (role, at) not in self._moved:
                return
            weights, key = self.source.given, OWN
        if self._loaded.get((role, at)) is key:
            return
        if self._loaded.get((role, at)) == key:
            return
        if self.large:
            self._make_room(role, at)
        if role == "reference":
            self.reference.side.load(weights, at)
        elif self.mapping is not None:
            made = self.of_port(weights)
            if self.own is not None:
                made = self.own.beside(made, self.mapping.unmatched_port)
            self.port.side.load(made, at)
            if at == "working" and not self._copied:
                self._check_copied(made)
                self._copied = True
        self._loaded[role, at] = key
        if not self.shared:
            (self._moved.discard if key is OWN else self._moved.add)((role, at))

    def of_port(self, weights: Weights) -> Weights:
        """The port's weights made from the reference's."""
        assert self.mapping is not None
        if self._mapped is None or self._mapped[0] is not weights:
            links = {link.port: link for link in self.mapping.links}
            made = Lazy(links, lambda name: links[name].value(weights), keep=not self.large)
            self._mapped = weights, made
        return self._mapped[1]

    def _check_copied(self, written: Weights) -> None:
        """Make sure, bit for bit, that the port holds what was written to it."""
        # A model of another dtype than the working one is left alone; a twin was written.
        own = [n for n in written if self.port_parameters[n].dtype == self.source.dtype]
        side = self.port.side
        held = Lazy(own, side.value, keep=False) if self.large else side.read()
        check_held("port", held, Lazy(own, written.__getitem__, keep=False))

    def _make_room(self, role: str, at: Precision) -> None:
        """One float64 shadow of a large network at a time."""
        if at == "double":
            other = "port" if role == "reference" else "reference"
            (self.port if other == "port" else self.reference).side.release(at)
            self._loaded.pop((other, at), None)
        give_back()

    def tidy(self) -> None:
        """Leave no room to a pass of a large network that is over."""
        if self.large:
            give_back()

    def mark_loaded(self, role: str, at: Precision, key: object) -> None:
        """Say that somebody else loaded weights into a side."""
        self._loaded[role, at] = key

    def forget_loaded(self) -> None:
        """Load weights anew before the next run (somebody else changed them)."""
        self._loaded.clear()
