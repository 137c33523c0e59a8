"""Recurrent layers and attention as torch modules, features last."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from pytest_fwcompare.backends.torch.lowering import Lowered, Source, Use, lower, renamed
from pytest_fwcompare.networks import layers as described
from pytest_fwcompare.weights.transforms import Transpose

Merge = str
"""How directions are joined: "concatenate", "sum", "average" or "multiply"."""


class Folded(nn.Module):  # type: ignore[misc]
    """What the recurrent layers below share: one tensor out, and no bias that is there twice.

    torch adds two biases at the same place in its RNN and LSTM. Only their sum has a meaning, so
    the second is no parameter here, but a zero that is made for each call.
    """

    def fold(self, layer: described.Recurrent, merge: Merge | None) -> None:
        """Take over what the description says; drop the second bias where it is one too many."""
        self.sequences, self.backwards, self.merge = (
            layer.return_sequences,
            layer.reverse,
            merge or "",
        )
        self.single_bias = layer.use_bias and not isinstance(layer, described.GRU)
        if self.single_bias:
            for name in [name for name in self._parameters if name.startswith("bias_hh")]:
                del self._parameters[name]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.single_bias:
            self._flat_weights = [
                torch.zeros_like(getattr(self, name.replace("_hh_", "_ih_")))
                if name.startswith("bias_hh")
                else getattr(self, name)
                for name in self._flat_weights_names
            ]
        with warnings.catch_warnings():
            # cuDNN would like all weights in one piece of memory; a zero of its own is not.
            warnings.filterwarnings("ignore", "RNN module weights are not part of single")
            states, last = super().forward(x.flip(1) if self.backwards else x)
        last = last[0] if isinstance(last, tuple) else last
        if not self.sequences:
            return merged(last[0], last[1], self.merge) if self.merge else last[0]
        if self.merge:
            forward, backward = states.chunk(2, -1)
            return merged(forward, backward, self.merge)
        return states.flip(1) if self.backwards else states


def merged(forward: torch.Tensor, backward: torch.Tensor, merge: Merge) -> torch.Tensor:
    """Both directions joined."""
    if merge == "concatenate":
        return torch.cat([forward, backward], -1)
    if merge == "multiply":
        return forward * backward
    return (forward + backward) / (2 if merge == "average" else 1)


class RNN(Folded, nn.RNN):  # type: ignore[misc]
    """`torch.nn.RNN` with one bias and one output."""


class LSTM(Folded, nn.LSTM):  # type: ignore[misc]
    """`torch.nn.LSTM` with one bias and one output."""


class GRU(Folded, nn.GRU):  # type: ignore[misc]
    """`torch.nn.GRU` with one output."""


class ResetBeforeGRU(nn.Module):  # type: ignore[misc]
    """The GRU of Cho et al. 2014, which torch lacks: reset before the recurrent product."""

    def __init__(self, features: int, layer: described.GRU) -> None:
        super().__init__()
        units, spread = layer.units, layer.units**-0.5
        self.hidden_size, self.reset_after = units, False
        self.sequences, self.backwards = layer.return_sequences, layer.reverse
        self.weight_ih_l0 = nn.Parameter(
            torch.empty(3 * units, features).uniform_(-spread, spread)
        )
        self.weight_hh_l0 = nn.Parameter(torch.empty(3 * units, units).uniform_(-spread, spread))
        self.bias_ih_l0 = nn.Parameter(torch.zeros(3 * units)) if layer.use_bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        units = self.hidden_size
        gates = nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        state = x.new_zeros(x.shape[0], units)
        states = []
        steps = range(x.shape[1])
        for step in reversed(steps) if self.backwards else steps:
            both, new = gates[:, step].split([2 * units, units], -1)
            recurrent = nn.functional.linear(state, self.weight_hh_l0[: 2 * units])
            reset, update = torch.sigmoid(both + recurrent).chunk(2, -1)
            hidden = nn.functional.linear(reset * state, self.weight_hh_l0[2 * units :])
            state = (1 - update) * torch.tanh(new + hidden) + update * state
            states.append(state)
        if not self.sequences:
            return state
        return torch.stack(states[::-1] if self.backwards else states, 1)


class BothDirections(nn.Module):  # type: ignore[misc]
    """A cell that torch lacks, in both directions."""

    def __init__(self, forward_layer: nn.Module, backward_layer: nn.Module, merge: Merge) -> None:
        super().__init__()
        self.forward_layer, self.backward_layer, self.merge = forward_layer, backward_layer, merge

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return merged(self.forward_layer(x), self.backward_layer(x), self.merge)


def recurrent(layer: described.Recurrent, features: int, merge: Merge | None = None) -> nn.Module:
    """Torch's own recurrent layer, in one direction, or in two if they are merged."""
    options: dict[str, Any] = {
        "batch_first": True,
        "bias": layer.use_bias,
        "bidirectional": merge is not None,
    }
    module: Any
    if isinstance(layer, described.SimpleRNN):
        module = RNN(features, layer.units, nonlinearity=layer.activation, **options)
    else:
        kind = LSTM if isinstance(layer, described.LSTM) else GRU
        module = kind(features, layer.units, **options)
    module.fold(layer, merge)
    return module


def _sources(layer: described.Recurrent, suffix: str = "", prefix: str = "") -> tuple[Source, ...]:
    """Where the parameters of one direction go; gates lie in the same order everywhere."""
    turned = Transpose((1, 0))
    found: list[Source] = [
        (f"weight_ih_l0{suffix}", f"{prefix}kernel", turned),
        (f"weight_hh_l0{suffix}", f"{prefix}recurrent_kernel", turned),
    ]
    if layer.use_bias:
        found += renamed(**{f"bias_ih_l0{suffix}": f"{prefix}bias"})
        if isinstance(layer, described.GRU) and layer.reset == "after":
            found += renamed(**{f"bias_hh_l0{suffix}": f"{prefix}recurrent_bias"})
    return tuple(found)


def _own_cell(layer: described.Recurrent) -> bool:
    """Whether torch lacks the cell."""
    return isinstance(layer, described.GRU) and layer.reset == "before"


@lower.register
def _(layer: described.Recurrent, use: Use) -> Lowered:
    if isinstance(layer, described.GRU) and _own_cell(layer):
        return Lowered(ResetBeforeGRU(use.features, layer), _sources(layer))
    return Lowered(recurrent(layer, use.features), _sources(layer))


@lower.register
def _(layer: described.Bidirectional, use: Use) -> Lowered:
    one = layer.layer
    if not _own_cell(one):
        sources = _sources(one, prefix="forward.") + _sources(one, "_reverse", "backward.")
        return Lowered(recurrent(one, use.features, layer.merge), sources)
    forward, backward = (
        ResetBeforeGRU(use.features, cell)
        for cell in layer.directions.values()
        if isinstance(cell, described.GRU)
    )
    named = tuple(
        (f"{prefix}_layer.{native}", f"{prefix}.{canonical}", transform)
        for prefix in layer.directions
        for native, canonical, transform in _sources(one)
    )
    return Lowered(BothDirections(forward, backward, layer.merge), named)


class MultiHeadAttention(nn.Module):  # type: ignore[misc]
    """Attention with heads of any size; `torch.nn.MultiheadAttention` splits its width evenly."""

    def __init__(self, features: int, memory: int, layer: described.MultiHeadAttention) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.causal = layer.heads, layer.size, layer.causal
        wide, bias = layer.heads * layer.size, layer.use_bias
        self.query = nn.Linear(features, wide, bias)
        self.key = nn.Linear(memory, wide, bias)
        self.value = nn.Linear(memory, wide, bias)
        self.output = nn.Linear(wide, features, bias)

    def forward(
        self,
        query: torch.Tensor,
        memory: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        memory = query if memory is None else memory
        q, k, v = (
            projection(value).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for projection, value in (
                (self.query, query),
                (self.key, memory),
                (self.value, memory),
            )
        )
        scores = q @ k.mT * self.head_dim**-0.5
        keep = self._keep(scores, mask)
        if keep is None:
            weights = scores.softmax(-1)
        else:
            # A row with nothing to attend to has weights of zero, not NaN.
            empty = ~keep.any(-1, keepdim=True)
            weights = scores.masked_fill(~(keep | empty), -torch.inf).softmax(-1)
            weights = weights.masked_fill(empty, 0.0)
        return self.output((weights @ v).transpose(1, 2).flatten(2))

    def _keep(self, scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
        """Where attention is allowed, broadcastable to scores (batch, heads, target, source)."""
        keep = None if mask is None else mask[:, None, None, :]
        if self.causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            keep = seen if keep is None else keep & seen
        return keep


@lower.register
def _(layer: described.MultiHeadAttention, use: Use) -> Lowered:
    memory = use.shapes[-1][-1]
    assert isinstance(memory, int)
    sources: list[Source] = []
    for name in ("query", "key", "value", "output"):
        sources.append((f"{name}.weight", f"{name}_kernel", Transpose((1, 0))))
        if layer.use_bias:
            sources += renamed(**{f"{name}.bias": f"{name}_bias"})
    return Lowered(MultiHeadAttention(use.features, memory, layer), tuple(sources))
