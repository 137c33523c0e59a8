"""Networks of several blocks that ports disguise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

import pytest_fwcompare as fwc

from .disguise import Net


def attention(calls: Any, path: str, x: Any, memory: Any = None, heads: int = 2) -> Any:
    q_, k_, v_ = (f"{path}.{one}" for one in ("query", "key", "value"))
    if memory is None:
        q, k, v = calls.several((q_, k_, v_), x)
    else:
        q, (k, v) = calls.in_any_order(
            lambda: calls(q_, x), lambda: calls.several((k_, v_), memory)
        )

    def by_head(y: Any) -> Any:
        return y.reshape(y.shape[0], y.shape[1], heads, -1).swapaxes(1, 2)

    q, k, v = by_head(q), by_head(k), by_head(v)
    weights = calls.softmax(q @ k.swapaxes(2, 3) / math.sqrt(q.shape[-1]))
    y = (weights @ v).swapaxes(1, 2).reshape(x.shape[0], x.shape[1], -1)
    return calls(f"{path}.output", y)


def transformer(blocks: int = 3, width: int = 8, mlp: int = 16, vocabulary: int = 0) -> Net:
    layers: dict[str, Callable[[], nn.Module]] = {}
    fusable = []
    if vocabulary:
        layers["tokens"] = lambda: nn.Embedding(vocabulary, width)
        layers["positions"] = lambda: nn.Embedding(9, width)
    for i in range(blocks):
        for one in ("query", "key", "value", "output"):
            layers[f"blocks.{i}.attention.{one}"] = lambda: nn.Linear(width, width)
        fusable.append((tuple(f"blocks.{i}.attention.{n}" for n in ("query", "key", "value")), 2))
        layers[f"blocks.{i}.norm1"] = lambda: nn.LayerNorm(width)
        layers[f"blocks.{i}.up"] = lambda: nn.Linear(width, mlp)
        layers[f"blocks.{i}.down"] = lambda: nn.Linear(mlp, width)
        layers[f"blocks.{i}.norm2"] = lambda: nn.LayerNorm(width)
    tied = ()
    if vocabulary:
        layers["head"] = lambda: nn.Linear(width, vocabulary, bias=False)
        tied = (("head.weight", "tokens.weight"),)

    def forward(calls: Any, x: Any) -> Any:
        if vocabulary:
            length = x.shape[1]
            x, places = calls.in_any_order(
                lambda: calls("tokens", x), lambda: calls.table("positions", length)
            )
            x = x + places
        for i in range(blocks):
            path = f"blocks.{i}"
            x = calls(f"{path}.norm1", x + attention(calls, f"{path}.attention", x))
            x = calls(
                f"{path}.norm2", x + calls(f"{path}.down", calls.gelu(calls(f"{path}.up", x)))
            )
        return calls("head", x) if vocabulary else x

    spec = (
        fwc.TensorSpec((2, 5), "int64", low=0, high=vocabulary - 1)
        if vocabulary
        else fwc.TensorSpec((2, 5, width))
    )
    return Net(layers, forward, {"x": spec}, tuple(fusable), tied)


def translator(blocks: int = 2, width: int = 8, mlp: int = 12) -> Net:
    """Encoder and decoder with cross attention; both inputs are of one shape."""
    layers: dict[str, Callable[[], nn.Module]] = {}
    fusable = []

    def add(path: str, attentions: Sequence[str]) -> None:
        for name in attentions:
            for one in ("query", "key", "value", "output"):
                layers[f"{path}.{name}.{one}"] = lambda: nn.Linear(width, width)
            three = tuple(f"{path}.{name}.{n}" for n in ("query", "key", "value"))
            fusable.append((three[1:] if name == "cross" else three, 2))
            layers[f"{path}.{name}_norm"] = lambda: nn.LayerNorm(width)
        layers[f"{path}.up"] = lambda: nn.Linear(width, mlp)
        layers[f"{path}.down"] = lambda: nn.Linear(mlp, width)
        layers[f"{path}.norm"] = lambda: nn.LayerNorm(width)

    for i in range(blocks):
        add(f"encoder.{i}", ["self"])
    for i in range(blocks):
        add(f"decoder.{i}", ["self", "cross"])

    def rest(calls: Any, path: str, x: Any) -> Any:
        y = calls(f"{path}.down", calls.relu(calls(f"{path}.up", x)))
        return calls(f"{path}.norm", x + y)

    def forward(calls: Any, source: Any, target: Any) -> Any:
        for i in range(blocks):
            path = f"encoder.{i}"
            source = calls(f"{path}.self_norm", source + attention(calls, f"{path}.self", source))
            source = rest(calls, path, source)
        for i in range(blocks):
            path = f"decoder.{i}"
            target = calls(f"{path}.self_norm", target + attention(calls, f"{path}.self", target))
            mixed = attention(calls, f"{path}.cross", target, source)
            target = rest(calls, path, calls(f"{path}.cross_norm", target + mixed))
        return target

    spec = fwc.TensorSpec((2, 4, width))
    return Net(layers, forward, {"source": spec, "target": spec}, tuple(fusable))


def convolutions(blocks: int = 3, width: int = 6) -> Net:
    """Depthwise and pointwise convolutions of one shape with batch norms and shortcuts."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "stem": lambda: nn.Conv2d(3, width, 3, padding=1)
    }
    for i in range(blocks):
        layers[f"blocks.{i}.depthwise"] = lambda: nn.Conv2d(
            width, width, 3, padding=1, groups=width, bias=False
        )
        layers[f"blocks.{i}.norm1"] = lambda: nn.BatchNorm2d(width)
        layers[f"blocks.{i}.pointwise"] = lambda: nn.Conv2d(width, width, 1, bias=False)
        layers[f"blocks.{i}.norm2"] = lambda: nn.BatchNorm2d(width)
        layers[f"blocks.{i}.shortcut"] = lambda: nn.Conv2d(width, width, 1)
    layers["head"] = lambda: nn.Linear(width, 5)

    def forward(calls: Any, x: Any) -> Any:
        x = calls("stem", x)
        for i in range(blocks):
            path = f"blocks.{i}"

            def main(x: Any = x, path: str = path) -> Any:
                y = calls.relu(calls(f"{path}.norm1", calls(f"{path}.depthwise", x)))
                return calls(f"{path}.norm2", calls(f"{path}.pointwise", y))

            y, z = calls.in_any_order(main, lambda x=x, path=path: calls(f"{path}.shortcut", x))
            x = calls.relu(y + z)
        return calls("head", x.mean((2, 3)))

    return Net(layers, forward, {"x": fwc.TensorSpec((2, 3, 6, 5))})


def recurrent(levels: int = 2, width: int = 4) -> Net:
    """Stacked LSTMs of one width with two biases each, then two heads."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "first": lambda: nn.LSTM(width, width, levels, batch_first=True),
        "second": lambda: nn.LSTM(width, width, batch_first=True),
        "mean": lambda: nn.Linear(width, width),
        "spread": lambda: nn.Linear(width, width),
    }

    def forward(calls: Any, x: Any) -> Any:
        x = calls("second", calls("first", x))
        a, b = calls.in_any_order(lambda: calls("mean", x), lambda: calls("spread", x))
        return calls.tanh(a) * calls.sigmoid(b)

    return Net(layers, forward, {"x": fwc.TensorSpec((2, 3, width))})


def experts(count: int = 3, width: int = 6) -> Net:
    """A gate that weighs experts of one shape."""
    layers: dict[str, Callable[[], nn.Module]] = {"gate": lambda: nn.Linear(width, count)}
    for i in range(count):
        layers[f"experts.{i}.up"] = lambda: nn.Linear(width, 8)
        layers[f"experts.{i}.down"] = lambda: nn.Linear(8, width)

    def forward(calls: Any, x: Any) -> Any:
        gates = calls.softmax(calls("gate", x))
        made = calls.in_any_order(
            *[
                lambda i=i: calls(f"experts.{i}.down", calls.gelu(calls(f"experts.{i}.up", x)))
                for i in range(count)
            ]
        )
        return sum(gates[..., i : i + 1] * made[i] for i in range(count))

    return Net(layers, forward, {"x": fwc.TensorSpec((3, width))})


def twins(blocks: int = 6, width: int = 5) -> Net:
    """A deep stack of layers that are all alike, each with a gate on the same tensor."""
    layers: dict[str, Callable[[], nn.Module]] = {}
    for i in range(blocks):
        layers[f"blocks.{i}.value"] = lambda: nn.Linear(width, width)
        layers[f"blocks.{i}.gate"] = lambda: nn.Linear(width, width)
        layers[f"blocks.{i}.norm"] = lambda: nn.LayerNorm(width)

    def forward(calls: Any, x: Any) -> Any:
        for i in range(blocks):
            path = f"blocks.{i}"
            value, gate = calls.several((f"{path}.value", f"{path}.gate"), x)
            x = calls(f"{path}.norm", x + calls.tanh(value) * calls.sigmoid(gate))
        return x

    groups = tuple((tuple(f"blocks.{i}.{n}" for n in ("value", "gate")), 5) for i in range(blocks))
    return Net(layers, forward, {"x": fwc.TensorSpec((3, width))}, groups)


def towers(count: int = 3, width: int = 5) -> Net:
    """Branches of two layers each, joined end to end before the last layer."""
    layers: dict[str, Callable[[], nn.Module]] = {"stem": lambda: nn.Linear(width, width)}
    for i in range(count):
        layers[f"towers.{i}.first"] = lambda: nn.Linear(width, 4)
        layers[f"towers.{i}.second"] = lambda: nn.Linear(4, width)
    layers["head"] = lambda: nn.Linear(count * width, 3)

    def forward(calls: Any, x: Any) -> Any:
        x = calls.tanh(calls("stem", x))
        made = calls.in_any_order(
            *[
                lambda i=i: calls(f"towers.{i}.second", calls.tanh(calls(f"towers.{i}.first", x)))
                for i in range(count)
            ]
        )
        return calls("head", calls.concatenate(made, -1))

    return Net(layers, forward, {"x": fwc.TensorSpec((3, width))})
