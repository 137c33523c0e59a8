"""Copies of a torch model to work on, and names of its parameters."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pytest_fwcompare.backends.base import Parameter
from pytest_fwcompare.backends.exhausted import is_exhausted, out_of_memory
from pytest_fwcompare.errors import ModelError

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

PLAIN = (bool, int, float, str)


def short(dtype: torch.dtype) -> str:
    """NumPy's word for a dtype: "float32"."""
    return str(dtype).removeprefix("torch.")


def plain_module(model: torch.nn.Module) -> torch.nn.Module:
    """The module beneath `torch.compile`, which would otherwise rename every parameter."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, torch.nn.Module) else model


def twin_of(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """A deep copy in inference mode, cast and moved, every float parameter trainable.

    Raises:
        ModelError: the model cannot be copied.
    """
    _refuse_lazy(model)
    try:
        with torch.no_grad():  # a script module is cloned by operations that would be on record
            twin = copy.deepcopy(model, _prepared(model, dtype, device))
    except Exception as error:
        if is_exhausted(error):
            raise out_of_memory("model", "build", "torch", error, str(device)) from None
        raise ModelError(
            "model",
            "import",
            f"torch could not copy the {type(model).__name__} ({type(error).__name__}: {error}), "
            f"and the model itself is not touched. Pass a factory instead: a function without "
            f"arguments that returns a fresh model",
        ) from error
    return prepare(twin, dtype, device)


def prepare(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The model itself cast, moved, in inference mode, its float parameters trainable."""
    _refuse_lazy(model)
    # A module may narrow `.to` (frozen towers, quantised layers); the plain one reaches all.
    torch.nn.Module.to(model, device=device, dtype=dtype)
    model.eval()
    for parameter in model.parameters():
        parameter.grad = None
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return model


def _prepared(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> dict[int, Any]:
    """A memo for deepcopy with what it must not copy itself.

    Parameters and buffers are cast as they are copied, so that a float64 twin never needs a second
    float32 copy. Tensors that were computed and kept as attributes (the weight of an old-style
    `weight_norm`) are refused by deepcopy; their values are copied instead.
    """
    memo: dict[int, Any] = {}
    if isinstance(model, torch.jit.ScriptModule):
        return memo
    for module in model.modules():
        for parameter in module._parameters.values():
            if type(parameter) is torch.nn.Parameter and id(parameter) not in memo:
                data = _cast(parameter.detach(), dtype, device)
                memo[id(parameter)] = torch.nn.Parameter(data, parameter.requires_grad)
                memo[id(parameter)].__dict__.update(parameter.__dict__)
        for buffer in module._buffers.values():
            if type(buffer) is torch.Tensor and id(buffer) not in memo:
                memo[id(buffer)] = _cast(buffer.detach(), dtype, device)
        for value in _tensors(module.__dict__):
            if value.grad_fn is not None and id(value) not in memo:
                memo[id(value)] = value.detach().clone()
    return memo


def _cast(data: torch.Tensor, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A copy; only floats are cast."""
    return data.to(device, dtype if data.is_floating_point() else data.dtype, copy=True)


def _tensors(value: Any, depth: int = 3) -> Iterator[torch.Tensor]:
    """Tensors in nested plain containers, a few levels deep."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, depth - 1)


def _refuse_lazy(model: torch.nn.Module) -> None:
    """Say that a lazy module must have run once.

    Raises:
        ModelError: a parameter has no shape yet.
    """
    for name, parameter in itertools.chain(model.named_parameters(), model.named_buffers()):
        if torch.nn.parameter.is_lazy(parameter):
            raise ModelError(
                "model",
                "import",
                f"parameter {name!r} of a lazy module has no shape yet: call the model once on an "
                f"example before it is compared",
            )


@dataclass(frozen=True)
class Slot:
    """One parameter or buffer: its facts and the tensor that holds it."""

    parameter: Parameter
    tensor: torch.Tensor


def slots(model: torch.nn.Module, frozen: frozenset[str] = frozenset()) -> dict[str, Slot]:
    """Float parameters and buffers by name in definition order, tied ones once."""
    found: dict[int, tuple[str, torch.Tensor, torch.nn.Module, bool]] = {}
    aliases: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        tables = ((module._parameters, True), (module._buffers, False))
        for table, trainable in tables:
            for key, tensor in table.items():
                if tensor is None or not tensor.is_floating_point():
                    continue
                name = f"{path}.{key}" if path else key
                # A script module hands out a new wrapper each time; the storage stays.
                mark = _identity(model, tensor)
                if mark in found:
                    aliases.setdefault(mark, []).append(name)
                else:
                    found[mark] = (name, tensor, module, trainable)
    made: dict[str, Slot] = {}
    for mark, (name, tensor, module, trainable) in found.items():
        layer, _, role = name.rpartition(".")
        options = plain_options(module)
        if name in frozen:
            options["frozen"] = True
        made[name] = Slot(
            Parameter(
                name=name,
                shape=tuple(tensor.shape),
                dtype=short(tensor.dtype),
                trainable=trainable,
                layer=layer,
                kind=kind_of(module),
                role=role,
                options=options,
                aliases=tuple(aliases.get(mark, ())),
            ),
            tensor,
        )
    return made


def _identity(model: torch.nn.Module, tensor: torch.Tensor) -> int:
    """What tells one tensor from another: the object, or its storage in a script module."""
    if isinstance(model, torch.jit.ScriptModule) and tensor.numel():
        return int(tensor.data_ptr())
    return id(tensor)


def frozen_names(model: torch.nn.Module) -> frozenset[str]:
    """Names of parameters that the user froze."""
    named = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, value in named if not value.requires_grad)


def kind_of(module: torch.nn.Module) -> str:
    """Class name of a layer, without what torch wraps around it."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(module.original_name)
    name = type(module).__name__
    if name == "NonDynamicallyQuantizableLinear":  # the output projection of MultiheadAttention
        return "Linear"
    return name.removeprefix("Parametrized")


def plain_options(module: torch.nn.Module) -> dict[str, Any]:
    """Plain public attributes of a layer, such as groups, hidden_size, num_heads, eps."""
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and is_plain(value)
    }


def is_plain(value: Any) -> bool:
    """True for numbers, text and tuples of them."""
    if isinstance(value, tuple):
        return all(is_plain(item) for item in value)
    return isinstance(value, PLAIN)


def to_numpy(tensor: torch.Tensor, *, copy: bool = True) -> np.ndarray:
    """The values; bfloat16 as float32, which NumPy lacks.

    Args:
        tensor: on any device.
        copy: False where nobody else writes to the tensor, or reads it once it was written to.
    """
    try:
        values: np.ndarray = (tensor.detach() if tensor.requires_grad else tensor).numpy()
    except (RuntimeError, TypeError):  # on a device, of another layout, or negated in passing
        values = _moved_to_numpy(tensor.detach())
    return np.array(values) if copy else values


def _moved_to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The values of a tensor that NumPy cannot take as it is."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.float()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    values: np.ndarray = tensor.numpy(force=True)
    return values


def own_tensor(value: np.ndarray, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor with memory of its own.

    Args:
        value: (*shape).
        dtype: of the tensor, if the values are floats; others keep theirs.
        device: where it is to be.
    """
    array = np.asarray(value, order="C")
    given = torch.from_numpy(array if array.flags.writeable else array.copy())
    kind = dtype if given.dtype.is_floating_point else given.dtype
    if given.dtype is not kind:
        given = given.to(kind)
        return given if device.type == "cpu" else given.to(device)
    return given.clone() if device.type == "cpu" else given.to(device)
