"""Names of the arguments of a torch call: which value was the epsilon, which one the axis."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch

MARKERS = {"Tensor": torch.Tensor, "str": str, "bool": bool}

VARIADIC = {"view", "reshape", "permute", "repeat", "expand", "tile", "flip", "movedim"}
"""Methods that take their list of sizes or axes spread out: x.view(2, 3)."""


def bind(
    func: Callable[..., Any], operation: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of a call by name, defaults filled in where they are known.

    Python functions have signatures; for built-in ones the operator's schemas are searched for
    one that the values fit. What nothing knows is called "arg0", "arg1", ...
    """
    if operation == "getitem":
        return dict(zip(("self", "index"), args, strict=True))
    if operation == "einsum":
        return {"equation": args[0], "operands": list(args[1:]), **kwargs}
    signature = _signature(func)
    if signature is not None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return _numbered(args, kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)
    if operation in VARIADIC and len(args) > 2 and all(type(a) is int for a in args[1:]):
        args = (args[0], list(args[1:]))
    name = operation if func.__name__.startswith("__") else func.__name__
    found = [_fit(schema, args, kwargs) for schema in _schemas(name)]
    best = max((fit for fit in found if fit), key=lambda fit: fit[0], default=None)
    return best[1] if best else _numbered(args, kwargs)


def _numbered(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments whose names nothing knows."""
    return {**{f"arg{i}": value for i, value in enumerate(args)}, **kwargs}


@cache
def _signature(func: Callable[..., Any]) -> inspect.Signature | None:
    """Signature of a Python function that names its arguments; None for a built-in."""
    if not inspect.isfunction(func):
        return None
    try:
        signature = inspect.signature(func)
    except ValueError:  # a Python wrapper around a built-in, such as Tensor.__pow__
        return None
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    return None if inspect.Parameter.VAR_POSITIONAL in kinds else signature


@cache
def _schemas(name: str) -> tuple[Any, ...]:
    """Schemas of the operator of that name, none if there is no such operator."""
    return tuple(torch._C._jit_get_schemas_for_operator(f"aten::{name}"))


def _fit(
    schema: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[int, dict[str, Any]] | None:
    """How well a schema fits the call, and the arguments by its names; None if it cannot."""
    arguments = list(schema.arguments)
    positional = [argument for argument in arguments if not argument.kwarg_only]
    if len(args) > len(positional):
        return None
    given = {argument.name: value for argument, value in zip(positional, args, strict=False)}
    for key, value in kwargs.items():
        # torch's Python face calls it input and dim where the schema says self.
        name = "self" if key in ("input", "self") and "self" not in given else key
        given[name] = value
    names = {argument.name: argument for argument in arguments}
    # torch's Python face has arguments that the operator lacks (return_indices of a pooling).
    score = -len(set(given) - set(names))
    for name in set(given) & set(names):
        value = given[name]
        empty = value is None and names[name].has_default_value()
        judged = 1 if empty else _suits(str(names[name].type), value)
        if judged < 0:
            return None
        score += judged
    for argument in arguments:
        if argument.name not in given:
            if not argument.has_default_value():
                return None
            if not argument.is_out:
                given[argument.name] = argument.default_value
    return score, given


def _suits(kind: str, value: Any) -> int:
    """2 for the very kind, 1 for a convertible one, -1 for another one."""
    optional = kind.startswith("Optional[")
    kind = kind.removeprefix("Optional[").rstrip("]") if optional else kind
    if value is None:
        return 1 if optional else -1
    if isinstance(value, torch.Tensor):
        return 2 if kind == "Tensor" else -1
    if isinstance(value, (list, tuple)):
        return 2 if kind.startswith("List[") else -1
    if isinstance(value, str):
        return 2 if kind == "str" else -1
    if isinstance(value, bool):
        return 2 if kind == "bool" else 1 if kind in ("int", "number", "Scalar") else -1
    if isinstance(value, int):
        return 2 if kind in ("int", "SymInt") else 1 if kind != "Tensor" else -1
    if isinstance(value, float):
        return 2 if kind in ("float", "number", "Scalar") else -1
    return 0


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Tensors in an argument: itself, or within lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def transformed(tensor: torch.Tensor) -> bool:
    """Whether `torch.func` (vmap, grad) is at work on the tensor, which then has no values."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def plain(value: Any) -> Any:
    """A non-tensor argument as plain data; tensors within an index are "tensor"."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor):
        return "tensor"
    if isinstance(value, (list, tuple)):
        return tuple(plain(item) for item in value)
    if isinstance(value, slice):
        return str(value).replace(" ", "")
    return str(value).removeprefix("torch.")
