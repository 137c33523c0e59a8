"""Builds a described network as a torch module, in torch's own axis order.

torch has features before space in images and last in sequences. Each value of the graph is
therefore in one of two orders, canonical ("last") or torch's own ("first"), and is turned where a
reader needs the other one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import pytest_fwcompare.backends.torch.layers
import pytest_fwcompare.backends.torch.layers_norm
import pytest_fwcompare.backends.torch.layers_sequence
import pytest_fwcompare.backends.torch.layers_space  # noqa: F401  (they register lowerings)
from pytest_fwcompare.backends.base import Built, Placement
from pytest_fwcompare.backends.torch.lowering import Use, lower
from pytest_fwcompare.backends.torch.network import NetworkModule, Reading, Step
from pytest_fwcompare.backends.torch.twin import DTYPES
from pytest_fwcompare.formats import format_of
from pytest_fwcompare.networks import Network
from pytest_fwcompare.networks import layers as described

FIRST = (
    described.Conv,
    described.DepthwiseConv2D,
    described.SeparableConv2D,
    described.ConvTranspose,
    described.Pool,
    described.GlobalAveragePool,
    described.GlobalMaxPool,
    described.AdaptiveAveragePool,
    described.Upsample,
    described.Pad,
    described.BatchNorm,
    described.GroupNorm,
    described.InstanceNorm,
    described.PReLU,
)
"""Layers whose torch modules have features before space."""

EITHER = (described.Activation, described.Dropout, described.Add, described.Multiply)
"""Layers that work cell by cell, in any axis order."""

ALONG_AXIS = (described.Softmax, described.LogSoftmax, described.Concatenate, described.GLU)
"""Layers that take the axis as a number, so that one order must be settled for all their uses."""


def build(network: Network, *, dtype: str = "float32", device: str = "cpu") -> Built:
    """Build a described network.

    Args:
        network: the description.
        dtype: of parameters and float inputs.
        device: where the parameters live.

    Raises:
        UsageError: a layer that torch has no lowering for.
    """
    plan = _Plan(network)
    with torch.random.fork_rng([]):
        for step in network.nodes:
            plan.add(step)
    model = NetworkModule(
        plan.modules,
        tuple(network.inputs),
        tuple(plan.steps),
        {name: step.name for name, step in network.outputs.items()},
        network.structure,
    )
    model.to(device=torch.device(device), dtype=DTYPES[format_of(dtype).stored]).eval()
    return Built(
        model,
        tuple(plan.placements),
        {name: to_first(len(plan.shapes[name])) for name in network.inputs if plan.first[name]},
        {
            name: to_first(len(step.shape))
            for name, step in network.outputs.items()
            if plan.first[step.name]
        },
    )


class _Plan:
    """Walks the steps, makes the modules, and settles the axis order of every value."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.modules: dict[str, nn.Module] = {}
        self.steps: list[Step] = []
        self.placements: list[Placement] = []
        self.names: dict[str, str] = {}
        self.settled: dict[str, bool] = {}
        self.shapes: dict[str, Any] = {n: spec.shape for n, spec in network.inputs.items()}
        self.shapes.update({step.name: step.shape for step in network.nodes})
        wanted = _wanted(network)
        self.first: dict[str, bool] = {
            name: wanted[name] and len(self.shapes[name]) > 2 for name in network.inputs
        }

    def add(self, step: Any) -> None:
        """Add one use of a layer."""
        first = self._order(step)
        name = self._module(step, first)
        spatial = first and len(step.shape) > 2
        inputs = tuple(self._reading(value, first) for value in step.inputs)
        keywords = {key: self._reading(value, False) for key, value in step.keywords.items()}
        self.steps.append(Step(step.name, name, inputs, keywords))
        self.first[step.name] = spatial

    def _order(self, step: Any) -> bool:
        """Whether the step is given features first."""
        layer = step.layer
        if isinstance(layer, FIRST):
            return True
        given = any(self.first[name] for name in step.inputs)
        if isinstance(layer, EITHER):
            return given
        if isinstance(layer, ALONG_AXIS):
            if step.layer_name not in self.settled:
                uses = [s for s in self.network.nodes if s.layer_name == step.layer_name]
                same = len({len(s.shape) for s in uses}) == 1
                self.settled[step.layer_name] = given and same
            return self.settled[step.layer_name]
        return False

    def _reading(self, name: str, first: bool) -> Reading:
        """A value brought to the order that its reader needs."""
        rank = len(self.shapes[name])
        if rank < 3 or self.first[name] == first:
            return Reading(name)
        return Reading(name, to_first(rank) if first else to_last(rank))

    def _module(self, step: Any, first: bool) -> str:
        """Name of the layer's module, made at its first use."""
        if step.layer_name not in self.names:
            # A layer may be called like a method of torch.nn.Module.
            taken = hasattr(nn.Module, step.layer_name) or step.layer_name in RESERVED
            name = f"{step.layer_name}_" if taken else step.layer_name
            while name in self.modules or (name in self.network.layers and taken):
                name += "_"
            lowered = lower(step.layer, Use(step.input_shapes, first))
            self.names[step.layer_name], self.modules[name] = name, lowered.module
            self.placements += [
                Placement(f"{name}.{native}", (f"{step.layer_name}.{canonical}",), transform)
                for native, canonical, transform in lowered.sources
            ]
        return self.names[step.layer_name]


RESERVED = ("inputs", "steps", "outputs", "structure", "training")
"""Attributes of `NetworkModule`."""


def _wanted(network: Network) -> dict[str, bool]:
    """For each input, whether all its first readers that care want features first."""
    wanted: dict[str, list[bool]] = {}
    for step in reversed(network.nodes):
        if isinstance(step.layer, EITHER):
            votes = wanted.get(step.name, [])
        else:
            votes = [isinstance(step.layer, FIRST)]
        for name in (*step.inputs, *step.keywords.values()):
            # All that matters is whether there are votes, and whether all agree.
            known = wanted.setdefault(name, [])
            known += [vote for vote in votes if vote not in known]
    return {name: wanted.get(name) == [True] for name in network.inputs}


def to_first(rank: int) -> tuple[int, ...]:
    """Permutation from features last to features first."""
    return (0, rank - 1, *range(1, rank - 1))


def to_last(rank: int) -> tuple[int, ...]:
    """Permutation from features first to features last."""
    return (0, *range(2, rank), 1)
