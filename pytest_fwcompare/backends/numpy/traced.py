"""What the functions of this backend share: their types, and autograd's decorator with a type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from autograd.extend import primitive as _primitive

Array = Any
"""A NumPy array. NumPy's own type is lost in arithmetic, so it would promise nothing."""

Value = Any
"""A NumPy array, or autograd's box of one."""

Function = TypeVar("Function", bound=Callable[..., Any])


def primitive(function: Function) -> Function:
    """A function whose derivative is given by hand, by `autograd.extend.defvjp`."""
    return cast(Function, _primitive(function))
