"""Recurrent layers and attention in Keras."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from pytest_fwcompare.backends.keras import layers_algebra as algebra
from pytest_fwcompare.backends.keras.layers import Context, Native, Stored, makes
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.weights.transforms import (
    Blocks,
    Each,
    Identity,
    Reshape,
    Stack,
    Transform,
)


def _cell(layer: described.Recurrent, options: dict[str, Any]) -> Any:
    """The Keras layer of a cell."""
    shared = {
        # TensorFlow has no orthogonal matrices in bfloat16, and they are filled anyhow.
        "recurrent_initializer": "glorot_uniform",
        "units": layer.units,
        "use_bias": layer.use_bias,
        "return_sequences": layer.return_sequences,
        "go_backwards": layer.reverse,
    } | options
    if isinstance(layer, described.SimpleRNN):
        return keras.layers.SimpleRNN(activation=layer.activation, **shared)
    if isinstance(layer, described.GRU):
        return keras.layers.GRU(reset_after=layer.reset == "after", **shared)
    return keras.layers.LSTM(**shared)


def _cell_stored(layer: described.Recurrent, made: Any, prefix: str = "") -> list[Stored]:
    """Keras orders the gates of a GRU update, reset, new, and stacks its two biases."""
    order: Transform = Blocks((1, 0, 2)) if isinstance(layer, described.GRU) else Identity()
    cell = made.cell
    found: list[Stored] = [
        (cell.kernel, (f"{prefix}kernel",), order),
        (cell.recurrent_kernel, (f"{prefix}recurrent_kernel",), order),
    ]
    if not layer.use_bias:
        return found
    if isinstance(layer, described.GRU) and layer.reset == "after":
        names = (f"{prefix}bias", f"{prefix}recurrent_bias")
        return [*found, (cell.bias, names, Each(order, Stack(0)))]
    return [*found, (cell.bias, (f"{prefix}bias",), order)]


@makes(described.SimpleRNN, described.LSTM, described.GRU)
def _recurrent(layer: described.Recurrent, to: Context) -> Native:
    made = _cell(layer, to.common)
    chain: tuple[Any, ...] = (made,)
    if layer.reverse and layer.return_sequences:
        chain += (algebra.ReverseTime(**to.helper("in_order")),)
    return Native(chain, lambda: _cell_stored(layer, made))


@makes(described.Bidirectional)
def _bidirectional(layer: described.Bidirectional, to: Context) -> Native:
    merges = {"concatenate": "concat", "sum": "sum", "average": "ave", "multiply": "mul"}
    inner = _cell(layer.layer, to.common)
    made = keras.layers.Bidirectional(inner, merge_mode=merges[layer.merge], **to.common)

    def stored() -> list[Stored]:
        return [
            *_cell_stored(layer.layer, made.forward_layer, "forward."),
            *_cell_stored(layer.layer, made.backward_layer, "backward."),
        ]

    return Native((made,), stored)


@makes(described.MultiHeadAttention)
def _attention(layer: described.MultiHeadAttention, to: Context) -> Native:
    kind = keras.layers.MultiHeadAttention
    if "mask" in to.keywords:
        kind = algebra.EmptyRowAttention
    made = kind(layer.heads, layer.size, use_bias=layer.use_bias, **to.common)
    combine = algebra.AttentionMask(layer.causal, **to.helper("mask"))

    def call(inputs: list[Any], keywords: dict[str, Any]) -> Any:
        query, memory = inputs[0], inputs[-1]
        mask = keywords.get("mask")
        if mask is None:
            return made(query, memory, use_causal_mask=layer.causal)
        return made(query, memory, attention_mask=combine(mask, query))

    def stored() -> list[Stored]:
        parts = {
            "query": made.query_dense,
            "key": made.key_dense,
            "value": made.value_dense,
            "output": made.output_dense,
        }
        found: list[Stored] = []
        for name in to.specs:
            part, _, role = name.partition("_")
            variable = getattr(parts[part], role)
            found.append((variable, (name,), Reshape(tuple(variable.shape))))
        return found

    return Native((made,), stored, call, _scale_notices(layer))


def _scale_notices(layer: described.MultiHeadAttention) -> tuple[str, ...]:
    scale = 1 / math.sqrt(layer.size)
    rounded = float(np.float32(scale))
    if rounded == scale:
        return ()
    return (
        f"{layer.label}: Keras' attention rounds its scale to float32 on TensorFlow: "
        f"{rounded!r} for {scale!r}",
    )
