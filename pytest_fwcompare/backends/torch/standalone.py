"""Runs a torch network for repro.py. Needs NumPy and torch only."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def make(source: dict[str, Any]) -> Any:
    """The network: made by its factory, or read from an exported program."""
    if source["kind"] == "factory":
        return source["factory"]()
    return torch.export.load(source["path"]).module()


def leaves(value: Any) -> list[Any]:
    """Tensors of a nested result, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if hasattr(value, "keys"):
        return [leaf for key in value for leaf in leaves(value[key])]
    if hasattr(value, "__dataclass_fields__"):
        return [leaf for key in value.__dataclass_fields__ for leaf in leaves(getattr(value, key))]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    return []


def run(
    source: dict[str, Any],
    weights: dict[str, np.ndarray],
    arguments: list[tuple[str, np.ndarray, bool]],
    cotangents: dict[str, np.ndarray],
    training: bool,
) -> dict[str, np.ndarray]:
    """Outputs, gradients and buffers by name: "output 0", "input x", "parameter fc.weight"."""
    model = make(source)
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, value in weights.items():
            held[name].copy_(torch.from_numpy(value))
    if source["kind"] == "factory":
        model.train(training)
    tensors = {name: torch.from_numpy(value) for name, value, _ in arguments}
    for tensor in tensors.values():
        tensor.requires_grad_(tensor.is_floating_point())
    positional = [tensors[name] for name, _, keyword in arguments if not keyword]
    keywords = {name: tensors[name] for name, _, keyword in arguments if keyword}
    outputs = leaves(model(*positional, **keywords))
    found = {f"output {i}": value.detach() for i, value in enumerate(outputs)}
    pairs = [
        (value, torch.from_numpy(cotangents[str(i)]).to(value.dtype))
        for i, value in enumerate(outputs)
        if str(i) in cotangents and value.requires_grad
    ]
    if pairs:
        torch.autograd.backward([v for v, _ in pairs], [c for _, c in pairs])
        trained = dict(model.named_parameters())
        found.update({f"parameter {n}": p.grad for n, p in trained.items() if p.grad is not None})
        found.update({f"input {n}": t.grad for n, t in tensors.items() if t.grad is not None})
    if training:
        found.update({f"buffer {name}": value for name, value in model.named_buffers()})
    return {name: value.detach().double().numpy() for name, value in found.items()}
