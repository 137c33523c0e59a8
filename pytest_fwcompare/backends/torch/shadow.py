"""The float64 shadow of a torch model: a mode under which nothing narrower is computed.

A copy in double precision is not enough: code such as `x.to(torch.float32)` goes back. This mode
sees every call of torch's Python API while a model runs, widens the dtypes it asks for, and lifts
narrower tensors that come from elsewhere (plain attributes that `.double()` does not reach).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from pytest_fwcompare.backends.constants import restore
from pytest_fwcompare.backends.torch.binding import transformed
from pytest_fwcompare.backends.torch.replacements import REPLACED, with_defaults
from pytest_fwcompare.backends.torch.twin import short

WIDER = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}

CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)

LEGACY = ("FloatTensor", "HalfTensor", "BFloat16Tensor")
"""Names of tensor types that `Tensor.type` still takes, as classes or as text."""


class Float64Mode(TorchFunctionMode):  # type: ignore[misc]
    """Widens every dtype and every narrower float tensor to float64.

    Args:
        names: path of each module of the twin, by id.
        lifted: tensors met before, by id, with their version and float64 values; kept by the side.
        working: dtype the comparison is about; what torch derives from the dtype is derived from
            this one.

    Attributes:
        leaks: operations that gave a narrower dtype nevertheless, and where.
        rounded: constants that could not be restored from float32, and where they were met.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        lifted: dict[int, tuple[Any, int, Any]],
        working: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.names = names
        self.working = working
        self.leaks: list[str] = []
        self.rounded: list[str] = []
        # By id, with the tensor itself so that the id stays its own, and its version.
        self._lifted = lifted

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = _known.get(func)
        if found is None:
            found = _known[func] = _kind_of(func)
        kind, operation = found
        if kind == "plain":
            if _untouched(args) and (not kwargs or _untouched(kwargs.values())):
                return self.run(func, operation, args, kwargs or {})
        elif kind == "set":
            return func(*args, **(kwargs or {}))
        elif kind == "get":
            return self.property(func, args)
        if func in CASTS:
            func = torch.Tensor.double
        elif operation in ("view", "type"):
            args = _retyped(operation, args)
        if not (operation == "view" and len(args) == 2 and isinstance(args[1], torch.dtype)):
            args = tuple(self.lift(value, operation) for value in args)
        keywords = {key: self.lift(value, operation) for key, value in (kwargs or {}).items()}
        args, keywords = with_defaults(operation, args, keywords, self.working)
        return self.run(func, operation, args, keywords)

    def run(
        self,
        func: Callable[..., Any],
        operation: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Run one operation on lifted arguments; its result is float64, too."""
        result = REPLACED.get(func, func)(*args, **kwargs)
        if type(result) is torch.Tensor and result.dtype not in WIDER:
            return result
        return self.settle(result, operation)

    def property(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Read a property such as `x.shape` or `x.mT`."""
        return func(*args)

    def lift(self, value: Any, operation: str) -> Any:
        """The argument with every narrower dtype, tensor and NumPy number made float64."""
        if isinstance(value, torch.Tensor):
            return self.lift_tensor(value, operation) if value.dtype in WIDER else value
        if isinstance(value, torch.dtype):
            return WIDER.get(value, value)
        if type(value) in (list, tuple):
            return type(value)(self.lift(item, operation) for item in value)
        if isinstance(value, (np.floating, np.ndarray)) and value.dtype in ("f2", "f4"):
            restored, exact = restore(value)
            if not exact:
                self.note_rounded(value.shape, operation)
            return restored if isinstance(value, np.ndarray) else float(restored)
        return value

    def lift_tensor(self, tensor: torch.Tensor, operation: str) -> torch.Tensor:
        """A narrower tensor that comes from outside the mode, in float64."""
        if tensor.is_complex():
            return tensor.to(torch.complex128)
        if tensor.grad_fn is not None:
            self.note_leak(operation, f"was given {short(tensor.dtype)}")
            return tensor.double()
        if isinstance(tensor, torch.nn.Parameter) or transformed(tensor):
            return tensor.double()
        known = self._lifted.get(id(tensor))
        if known is None or known[0] is not tensor or known[1] != tensor._version:
            values, exact = restore(tensor.detach().float().cpu().numpy(), short(tensor.dtype))
            if not exact:
                self.note_rounded(tuple(tensor.shape), operation)
            lifted = torch.from_numpy(np.array(values)).to(tensor.device)
            self._lifted[id(tensor)] = known = (tensor, tensor._version, lifted)
        made: torch.Tensor = known[2]
        return made

    def settle(self, result: Any, operation: str) -> Any:
        """The result of an operation; one in a narrower dtype is a leak and is widened."""
        if isinstance(result, torch.Tensor):
            if result.dtype not in WIDER or result.is_complex():
                return result
            if operation in FACTORIES:
                return self.lift_tensor(result, operation)
            self.note_leak(operation, f"gave {short(result.dtype)}")
            return result.double()
        if type(result) in (list, tuple):
            return type(result)(self.settle(item, operation) for item in result)
        return result

    def note_leak(self, operation: str, what: str) -> None:
        """Put a leak on record, once a place."""
        text = f"{operation} {what} in {self.where()}"
        if text not in self.leaks:
            self.leaks.append(text)

    def note_rounded(self, shape: tuple[int, ...], operation: str) -> None:
        """Put a constant on record that is known to float32 only."""
        text = f"float32 constant of shape {shape} used by {operation} in {self.where()}"
        if text not in self.rounded:
            self.rounded.append(text)

    def where(self) -> str:
        """The module that is running, for messages."""
        return f"module {self.path()!r}" if self.path() else "the model's own forward"

    def path(self) -> str:
        """Path of the module whose code is running, "" for the root.

        Found from the Python stack: the innermost frame whose `self` is a module of the model.
        So a method of a child that a parent calls directly counts as the child's, and nothing is
        hooked into the model.
        """
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, torch.nn.Module) and id(owner) in self.names:
                return self.names[id(owner)]
            frame = frame.f_back
        return ""


_known: dict[Callable[..., Any], tuple[str, str]] = {}
"""What each function of torch is to the mode, and the name of its operation."""

TREATED = ("view", "type", "rms_norm", "nan_to_num")
"""Operations whose arguments may change though no dtype stands among them."""

NUMBERS = frozenset({int, float, bool, str, type(None), torch.Size, torch.device})
"""Types of arguments that have no dtype."""


def _kind_of(func: Callable[..., Any]) -> tuple[str, str]:
    name = getattr(func, "__name__", "")
    operation = operation_name(func)
    if name in ("__set__", "__delete__"):
        return "set", operation
    if name == "__get__":
        return "get", operation
    return "other" if func in CASTS or operation in TREATED else "plain", operation


def _untouched(values: Iterable[Any]) -> bool:
    """Whether `lift` would return all as they are; False where that takes a closer look."""
    for value in values:
        kind = type(value)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if value.dtype in WIDER:
                return False
        elif kind is tuple or kind is list:
            if not _untouched(value):
                return False
        elif kind not in NUMBERS:
            return False
    return True


FACTORIES = {"from_numpy", "tensor", "as_tensor", "asarray", "frombuffer", "load"}
"""Operations whose narrower result is a constant, not a leak."""


def operation_name(func: Callable[..., Any]) -> str:
    """The plain name of a torch function: "layer_norm", "add" for `__add__`, "add_" in place."""
    name = getattr(func, "__name__", type(func).__name__)
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        return SPECIAL.get(name, name)
    return name


SPECIAL = {
    "truediv": "div",
    "rtruediv": "rdiv",
    "floordiv": "floor_divide",
    "radd": "add",
    "rmul": "mul",
    "iadd": "add_",
    "isub": "sub_",
    "imul": "mul_",
    "itruediv": "div_",
    "idiv": "div_",
    "ipow": "pow_",
}


def _retyped(operation: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of `Tensor.view(dtype)` and `Tensor.type(name)` for float64."""
    if len(args) != 2:
        return args
    tensor, kind = args
    if operation == "view" and isinstance(kind, torch.dtype):
        # Bits of a float32 are meant: those of a float64 would be another shape.
        narrowed = tensor.float() if tensor.dtype is torch.float64 else tensor
        return narrowed, kind
    if operation == "type" and str(getattr(kind, "__name__", kind)).rpartition(".")[2] in LEGACY:
        return tensor, torch.float64
    return args
