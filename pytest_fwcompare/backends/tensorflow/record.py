"""Intermediates of a float64 shadow, with the layers they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pytest_fwcompare.backends.base import Array, Recorded
from pytest_fwcompare.backends.tensorflow.shadow import COTANGENT, Shadow, Trace


class RecordingShadow(Shadow):
    """A shadow that can be run, and can hand out what it computed on the way.

    Args:
        names: parameter names by the identity of their variable's handle.
        paths: layer paths by name scope.
    """

    def __init__(
        self,
        trace: Trace,
        inputs: Sequence[str],
        double: Callable[[Any], Any],
        names: Mapping[int, str],
        paths: Mapping[str, str],
    ) -> None:
        super().__init__(trace, inputs, double)
        self.names, self.paths = names, paths

    def forward(self, values: Sequence[Any], *, backward: bool, record: bool) -> dict[str, Any]:
        """All fetched tensors of the forward half, by tensor name."""
        piece = self.forward_piece(backward=backward, record=record)
        return piece(dict(zip(piece.feeds, values, strict=True)))

    def backward(
        self, found: Mapping[str, Any], outputs: Mapping[str, Array], cotangents: Mapping[str, Any]
    ) -> tuple[dict[tuple[str, str], Array], dict[int, Array]]:
        """Gradients by ("input" or "parameter", name), and of the kept tensors by place."""
        import tensorflow as tf

        crossing = {name: found[name] for name in self.crossing()}
        given = {
            f"{place}:0": tf.constant(
                cotangents[name] if name in cotangents else np.zeros(outputs[name].shape),
                tf.float64,
            )
            for name, place in self.trace.float_outputs.items()
        }
        piece = self.backward_piece(crossing, given)
        results = piece({**crossing, **given})
        arrays = {key: results[name].numpy() for key, name in self.gradient_names.items()}
        kept = {key: results[name].numpy() for key, name in self.kept_gradient_names.items()}
        return arrays, kept

    def recorded(self, found: Mapping[str, Any], gradients: Mapping[int, Array]) -> list[Recorded]:
        """The kept tensors of a pass."""
        assert COTANGENT
        return []
