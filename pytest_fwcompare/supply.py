"""The weights that both sides run with: drawn, mapped, and loaded where they are not yet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pytest_fwcompare.backends.base import Array, Precision
from pytest_fwcompare.building import check_held
from pytest_fwcompare.formats import format_of
from pytest_fwcompare.inputs.examples import Example
from pytest_fwcompare.judge.distances import representable
from pytest_fwcompare.sides import Opened
from pytest_fwcompare.weights.mapping import Mapping as WeightMapping
from pytest_fwcompare.weights.randomise import randomise

MOST_KEPT = 20_000_000
"""Randomised weights that are kept for other examples; those of large networks are drawn anew."""


class Supply:
    """Gives each side its weights before it runs.

    Args:
        reference, port: the opened sides.
        mapping: how the reference's weights become the port's; None: each keeps its own.
        shared: False if both sides keep the weights they came with.
        dtype: working dtype.
    """

    def __init__(
        self,
        reference: Opened,
        port: Opened,
        mapping: WeightMapping | None,
        *,
        shared: bool,
        dtype: str,
    ) -> None:
        self.reference, self.port = reference, port
        self.mapping, self.shared, self.dtype = mapping, shared, dtype
        self.reference_parameters = {p.name: p for p in reference.side.parameters()}
        self.port_parameters = {p.name: p for p in port.side.parameters()}
        self.given = {
            name: representable(value.astype(np.float64), dtype)
            for name, value in reference.side.read().items()
        }
        self._loaded: dict[tuple[str, str], object] = {}
        self._copied = False
        self._randomised: dict[int, dict[str, Array]] = {}
        self._mapped: tuple[dict[str, Array], dict[str, Array]] | None = None

    def weights(self, example: Example) -> tuple[dict[str, Array] | None, object]:
        """The reference's weights in an example, exact in the working dtype, and their key."""
        if not self.shared:
            return None, "own"
        if example.weights == "given":
            return self.given, "given"
        seed = example.weights_seed
        if seed not in self._randomised:
            values = randomise(
                list(self.reference_parameters.values()),
                self.given,
                seed,
                framework=self.reference.side.library,
            )
            if len(self._randomised) * sum(v.size for v in values.values()) > MOST_KEPT:
                self._randomised.clear()
            self._randomised[seed] = {
                name: representable(value, self.dtype) for name, value in values.items()
            }
        return self._randomised[seed], ("randomised", seed)

    def load(
        self, role: str, weights: dict[str, Array] | None, key: object, at: Precision
    ) -> None:
        """Load weights into a side, unless it has them.

        Args:
            role: "reference" or "port".
            weights: by the reference's parameter name; None: the side keeps its own.
            key: names the weights.
            at: the precision of the run to come.
        """
        if weights is None or self._loaded.get((role, at)) is key:
            return
        if self._loaded.get((role, at)) == key:
            return
        if role == "reference":
            self.reference.side.load(weights, at)
        elif self.mapping is not None:
            if self._mapped is None or self._mapped[0] is not weights:
                self._mapped = weights, self.mapping.port_values(weights)
            self.port.side.load(self._mapped[1], at)
            if at == "working" and not self._copied:
                # A model of another dtype than the working one is left alone; a twin was written.
                stored = format_of(self.dtype).stored
                own = {n for n, p in self.port_parameters.items() if p.dtype == stored}
                written = {n: v for n, v in self._mapped[1].items() if n in own}
                check_held("port", self.port.side.read(), written)
                self._copied = True
        self._loaded[role, at] = key

    def mark_loaded(self, role: str, at: Precision, key: object) -> None:
        """Say that somebody else loaded weights into a side."""
        self._loaded[role, at] = key

    def forget_loaded(self) -> None:
        """Load weights anew before the next run (somebody else changed them)."""
        self._loaded.clear()

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the reference's parameters by name."""
        return {name: p.shape for name, p in self.reference_parameters.items()}
