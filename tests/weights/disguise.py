"""Ports whose parameters have meaningless names, other orders, other shapes: made from a seed.

A network is written once as calls of layers by path. The reference runs them with torch's own
layers; a disguised port keeps its parameters in one flat place, renamed, shuffled, turned, fused,
with singleton axes, and computes layers that take one tensor in an order of its own.
"""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

import pytest_fwcompare as fwc

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Net:
    """A network: torch layers by path, and a function that calls them.

    Attributes:
        layers: by path, functions that make torch's layers.
        forward: forward(calls, *inputs).
        inputs: by name.
        fusable: sets of paths of linear layers that take one tensor, with the number of heads.
        tied: pairs of parameters (one that is the other).
    """

    layers: dict[str, Callable[[], nn.Module]]
    forward: Forward
    inputs: dict[str, fwc.TensorSpec]
    fusable: tuple[tuple[tuple[str, ...], int], ...] = ()
    tied: tuple[tuple[str, str], ...] = ()


class Reference(nn.Module):
    """The network with torch's layers under their paths."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        for path, make in net.layers.items():
            place: Any = self
            *parents, last = path.split(".")
            for part in parents:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.add_module(last, make())
        for one, other in net.tied:
            path, _, role = one.rpartition(".")
            setattr(self.get_submodule(path), role, self.get_parameter(other))

    def forward(self, *inputs: Any) -> Any:
        return self.net.forward(TorchCalls(self), *inputs)


class TorchCalls:
    """Layers as torch runs them."""

    def __init__(self, model: Reference) -> None:
        self.model = model

    def __call__(self, path: str, *inputs: Any) -> Any:
        out = self.model.get_submodule(path)(*inputs)
        return out[0] if isinstance(out, tuple) else out

    def several(self, paths: Sequence[str], x: Any) -> list[Any]:
        return [self(path, x) for path in paths]

    def in_any_order(self, *thunks: Callable[[], Any]) -> list[Any]:
        return [thunk() for thunk in thunks]

    def table(self, path: str, length: int) -> Any:
        return self.model.get_submodule(path).weight[:length]

    def softmax(self, x: Any) -> Any:
        return torch.softmax(x, -1)

    def gelu(self, x: Any) -> Any:
        return nn.functional.gelu(x)

    def tanh(self, x: Any) -> Any:
        return torch.tanh(x)

    def relu(self, x: Any) -> Any:
        return torch.relu(x)

    def sigmoid(self, x: Any) -> Any:
        return torch.sigmoid(x)

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        return torch.cat(list(parts), axis)


@dataclass
class Disguise:
    """How the parameters of a port are kept; drawn from a seed.

    Attributes:
        turn: "all", "none" or "some" of the linear kernels are (in, out).
        fuse: "", "order", "mixed" (one after the other in any order), "heads": how linear layers
            of one tensor are put together.
        shuffled: definition order and order of layers of one tensor are drawn.
        singletons: vectors get singleton axes.
    """

    seed: int
    turn: str = "all"
    fuse: str = ""
    shuffled: bool = True
    singletons: bool = False
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    @classmethod
    def drawn(cls, seed: int) -> Disguise:
        chance = random.Random(seed)
        return cls(
            seed,
            chance.choice(["all", "all", "none", "some"]),
            chance.choice(["", "", "order", "mixed", "heads"]),
            chance.random() < 0.8,
            chance.random() < 0.3,
        )

    def names(self, count: int) -> list[str]:
        letters = string.ascii_lowercase
        pairs = [a + b for a in letters for b in letters]
        return [f"{pair}x" for pair in self.random.sample(pairs, count)]


class Hidden:
    """The parameters of a port: what it keeps, and how its layers get at them.

    Attributes:
        shapes: of what is kept, by meaningless name, in the order of definition.
        order: of calls in `in_any_order`, drawn once.
    """

    def __init__(self, net: Net, disguise: Disguise) -> None:
        self.net, self.disguise = net, disguise
        self.model = Reference(net)
        chance = disguise.random
        self.turned: set[str] = set()
        self.fused: dict[str, tuple[tuple[str, ...], int]] = {}
        shapes: list[tuple[str, tuple[int, ...]]] = []
        groups = net.fusable if disguise.fuse else ()
        if disguise.fuse == "mixed":
            groups = tuple((tuple(chance.sample(p, len(p))), heads) for p, heads in groups)
        members = {path: group for group in groups for path in group[0]}
        tied = {one for one, _ in net.tied}
        for path in net.layers:
            layer = self.model.get_submodule(path)
            if path in members:
                paths, heads = members[path]
                if path != paths[0]:
                    continue  # kept with the first
                self.fused[path] = paths, heads if disguise.fuse == "heads" else 0
                rows = sum(self.model.get_submodule(p).weight.shape[0] for p in paths)
                shapes.append((f"{path}.weight", self.turn(path, (rows, layer.weight.shape[1]))))
                if layer.bias is not None:
                    shapes.append((f"{path}.bias", self.widen((rows,))))
                continue
            values = [*layer.named_parameters(), *layer.named_buffers()]
            for role, value in values:
                name, shape = f"{path}.{role}", tuple(value.shape)
                if name in tied or role == "num_batches_tracked":
                    continue
                if isinstance(layer, nn.Linear) and role == "weight":
                    shape = self.turn(path, shape)
                elif isinstance(layer, nn.Conv1d | nn.Conv2d) and role == "weight":
                    shape = (*shape[2:], shape[1], shape[0])
                elif isinstance(layer, nn.LSTM | nn.GRU | nn.Embedding):
                    pass
                else:
                    shape = self.widen(shape)
                shapes.append((name, shape))
        if disguise.shuffled:
            chance.shuffle(shapes)
        self.names = dict(zip((n for n, _ in shapes), disguise.names(len(shapes)), strict=True))
        for one, other in net.tied:
            self.names[one] = self.names[other]
        self.shapes = {self.names[name]: shape for name, shape in shapes}
        self.buffers = {new for old, new in self.names.items() if "running_" in old}
        self.seed = chance.random()

    def turn(self, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        how = self.disguise.turn
        if how == "all" or (how == "some" and self.disguise.random.random() < 0.5):
            self.turned.add(path)
            return shape[::-1]
        return shape

    def widen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *shape) if self.disguise.singletons and len(shape) == 1 else shape

    def start(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self.disguise.seed)
        return {
            name: (0.3 + 0.3 * rng.random(shape)).astype(np.float32)
            for name, shape in self.shapes.items()
        }


class HiddenCalls:
    """Layers written out over one flat place of parameters.

    Args:
        hidden: where they are.
        values: by meaningless name.
        fault: kind of call and which of them gives something else; None plants nothing.
    """

    def __init__(self, hidden: Hidden, values: Any, fault: tuple[str, int] | None = None) -> None:
        self.hidden, self.values, self.fault = hidden, values, fault
        self.chance = random.Random(hidden.seed)
        self.calls: Counter[str] = Counter()

    def faulty(self, kind: str) -> bool:
        """Whether this is the call with the planted fault."""
        self.calls[kind] += 1
        return self.fault == (kind, self.calls[kind] - 1)

    def get(self, name: str) -> Any:
        return self.values[self.hidden.names[name]]

    def has(self, name: str) -> bool:
        return name in self.hidden.names

    def matrix(self, path: str) -> Any:
        value = self.get(f"{path}.weight")
        return value if path in self.hidden.turned else value.swapaxes(0, 1)

    def vector(self, name: str) -> Any:
        return self.get(name).reshape(-1)

    def several(self, paths: Sequence[str], x: Any) -> list[Any]:
        first = next((path for path in paths if path in self.hidden.fused), None)
        if first is None:
            return self.in_any_order(*[lambda path=path: self(path, x) for path in paths])
        y = self(first, x)
        order, heads = self.hidden.fused[first]
        places = [order.index(path) for path in paths]
        if not heads:
            width = y.shape[-1] // len(paths)
            return [y[..., i * width : (i + 1) * width] for i in places]
        split = y.reshape(*y.shape[:-1], heads, len(paths), -1)
        return [split[..., i, :].reshape(*y.shape[:-1], -1) for i in places]

    def in_any_order(self, *thunks: Callable[[], Any]) -> list[Any]:
        order = list(range(len(thunks)))
        if self.hidden.disguise.shuffled:
            self.chance.shuffle(order)
        made = {place: thunks[place]() for place in order}
        return [made[place] for place in range(len(thunks))]

    def __call__(self, path: str, *inputs: Any) -> Any:
        layer = self.hidden.model.get_submodule(path)
        return getattr(self, type(layer).__name__.lower())(path, layer, *inputs)

    def linear(self, path: str, layer: Any, x: Any) -> Any:
        y = x @ self.matrix(path)
        return y + self.vector(f"{path}.bias") if self.has(f"{path}.bias") else y

    def layernorm(self, path: str, layer: Any, x: Any) -> Any:
        centred = x - self.mean(x, -1)
        epsilon = 1e-3 if self.faulty("norm") else layer.eps
        y = centred / (self.mean(centred * centred, -1) + epsilon) ** 0.5
        return y * self.vector(f"{path}.weight") + self.vector(f"{path}.bias")

    def rmsnorm(self, path: str, layer: Any, x: Any) -> Any:
        y = x / (self.mean(x * x, -1) + layer.eps) ** 0.5
        return y * self.vector(f"{path}.weight")

    def batchnorm2d(self, path: str, layer: Any, x: Any) -> Any:
        shape = (1, -1, 1, 1)
        mean, variance, scale, shift = (
            self.vector(f"{path}.{role}").reshape(shape)
            for role in ("running_mean", "running_var", "weight", "bias")
        )
        epsilon = 1e-3 if self.faulty("norm") else layer.eps
        return (x - mean) / (variance + epsilon) ** 0.5 * scale + shift

    def embedding(self, path: str, layer: Any, ids: Any) -> Any:
        return self.get(f"{path}.weight")[ids]

    def table(self, path: str, length: int) -> Any:
        return self.get(f"{path}.weight")[:length]

    def lstm(self, path: str, layer: Any, x: Any) -> Any:
        size = layer.hidden_size
        for level in range(layer.num_layers):
            x = self.lstm_level(path, level, size, x)
        return x

    def lstm_level(self, path: str, level: int, size: int, x: Any) -> Any:
        wx, wh, bx, bh = (
            self.get(f"{path}.{role}_l{level}")
            for role in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h = c = x[:, 0, :size] * 0
        steps = []
        for t in range(x.shape[1]):
            z = x[:, t] @ wx.swapaxes(0, 1) + bx + h @ wh.swapaxes(0, 1) + bh
            i, f, g, o = (z[:, n * size : (n + 1) * size] for n in range(4))
            c = self.sigmoid(f) * c + self.sigmoid(i) * self.tanh(g)
            h = self.sigmoid(o) * self.tanh(c)
            steps.append(h)
        return self.stack(steps)


class HiddenTorchCalls(HiddenCalls):
    tanh = TorchCalls.tanh
    sigmoid = TorchCalls.sigmoid
    concatenate = TorchCalls.concatenate

    def softmax(self, x: Any) -> Any:
        return torch.softmax(x * 1.05 if self.faulty("softmax") else x, -1)

    def relu(self, x: Any) -> Any:
        return nn.functional.leaky_relu(x) if self.faulty("relu") else torch.relu(x)

    def gelu(self, x: Any) -> Any:
        kind = "tanh" if self.faulty("gelu") else "none"
        return nn.functional.gelu(x, approximate=kind)

    def mean(self, x: Any, axis: int) -> Any:
        return x.mean(axis, keepdim=True)

    def stack(self, steps: Any) -> Any:
        return torch.stack(steps, 1)

    def conv2d(self, path: str, layer: Any, x: Any) -> Any:
        kernel = self.get(f"{path}.weight").permute(3, 2, 0, 1)
        bias = self.vector(f"{path}.bias") if self.has(f"{path}.bias") else None
        return nn.functional.conv2d(
            x, kernel, bias, layer.stride, layer.padding, layer.dilation, layer.groups
        )


class HiddenJaxCalls(HiddenCalls):
    def __init__(self, *args: Any) -> None:
        import jax
        import jax.numpy as jnp

        super().__init__(*args)
        self.jax, self.jnp = jax, jnp
        self.tanh, self.relu, self.sigmoid = jnp.tanh, jax.nn.relu, jax.nn.sigmoid

    def softmax(self, x: Any) -> Any:
        return self.jax.nn.softmax(x, -1)

    def gelu(self, x: Any) -> Any:
        return self.jax.nn.gelu(x, approximate=False)

    def mean(self, x: Any, axis: int) -> Any:
        return self.jnp.mean(x, axis, keepdims=True)

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        return self.jnp.concatenate(list(parts), axis)

    def stack(self, steps: Any) -> Any:
        return self.jnp.stack(steps, 1)

    def conv2d(self, path: str, layer: Any, x: Any) -> Any:
        padding = [(p, p) for p in layer.padding]
        y = self.jax.lax.conv_general_dilated(
            x, self.get(f"{path}.weight"), layer.stride, padding,
            dimension_numbers=("NCHW", "HWIO", "NCHW"), feature_group_count=layer.groups,
        )  # fmt: skip
        if self.has(f"{path}.bias"):
            y = y + self.vector(f"{path}.bias").reshape(1, -1, 1, 1)
        return y


class TorchPort(nn.Module):
    """A disguised port in torch: all parameters at one place."""

    def __init__(self, net: Net, disguise: Disguise, fault: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.hidden, self.fault = Hidden(net, disguise), fault
        for name, value in self.hidden.start().items():
            if name in self.hidden.buffers:
                self.register_buffer(name, torch.tensor(value))
            else:
                self.register_parameter(name, nn.Parameter(torch.tensor(value)))

    def forward(self, *inputs: Any) -> Any:
        kept = {name: getattr(self, name) for name in self.hidden.shapes}
        return self.hidden.net.forward(HiddenTorchCalls(self.hidden, kept, self.fault), *inputs)


def jax_port(net: Net, disguise: Disguise) -> Any:
    """A disguised port as (function, params) of JAX."""
    hidden = Hidden(net, disguise)

    def function(params: Any, *inputs: Any) -> Any:
        return net.forward(HiddenJaxCalls(hidden, params), *inputs)

    return function, hidden.start()
